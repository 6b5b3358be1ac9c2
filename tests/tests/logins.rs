//! How the broker proves who its user is: certificates, passphrases, passwords, what a gateway asks, several of them, and agents that take
//! their time. The gateway is OpenSSH's sshd; `adit-server` where it makes no difference.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use adit_tests::{
    Broker, Capture, Gateway, Host, Lab, Process, User, address, control_socket,
    rules_for_networks, until,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const HOME: &str = "/run/lab/home/adit-alice";
const KEY: &str = "/run/lab/home/adit-alice/.ssh/id_ed25519";
const WORD: &str = "open sesame, 7";

/// A gateway and a helper.
struct Rig {
    gateway: Gateway,
    _sshd: Option<Process>,
    _capture: Capture,
    lab: Lab,
}

impl Rig {
    /// With `adit-server`.
    fn start() -> Result<Rig> {
        Rig::within(Lab::new()?)
    }

    fn within(lab: Lab) -> Result<Rig> {
        let gateway = Gateway::start(&lab)?;
        Ok(Rig {
            gateway,
            _sshd: None,
            _capture: Capture::start(&lab)?,
            lab,
        })
    }

    /// With sshd and these lines in its file; `prepare` runs before as root on the gateway.
    fn with_sshd(prepare: &str, lines: &str) -> Result<Rig> {
        let lab = Lab::new()?;
        lab.own_etc()?;
        let mut rig = Rig::within(lab)?;
        rig.gateway.process.kill()?;
        let lab = &rig.lab;
        let home = User::Root.home();
        lab.gateway().sh(&format!("mkdir -p {home}; cd {home}; cp /run/lab/gateway/host_ed25519 host; chmod 600 host; {prepare}"))?.ok()?;
        let config = format!(
            "Port 443\nHostKey {home}/host\nPidFile none\nStrictModes no\nLogLevel DEBUG1\nUsePAM no\n{lines}\n\
             Subsystem adit-link /run/lab/bin/adit-server --stdio --log-to stderr --allow 198.51.100.0/24:*\n"
        );
        let file = format!("{home}/sshd_config");
        // The first word for a key counts (sshd_config(5)).
        let config = if lines.contains("UsePAM yes") {
            config.replace("UsePAM no\n", "")
        } else {
            config
        };
        lab.write(User::Root, &file, config)?;
        let mut sshd = lab
            .gateway()
            .start("gateway-sshd", &["/usr/sbin/sshd", "-D", "-e", "-f", &file])?;
        sshd.ready_when("sshd", PATIENCE, || {
            Ok(lab
                .gateway()
                .sh("ss -Hltn 'sport = :443' | grep -q .")?
                .success())
        })?;
        rig._sshd = Some(sshd);
        Ok(rig)
    }

    /// Alice's broker, its zone's keys exchanged for these.
    fn broker(&self, keys: &str, environment: &[&str]) -> Result<Broker> {
        let rules = rules_for_networks(User::Alice, &[address::ZONE]);
        let rules = rules.replace("    identity: ~/.ssh/id_ed25519\n", keys);
        let before = [&["env"], environment].concat();
        Broker::start_behind(&self.lab, User::Alice, &rules, &before, &[])
    }

    fn zone(&self, broker: &Broker) -> Result<Value> {
        Ok(broker.status(&self.lab)?["zones"][0].clone())
    }

    fn up(&self, broker: &Broker) -> Result<()> {
        until("the zone to be up", PATIENCE, || {
            Ok(self.zone(broker)?["state"] == "up")
        })
        .with_context(|| format!("{:?}; {}", self.zone(broker), broker.process.tale()))
    }

    fn down(&self, broker: &Broker, words: &[&str]) -> Result<Value> {
        let mut last = Value::Null;
        until("the zone to be down", PATIENCE, || {
            last = self.zone(broker)?;
            let reason = last["reason"].as_str().unwrap_or_default();
            Ok(last["state"] == "down" && words.iter().all(|word| reason.contains(word)))
        })
        .with_context(|| format!("{words:?} are not in {last}; {}", broker.process.tale()))?;
        Ok(last)
    }

    /// `adit unlock` with these lines on its standard input.
    fn unlock(&self, lines: &[&str]) -> Result<adit_tests::Ended> {
        let file = format!("{HOME}/answers");
        self.lab.write(User::Alice, &file, lines.join("\n"))?;
        let control = control_socket(User::Alice);
        let line = format!("adit unlock --stdin --control {control} <{file}");
        self.lab.client().sh(&line)
    }

