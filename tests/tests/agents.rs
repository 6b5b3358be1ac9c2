//! Keys that an agent holds: which of them are offered, that one is found as soon as it is there, and an agent that is no help.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Gateway, Host, Lab, Process, User, address, rules_for_networks, until,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const HOME: &str = "/run/lab/home/adit-alice";
const AGENT: &str = "/run/lab/home/adit-alice/agent";
const KEY: &str = "/run/lab/home/adit-alice/.ssh/id_ed25519";
const FILE: &str = "    identity: ~/.ssh/id_ed25519\n";

/// A gateway, a helper, and an agent of Alice's that holds nothing.
struct Rig {
    lab: Lab,
    gateway: Gateway,
    _running: (Capture, Process),
}

impl Rig {
    fn start() -> Result<Rig> {
        let lab = Lab::new()?;
        let gateway = Gateway::start(&lab)?;
        let capture = Capture::start(&lab)?;
        let agent = lab
            .client()
            .start("agent", &["ssh-agent", "-D", "-a", AGENT])?;
        until("the agent", PATIENCE, || Ok(lab.outside(AGENT).exists()))?;
        Ok(Rig {
            lab,
            gateway,
            _running: (capture, agent),
        })
    }

    fn alice(&self, line: &str) -> Result<String> {
        let shell = self.lab.client().env("SSH_AUTH_SOCK", AGENT);
        shell.sh(line)?.ok()
    }

    /// Takes the passphrase that the key file has from now on.
    fn lock_key(&self) -> Result<()> {
        self.alice(&format!(
            "cp {KEY} {HOME}/open; ssh-keygen -q -p -P '' -N sesame -f {KEY}"
        ))?;
        Ok(())
    }

    /// Alice's rules, with these lines of the zone for her identity.
    fn rules(&self, identity: &str) -> String {
        rules_for_networks(User::Alice, &[address::ZONE]).replace(FILE, identity)
    }

    fn broker(&self, rules: &str) -> Result<Broker> {
        let agent = format!("SSH_AUTH_SOCK={AGENT}");
        Broker::start_behind(&self.lab, User::Alice, rules, &["env", &agent], &[])
    }

    fn zone(&self, broker: &Broker) -> Result<Value> {
        Ok(broker.status(&self.lab)?["zones"][0].clone())
    }

    fn up(&self, broker: &Broker) -> Result<Value> {
        let mut last = Value::Null;
        until("the zone to be up", PATIENCE, || {
            last = self.zone(broker)?;
            Ok(last["state"] == "up")
        })
        .with_context(|| format!("{last}; {}", broker.process.tale()))?;
        Ok(last)
    }

    fn locked(&self, broker: &Broker) -> Result<Value> {
        let mut last = Value::Null;
        until("the zone to be locked", PATIENCE, || {
            last = self.zone(broker)?;
            let reason = last["reason"].as_str().unwrap_or_default();
            Ok(last["state"] == "down" && reason.contains("locked: run `adit unlock`"))
        })
        .with_context(|| format!("{last}; {}", broker.process.tale()))?;
        Ok(last)
    }
}

/// Nothing has to be said of a file whose key the agent holds.
#[test]
fn a_key_with_a_passphrase_is_the_agents() -> Result<()> {
    let rig = Rig::start()?;
    rig.lock_key()?;
    rig.alice(&format!("ssh-add -q {HOME}/open"))?;
    let broker = rig.broker(&rig.rules(FILE))?;
    rig.up(&broker)?;
    Ok(())
}

/// The public key is all that there is in files.
#[test]
fn a_public_key_names_the_agents() -> Result<()> {
    let rig = Rig::start()?;
    rig.alice(&format!("ssh-add -q {KEY}; rm {KEY}"))?;
    for identity in [FILE, "    identity: ~/.ssh/id_ed25519.pub\n"] {
        let mut broker = rig.broker(&rig.rules(identity))?;
        rig.up(&broker).context(identity)?;
        broker.adit(&rig.lab, &["down"])?.ok()?;
        broker.process.end(PATIENCE)?;
    }
    Ok(())
}

