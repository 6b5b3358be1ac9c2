//! What stock clients do: `ssh -L`, `-D`, `-W`, `-J` and `-N`, with the same policy and audit.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::destinations::{closed_port, echo};
use crate::flows::{Broker, log_in};
use crate::sessions::{done, extra};
use crate::site::{Kept, PATIENCE, Running, Site, output, wait};
use crate::stdio::{Sshd, own_name};

pub(crate) const POLICY: &str =
    r#"[{name: loopback, users: [alice], allow: ["127.0.0.1:*", "*.zone.test:*"]}]"#;

/// An `ssh` that stays; ended when dropped.
pub(crate) struct Client(Kept);

impl Client {
    pub(crate) fn start(site: &Site, gateway: &Running, arguments: &[&str]) -> Self {
        let mut ssh = site.ssh(gateway.address, "alice", "alice");
        ssh.args(["-N", "-o", "ExitOnForwardFailure=yes"])
            .args(arguments);
        let ssh = ssh.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(Kept(ssh.expect("ssh starts")))
    }

    /// Waits until it goes by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait(&mut self.0.0)
    }
}

/// For a program to listen at. See [`closed_port`].
pub(crate) fn free_port() -> u16 {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_reuseaddr(true).expect("reuse");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(any).expect("bind");
    socket.local_addr().expect("address").port()
}

/// As soon as somebody listens there.
pub(crate) fn connect(port: u16) -> TcpStream {
    let since = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(socket) => {
                socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
                return socket;
            }
            Err(error) => assert!(since.elapsed() < PATIENCE, "{port}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn echoes(socket: &mut TcpStream, text: &[u8]) {
    socket.write_all(text).expect("write");
    let mut back = vec![0; text.len()];
    socket.read_exact(&mut back).expect("read");
    assert!(back == text);
}

/// Ends one direction and expects the other to end after it.
pub(crate) fn finishes(mut socket: TcpStream) {
    socket
        .shutdown(std::net::Shutdown::Write)
        .expect("shutdown");
    assert_eq!(socket.read_to_end(&mut Vec::new()).expect("the end"), 0);
}

/// Nothing of it is to be read, whether it is called an end or a reset.
pub(crate) fn is_refused(mut socket: TcpStream) {
    assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
}

/// A port that `ssh` listens on for these destinations.
pub(crate) fn forwarded(site: &Site, gateway: &Running, to: &str) -> (Client, u16) {
    let port = free_port();
    let client = Client::start(site, gateway, &["-L", &format!("127.0.0.1:{port}:{to}")]);
    (client, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_port_goes_the_way_of_a_stream() {
    let site = Site::new();
    // Keys are exchanged several times while much is under way.
    let gateway = site.start(POLICY, "rekey_bytes: 4194304");
    let at = echo().await;
    let (_client, port) = forwarded(&site, &gateway, &format!("db.zone.test:{}", at.port()));
    let mut socket = connect(port);
    echoes(&mut socket, b"seven b");
    finishes(socket);
    let asked = format!("db.zone.test:{}", at.port());
    let open = gateway.wait_log(|line| line["event"] == "open" && line["asked"] == asked.as_str());
    assert_eq!(
        (&open["entry"], &open["user"]),
        (&"loopback".into(), &"alice".into())
    );
    assert_eq!(open["dialled"], at.to_string());
    let end = gateway.wait_log(|line| line["event"] == "end" && line["stream"] == open["stream"]);
    assert_eq!(
        (&end["sent"], &end["received"], &end["end"]),
        (&7.into(), &7.into(), &"finished".into())
    );
    // Much, in both directions at once.
    let mut socket = connect(port);
    let much = vec![7; 32 << 20];
    let mut writer = socket.try_clone().expect("clone");
    let sent = much.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).expect("write");
        writer
            .shutdown(std::net::Shutdown::Write)
            .expect("shutdown");
    });
    let mut back = Vec::new();
    socket.read_to_end(&mut back).expect("read");
    writing.join().expect("written");
    assert!(back == much);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_or_fails_is_told_and_audited() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let check = |to: &str, words: &str| {
        let mut ssh = site.ssh(gateway.address, "alice", "alice");
        ssh.args(["-W", to]);
        let output = output(ssh);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains(words),
            "{to}: {stderr}"
        );
    };
    check("127.0.0.2:80", "administratively prohibited");
    check("[::1]:80", "administratively prohibited");
    check("no-such-host.zone.test:80", "connect failed");
    check(&format!("127.0.0.1:{}", closed_port()), "connect failed");
    let line =
        gateway.wait_log(|line| line["event"] == "refuse" && line["asked"] == "127.0.0.2:80");
    assert_eq!(line["reason"], "Denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_no_name_is_as_long_as_is_refused_and_cut() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let session = log_in(&site, gateway.address).await;
    for (character, times) in [("x", 200_000), ("ä", 100_000)] {
        let host = character.repeat(times);
        let asked = session.channel_open_direct_tcpip(host, 443, "127.0.0.1", 1);
        assert!(asked.await.is_err());
        let line = gateway.wait_log(|line| {
            let asked = line["asked"].as_str().unwrap_or_default();
            line["event"] == "refuse" && asked.starts_with(character)
        });
        let asked = line["asked"].as_str().expect("asked");
        assert!(asked.len() < 300 && asked.ends_with("… port 443"), "{line}");
        assert_eq!(line["why"], "not a host name");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_the_file_can_leave_only_links() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let at = echo().await;
    let refused = |gateway: &Running| {
        let mut ssh = site.ssh(gateway.address, "alice", "alice");
        ssh.args(["-W", &at.to_string()]);
        let output = output(ssh);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains("administratively prohibited"), "{stderr}");
    };
    let key = site.public_key("alice");
    for options in [
        "restrict",
        "no-port-forwarding",
        "permitopen=\"127.0.0.1:1\"",
    ] {
        site.authorize("alice", &format!("{options} {key}"));
        refused(&gateway);
    }
    site.authorize("alice", &key);
    let links_only = site.start(POLICY, "port_forwarding: false");
    refused(&links_only);
    Broker::connect(&site, links_only.address)
        .await
        .flow(at)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socks_works() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let at = echo().await;
    let port = free_port();
    let _client = Client::start(&site, &gateway, &["-D", &format!("127.0.0.1:{port}")]);
    let mut socket = connect(port);
    // SOCKS5 without login (RFC 1928): CONNECT to a name.
    socket.write_all(&[5, 1, 0]).expect("write");
    let mut chosen = [0; 2];
    socket.read_exact(&mut chosen).expect("read");
    let name = b"db.zone.test";
    let mut request = vec![5, 1, 0, 3, name.len() as u8];
    request.extend(name);
    request.extend(at.port().to_be_bytes());
    socket.write_all(&request).expect("write");
    let mut answer = [0; 10];
    socket.read_exact(&mut answer).expect("read");
    assert_eq!((chosen, answer[1]), ([5, 0], 0));
    echoes(&mut socket, b"over socks");
}