    fn alice(&self, line: &str) -> Result<String> {
        self.lab.client().sh(line)?.ok()
    }

    /// An agent at `socket`, with the keys of these files.
    fn agent(&self, socket: &str, keys: &str) -> Result<Process> {
        let client = self.lab.client();
        let agent = client.start("agent", &["ssh-agent", "-D", "-a", socket])?;
        until("the agent", PATIENCE, || {
            Ok(self.lab.outside(socket).exists())
        })?;
        self.alice(&format!("SSH_AUTH_SOCK={socket} ssh-add -q {keys}"))?;
        Ok(agent)
    }
}

/// An sshd that knows nobody's key, but an authority.
fn with_authority() -> Result<Rig> {
    let rig = Rig::with_sshd(
        "ssh-keygen -q -t ed25519 -N '' -f ca; chmod 644 ca.pub",
        &format!(
            "TrustedUserCAKeys {}/ca.pub\nAuthorizedKeysFile none\nPasswordAuthentication no",
            User::Root.home()
        ),
    );
    rig.context("sshd with an authority")
}

/// Signs Alice's public key for Alice; the certificate is beside it.
fn certify(rig: &Rig, key: &str) -> Result<()> {
    let root = User::Root.home();
    let sign = format!(
        "ssh-keygen -q -s {root}/ca -I alices -n adit-alice {key}.pub; chown adit-alice {key}-cert.pub"
    );
    rig.lab.gateway().sh(&sign)?.ok()?;
    Ok(())
}

#[test]
fn a_certificate_beside_the_key() -> Result<()> {
    let rig = with_authority()?;
    let identity = "    identity: ~/.ssh/id_ed25519\n";
    let broker = rig.broker(identity, &[])?;
    rig.down(&broker, &["refused user adit-alice"])?;
    certify(&rig, KEY)?;
    // It is tried again by itself.
    rig.up(&broker)
}

#[test]
fn a_certificate_that_is_named() -> Result<()> {
    let rig = with_authority()?;
    rig.alice("cd .ssh; rm id_ed25519*; ssh-keygen -q -t rsa -b 2048 -N '' -f id_rsa")?;
    certify(&rig, &format!("{HOME}/.ssh/id_rsa"))?;
    rig.alice("mv .ssh/id_rsa-cert.pub mine.pub")?;
    let named = "    identity: ~/.ssh/id_rsa\n    certificate: ~/mine.pub\n";
    for engine in ["embedded", "openssh"] {
        let mut broker = rig.broker(&format!("{named}    engine: {engine}\n"), &[])?;
        rig.up(&broker).context(engine)?;
        broker.adit(&rig.lab, &["down"])?.ok()?;
        broker.process.end(PATIENCE)?;
    }
    rig.alice("ssh-keygen -q -t ed25519 -N '' -f other; mv other .ssh/id_rsa")?;
    let broker = rig.broker(named, &[])?;
    rig.down(&broker, &["is for another key"])?;
    Ok(())
}

#[test]
fn a_certificate_in_the_agent_or_for_its_key() -> Result<()> {
    let rig = with_authority()?;
    let socket = format!("{HOME}/agent");
    let _agent = rig.agent(&socket, KEY)?;
    certify(&rig, KEY)?;
    rig.alice("mv .ssh/id_ed25519-cert.pub mine.pub")?;
    let environment = format!("SSH_AUTH_SOCK={socket}");
    let named = "    identity: agent\n    certificate: ~/mine.pub\n";
    for (keys, prepare) in [
        (named, "true"),
        (
            "    identity: agent\n",
            "mv mine.pub .ssh/id_ed25519-cert.pub; ssh-add -q .ssh/id_ed25519; rm .ssh/id_ed25519*",
        ),
    ] {
        rig.alice(&format!("export {environment}; {prepare}"))?;
        let mut broker = rig.broker(keys, &[&environment])?;
        rig.up(&broker)?;
        broker.adit(&rig.lab, &["down"])?.ok()?;
        broker.process.end(PATIENCE)?;
    }
    Ok(())
}

