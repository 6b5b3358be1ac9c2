//! The words of `host_keys`: what becomes of a gateway whose host key no file knows, and that no word weakens a changed or revoked one.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use adit_tests::{
    Broker, Capture, Gateway, GatewayKind, Host, Lab, Process, Routing, User, Witness, address,
    rules_for_networks, until,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(15);
const KNOWN: &str = "/run/lab/home/adit-alice/.ssh/known_hosts";

fn rules(word: &str) -> String {
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    let rules = rules.replacen("\nrules:", "\n    on_down: pass\nrules:", 1);
    let written = "known_hosts: ~/.ssh/known_hosts";
    rules.replace(written, &format!("{written}\n    host_keys: {word}"))
}

/// A gateway and a helper; the client knows `known` of host keys, and could go around the gateway.
struct Rig {
    gateway: Gateway,
    sshd: Option<Process>,
    _capture: Capture,
    lab: Lab,
}

impl Rig {
    fn start(kind: GatewayKind, known: Option<&str>) -> Result<Rig> {
        let lab = Lab::with(Routing::Wire)?;
        let gateway = Gateway::allowing(&lab, kind, &["198.51.100.0/24:*"])?;
        match known {
            Some(known) => lab.write(User::Alice, KNOWN, known)?,
            None => std::fs::remove_file(lab.outside(KNOWN))?,
        }
        Ok(Rig {
            gateway,
            sshd: None,
            _capture: Capture::start(&lab)?,
            lab,
        })
    }

    fn broker(&self, word: &str) -> Result<Broker> {
        self.broker_by("auto", word)
    }

    fn broker_by(&self, engine: &str, word: &str) -> Result<Broker> {
        let rules = rules(word).replacen("\nrules:", &format!("\n    engine: {engine}\nrules:"), 1);
        Broker::start(&self.lab, User::Alice, &rules)
    }

    /// The fingerprint of the gateway's key, by ssh-keygen.
    fn fingerprint(&self) -> Result<String> {
        let line = "ssh-keygen -lf /run/lab/gateway/host_ed25519.pub | cut -d' ' -f2";
        Ok(self.lab.gateway().sh(line)?.ok()?.trim().to_owned())
    }

    fn public_key(&self) -> Result<String> {
        let text = self.lab.read("/run/lab/gateway/host_ed25519.pub")?;
        let words: Vec<_> = text.split(' ').take(2).collect();
        Ok(words.join(" "))
    }

    /// The gateway is set up anew: another key.
    fn swap_key(&mut self) -> Result<()> {
        self.gateway.process.kill()?;
        let line = "cd /run/lab/gateway && rm host_ed25519* && ssh-keygen -q -t ed25519 -N '' -f host_ed25519";
        self.lab.gateway().user(User::Service).sh(line)?.ok()?;
        self.gateway.restart(&self.lab)
    }
}

fn zone(lab: &Lab, broker: &Broker) -> Result<Value> {
    Ok(broker.status(lab)?["zones"][0].clone())
}

fn wait_up(lab: &Lab, broker: &Broker) -> Result<()> {
    until("the zone to be up", PATIENCE, || {
        Ok(zone(lab, broker)?["state"] == "up")
    })
    .with_context(|| broker.process.tale())
}

/// Waits until the zone is down for a reason that has all these words.
fn wait_down(lab: &Lab, broker: &Broker, words: &[&str]) -> Result<()> {
    let mut last = Value::Null;
    until("the zone to be down", PATIENCE, || {
        last = zone(lab, broker)?;
        let reason = last["reason"].as_str().unwrap_or_default();
        Ok(last["state"] == "down" && words.iter().all(|word| reason.contains(word)))
    })
    .with_context(|| format!("{words:?} are not in {last}"))
}

/// A program is turned away, and nothing of it leaves in clear, though `on_down` says pass.
fn never_around(lab: &Lab, broker: &Broker) -> Result<()> {
    let witness = Witness::start(lab)?;
    let to = format!("{}:80", address::SERVER);
    lab.client()
        .argv(&["adit-peer", "dial", &to, "end"])?
        .ok()?;
    let flow = broker.flow(lab, "the flow", |flow| flow.destination == to)?;
    ensure!(flow.state == "failed", "{flow:?}");
    witness.finish(lab)?.nothing()
}