/// To a stock sshd behind the gateway, as `ssh -J` has it: its settings for both are in one file.
#[test]
fn a_jump_leads_to_a_stock_sshd() {
    let site = Site::new();
    site.keygen("inner", "");
    let sshd = Sshd::with_host_key(&site, "inner");
    let policy = format!(
        r#"[{{name: inner, users: [alice], allow: ["{}"]}}]"#,
        sshd.address
    );
    let gateway = site.start(&policy, "");
    let known =
        |at: SocketAddr, key: &str| format!("[{}]:{} {}", at.ip(), at.port(), site.public_key(key));
    let both = [known(gateway.address, "host"), known(sshd.address, "inner")].concat();
    let known = site.write("known_hosts", &both);
    let config = site.write(
        "ssh_config",
        &format!(
            "Host *\n  BatchMode yes\n  StrictHostKeyChecking yes\n  IdentitiesOnly yes\n  \
             IdentityAgent none\n  IdentityFile {}\n  UserKnownHostsFile {}\n",
            site.path("alice").display(),
            known.display()
        ),
    );
    let jump = |by: SocketAddr, command: &str| {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F")
            .arg(&config)
            .args(["-J", &format!("alice@{by}")]);
        ssh.args(["-p", &sshd.address.port().to_string(), "-l", &own_name()]);
        ssh.args(["127.0.0.1", command]);
        output(ssh)
    };
    // 128 KiB and a checksum of it by coreutils, on the far side of two sessions.
    let through = jump(
        gateway.address,
        "head -c 131072 /dev/zero | sha256sum; exit 7",
    );
    assert_eq!(through.status.code(), Some(7), "{through:?}");
    let sum = "fa43239bcee7b97ca62f007cc68487560a39e19f74f3dde7486db3f98df8e471";
    assert!(
        String::from_utf8_lossy(&through.stdout).starts_with(sum),
        "{through:?}"
    );
    let asked = sshd.address.to_string();
    gateway.wait_log(|line| line["event"] == "open" && line["asked"] == asked.as_str());
    gateway.wait_log(|line| line["event"] == "end" && line["asked"] == asked.as_str());
    // One that the policy does not let through.
    let other = site.start(
        r#"[{name: none, users: [alice], allow: ["127.0.0.9:1"]}]"#,
        "",
    );
    let known = format!(
        "{both}[{}]:{} {}",
        other.address.ip(),
        other.address.port(),
        site.public_key("host")
    );
    site.write("known_hosts", &known);
    let denied = jump(other.address, "true");
    let stderr = String::from_utf8_lossy(&denied.stderr);
    assert!(stderr.contains("administratively prohibited"), "{stderr}");
    other.wait_log(|line| line["event"] == "refuse" && line["asked"] == asked.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_stays_and_a_broker_without_a_link_does_not() {
    let site = Site::new();
    let at = echo().await;
    let gateway = site.start(POLICY, "login_grace_seconds: 1");
    let (_client, port) = forwarded(&site, &gateway, &at.to_string());
    // Long after the login's grace; there is no event to wait for when nothing happens.
    drop(connect(port));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    echoes(&mut connect(port), b"still there");
}

/// A destination that takes a connection and reads nothing.
fn takes_nothing() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_takes_nothing_is_given_up_and_the_others_go_on() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let (stuck, stuck_at) = takes_nothing();
    let at = echo().await;
    let (one, other) = (free_port(), free_port());
    let forward = |port, to: &str| format!("127.0.0.1:{port}:{to}");
    let arguments = [
        "-L",
        &forward(one, &stuck_at),
        "-L",
        &forward(other, &at.to_string()),
    ];
    let _client = Client::start(&site, &gateway, &arguments);
    let mut beside = connect(other);
    echoes(&mut beside, b"before");
    let mut paused = connect(one);
    let _held = stuck.accept().expect("accept");
    let writing = std::thread::spawn(move || {
        let piece = vec![0; 1 << 20];
        // More than socket buffers and the gateway's share hold together.
        (0..512).try_for_each(|_| paused.write_all(&piece))
    });
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert_eq!(
        end["end"], "closed: its destination took nothing any more",
        "{end}"
    );
    assert!(
        writing.join().expect("joined").is_err(),
        "all of it was taken"
    );
    echoes(&mut beside, b"and after");
    echoes(&mut connect(other), b"also a new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_destination_makes_its_client_wait() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let (slow, slow_at) = takes_nothing();
    let (_client, port) = forwarded(&site, &gateway, &slow_at);
    let mut socket = connect(port);
    let (mut far, _) = slow.accept().expect("accept");
    let reading = std::thread::spawn(move || {
        let (mut buffer, mut total) = (vec![0; 4 << 20], 0);
        loop {
            match far.read(&mut buffer).expect("read") {
                0 => return total,
                read => total += read,
            }
            // Slower than the client, which is what this is about.
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let piece = vec![0; 1 << 20];
    for _ in 0..96 {
        socket.write_all(&piece).expect("write");
    }
    finishes(socket);
    assert_eq!(reading.join().expect("read"), 96 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_passed_on_to_the_client() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let (listener, at) = takes_nothing();
    let (_client, port) = forwarded(&site, &gateway, &at);
    let mut socket = connect(port);
    let (mut far, _) = listener.accept().expect("accept");
    far.write_all(b"!").expect("write");
    socket.read_exact(&mut [0]).expect("read");
    socket2::SockRef::from(&far)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
    drop(far);
    is_refused(socket);
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert!(
        end["end"]
            .as_str()
            .is_some_and(|end| end.contains("reset by the destination")),
        "{end}"
    );
    // And a client that goes is a reset for the destination.
    let (client, port) = forwarded(&site, &gateway, &at);
    let _socket = connect(port);
    let (mut far, _) = listener.accept().expect("accept");
    drop(client);
    let error = far.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_closes_forwarded_ports_too() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let at = echo().await;
    let (_client, port) = forwarded(&site, &gateway, &at.to_string());
    let mut socket = connect(port);
    echoes(&mut socket, b"seven b");
    site.config(
        r#"[{name: other, users: [alice], allow: ["127.0.0.2:*"]}]"#,
        "",
    );
    gateway.signal(nix::sys::signal::Signal::SIGHUP);
    is_refused(socket);
    is_refused(connect(port));
}

/// What would refuse a new one closes the old one as well; links are left.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_takes_forwarding_away_closes_forwarded_ports() {
    let site = Site::new();
    let key = site.public_key("alice");
    for (options, file) in [
        ("restrict", ""),
        ("no-port-forwarding", ""),
        ("pty", "port_forwarding: false"),
    ] {
        site.authorize("alice", &key);
        let gateway = site.start(POLICY, &extra(&site));
        let at = echo().await;
        let broker = Broker::connect(&site, gateway.address).await;
        let mut on_link = broker.flow(at).await;
        let (_client, port) = forwarded(&site, &gateway, &at.to_string());
        let mut socket = connect(port);
        echoes(&mut socket, b"seven b");
        site.authorize("alice", &format!("{options} {key}"));
        site.config(POLICY, &format!("{}\n{file}", extra(&site)));
        let closed = done(&site, &["reload"]).await;
        assert!(
            closed.contains("0 sessions, 1 flows"),
            "{options}: {closed}"
        );
        is_refused(socket);
        is_refused(connect(port));
        let why = "permits no port forwarding";
        gateway.wait_log(|line| {
            line["event"] == "refuse" && line["why"].as_str().is_some_and(|said| said.contains(why))
        });
        on_link.write_all(b"!").await.expect("write");
        assert_eq!(on_link.read_u8().await.expect("read"), b'!');
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_is_not_answered_keeps_nobody_waiting() {
    let site = Site::new();
    let gateway = site.start(POLICY, "dial_timeout_seconds: 5");
    let (silent, _full) = crate::destinations::silent().await;
    let at = echo().await;
    let session = log_in(&site, gateway.address).await;
    let since = Instant::now();
    let dialling =
        session.channel_open_direct_tcpip("127.0.0.1", u32::from(silent.port()), "127.0.0.1", 1);
    let answered =
        session.channel_open_direct_tcpip("127.0.0.1", u32::from(at.port()), "127.0.0.1", 2);
    tokio::pin!(dialling);
    tokio::select! {
        biased;
        _ = &mut dialling => panic!("the silent one was answered first, after {:?}", since.elapsed()),
        answered = answered => assert!(answered.is_ok()),
    }
    assert!(dialling.await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forwarded_ports_ends_its_own_connection() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let (silent, _full) = crate::destinations::silent().await;
    let at = echo().await;
    let broker = Broker::connect(&site, gateway.address).await;
    let session = std::sync::Arc::new(log_in(&site, gateway.address).await);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..1100 {
        let session = std::sync::Arc::clone(&session);
        let port = u32::from(silent.port());
        asking.spawn(async move {
            let asked = session.channel_open_direct_tcpip("127.0.0.1", port, "127.0.0.1", 1);
            asked.await.is_ok()
        });
    }
    gateway.wait_log(|line| {
        let error = line["error"].as_str();
        error.is_some_and(|error| error.contains("more than 1024 forwarded ports"))
    });
    while let Some(opened) = asking.join_next().await {
        assert!(!opened.expect("asked"));
    }
    broker.flow(at).await;
}

#[test]
fn nobody_gets_a_shell_beside_a_forwarded_port() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let mut ssh: Command = site.ssh(gateway.address, "alice", "alice");
    ssh.args([
        "-L",
        &format!("127.0.0.1:{}:127.0.0.1:1", free_port()),
        "id",
    ]);
    let output = output(ssh);
    assert!(String::from_utf8_lossy(&output.stderr).contains("exec request failed"));
}