#[test]
fn the_agent_is_found_without_a_word_of_the_environment() -> Result<()> {
    let rig = Rig::start()?;
    for place in ["ssh-agent.socket", "keyring/ssh", "gnupg/S.gpg-agent.ssh"] {
        let runtime = format!("{HOME}/runtime");
        rig.alice(&format!(
            "rm -rf {runtime}; mkdir -p {runtime}/keyring {runtime}/gnupg"
        ))?;
        let _agent = rig.agent(&format!("{runtime}/{place}"), KEY)?;
        let environment = ["-u", "SSH_AUTH_SOCK", &format!("XDG_RUNTIME_DIR={runtime}")];
        let mut broker = rig.broker("    identity: agent\n", &environment)?;
        rig.up(&broker).context(place)?;
        broker.adit(&rig.lab, &["down"])?.ok()?;
        broker.process.end(PATIENCE)?;
    }
    Ok(())
}

fn lock_key(rig: &Rig) -> Result<()> {
    rig.alice(&format!("ssh-keygen -q -p -P '' -N '{WORD}' -f {KEY}"))?;
    Ok(())
}

#[test]
fn a_passphrase_is_asked_for_once() -> Result<()> {
    let mut rig = Rig::start()?;
    lock_key(&rig)?;
    let broker = rig.broker("    identity: ~/.ssh/id_ed25519\n", &[])?;
    let zone = rig.down(&broker, &["locked: run `adit unlock`", KEY])?;
    let expected =
        json!([{"about": "unlock", "wants": "passphrase", "gateway": "adit-alice@192.0.2.1:443"}]);
    ensure!(
        zone["questions"] == expected && zone["retry_in_ms"].is_null(),
        "{zone}"
    );
    let shown = broker.adit(&rig.lab, &["status"])?.ok()?;
    ensure!(shown.contains("adit unlock lab"), "{shown}");
    let wrong = rig.unlock(&["wrong", "wrong", "wrong"])?;
    ensure!(
        !wrong.success() && wrong.stderr.contains("no passphrase opened"),
        "{wrong}"
    );
    let right = rig.unlock(&["wrong", WORD])?.ok()?;
    ensure!(right.contains("zone lab is up"), "{right}");
    rig.up(&broker)?;
    ensure!(rig.zone(&broker)?["questions"] == json!([]));
    rig.gateway.restart(&rig.lab)?;
    rig.up(&broker)?;
    let log = broker.process.tale();
    ensure!(!log.contains(WORD), "it is in the log: {log}");
    let nothing = rig.unlock(&[])?;
    ensure!(
        !nothing.success() && nothing.stderr.contains("no zone is locked"),
        "{nothing}"
    );
    Ok(())
}

#[test]
fn a_gateway_that_refuses_is_left_in_peace_until_something_changes() -> Result<()> {
    let rig = Rig::start()?;
    rig.alice(&format!("ssh-keygen -q -t ed25519 -N '' -f {HOME}/other"))?;
    let broker = rig.broker("    identity: ~/other\n", &[])?;
    rig.down(&broker, &["refused user adit-alice"])?;
    until("a login that is put off", 2 * PATIENCE, || {
        let zone = rig.zone(&broker)?;
        let reason = zone["reason"].as_str().unwrap_or_default();
        Ok(reason.contains("refused user adit-alice") && reason.contains("left in peace for"))
    })
    .with_context(|| broker.process.tale())?;
    let asked_for = broker.adit(&rig.lab, &["unlock", "--stdin"])?;
    ensure!(
        asked_for.stderr.contains("refused user") && !asked_for.stderr.contains("left in peace"),
        "{asked_for}"
    );
    rig.alice(&format!("cp {KEY} {HOME}/other"))?;
    rig.up(&broker)
}

/// `adit unlock` on a terminal, with `then` behind it, once it asks; and what types there.
fn asked_on_a_terminal(rig: &Rig, then: &str) -> Result<(Process, File)> {
    let (keyboard, control) = (format!("{HOME}/keyboard"), control_socket(User::Alice));
    rig.alice(&format!("mkfifo {keyboard}"))?;
    // Whoever started this test may have SIGINT ignored, as a shell has it for what runs in the background.
    let words = format!("env --default-signal=INT adit unlock lab --control {control}{then}");
    let line = format!("script -qec '{words}' /dev/null <{keyboard}");
    let mut unlock = rig.lab.client().start("unlock", &["sh", "-c", &line])?;
    let keyboard = rig.lab.outside(&keyboard);
    let typed = File::options().write(true).open(keyboard)?;
    unlock.line_with("Passphrase for the key", PATIENCE)?;
    Ok((unlock, typed))
}

