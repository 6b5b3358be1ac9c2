//! What the broker and `adit-server` offer when keys are agreed upon, as OpenSSH reads it off the wire at the other end.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Gateway, Host, Lab, User, address, rules_for_networks, until, way,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(15);
/// draft-ietf-sshm-mlkem-hybrid-kex; OpenSSH's own default since 10.0.
const POST_QUANTUM: &str = "mlkem768x25519-sha256";
/// What is nowhere to be offered, as a part of a name: RFC 9142 (key exchanges with SHA-1, of 1024 bits, by RSA), RFC 8758 (arcfour),
/// and what OpenSSH has switched off since (CBC, 3DES, blowfish, cast, MD5, SHA-1, 64 and 96 bits of a MAC, DSA).
const WEAK: &[&str] = &[
    "sha1",
    "group1-",
    "rsa1024",
    "rsa2048",
    "arcfour",
    "cbc",
    "3des",
    "blowfish",
    "cast",
    "md5",
    "hmac-sha1",
    "-96",
    "umac-64",
    "ripemd",
    "dss",
];
/// The same of whole names: no encryption, no MAC, RSA with SHA-1.
const WEAK_NAMES: &[&str] = &["none", "ssh-rsa"];

/// The lists of names under `heading` in what OpenSSH says of a key exchange, by what they are about.
fn offer(log: &str, heading: &str) -> Result<Vec<(String, Vec<String>)>> {
    let after = log.split_once(heading).context("no such heading")?.1;
    let lines = after.lines().skip(1).map_while(|line| {
        let line = line.split_once("debug2: ")?.1;
        let (about, names) = line.split_once(": ")?;
        let names = names.trim_end_matches(" [preauth]").split(',');
        Some((about.to_owned(), names.map(str::to_owned).collect()))
    });
    let lists: Vec<(String, Vec<String>)> = lines.take(6).collect();
    ensure!(lists.len() == 6, "{lists:?}");
    Ok(lists)
}

fn is_strong(lists: &[(String, Vec<String>)]) -> Result<()> {
    let [(about, exchanges), ..] = lists else {
        anyhow::bail!("nothing is offered");
    };
    ensure!(
        about == "KEX algorithms" && exchanges.first().is_some_and(|it| it == POST_QUANTUM),
        "{exchanges:?}"
    );
    for (about, names) in lists {
        let is_weak = |name: &&String| {
            WEAK_NAMES.contains(&name.as_str()) || WEAK.iter().any(|weak| name.contains(weak))
        };
        let weak: Vec<_> = names.iter().filter(is_weak).collect();
        ensure!(weak.is_empty(), "{about}: {weak:?} of {names:?}");
        ensure!(
            names.iter().any(|name| !name.is_empty()),
            "{about}: nothing"
        );
    }
    Ok(())
}

#[test]
fn the_gateway_offers_a_post_quantum_exchange_first_and_nothing_weak() -> Result<()> {
    let lab = Lab::new()?;
    let _gateway = Gateway::start(&lab)?;
    let (to, key) = (
        format!("{}@{}", User::Alice.name(), address::GATEWAY),
        format!("{}/.ssh/id_ed25519", User::Alice.home()),
    );
    let words = [
        "ssh",
        "-vv",
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-p",
        "443",
        "-i",
        &key,
        "-s",
        &to,
        "adit-link",
    ];
    let said = lab.client().argv(&words)?.stderr;
    is_strong(&offer(&said, "peer server KEXINIT proposal")?)
}

#[test]
fn the_broker_offers_a_post_quantum_exchange_first_and_nothing_weak() -> Result<()> {
    let lab = Lab::new()?;
    let sshd = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, "LogLevel DEBUG3")?;
    let _capture = Capture::start(&lab)?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    let rules = rules.replace(
        &Gateway::for_user(User::Alice),
        &format!("{}@{}", User::Alice.name(), address::GATEWAY),
    );
    let broker = Broker::start(&lab, User::Alice, &rules)?;
    until("the zone to be up", PATIENCE, || {
        Ok(broker.status(&lab)?["zones"][0]["state"] == "up")
    })?;
    let said = sshd.stderr();
    // Terrapin (CVE-2023-48795): as sshd takes it.
    ensure!(said.contains("will use strict KEX ordering"), "{said}");
    is_strong(&offer(&said, "peer client KEXINIT proposal")?)
}

/// Stands before the gateway, and says so many messages (SSH_MSG_IGNORE, RFC 4253 section 11.2) in its name, behind its KEXINIT.
const BETWEEN: &str = r#"
import socket, struct, sys, threading

here, there, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
listener = socket.create_server((here, 2222))

def pump(source, to):
    while piece := source.recv(65536):
        to.sendall(piece)
    to.shutdown(socket.SHUT_WR)

def answer(server, client):
    source = server.makefile("rb")
    said = source.readline()
    length = source.read(4)
    said += length + source.read(struct.unpack(">I", length)[0])
    client.sendall(said + number * (struct.pack(">IB", 12, 6) + b"\x02\0\0\0\0" + bytes(6)))
    while piece := source.read1(65536):
        client.sendall(piece)

while True:
    client, _ = listener.accept()
    server = socket.create_connection((there, 443))
    for act, one, other in ((pump, client, server), (answer, server, client)):
        threading.Thread(target=act, args=(one, other), daemon=True).start()
"#;

/// The zone, entered by way of somebody who says so many messages before the keys are there.
fn behind_somebody(number: &str, fits: impl Fn(&Value) -> bool) -> Result<()> {
    let lab = Lab::new()?;
    let _gateway = Gateway::start(&lab)?;
    let place = address::GATEWAY;
    let words = ["/usr/bin/python3", "-c", BETWEEN, place, place, number];
    let _between = lab.gateway().start("between", &words)?;
    until("somebody between", PATIENCE, || {
        lab.listening(Host::Gateway, 2222)
    })?;
    let known = format!("{}/.ssh/known_hosts", User::Alice.home());
    let also = lab.read(&known)?.replace("]:443", "]:2222");
    lab.write(User::Alice, &known, also)?;
    let _capture = Capture::start(&lab)?;
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    let broker = Broker::start(&lab, User::Alice, &rules.replace(":443", ":2222"))?;
    let mut zone = Value::Null;
    until("the zone to be so", PATIENCE, || {
        zone = broker.status(&lab)?["zones"][0].clone();
        Ok(fits(&zone))
    })
    .with_context(|| format!("{zone}; {}", broker.process.tale()))
}

/// Terrapin (CVE-2023-48795): a message that is slipped in before the keys would let one behind them be cut out.
#[test]
fn the_broker_takes_nothing_that_is_slipped_in_before_the_keys() -> Result<()> {
    behind_somebody("0", |zone| zone["state"] == "up")?;
    behind_somebody("1", |zone| {
        let reason = zone["reason"].as_str().unwrap_or_default();
        zone["state"] == "down" && reason.contains("strict key exchange")
    })
}