#[test]
fn ssh_add_opens_a_locked_zone() -> Result<()> {
    let rig = Rig::start()?;
    rig.lock_key()?;
    for identity in [FILE, ""] {
        let mut broker = rig.broker(&rig.rules(identity))?;
        rig.locked(&broker)?;
        rig.alice(&format!("ssh-add -q {HOME}/open"))?;
        let zone = rig.up(&broker)?;
        ensure!(zone["questions"] == json!([]), "{zone}");
        broker.adit(&rig.lab, &["down"])?.ok()?;
        broker.process.end(PATIENCE)?;
        rig.alice("ssh-add -q -D")?;
    }
    Ok(())
}

/// More keys than a gateway lets anyone try.
#[test]
fn the_identity_file_of_ssh_is_that_key_and_no_other() -> Result<()> {
    let rig = Rig::start()?;
    let keys = "cd .ssh; for n in 1 2 3 4 5 6 7; do ssh-keygen -q -t ed25519 -N '' -f k$n; ssh-add -q k$n; done
        ssh-add -q id_ed25519; mv id_ed25519 k8; mv id_ed25519.pub k8.pub; echo 'IdentityFile ~/.ssh/k8' >config";
    rig.alice(keys)?;
    let broker = rig.broker(&rig.rules(""))?;
    rig.up(&broker)?;
    Ok(())
}

/// Another key has a comment that is no text; ssh does not mind either.
#[test]
fn a_key_that_cannot_be_read_hides_no_other() -> Result<()> {
    let rig = Rig::start()?;
    let keys = "cd .ssh; ssh-keygen -q -t ed25519 -N '' -C \"$(printf '\\377')\" -f odd; ssh-add -q odd id_ed25519; rm id_ed25519*";
    rig.alice(keys)?;
    let broker = rig.broker(&rig.rules("    identity: agent\n"))?;
    rig.up(&broker)?;
    Ok(())
}

/// It takes what is asked of it, and says nothing.
#[test]
fn a_silent_agent_keeps_nobody_from_the_key_files() -> Result<()> {
    let rig = Rig::start()?;
    let silent = format!("{HOME}/silent");
    let words = "import signal, socket, sys\nall = socket.socket(socket.AF_UNIX)\nall.bind(sys.argv[1])\nall.listen()\nsignal.pause()";
    let _silent = rig
        .lab
        .client()
        .start("silent", &["/usr/bin/python3", "-c", words, &silent])?;
    until("the silent agent", PATIENCE, || {
        Ok(rig.lab.outside(&silent).exists())
    })?;
    let agent = format!("SSH_AUTH_SOCK={silent}");
    let rules = rig.rules("");
    let broker = Broker::start_behind(&rig.lab, User::Alice, &rules, &["env", &agent], &[])?;
    rig.up(&broker)?;
    Ok(())
}

/// A gateway that wants to hear a password is left in peace, and the one before it, which was only away, is not forgotten.
#[test]
fn a_gateway_that_is_locked_does_not_keep_another_down() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.gateway.process.kill()?;
    let root = User::Root.home();
    let prepare = format!(
        "mkdir -p {root}; cp /run/lab/gateway/host_ed25519 {root}/host; chmod 600 {root}/host"
    );
    rig.lab.gateway().sh(&prepare)?.ok()?;
    let config = format!(
        "Port 444\nHostKey {root}/host\nPidFile none\nUsePAM no\nAuthorizedKeysFile none\nPasswordAuthentication yes\nLogLevel VERBOSE\n"
    );
    let file = format!("{root}/asking_config");
    rig.lab.write(User::Root, &file, config)?;
    let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &file];
    let mut sshd = rig.lab.gateway().start("asking", &words)?;
    sshd.ready_when("sshd", PATIENCE, || rig.lab.listening(Host::Gateway, 444))?;
    let known = "cd .ssh; sed 's/:443/:444/' known_hosts >more; cat more >>known_hosts";
    rig.alice(known)?;
    let usual = Gateway::for_user(User::Alice);
    let both = format!("{usual}\", \"{}", usual.replace(":443", ":444"));
    let methods = format!("{FILE}    methods: [publickey, password]\n");
    let rules = rig.rules(&methods).replace(&usual, &both);
    let broker = rig.broker(&rules)?;
    let zone = rig.locked(&broker)?;
    ensure!(zone["questions"][0]["wants"] == "password", "{zone}");
    rig.gateway.restart(&rig.lab)?;
    let zone = rig.up(&broker)?;
    ensure!(zone["gateway"] == usual.as_str(), "{zone}");
    let tries = sshd.stderr().matches("Connection from").count();
    ensure!(tries == 1, "it was bothered {tries} times: {}", sshd.tale());
    Ok(())
}