/// What is typed is not seen.
#[test]
fn a_passphrase_is_typed_on_a_terminal() -> Result<()> {
    let rig = Rig::start()?;
    lock_key(&rig)?;
    let broker = rig.broker("", &[])?;
    rig.down(&broker, &["locked: run `adit unlock`", KEY])?;
    let (mut unlock, mut typed) = asked_on_a_terminal(&rig, "")?;
    writeln!(typed, "{WORD}")?;
    ensure!(unlock.end(PATIENCE)?.success(), "{}", unlock.tale());
    ensure!(!unlock.tale().contains(WORD), "{}", unlock.tale());
    rig.up(&broker)
}

#[test]
fn a_terminal_is_as_it_was_after_ctrl_c() -> Result<()> {
    let rig = Rig::start()?;
    lock_key(&rig)?;
    let broker = rig.broker("", &[])?;
    rig.down(&broker, &["locked: run `adit unlock`", KEY])?;
    let (mut unlock, mut typed) = asked_on_a_terminal(&rig, "; echo ended $?; stty -a")?;
    write!(typed, "\u{3}")?;
    unlock.end(PATIENCE)?;
    let tale = unlock.tale();
    ensure!(tale.contains("ended 130"), "{tale}");
    ensure!(tale.contains("isig icanon iexten echo"), "{tale}");
    Ok(())
}

/// What the broker is told of a screen, and of a program that notes what it asks and then does this.
fn with_screen(rig: &Rig, then: &str) -> Result<[String; 2]> {
    let script = format!("#!/bin/sh\necho \"$SSH_ASKPASS_PROMPT:$1\" >>{HOME}/asked\n{then}\n");
    let program = format!("{HOME}/askpass");
    rig.lab.write(User::Alice, &program, script)?;
    rig.alice(&format!("chmod 700 {program}"))?;
    Ok([
        "WAYLAND_DISPLAY=x".to_owned(),
        format!("SSH_ASKPASS={program}"),
    ])
}

fn asked(rig: &Rig) -> Result<Vec<String>> {
    let asked = rig.lab.read(&format!("{HOME}/asked"))?;
    Ok(asked.lines().map(str::to_owned).collect())
}

#[test]
fn a_passphrase_is_asked_for_on_a_screen() -> Result<()> {
    let rig = Rig::start()?;
    lock_key(&rig)?;
    let screen = with_screen(&rig, &format!("echo '{WORD}'"))?;
    let broker = rig.broker(
        "    identity: ~/.ssh/id_ed25519\n",
        &screen.each_ref().map(String::as_str),
    )?;
    rig.up(&broker)?;
    let asked = asked(&rig)?;
    ensure!(
        asked.len() == 1 && asked[0].starts_with(&format!(":Passphrase for the key {KEY}")),
        "{asked:?}"
    );
    Ok(())
}

fn is_asked_on_a_screen(sshd: &str, methods: &str, questions: &[&str]) -> Result<()> {
    let rig = with_passwords(sshd)?;
    let screen = with_screen(&rig, &format!("echo '{WORD}'"))?;
    let keys = format!("    methods: [{methods}]\n");
    let broker = rig.broker(&keys, &screen.each_ref().map(String::as_str))?;
    rig.up(&broker)?;
    let asked = asked(&rig)?;
    ensure!(asked == questions, "{asked:?}");
    let log = broker.process.tale();
    ensure!(!log.contains(WORD), "it is in the log: {log}");
    Ok(())
}

#[test]
fn a_password_is_asked_for_on_a_screen() -> Result<()> {
    let sshd =
        "PasswordAuthentication yes\nKbdInteractiveAuthentication no\nPubkeyAuthentication no";
    let question = ":Password of adit-alice at adit-alice@192.0.2.1:443: ";
    is_asked_on_a_screen(sshd, "password", &[question])
}

#[test]
fn what_the_gateway_asks_is_asked_on_a_screen() -> Result<()> {
    let sshd = "PasswordAuthentication no\nKbdInteractiveAuthentication yes\nAuthenticationMethods keyboard-interactive,keyboard-interactive";
    // The name of whoever asks, and sshd's words.
    let question = ":(adit-alice@192.0.2.1:443) Password: ";
    is_asked_on_a_screen(sshd, "keyboard-interactive", &[question; 2])
}

/// Nobody is asked over and over who does not want to answer.
#[test]
fn who_cancels_on_a_screen_is_asked_by_unlock_alone() -> Result<()> {
    let rig = with_passwords(
        "PasswordAuthentication yes\nKbdInteractiveAuthentication no\nPubkeyAuthentication no",
    )?;
    let screen = with_screen(&rig, "exit 1")?;
    let broker = rig.broker(
        "    methods: [password]\n",
        &screen.each_ref().map(String::as_str),
    )?;
    let_in_after(&rig, &broker, "password", &[WORD])?;
    // Nor for the next login.
    rig.lab
        .gateway()
        .sh("ss -K state established sport = :443")?
        .ok()?;
    rig.down(&broker, &["locked: run `adit unlock`"])?;
    let asked = asked(&rig)?;
    ensure!(asked.len() == 1, "{asked:?}");
    Ok(())
}