fn changed_is_refused(rig: &Rig, broker: &Broker) -> Result<()> {
    let fingerprint = rig.fingerprint()?;
    let place = format!("{KNOWN}:1");
    wait_down(&rig.lab, broker, &["HAS CHANGED", &fingerprint, &place])?;
    let zone = zone(&rig.lab, broker)?;
    ensure!(zone["questions"] == serde_json::json!([]), "{zone}");
    let trust = broker.adit(&rig.lab, &["trust", "--fingerprint", &fingerprint])?;
    ensure!(
        !trust.success() && trust.stderr.contains("no gateway waits"),
        "{trust}"
    );
    let log = broker.process.stderr();
    let is_loud = |line: &str| line.contains("ERROR") && line.contains("HAS CHANGED");
    ensure!(log.lines().any(is_loud), "{log}");
    never_around(&rig.lab, broker)
}

fn accepts_new(kind: GatewayKind) -> Result<()> {
    let mut rig = Rig::start(kind, None)?;
    let mut broker = rig.broker("accept-new")?;
    wait_up(&rig.lab, &broker)?;
    let line = format!("[192.0.2.1]:443 {}\n", rig.public_key()?);
    ensure!(
        rig.lab.read(KNOWN)?.starts_with(line.trim_end()),
        "{}",
        rig.lab.read(KNOWN)?
    );
    let mode = std::fs::metadata(rig.lab.outside(KNOWN))?
        .permissions()
        .mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let log = broker.process.stderr();
    ensure!(
        log.contains("new host key") && log.contains(&rig.fingerprint()?),
        "{log}"
    );
    // The system's ssh agrees with what was noted.
    let find = format!("ssh-keygen -F '[192.0.2.1]:443' -f {KNOWN}");
    ensure!(rig.lab.client().sh(&find)?.ok()?.contains(line.trim_end()));
    if kind == GatewayKind::AditServer {
        rig.swap_key()?;
        return changed_is_refused(&rig, &broker);
    }
    // The session of an sshd that was killed goes on.
    broker.adit(&rig.lab, &["down"])?.ok()?;
    broker.process.end(PATIENCE)?;
    rig.swap_key()?;
    changed_is_refused(&rig, &rig.broker("accept-new")?)
}

#[test]
fn accept_new_notes_a_new_key_and_refuses_a_changed_one() -> Result<()> {
    accepts_new(GatewayKind::AditServer)
}

#[test]
fn accept_new_does_so_with_openssh() -> Result<()> {
    accepts_new(GatewayKind::Sshd { rekey_mib: 1024 })
}

#[test]
fn what_cannot_be_noted_is_not_accepted() -> Result<()> {
    let rig = Rig::start(GatewayKind::AditServer, Some(""))?;
    let line = format!("chmod 400 {KNOWN}");
    rig.lab.client().sh(&line)?.ok()?;
    let broker = rig.broker("accept-new")?;
    wait_down(
        &rig.lab,
        &broker,
        &["cannot be noted", KNOWN, "Permission denied"],
    )?;
    never_around(&rig.lab, &broker)
}

/// Ports at which somebody listens who says nothing.
const SILENT: [u16; 2] = [444, 445];

/// A flow gives up while an attempt is under way that has seen such a key, and whose other gateways keep it waiting.
#[test]
fn nothing_goes_around_a_changed_key_while_other_gateways_are_silent() -> Result<()> {
    let rig = Rig::start(GatewayKind::AditServer, Some(""))?;
    let other = rig
        .lab
        .read("/run/lab/home/adit-alice/.ssh/id_ed25519.pub")?;
    let known = format!("[192.0.2.1]:443 {other}");
    rig.lab.write(User::Alice, KNOWN, known)?;
    let silent = format!(
        "import signal, socket\nall = [socket.create_server((\"192.0.2.1\", port)) for port in {SILENT:?}]\nsignal.pause()"
    );
    let words = ["/usr/bin/python3", "-c", &silent];
    let mut silent = rig.lab.gateway().start("silent", &words)?;
    silent.ready_when("the silent ones", PATIENCE, || {
        rig.lab.listening(Host::Gateway, SILENT[1])
    })?;
    let usual = Gateway::for_user(User::Alice);
    let more = SILENT.map(|port| usual.replace(":443", &format!(":{port}")));
    let gateways = format!("{usual}\", \"{}", more.join("\", \""));
    let rules = rules("strict").replace(&usual, &gateways);
    let broker = Broker::start(&rig.lab, User::Alice, &rules)?;
    let is_loud = |line: &str| line.contains("ERROR") && line.contains("HAS CHANGED");
    until("the changed key to be seen", PATIENCE, || {
        Ok(broker.process.stderr().lines().any(is_loud))
    })?;
    never_around(&rig.lab, &broker)
}

