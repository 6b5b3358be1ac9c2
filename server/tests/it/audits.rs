//! The audit in a file of its own, and the numbers for Prometheus.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::answers::{ALICE, SECRET, hash, secrets, try_with, wrong_code};
use crate::destinations::echo;
use crate::flows::{Broker, try_log_in};
use crate::logins::keygen;
use crate::site::{PATIENCE, Running, Site, output};

const POLICY: &str = r#"[{name: loopback, users: [alice], allow: ["127.0.0.1:*"]}]"#;

/// The lines of a file, once there are so many.
fn lines(site: &Site, name: &str, number: usize) -> Vec<Value> {
    let since = Instant::now();
    loop {
        let text = std::fs::read_to_string(site.path(name)).unwrap_or_default();
        let read = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let found: Vec<Value> = read.collect();
        if found.len() >= number {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "{found:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ids(lines: &[Value]) -> Vec<u64> {
    lines
        .iter()
        .map(|line| line["id"].as_u64().expect("a number"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_in_a_file_that_can_be_moved_away() {
    let site = Site::new();
    let gateway = site.start(POLICY, &format!("audit: {}", site.path("audit").display()));
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let flow = broker.flow(at).await;
    let first = lines(&site, "audit", 2);
    assert_eq!(ids(&first), [100, 200], "{first:#?}");
    let (login, open) = (&first[0], &first[1]);
    assert_eq!(
        (&login["event"], &open["event"]),
        (&"login".into(), &"open".into())
    );
    assert!(
        login["session"].is_u64() && login["session"] == open["session"],
        "{first:#?}"
    );
    assert_eq!(open["dialled"], at.to_string());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(site.path("audit"))
            .expect("file")
            .permissions(),
    );
    assert_eq!(mode & 0o007, 0);

    std::fs::rename(site.path("audit"), site.path("audit.1")).expect("rename");
    gateway.signal(Signal::SIGHUP);
    let reloaded = lines(&site, "audit", 1);
    assert_eq!(reloaded[0]["id"], 300);
    drop(flow);
    drop(broker);
    let rest = lines(&site, "audit", 3);
    let mut after = ids(&rest[1..]);
    after.sort_unstable();
    assert_eq!(after, [101, 202], "{rest:#?}");
    assert_eq!(ids(&lines(&site, "audit.1", 2)), [100, 200]);
    // The log has it all as well.
    gateway.wait_log(|line| line["id"] == 202 && line["target"] == "audit");
}

/// What a file has of logins that were refused, once there are so many.
fn refused(site: &Site, number: usize) -> Vec<Value> {
    let since = Instant::now();
    loop {
        let mut found = lines(site, "audit", 0);
        found.retain(|line| line["id"] == 102);
        if found.len() >= number {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "{found:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn fingerprint(site: &Site, key: &str) -> String {
    let mut keygen = std::process::Command::new("ssh-keygen");
    keygen.arg("-lf").arg(site.path(&format!("{key}.pub")));
    let said = String::from_utf8(output(keygen).stdout).expect("text");
    said.split(' ').nth(1).expect("a fingerprint").to_owned()
}

/// One line more: who it was, by what, and why not.
fn check_refused(site: &Site, number: usize, expected: [&str; 4]) -> Value {
    let last = refused(site, number).pop().expect("a line");
    let field = |name: &str| last[name].as_str().unwrap_or_default();
    let shown = ["user", "method", "key", "why"].map(field);
    assert_eq!(shown, expected, "{last:#}");
    assert_eq!(last["event"], "login_refused");
    let from: std::net::SocketAddr = field("from").parse().expect("a source");
    assert!(from.ip().is_loopback() && last["timestamp"].is_string());
    last
}

fn stays_out(site: &Site, gateway: &Running, (user, key): (&str, &str), options: &[&str]) {
    let mut ssh = site.ssh(gateway.address, user, key);
    ssh.args(options);
    assert!(!output(ssh).status.success());
}

#[test]
fn whoever_shows_a_key_in_vain_is_in_the_audit() {
    let site = Site::new();
    for name in ["ca", "other"] {
        site.keygen(name, "");
    }
    site.write("revoked", &site.public_key("other"));
    let extra = format!(
        "audit: {}\nrevoked_keys: [{}]\nuser_ca: [{}]",
        site.path("audit").display(),
        site.path("revoked").display(),
        site.path("ca.pub").display()
    );
    let gateway = site.start(POLICY, &extra);
    let keys = ["mallory", "other"].map(|key| fingerprint(&site, key));
    let [mallory, other] = keys.each_ref().map(String::as_str);

    stays_out(&site, &gateway, ("alice", "mallory"), &[]);
    let why = "not a key of this user";
    check_refused(&site, 1, ["alice", "publickey", mallory, why]);
    stays_out(&site, &gateway, ("nobody", "mallory"), &[]);
    let why = "a user that no entry or group of the policy names";
    check_refused(&site, 2, ["nobody", "publickey", mallory, why]);
    stays_out(&site, &gateway, ("alice", "other"), &[]);
    check_refused(
        &site,
        3,
        ["alice", "publickey", other, "the key is revoked"],
    );

    let signed = [
        "-s",
        "ca",
        "-I",
        "stale",
        "-z",
        "7",
        "-n",
        "bob",
        "mallory.pub",
    ];
    keygen(&site, &signed);
    let file = site.path("mallory-cert.pub");
    let option = format!("CertificateFile={}", file.display());
    stays_out(&site, &gateway, ("alice", "mallory"), &["-o", &option]);
    let lines = refused(&site, 4);
    let line = lines.iter().find(|line| line["method"] == "certificate");
    let line = line.unwrap_or_else(|| panic!("{lines:#?}"));
    let certificate = format!("ID \"stale\" serial 7 CA {}", fingerprint(&site, "ca"));
    assert_eq!(
        (&line["certificate"], &line["key"], &line["why"]),
        (
            &certificate.into(),
            &mallory.into(),
            &"the certificate does not name \"alice\"".into()
        )
    );
}

#[test]
fn whoever_answers_wrong_is_in_the_audit() {
    let site = Site::new();
    let extra = secrets(&site, "totp", &[("alice", SECRET)])
        + &secrets(&site, "passwords", &[("alice", &hash("open sesame"))])
        + &format!(
            "methods: [\"publickey,totp\", \"password\"]\naudit: {}",
            site.path("audit").display()
        );
    let gateway = site.start(POLICY, &extra);
    // Behind a key that is good, which is told as well.
    try_with(&site, &gateway, ALICE, &[&wrong_code(SECRET)]).check("Permission denied");
    let key = fingerprint(&site, "alice");
    check_refused(&site, 1, ["alice", "totp", &key, "a wrong code"]);

    let guess = ("alice", "mallory");
    try_with(&site, &gateway, guess, &["hunter2"]).check("Permission denied");
    let key = fingerprint(&site, "mallory");
    let lines = refused(&site, 3);
    assert_eq!(lines[1]["key"], key.as_str(), "{lines:#?}");
    check_refused(&site, 3, ["alice", "password", "-", "a wrong answer"]);
    let text = std::fs::read_to_string(site.path("audit")).expect("audit");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refused_logins_is_counted() {
    const FLOOD: usize = 50;
    let site = std::sync::Arc::new(Site::new());
    let extra = format!("audit: {}", site.path("audit").display());
    let gateway = site.start(POLICY, &extra);
    let at = gateway.address;
    let mut strangers = tokio::task::JoinSet::new();
    for _ in 0..FLOOD {
        let site = std::sync::Arc::clone(&site);
        strangers.spawn(async move { try_log_in(&site, at, "stranger").await.1 });
    }
    while let Some(success) = strangers.join_next().await {
        assert!(!success.expect("tried"));
    }
    // The next one that finds room tells how many did not.
    let (mut tried, since) = (FLOOD as u64, Instant::now());
    let lines = loop {
        assert!(!try_log_in(&site, at, "stranger").await.1);
        tried += 1;
        let lines = refused(&site, 10);
        let left_out = |line: &Value| line["left_out"].as_u64().unwrap_or(0);
        if lines.iter().map(|line| 1 + left_out(line)).sum::<u64>() == tried {
            break lines;
        }
        assert!(since.elapsed() < PATIENCE, "{tried}: {lines:#?}");
    };
    assert!((lines.len() as u64) < tried, "{lines:#?}");
}

#[test]
fn a_file_that_cannot_be_opened_is_no_audit() {
    let site = Site::new();
    let config = site.config(POLICY, "audit: /nonexistent/audit");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_adit-server"));
    command.arg("--config").arg(config);
    let output = crate::site::output(command);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("the audit cannot be written to /nonexistent/audit")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_told_on_loopback() {
    let site = Site::new();
    let gateway = site.start(POLICY, "metrics: \"127.0.0.1:0\"");
    let said = gateway.wait_log(|line| line["message"] == "metrics");
    let address: std::net::SocketAddr = said["at"]
        .as_str()
        .and_then(|at| at.parse().ok())
        .expect("address");
    let get = |path: &str| {
        let mut socket = TcpStream::connect(address).expect("connect");
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
        socket
            .shutdown(std::net::Shutdown::Write)
            .expect("shutdown");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("read");
        text
    };
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let mut flow = broker.flow(at).await;
    tokio::io::AsyncWriteExt::write_all(&mut flow, b"seven b")
        .await
        .expect("write");
    tokio::io::AsyncReadExt::read_exact(&mut flow, &mut [0; 7])
        .await
        .expect("read");
    broker.refusal("127.0.0.2", 1).await;
    let text = tokio::task::block_in_place(|| get("/metrics"));
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for expected in [
        "adit_sessions 1",
        "adit_flows 1",
        "adit_logins_total 1",
        "adit_flows_opened_total 1",
        "adit_flows_refused_total 1",
        "adit_sent_bytes_total 7",
        "adit_received_bytes_total 7",
        "adit_audit_writable 1",
        "adit_draining 0",
    ] {
        assert!(
            text.lines().any(|line| line == expected),
            "{expected}: {text}"
        );
    }
    assert!(tokio::task::block_in_place(|| get("/")).starts_with("HTTP/1.1 404"));
}

/// What the SSH library refuses before it asks us is known at the end, as far as it can be.
#[test]
fn what_nobody_was_asked_about_is_refused_in_the_audit_as_well() {
    let site = Site::new();
    site.keygen("ca", "");
    let (audit, authority) = (site.path("audit"), site.path("ca.pub"));
    let files = (audit.display(), authority.display());
    let gateway = site.start(
        POLICY,
        &format!("audit: {}\nuser_ca: [{}]", files.0, files.1),
    );
    let old = ["-V", "20200101:20200102", "alice.pub"];
    keygen(
        &site,
        &[&["-s", "ca", "-I", "old", "-n", "alice"][..], &old].concat(),
    );
    let certificate = format!("CertificateFile={}", site.path("alice-cert.pub").display());
    let alone = "PubkeyAcceptedAlgorithms=ssh-ed25519-cert-v01@openssh.com";
    stays_out(&site, &gateway, ALICE, &["-o", &certificate, "-o", alone]);
    let why = "nothing was shown that could be judged: nothing at all, or a certificate that is not valid now or has a wrong signature";
    check_refused(&site, 1, ["alice", "-", "-", why]);
    // Alice's public key, and a private one that is not hers: `ssh` offers the first and cannot sign.
    for (from, to) in [("mallory", "liar"), ("alice.pub", "liar.pub")] {
        std::fs::copy(site.path(from), site.path(to)).expect("copy");
    }
    stays_out(&site, &gateway, ("alice", "liar"), &[]);
    let why = "the key was worth a signature, and no good one came";
    let key = fingerprint(&site, "alice");
    check_refused(&site, 2, ["alice", "publickey", &key, why]);
}

/// As the unit starts it; those who read it are in the group of its directory.
#[test]
fn a_file_of_the_audit_is_for_its_group_as_well_whatever_the_umask() {
    let site = Site::new();
    let audit = site.path("audit.json");
    let config = site.config(POLICY, &format!("audit: {}", audit.display()));
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077 && exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_adit-server"));
    command.arg("--config").arg(config);
    command.args(["--log-format", "json"]);
    let _gateway = Running::of(command);
    let mode = std::fs::metadata(&audit)
        .expect("made")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640, "{mode:o}");
}

#[test]
fn a_file_that_cannot_be_opened_is_named_once() {
    let site = Site::new();
    let config = site.config(POLICY, "audit: /nonexistent/audit.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit-server"));
    command.arg("--config").arg(config);
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
}
