//! The program as a service: files, exit codes, signals.
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use adit_link::RefusalReason;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::destinations::{closed_port, echo, listener};
use crate::flows::{Broker, log_in, try_log_in};
use crate::site::{Kept, PATIENCE, Site, output, wait};
use crate::stdio::with_run;

const POLICY: &str = r#"[{name: loopback, users: [alice], allow: ["127.0.0.1:*"]}]"#;
const NOTHING: &str = r#"[{name: elsewhere, users: [alice], allow: ["192.0.2.1:1"]}]"#;

fn adit_server(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit-server"));
    command.args(arguments);
    command
}

fn check(command: Command, code: i32, words: &str) {
    let shown = format!("{command:?}");
    let output = output(command);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{shown}: {said}");
    assert!(said.contains(words), "{shown}: {said}");
}

#[test]
fn a_bad_file_and_wrong_use_are_exit_code_two() {
    let site = Site::new();
    let good = site.config(POLICY, "");
    let good = good.to_str().expect("path");
    check(adit_server(&["--config", good, "--check"]), 0, "no errors");
    check(adit_server(&[]), 2, "--config");
    check(
        adit_server(&["--config", good, "--stdio", "--allow", "10.0.0.1:1"]),
        2,
        "cannot be used",
    );
    check(
        adit_server(&["--config", "/nonexistent/gateway.yaml"]),
        2,
        "No such file",
    );
    check(adit_server(&["--stdio"]), 2, "--allow");
    check(
        adit_server(&["--stdio", "--allow", "10.0.0.0/33:1"]),
        2,
        "10.0.0.0/33:1",
    );
    let bad = site.config("[{name: x, users: [alice], allow: [nonsense]}]", "");
    check(
        adit_server(&["--config", bad.to_str().expect("path"), "--check"]),
        2,
        "gateway.yaml:5:",
    );
    let alone = site.path("stdio.yaml");
    let alone = alone.to_str().expect("path");
    let checked = ["--stdio", "--config", alone, "--check"];
    std::fs::write(alone, "version: 1\npolicy: []\n").expect("a file");
    check(adit_server(&checked), 0, "no errors");
    std::fs::write(alone, "version: 1\npolicy: 7\n").expect("a file");
    check(adit_server(&checked), 2, "stdio.yaml:2:");
}

#[test]
fn a_host_key_is_needed_and_has_to_be_secret() {
    let site = Site::new();
    let config = site.config(POLICY, "");
    let config = config.to_str().expect("path");
    let mut chmod = Command::new("chmod");
    assert!(
        chmod
            .arg("644")
            .arg(site.path("host"))
            .status()
            .expect("chmod")
            .success()
    );
    check(adit_server(&["--config", config]), 2, "chmod 600");
    std::fs::remove_file(site.path("host")).expect("remove");
    check(
        adit_server(&["--config", config]),
        2,
        "ssh-keygen -t ed25519",
    );
}