/// Whatever the word, a revoked key is refused, and nobody is asked about it.
#[test]
fn a_revoked_key_is_refused() -> Result<()> {
    let rig = Rig::start(GatewayKind::AditServer, Some(""))?;
    let known = format!("# nobody's\n@revoked * {}\n", rig.public_key()?);
    rig.lab.write(User::Alice, KNOWN, &known)?;
    for word in ["accept-new", "ask"] {
        let mut broker = rig.broker(word)?;
        let place = format!("{KNOWN}:2");
        wait_down(
            &rig.lab,
            &broker,
            &["IS REVOKED", &rig.fingerprint()?, &place],
        )?;
        let zone = zone(&rig.lab, &broker)?;
        ensure!(zone["questions"] == serde_json::json!([]), "{word}: {zone}");
        never_around(&rig.lab, &broker)?;
        broker.adit(&rig.lab, &["down"])?.ok()?;
        broker.process.end(PATIENCE)?;
    }
    ensure!(rig.lab.read(KNOWN)? == known);
    Ok(())
}

#[test]
fn ask_waits_for_a_word_and_then_connects() -> Result<()> {
    let mut rig = Rig::start(GatewayKind::AditServer, Some("# mine\n"))?;
    let broker = rig.broker("ask")?;
    let (lab, fingerprint) = (&rig.lab, rig.fingerprint()?);
    wait_down(lab, &broker, &["is not known", &fingerprint, "adit trust"])?;
    let question = zone(lab, &broker)?["questions"][0].clone();
    let expected = serde_json::json!({"about": "host-key", "host": "[192.0.2.1]:443", "kind": "ssh-ed25519", "fingerprint": fingerprint});
    ensure!(question == expected, "{question}");
    let shown = broker.adit(lab, &["status"])?.ok()?;
    ensure!(
        shown.contains(&fingerprint) && shown.contains("adit trust lab"),
        "{shown}"
    );
    never_around(lab, &broker)?;
    for (words, why) in [
        (
            &["trust", "--fingerprint", "SHA256:AAAA"][..],
            "no gateway waits",
        ),
        (&["trust", "lab"], "--fingerprint"),
        (&["trust", "other"], "no zone is called"),
    ] {
        let said = broker.adit(lab, words)?;
        ensure!(
            !said.success() && said.stderr.contains(why),
            "{words:?}: {said}"
        );
    }
    ensure!(lab.read(KNOWN)? == "# mine\n");
    let words = ["trust", "lab", "--fingerprint", &fingerprint, "--json"];
    let told: Value = serde_json::from_str(&broker.adit(lab, &words)?.ok()?)?;
    ensure!(
        told["trusted"][0]["fingerprint"] == fingerprint.as_str(),
        "{told}"
    );
    wait_up(lab, &broker)?;
    let noted = format!("# mine\n[192.0.2.1]:443 {}\n", rig.public_key()?);
    ensure!(lab.read(KNOWN)?.trim_end() == noted.trim_end());
    ensure!(zone(lab, &broker)?["questions"] == serde_json::json!([]));
    lab.write(User::Alice, KNOWN, noted.trim_start_matches("# mine\n"))?;
    rig.swap_key()?;
    changed_is_refused(&rig, &broker)
}

/// On a terminal, where who says no is asked again the next time.
#[test]
fn ask_is_answered_on_a_terminal() -> Result<()> {
    let rig = Rig::start(GatewayKind::AditServer, Some(""))?;
    let broker = rig.broker("ask")?;
    let (lab, fingerprint) = (&rig.lab, rig.fingerprint()?);
    wait_down(lab, &broker, &["is not known"])?;
    let answer = |word: &str| {
        let adit = format!(
            "adit trust --control {}",
            adit_tests::control_socket(User::Alice)
        );
        let line = format!("printf 'perhaps\\n{word}\\n' | script -qec '{adit}' /dev/null");
        lab.client().sh(&line)
    };
    let no = answer("no")?;
    ensure!(
        !no.success() && no.stdout.contains("no host key was trusted"),
        "{no}"
    );
    ensure!(lab.read(KNOWN)?.is_empty());
    let yes = answer("yes")?.ok()?;
    ensure!(
        yes.contains(&fingerprint) && yes.contains("[192.0.2.1]:443"),
        "{yes}"
    );
    wait_up(lab, &broker)
}