/// An sshd that asks PAM, for which Alice has a password.
fn with_passwords(lines: &str) -> Result<Rig> {
    let prepare = format!(
        "printf 'auth required pam_unix.so\\naccount required pam_permit.so\\nsession required pam_permit.so\\n' >/etc/pam.d/sshd
         hash=$(openssl passwd -6 '{WORD}'); sed -i \"s|^adit-alice:[^:]*|adit-alice:$hash|\" /etc/shadow"
    );
    Rig::with_sshd(&prepare, &format!("UsePAM yes\n{lines}"))
}

fn let_in_after(rig: &Rig, broker: &Broker, wants: &str, answers: &[&str]) -> Result<()> {
    let zone = rig.down(broker, &["locked: run `adit unlock`"])?;
    ensure!(zone["questions"][0]["wants"] == wants, "{zone}");
    rig.unlock(answers)?
        .ok()
        .with_context(|| broker.process.tale())?;
    rig.up(broker)?;
    let log = broker.process.tale();
    ensure!(!log.contains(WORD), "it is in the log: {log}");
    Ok(())
}

#[test]
fn a_password() -> Result<()> {
    let rig = with_passwords(
        "PasswordAuthentication yes\nKbdInteractiveAuthentication no\nPubkeyAuthentication no",
    )?;
    let mut broker = rig.broker("", &[])?;
    rig.down(&broker, &["it goes on with password", "`methods`"])?;
    broker.adit(&rig.lab, &["down"])?.ok()?;
    broker.process.end(PATIENCE)?;
    let broker = rig.broker("    methods: [publickey, password]\n", &[])?;
    let_in_after(&rig, &broker, "password", &["wrong", WORD])
}

#[test]
fn what_the_gateway_asks() -> Result<()> {
    let rig = with_passwords(
        "PasswordAuthentication no\nKbdInteractiveAuthentication yes\nPubkeyAuthentication no",
    )?;
    let broker = rig.broker("    methods: [keyboard-interactive]\n", &[])?;
    let_in_after(&rig, &broker, "keyboard-interactive", &[WORD])
}

#[test]
fn a_key_and_then_what_the_gateway_asks() -> Result<()> {
    let rig = with_passwords(
        "PasswordAuthentication no\nKbdInteractiveAuthentication yes\nAuthenticationMethods publickey,keyboard-interactive",
    )?;
    let keys = "    identity: ~/.ssh/id_ed25519\n    methods: [publickey, keyboard-interactive]\n";
    let broker = rig.broker(keys, &[])?;
    let_in_after(&rig, &broker, "keyboard-interactive", &[WORD])
}

/// Between a program and a real agent: holds signatures back until it is told whether to give them.
fn slow_agent(socket: &Path, real: PathBuf) -> Result<(Receiver<()>, Sender<bool>)> {
    /// SSH_AGENTC_SIGN_REQUEST and SSH_AGENT_FAILURE (draft-ietf-sshm-ssh-agent, section 6.1).
    const SIGN: u8 = 13;
    const FAILURE: u8 = 5;
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o666))?;
    let (asked, was_asked) = channel();
    let (touch, touched) = channel();
    std::thread::spawn(move || -> Result<()> {
        for program in listener.incoming() {
            let (mut program, mut agent) = (program?, UnixStream::connect(&real)?);
            while let Ok(message) = message(&mut program) {
                if message.first() == Some(&SIGN) {
                    asked.send(())?;
                    if !touched.recv()? {
                        send(&mut program, &[FAILURE])?;
                        continue;
                    }
                }
                send(&mut agent, &message)?;
                let answer = self::message(&mut agent)?;
                send(&mut program, &answer)?;
            }
        }
        Ok(())
    });
    Ok((was_asked, touch))
}

fn message(from: &mut UnixStream) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut message = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    from.read_exact(&mut message)?;
    Ok(message)
}

fn send(to: &mut UnixStream, message: &[u8]) -> Result<()> {
    to.write_all(&u32::try_from(message.len())?.to_be_bytes())?;
    to.write_all(message)?;
    Ok(())
}