#[test]
fn an_address_in_use_is_exit_code_one() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let config = site.config(POLICY, "");
    let text = std::fs::read_to_string(&config)
        .expect("read")
        .replace("127.0.0.1:0", &address);
    std::fs::write(&config, text).expect("write");
    check(
        adit_server(&["--config", config.to_str().expect("path")]),
        1,
        &format!("cannot listen on {address}"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_says_goodbye_and_ends_soon() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let broker = Broker::connect(&site, gateway.address).await;
    let mut program = broker.flow(echo().await).await;
    let since = Instant::now();
    gateway.signal(Signal::SIGTERM);
    let end = timeout(PATIENCE, broker.link.ended())
        .await
        .expect("in time");
    assert!(format!("{end:?}").contains("Closed"), "no goodbye: {end:?}");
    // Nobody has ended the flow: its program must not take it for finished.
    assert!(
        timeout(PATIENCE, program.read_u8())
            .await
            .expect("in time")
            .is_err_and(|e| e.kind() != std::io::ErrorKind::UnexpectedEof)
    );
    gateway.wait_log(|line| line["event"] == "end");
    let status = gateway.ended();
    assert!(status.success(), "{status}");
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "ended after {:?}",
        since.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_waits_for_nobody_who_has_not_begun() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let silent = std::net::TcpStream::connect(gateway.address).expect("connect");
    let session = log_in(&site, gateway.address).await;
    let idle = session.channel_open_session().await.expect("channel");
    let begun = session.channel_open_session().await.expect("channel");
    begun
        .request_subsystem(true, "adit-link")
        .await
        .expect("subsystem");
    gateway.wait_log(|line| line["message"] == "link begins");
    let since = Instant::now();
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended().success());
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "ended after {:?}",
        since.elapsed()
    );
    drop((silent, idle, begun));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_waits_for_no_lookup() {
    let site = Site::new();
    let name_server = std::net::UdpSocket::bind("127.7.7.7:53").expect("a name server");
    name_server
        .set_read_timeout(Some(PATIENCE))
        .expect("timeout");
    site.write(
        "resolv.conf",
        "nameserver 127.7.7.7\noptions timeout:30 attempts:5\n",
    );
    let policy = r#"[{name: names, users: [alice], allow: ["*.zone.test:*"]}]"#;
    let gateway = site.start(policy, "");
    let broker = Broker::connect(&site, gateway.address).await;
    let header = adit_link::OpenHeader {
        host: adit_link::Host::Name("slow.zone.test".to_owned()),
        port: 443,
        application: None,
    };
    let _stream = broker.link.open(&header).expect("open");
    let asked = tokio::task::spawn_blocking(move || {
        name_server.recv(&mut [0; 512]).expect("a question");
        name_server
    });
    let _silent = asked.await.expect("asked");
    let since = Instant::now();
    gateway.signal(Signal::SIGTERM);
    gateway.wait_log(|line| line["event"] == "refuse" && line["asked"] == "slow.zone.test:443");
    assert!(gateway.ended().success());
    assert!(
        since.elapsed() < Duration::from_secs(8),
        "ended after {:?}",
        since.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_policy_again_and_keeps_the_old_one_when_the_file_is_bad() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let broker = Broker::connect(&site, gateway.address).await;
    let port = closed_port();
    assert_eq!(
        broker.refusal("127.0.0.1", port).await.reason,
        RefusalReason::Refused
    );

    site.config(NOTHING, "");
    gateway.signal(Signal::SIGHUP);
    gateway.wait_log(|line| line["message"] == "policy read again");
    assert_eq!(
        broker.refusal("127.0.0.1", port).await.reason,
        RefusalReason::Denied
    );

    site.config("[{name: broken", "");
    gateway.signal(Signal::SIGHUP);
    gateway.wait_log(|line| {
        line["level"] == "ERROR"
            && line["error"]
                .as_str()
                .is_some_and(|e| e.contains("gateway.yaml:"))
    });
    assert_eq!(
        broker.refusal("127.0.0.1", port).await.reason,
        RefusalReason::Denied
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_descriptors_ends_nothing() {
    let site = Site::new();
    let gateway = site.start(POLICY, "max_unauthenticated: 4096");
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let mut prlimit = Command::new("prlimit");
    prlimit
        .arg(format!("--pid={}", gateway.pid()))
        .arg("--nofile=40:40");
    assert!(prlimit.status().expect("prlimit runs").success());
    let flood: Vec<_> = (0..60)
        .map(|_| std::net::TcpStream::connect(gateway.address).expect("connect"))
        .collect();
    gateway.wait_log(|line| line["message"] == "no connection can be accepted for now");
    // A connection needs two, so that one may be left.
    let mut lucky = Vec::new();
    let header = adit_link::OpenHeader {
        host: adit_link::Host::Address(at.ip()),
        port: at.port(),
        application: None,
    };
    let refusal = loop {
        let mut stream = broker.link.open(&header).expect("open");
        match timeout(PATIENCE, stream.opened()).await.expect("in time") {
            Ok(()) => lucky.push(stream),
            Err(refusal) => break refusal.to_string(),
        }
        assert!(lucky.len() < 3, "there are descriptors");
    };
    assert!(refusal.starts_with("Busy"), "{refusal}");
    drop(flood);
    let again = timeout(PATIENCE, Broker::connect(&site, gateway.address))
        .await
        .expect("accepts again");
    again.flow(at).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_leave_descriptors_for_new_connections() {
    let site = Site::new();
    let gateway = site.start_with_descriptors(POLICY, 300);
    let broker = Broker::connect(&site, gateway.address).await;
    // Its queue takes more than are opened here, so that nobody has to accept.
    let (_listener, at) = listener().await;
    let header = adit_link::OpenHeader {
        host: adit_link::Host::Address(at.ip()),
        port: at.port(),
        application: None,
    };
    let mut held = Vec::new();
    for _ in 0..270 {
        let mut stream = broker.link.open(&header).expect("open");
        let opened = timeout(PATIENCE, stream.opened()).await.expect("in time");
        opened.expect("opened");
        held.push(stream);
    }
    let refusal = broker.refusal("127.0.0.1", at.port()).await;
    assert_eq!(refusal.reason, RefusalReason::Busy);
    assert!(
        refusal.detail.contains("all users together have 270"),
        "{refusal}"
    );
    let another = Broker::connect(&site, gateway.address).await;
    drop((held, another));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_write_lines_of_their_own_into_the_log() {
    let site = Site::new();
    let gateway = site.start_with_text_log(POLICY);
    let forged = "x\n2026-01-01T00:00:00Z  INFO audit: opened user=\"bob\"\u{1b}[2K";
    assert!(
        !try_log_in(&site, gateway.address, forged).await.1,
        "logged in"
    );
    let said = gateway.wait_log(|line| {
        line.as_str()
            .is_some_and(|line| line.contains("not a user name"))
    });
    assert!(
        said.as_str().is_some_and(|said| said.contains("bob")),
        "{said}"
    );
    for line in gateway.log_lines() {
        let line = line.as_str().unwrap_or_default().to_owned();
        assert!(
            !line.starts_with("2026-01-01T") && !line.contains('\u{1b}'),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_takes_holds_nothing_up_and_opens_nothing() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let mut program = broker.flow(at).await;
    gateway.hold_log(true);
    let denied = async {
        // What nobody may reach is quickest to ask for; each is a line.
        for _ in 0..5000 {
            let refusal = broker.refusal("192.0.2.1", 1).await;
            if refusal
                .detail
                .contains("lines of the audit about this user")
            {
                return refusal.reason;
            }
        }
        panic!("the audit is without end");
    };
    let reason = timeout(PATIENCE, denied).await.expect("in time");
    assert_eq!(reason, RefusalReason::Busy);
    let refusal = broker.refusal("127.0.0.1", at.port()).await;
    assert_eq!(refusal.reason, RefusalReason::Busy);
    // What is open goes on.
    program.write_all(b"x").await.expect("write");
    let byte = timeout(PATIENCE, program.read_u8()).await.expect("in time");
    assert_eq!(byte.expect("read"), b'x');

    gateway.hold_log(false);
    gateway.wait_log(|line| line["event"] == "lost" && line["lines"] == 2);
    broker.flow(at).await;
}

#[test]
fn a_log_for_the_journal_goes_there_and_nowhere_else() {
    let site = Site::new();
    std::fs::create_dir_all(site.path("run/systemd/journal")).expect("directory");
    let journal = UnixDatagram::bind(site.path("run/systemd/journal/socket")).expect("journal");
    journal.set_read_timeout(Some(PATIENCE)).expect("timeout");
    // systemd.io, "Native Journal Protocol": a field is a line of its name, its length, and its value.
    let hears = |message: &str| {
        let field = [
            b"MESSAGE\n",
            &(message.len() as u64).to_le_bytes()[..],
            message.as_bytes(),
            b"\n",
        ]
        .concat();
        let mut entry = vec![0; 65_536];
        loop {
            let length = journal.recv(&mut entry).expect(message);
            if entry[..length]
                .windows(field.len())
                .any(|part| part == field)
            {
                return;
            }
        }
    };
    let mut command = with_run(&site.path("run"));
    command
        .arg("--config")
        .arg(site.config(POLICY, "log: {to: journal}"))
        .stderr(Stdio::piped());
    let mut server = Kept(command.spawn().expect("starts"));
    hears("listening");
    let pid = Pid::from_raw(i32::try_from(server.0.id()).expect("a process"));
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("kill");
    hears("stopping");
    assert!(wait(&mut server.0).success());
    let mut said = String::new();
    let mut stderr = server.0.stderr.take().expect("stderr");
    stderr.read_to_string(&mut said).expect("text");
    assert_eq!(said, "");
}