/// A program that shows its question on a screen; here it notes the question, and then does this.
fn asked_on_a_screen(then: &str) -> Result<(Rig, Broker)> {
    let rig = Rig::start(GatewayKind::AditServer, Some(""))?;
    let (lab, home) = (&rig.lab, User::Alice.home());
    let script = format!(
        "#!/bin/sh\nprintf '%s' \"$1\" >>{home}/asked.new; cp {home}/asked.new {home}/asked; {then}\n"
    );
    lab.write(User::Alice, &format!("{home}/askpass"), script)?;
    lab.client()
        .sh(&format!("chmod 700 {home}/askpass"))?
        .ok()?;
    let askpass = format!("SSH_ASKPASS={home}/askpass");
    let before = ["env", "DISPLAY=:0", &askpass];
    let broker = Broker::start_behind(lab, User::Alice, &rules("ask"), &before, &[])?;
    let asked = format!("{home}/asked");
    until("the question", PATIENCE, || {
        Ok(lab.outside(&asked).exists())
    })?;
    let asked = lab.read(&asked)?;
    ensure!(asked.contains(&rig.fingerprint()?), "{asked}");
    Ok((rig, broker))
}

#[test]
fn ask_is_answered_on_a_screen() -> Result<()> {
    let (rig, broker) = asked_on_a_screen("echo yes")?;
    wait_up(&rig.lab, &broker)?;
    let (rig, broker) = asked_on_a_screen("exit 1")?;
    wait_down(&rig.lab, &broker, &["is not known"])?;
    ensure!(rig.lab.read(KNOWN)?.is_empty());
    // Who said no can still say yes.
    broker
        .adit(&rig.lab, &["trust", "--fingerprint", &rig.fingerprint()?])?
        .ok()?;
    wait_up(&rig.lab, &broker)
}

/// As one does that keeps a passphrase, and takes every question for one about that.
#[test]
fn a_program_that_answers_by_itself_trusts_nobody() -> Result<()> {
    let (rig, broker) = asked_on_a_screen("echo secret")?;
    let asked = format!("{}/asked", User::Alice.home());
    until("the question to be put for the last time", PATIENCE, || {
        Ok(rig.lab.read(&asked)?.matches("SHA256:").count() == 5)
    })?;
    wait_down(&rig.lab, &broker, &["is not known"])?;
    ensure!(rig.lab.read(KNOWN)?.is_empty());
    Ok(())
}

/// An sshd with two keys, of which only one is known; it proves that it holds the other. Later it has only that.
fn second_key(subsystem: &str, engine: &str, word: &str) -> Result<(Rig, Broker, String)> {
    let mut rig = Rig::start(GatewayKind::AditServer, None)?;
    rig.gateway.process.kill()?;
    let (lab, root) = (&rig.lab, User::Root.home());
    let line = format!(
        "mkdir -p {root}; cd {root}; cp /run/lab/gateway/host_ed25519 first; chmod 600 first
         ssh-keygen -q -t ecdsa -N '' -f second; cat second.pub"
    );
    let second = lab.gateway().sh(&line)?.ok()?;
    let second: Vec<_> = second.split(' ').take(2).collect();
    let known = format!("[192.0.2.1]:443 {}\n", rig.public_key()?);
    lab.write(User::Alice, KNOWN, known)?;
    rig.sshd = Some(sshd(&rig, &["first", "second"], subsystem)?);
    let broker = rig.broker_by(engine, word)?;
    wait_up(&rig.lab, &broker)?;
    Ok((rig, broker, second.join(" ")))
}

/// Our relay in an sshd.
const SUBSYSTEM: &str = "Subsystem adit-link /run/lab/bin/adit-server --stdio --log-to stderr --allow 198.51.100.0/24:*\n";

fn sshd(rig: &Rig, keys: &[&str], subsystem: &str) -> Result<Process> {
    let root = User::Root.home();
    let keys: String = keys
        .iter()
        .map(|key| format!("HostKey {root}/{key}\n"))
        .collect();
    let config = format!(
        "Port 443\n{keys}PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n{subsystem}"
    );
    let file = format!("{root}/sshd_config");
    rig.lab.write(User::Root, &file, config)?;
    let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &file];
    let mut sshd = rig.lab.gateway().start("gateway-sshd", &words)?;
    sshd.ready_when("sshd", PATIENCE, || rig.lab.listening(Host::Gateway, 443))?;
    Ok(sshd)
}