/// A broker whose agent has been asked to sign, and waits.
fn held_back(rig: &Rig) -> Result<(Process, Receiver<()>, Sender<bool>, Broker)> {
    let (real, slow) = (format!("{HOME}/real"), format!("{HOME}/slow"));
    let agent = rig.agent(&real, KEY)?;
    let (asked, touch) = slow_agent(&rig.lab.outside(&slow), rig.lab.outside(&real))?;
    let broker = rig.broker("    identity: agent\n", &[&format!("SSH_AUTH_SOCK={slow}")])?;
    asked.recv_timeout(PATIENCE)?;
    Ok((agent, asked, touch, broker))
}

#[test]
fn a_key_that_is_to_be_touched_says_so() -> Result<()> {
    let rig = Rig::start()?;
    let (_agent, _asked, touch, broker) = held_back(&rig)?;
    let fingerprint = rig.alice(&format!("ssh-keygen -lf {KEY}.pub | cut -d' ' -f2"))?;
    let mut zone = Value::Null;
    until("a word of it", PATIENCE, || {
        zone = rig.zone(&broker)?;
        let question = &zone["questions"][0];
        let key = question["key"].as_str().unwrap_or_default();
        Ok(question["about"] == "touch" && key.contains(fingerprint.trim()))
    })
    .with_context(|| zone.to_string())?;
    let shown = broker.adit(&rig.lab, &["status"])?.ok()?;
    ensure!(shown.contains("touch your key"), "{shown}");
    touch.send(true)?;
    rig.up(&broker)?;
    ensure!(rig.zone(&broker)?["questions"] == json!([]));
    Ok(())
}

#[test]
fn a_key_that_was_not_touched_is_asked_for_again() -> Result<()> {
    let rig = Rig::start()?;
    let (_agent, asked, touch, broker) = held_back(&rig)?;
    touch.send(false)?;
    rig.down(&broker, &["the agent did not sign for a key"])?;
    asked.recv_timeout(PATIENCE)?;
    touch.send(true)?;
    rig.up(&broker)
}

#[test]
fn two_keys_one_after_the_other() -> Result<()> {
    let rig = Rig::with_sshd(
        "true",
        "PasswordAuthentication no\nAuthenticationMethods publickey,publickey",
    )?;
    let broker = rig.broker("", &[])?;
    rig.down(&broker, &["refused user adit-alice"])?;
    rig.alice(
        "cd .ssh; ssh-keygen -q -t rsa -b 2048 -N '' -f id_rsa; cat id_rsa.pub >>authorized_keys",
    )?;
    rig.up(&broker)
}

/// The code that RFC 6238 gives now, by Python's own HMAC.
const CODE: &str = "import base64, hashlib, hmac, struct, time
key = base64.b32decode('JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP')
mac = hmac.new(key, struct.pack('>Q', int(time.time()) // 30), hashlib.sha1).digest()
at = mac[-1] & 15
print('%06d' % ((struct.unpack('>I', mac[at:at + 4])[0] & 0x7fffffff) % 1000000))";

#[test]
fn a_key_a_password_and_a_code_at_adit_server() -> Result<()> {
    let mut rig = Rig::start()?;
    rig.gateway.process.kill()?;
    let service = rig.lab.gateway().user(User::Service);
    let prepare = format!(
        "cd /run/lab/gateway; umask 077
         echo adit-alice:JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP >totp
         echo \"adit-alice:$(echo '{WORD}' | adit-server hash-password)\" >passwords
         sed 's|^policy:|methods: [\"publickey,password,totp\"]\\ntotp: /run/lab/gateway/totp\\npasswords: /run/lab/gateway/passwords\\npolicy:|' gateway.yaml >asking.yaml"
    );
    service.sh(&prepare)?.ok()?;
    let service = rig.lab.gateway().user(User::Service);
    let words = ["adit-server", "--config", "/run/lab/gateway/asking.yaml"];
    rig.gateway.process = service.start("asking", &words)?;
    let gateway = &mut rig.gateway.process;
    gateway.ready_when("the gateway", PATIENCE, || {
        rig.lab.listening(Host::Gateway, 443)
    })?;
    let keys = "    identity: ~/.ssh/id_ed25519\n    methods: [publickey, keyboard-interactive]\n";
    let broker = rig.broker(keys, &[])?;
    let code = rig.lab.client().argv(&["python3", "-c", CODE])?.ok()?;
    let answers = [WORD, code.trim()];
    let_in_after(&rig, &broker, "keyboard-interactive", &answers)
}
