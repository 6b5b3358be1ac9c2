//! Keys on a FIDO token, which an agent holds and which are to be touched: the token is the test's own, and signs as one does.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use adit_tests::{
    Broker, Capture, Gateway, Host, Lab, Process, User, address, rules_for_networks, until, way,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const HOME: &str = "/run/lab/home/adit-alice";
const SUBSYSTEM: &str = "Subsystem adit-link /run/lab/bin/adit-server --stdio --log-to stderr --allow 198.51.100.0/24:*";

/// An agent (draft-ietf-sshm-ssh-agent) with one key of OpenSSH's PROTOCOL.u2f. What it signs is told by the flags in its
/// second argument, after somebody has written into `touch`.
const TOKEN: &str = r#"
import base64, hashlib, os, socket, struct, sys
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

home, flags = sys.argv[1], int(sys.argv[2])
KIND, APPLICATION = b"sk-ssh-ed25519@openssh.com", b"ssh:"
string = lambda content: struct.pack(">I", len(content)) + content
key = Ed25519PrivateKey.generate()
public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
blob = string(KIND) + string(public) + string(APPLICATION)
os.mkfifo(home + "/touch")
os.chmod(home + "/touch", 0o666)
with open(home + "/token.pub", "wb") as file:
    file.write(KIND + b" " + base64.b64encode(blob) + b" token\n")
listener = socket.socket(socket.AF_UNIX)
listener.bind(home + "/agent")
listener.listen()

def take(connection, length):
    content = b""
    while len(content) < length:
        piece = connection.recv(length - len(content))
        if not piece:
            raise EOFError
        content += piece
    return content

def field(content):
    length = struct.unpack(">I", content[:4])[0]
    return content[4:4 + length], content[4 + length:]

def answer(message):
    if message[0] == 11:  # SSH_AGENTC_REQUEST_IDENTITIES
        return b"\x0c" + struct.pack(">I", 1) + string(blob) + string(b"token")
    if message[0] == 13:  # SSH_AGENTC_SIGN_REQUEST
        wanted, rest = field(message[1:])
        data, _ = field(rest)
        if wanted == blob:
            open(home + "/touch").read()
            end = bytes([flags]) + struct.pack(">I", 7)
            signed = key.sign(hashlib.sha256(APPLICATION).digest() + end + hashlib.sha256(data).digest())
            return b"\x0e" + string(string(KIND) + string(signed) + end)
    return b"\x05"

while True:
    connection, _ = listener.accept()
    try:
        while True:
            length = struct.unpack(">I", take(connection, 4))[0]
            connection.sendall(string(answer(take(connection, length))))
    except EOFError:
        connection.close()
"#;

/// FIDO's bit for a user who was there.
const TOUCHED: &str = "1";
const UNTOUCHED: &str = "0";

struct Rig {
    lab: Lab,
    broker: Broker,
    sshd: Process,
    _running: (Process, Capture),
}

/// An sshd that lets the token's key in, and a broker that asks the token.
fn started(flags: &str) -> Result<Rig> {
    started_at(SUBSYSTEM, flags)
}

/// The same at an sshd with this line.
fn started_at(line: &str, flags: &str) -> Result<Rig> {
    let lab = Lab::new()?;
    let sshd = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, line)?;
    let client = lab.client();
    let words = ["/usr/bin/python3", "-c", TOKEN, HOME, flags];
    let token = client.start("token", &words)?;
    until("the token", PATIENCE, || {
        Ok(lab.outside(format!("{HOME}/agent")).exists())
    })
    .with_context(|| token.tale())?;
    client
        .sh(&format!("cp {HOME}/token.pub {HOME}/.ssh/authorized_keys"))?
        .ok()?;
    let capture = Capture::start(&lab)?;
    let usual = Gateway::for_user(User::Alice);
    let rules = rules_for_networks(User::Alice, &[address::ZONE])
        .replace(&usual, usual.trim_end_matches(":443"))
        .replace("identity: ~/.ssh/id_ed25519", "identity: agent");
    let agent = format!("SSH_AUTH_SOCK={HOME}/agent");
    let broker = Broker::start_behind(&lab, User::Alice, &rules, &["env", &agent], &[])?;
    Ok(Rig {
        lab,
        broker,
        sshd,
        _running: (token, capture),
    })
}

impl Rig {
    fn zone(&self) -> Result<Value> {
        Ok(self.broker.status(&self.lab)?["zones"][0].clone())
    }

    fn zone_is(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut zone = Value::Null;
        until(what, PATIENCE, || {
            zone = self.zone()?;
            Ok(fits(&zone))
        })
        .with_context(|| {
            format!(
                "{zone}; {}; {}",
                self.broker.process.tale(),
                self.sshd.tale()
            )
        })?;
        Ok(zone)
    }

    /// Waits until the user is told to, and does so.
    fn touch(&self) -> Result<()> {
        let fingerprint = format!("ssh-keygen -lf {HOME}/token.pub | cut -d' ' -f2");
        let fingerprint = self.lab.client().sh(&fingerprint)?.ok()?;
        self.zone_is("a word of it", |zone| {
            let question = &zone["questions"][0];
            let key = question["key"].as_str().unwrap_or_default();
            question["about"] == "touch" && key.contains(fingerprint.trim())
        })?;
        let mut touch = OpenOptions::new()
            .write(true)
            .open(self.lab.outside(format!("{HOME}/touch")))?;
        Ok(touch.write_all(b"x")?)
    }
}

#[test]
fn a_key_on_a_token_is_touched_and_lets_in() -> Result<()> {
    let rig = started(TOUCHED)?;
    rig.touch()?;
    let zone = rig.zone_is("the zone to be up", |zone| zone["state"] == "up")?;
    ensure!(zone["engine"] == "embedded", "{zone}");
    let log = rig.sshd.stderr();
    ensure!(
        log.contains("Accepted publickey for adit-alice") && log.contains("ED25519-SK"),
        "{log}"
    );
    Ok(())
}

/// sshd wants the user's presence proved, and is not told that it was.
#[test]
fn a_token_that_was_not_touched_lets_nobody_in() -> Result<()> {
    let rig = started(UNTOUCHED)?;
    rig.touch()?;
    rig.zone_is("the zone to be down", |zone| {
        let reason = zone["reason"].as_str().unwrap_or_default();
        zone["state"] == "down" && reason.contains("refused user adit-alice")
    })?;
    ensure!(
        rig.sshd.stderr().contains("user presence"),
        "{}",
        rig.sshd.tale()
    );
    Ok(())
}

/// Once for the broker, which looks for the subsystem, and once for the `ssh` that carries all flows then: both times the user is told.
#[test]
fn at_a_bare_sshd_a_token_is_touched_twice() -> Result<()> {
    let rig = started_at("", TOUCHED)?;
    rig.touch()?;
    until("ssh to come", PATIENCE, || {
        Ok(rig.sshd.stderr().matches("Connection from").count() == 2)
    })?;
    rig.touch()?;
    let zone = rig.zone_is("the zone to be up", |zone| zone["state"] == "up")?;
    ensure!(zone["engine"] == "openssh", "{zone}");
    ensure!(zone["questions"] == serde_json::json!([]), "{zone}");
    Ok(())
}