#[test]
fn a_key_that_the_gateway_proves_is_noted() -> Result<()> {
    proves_another(SUBSYSTEM, "auto", "accept-new")
}

#[test]
fn a_key_that_the_gateway_proves_is_noted_where_its_user_is_asked() -> Result<()> {
    proves_another(SUBSYSTEM, "auto", "ask")
}

#[test]
fn a_key_that_a_bare_sshd_proves_is_noted() -> Result<()> {
    proves_another("", "auto", "accept-new")
}

#[test]
fn a_key_that_a_bare_sshd_proves_to_our_own_engine_is_noted() -> Result<()> {
    proves_another("", "embedded", "accept-new")
}

fn proves_another(subsystem: &str, engine: &str, word: &str) -> Result<()> {
    let (mut rig, mut broker, second) = second_key(subsystem, engine, word)?;
    let line = format!("[192.0.2.1]:443 {second}");
    until("the second key", PATIENCE, || {
        Ok(rig.lab.read(KNOWN)?.contains(&line))
    })
    .with_context(|| broker.process.tale())?;
    ensure!(rig.lab.read(KNOWN)?.lines().count() == 2);
    // The first key is retired, and nobody notices.
    broker.adit(&rig.lab, &["down"])?.ok()?;
    broker.process.end(PATIENCE)?;
    rig.sshd.take().context("it runs")?.kill()?;
    rig.sshd = Some(sshd(&rig, &["second"], subsystem)?);
    wait_up(&rig.lab, &rig.broker_by(engine, "strict")?)
}

/// Who was trusted for a certificate has no plain key noted, that would be trusted when the certificate is over.
#[test]
fn nothing_is_noted_of_a_gateway_that_an_authority_vouches_for() -> Result<()> {
    let mut rig = Rig::start(GatewayKind::AditServer, None)?;
    rig.gateway.process.kill()?;
    let (lab, root) = (&rig.lab, User::Root.home());
    let line = format!(
        "mkdir -p {root}; cd {root}; cp /run/lab/gateway/host_ed25519 first; cp /run/lab/gateway/host_ed25519.pub first.pub; chmod 600 first
         ssh-keygen -q -t ed25519 -N '' -f ca; ssh-keygen -q -s ca -h -I gateway -n 192.0.2.1 first.pub
         ssh-keygen -q -t ecdsa -N '' -f second; cat ca.pub"
    );
    let authority = lab.gateway().sh(&line)?.ok()?;
    // Beside a key that it had before.
    let before = lab.read("/run/lab/home/adit-alice/.ssh/id_ed25519.pub")?;
    let known = format!("[192.0.2.1]:443 {before}@cert-authority [192.0.2.1]:443 {authority}");
    lab.write(User::Alice, KNOWN, &known)?;
    let shown = format!("HostCertificate {root}/first-cert.pub\n{SUBSYSTEM}");
    rig.sshd = Some(sshd(&rig, &["first", "second"], &shown)?);
    let mut broker = rig.broker("accept-new")?;
    wait_up(&rig.lab, &broker)?;
    // The announcement comes before anything else of the session.
    goes_through(&rig.lab)?;
    broker.adit(&rig.lab, &["down"])?.ok()?;
    broker.process.end(PATIENCE)?;
    ensure!(rig.lab.read(KNOWN)? == known, "{}", rig.lab.read(KNOWN)?);
    Ok(())
}

#[test]
fn strict_notes_nothing() -> Result<()> {
    let (rig, mut broker, _) = second_key(SUBSYSTEM, "auto", "strict")?;
    let before = rig.lab.read(KNOWN)?;
    // The announcement comes before anything else of the session.
    goes_through(&rig.lab)?;
    broker.adit(&rig.lab, &["down"])?.ok()?;
    broker.process.end(PATIENCE)?;
    ensure!(rig.lab.read(KNOWN)? == before && before.lines().count() == 1);
    Ok(())
}

/// A connection goes through.
fn goes_through(lab: &Lab) -> Result<()> {
    let _web = adit_tests::service::web(lab)?;
    let url = format!("http://{}/whoami", address::SERVER);
    let seen = lab.client().argv(&["curl", "-sS", &url])?.ok()?;
    ensure!(seen.trim() == address::GATEWAY_INSIDE, "{seen}");
    Ok(())
}
