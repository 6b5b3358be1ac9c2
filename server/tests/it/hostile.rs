//! What strangers can do before they are logged in: at most lose their own connection.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use socket2::{Domain, Socket, Type};

use crate::destinations::echo;
use crate::flows::Broker;
use crate::site::{PATIENCE, Running, Site, output};

pub(crate) const POLICY: &str = r#"[{name: loopback, users: [alice], allow: ["127.0.0.1:*"]}]"#;
/// Of two hundred hostile connections.
const SOURCES: usize = 20;
pub(crate) const HELLO: &[u8] = b"SSH-2.0-hostile\r\n";

/// From one of the loopback addresses, so that there are several sources.
pub(crate) fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket
        .bind(&SocketAddr::from(([127, 0, 0, last], 0)).into())
        .expect("bind");
    socket.connect(&to.into()).expect("connect");
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

fn connect(gateway: &Running) -> TcpStream {
    connect_from(1, gateway.address)
}

/// RFC 4253 section 6, before keys are exchanged.
pub(crate) fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 4 + (8 - (payload.len() + 9) % 8) % 8;
    let length = u32::try_from(1 + payload.len() + padding).expect("short");
    let padding_length = u8::try_from(padding).expect("short");
    [
        &length.to_be_bytes()[..],
        &[padding_length],
        payload,
        &vec![0; padding],
    ]
    .concat()
}

/// RFC 4253 section 7.1.
fn kexinit(kex: &str) -> Vec<u8> {
    let mut payload = vec![20];
    payload.extend([7; 16]);
    let (cipher, mac) = ("aes256-gcm@openssh.com", "hmac-sha2-256");
    for list in [
        kex,
        "ssh-ed25519",
        cipher,
        cipher,
        mac,
        mac,
        "none",
        "none",
        "",
        "",
    ] {
        payload.extend(u32::try_from(list.len()).expect("short").to_be_bytes());
        payload.extend(list.as_bytes());
    }
    payload.extend([0; 5]);
    payload
}

fn strict() -> Vec<u8> {
    kexinit("curve25519-sha256,kex-strict-c-v00@openssh.com")
}

/// SSH_MSG_KEX_ECDH_INIT with a point of so many bytes.
fn ecdh(point: &[u8]) -> Vec<u8> {
    let length = u32::try_from(point.len()).expect("short").to_be_bytes();
    [&[30], &length[..], point].concat()
}

/// As far as the client's part of a key exchange.
pub(crate) fn begun() -> Vec<u8> {
    [HELLO, &packet(&strict()), &packet(&ecdh(&[9; 32]))].concat()
}

/// Sends it all and reads to the end, which has to come by itself.
fn until_closed(mut socket: TcpStream, bytes: &[u8]) -> Vec<u8> {
    // Closed before all was sent is closed as well.
    let _ = socket.write_all(bytes);
    let mut said = Vec::new();
    if let Err(error) = socket.read_to_end(&mut said) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    said
}

pub(crate) async fn is_well(site: &Site, gateway: &Running, broker: &Broker, at: SocketAddr) {
    broker.flow(at).await;
    Broker::connect(site, gateway.address).await.flow(at).await;
    let log = gateway.log_lines();
    let panics = log
        .iter()
        .filter(|line| line.to_string().contains("panicked"));
    assert_eq!(panics.count(), 0, "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_ssh_ends_its_own_connection_at_most() {
    let site = Site::new();
    let gateway = site.start(POLICY, "login_grace_seconds: 2");
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let long = [&b"SSH-2.0-"[..], &[b'x'; 70_000], b"\r\n"].concat();
    let after = |more: &[u8]| [HELLO, more].concat();
    let mut two_lengths = packet(&strict());
    two_lengths[4] = 0xff;
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        (
            "another protocol",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        ),
        ("version 1", b"SSH-1.5-old\r\n".to_vec()),
        ("an endless first line", long),
        ("endless lines before the first", b"x\r\n".repeat(100_000)),
        ("zeros", vec![0; 100_000]),
        ("no end of the line", b"SSH-2.0-x".to_vec()),
        ("a length of 0", after(&[0; 16])),
        ("the longest length", after(&[0xff; 64])),
        (
            "a length beyond what is allowed",
            after(&[&[0, 16, 0, 0][..], &[0; 4096]].concat()),
        ),
        ("more padding than packet", after(&two_lengths)),
        (
            "a packet without payload",
            after(&[0, 0, 0, 12, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("half of a key exchange", after(&packet(&strict())[..50])),
        (
            "a key exchange that is cut off",
            after(&packet(&strict()[..40])),
        ),
        (
            "lists longer than their packet",
            after(&packet(&[&[20][..], &[7; 16], &[0x7f; 40]].concat())),
        ),
        (
            "no algorithm in common",
            after(&packet(&kexinit("diffie-hellman-group1-sha1"))),
        ),
        ("new keys before any", after(&packet(&[21]))),
        (
            "two key exchanges at once",
            after(&[packet(&strict()), packet(&strict())].concat()),
        ),
        (
            "a point that is too short",
            after(&[packet(&strict()), packet(&ecdh(&[9; 3]))].concat()),
        ),
        (
            "a point that is too long",
            after(&[packet(&strict()), packet(&ecdh(&[9; 1000]))].concat()),
        ),
        (
            "a point that is zero",
            after(&[packet(&strict()), packet(&ecdh(&[0; 32]))].concat()),
        ),
        (
            "new keys without a key",
            after(&[packet(&strict()), packet(&[21])].concat()),
        ),
        (
            "a service before keys",
            after(&packet(b"\x05\0\0\0\x0cssh-userauth")),
        ),
        (
            "a login before keys",
            after(&packet(
                b"\x32\0\0\0\x05alice\0\0\0\x0essh-connection\0\0\0\x04none",
            )),
        ),
        (
            "a channel before keys",
            after(&packet(
                b"\x5a\0\0\0\x07session\0\0\0\0\0\0\0\x01\0\0\0\x01",
            )),
        ),
        (
            "messages that no one knows",
            after(
                &(192..=255)
                    .flat_map(|kind| packet(&[kind]))
                    .collect::<Vec<_>>(),
            ),
        ),
        (
            "a disconnect",
            after(&packet(b"\x01\0\0\0\x0b\0\0\0\0\0\0\0\0")),
        ),
    ];
    let number = bad.len();
    let address = gateway.address;
    let all = bad.into_iter().map(|(name, bytes)| {
        std::thread::spawn(move || {
            let since = Instant::now();
            until_closed(connect_from(1, address), &bytes);
            (name, since.elapsed())
        })
    });
    let all: Vec<_> = all.collect();
    let ended = tokio::task::block_in_place(|| {
        let joined = all.into_iter().map(|thread| thread.join().expect("closed"));
        joined.collect::<Vec<_>>()
    });
    assert!(
        number >= 24 && ended.iter().all(|(_, took)| *took < PATIENCE),
        "{ended:?}"
    );
    is_well(&site, &gateway, &broker, at).await;
}

/// Is this answered by the gateway's part of a key exchange, or does the connection end?
fn is_answered(socket: &mut TcpStream, bytes: &[u8]) -> bool {
    // Closed before all was sent is closed as well.
    let _ = socket.write_all(bytes);
    let mut said: Vec<u8> = Vec::new();
    let mut piece = [0; 4096];
    loop {
        // SSH_MSG_KEX_ECDH_REPLY, in clear as all of this is, has the kind of the host key in it.
        let names = said.windows(11).filter(|w| *w == b"ssh-ed25519").count();
        // The first is in the list of what the server can do.
        if names >= 2 {
            return true;
        }
        match socket.read(&mut piece) {
            Ok(0) => return false,
            Ok(read) => said.extend(&piece[..read]),
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "not closed");
                return false;
            }
        }
    }
}

/// Terrapin (CVE-2023-48795): with strict key exchange nothing may be put in before the keys.
#[test]
fn a_key_exchange_is_strict_where_the_client_can_do_it() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let ignored = packet(b"\x02\0\0\0\x01x");
    let with = |kex: &[u8], before: bool| {
        let kex = packet(kex);
        let both = if before {
            [&ignored[..], &kex]
        } else {
            [&kex[..], &ignored]
        };
        [HELLO, &both.concat(), &packet(&ecdh(&[9; 32]))].concat()
    };
    let plain = kexinit("curve25519-sha256");
    let answered = |bytes: &[u8]| is_answered(&mut connect(&gateway), bytes);
    let offers = until_closed(connect(&gateway), &[HELLO, &packet(&[21])].concat());
    let strict_marker = b"kex-strict-s-v00@openssh.com";
    assert!(
        offers
            .windows(strict_marker.len())
            .any(|w| w == strict_marker)
    );
    assert!(answered(&begun()));
    assert!(
        !answered(&with(&strict(), false)),
        "put in after its key exchange began"
    );
    assert!(!answered(&with(&strict(), true)), "put in before");
    // Without it this is what RFC 4253 allows.
    assert!(answered(&with(&plain, false)));
}

/// When it has been enough: at once, or as `make fuzz` says.
fn fuzz_until() -> Instant {
    let seconds = std::env::var("ADIT_FUZZ_SECONDS").ok();
    let seconds = seconds.map(|seconds| seconds.parse().expect("a number of seconds"));
    Instant::now() + Duration::from_secs(seconds.unwrap_or(0))
}

/// Changes of a good beginning, through the listener as it is.
#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_before_a_login_leave_the_gateway_as_it_was() {
    let site = Site::new();
    let gateway = site.start(
        POLICY,
        "login_grace_seconds: 1\nmax_unauthenticated: 4096\nmax_unauthenticated_per_source: 4096",
    );
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let good = [
        HELLO,
        &packet(&strict()),
        &packet(&ecdh(&[9; 32])),
        &packet(&[21]),
        &[0x5a; 64],
    ]
    .concat();
    let address = gateway.address;
    tokio::task::block_in_place(|| {
        let config = Config {
            cases: 400,
            failure_persistence: None,
            ..Config::default()
        };
        let changes = prop::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), 0_usize..12),
            0..6,
        );
        let cut = any::<prop::sample::Index>();
        let cases = (changes, cut, prop::bool::weighted(0.3));
        let until = fuzz_until();
        loop {
            let tried = TestRunner::new(config.clone()).run(&cases, |(changes, cut, is_cut)| {
                let mut bytes = good.clone();
                for (index, value, length) in changes {
                    let start = index.index(bytes.len());
                    let end = (start + length).min(bytes.len());
                    bytes.splice(start..end, [value]);
                }
                if is_cut {
                    bytes.truncate(cut.index(bytes.len()));
                }
                let mut socket = connect_from(1, address);
                let _ = socket.write_all(&bytes);
                let _ = socket.shutdown(std::net::Shutdown::Write);
                let mut said = Vec::new();
                let read = socket.read_to_end(&mut said);
                let is_timeout =
                    |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
                prop_assert!(
                    !read.as_ref().is_err_and(is_timeout),
                    "not closed: {bytes:x?}"
                );
                Ok(())
            });
            tried.expect("closed each time");
            if Instant::now() >= until {
                break;
            }
        }
    });
    is_well(&site, &gateway, &broker, at).await;
}

/// What an opening takes, all of so many in a row taken together: a quarter of a second of them, long enough for twenty of the hostile
/// ones to come again. One that has to wait for long is one of many, but it counts with its time.
pub(crate) async fn usual(broker: &Broker, at: SocketAddr) -> Duration {
    const OPENINGS: u32 = 401;
    let since = Instant::now();
    for _ in 0..OPENINGS {
        drop(broker.flow(at).await);
    }
    since.elapsed() / OPENINGS
}

/// What openings took beside something, of what they took alone: the median is what counts.
pub(crate) fn are_twice_at_most(mut ratios: Vec<f64>) {
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    assert!(
        median <= 2.0,
        "a new flow takes {ratios:?} of its usual time"
    );
}

/// Two hundred from twenty sources: silent ones, slow ones, ones that stop in the key exchange, and ones
/// that come again and again.
/// All are there when this returns.
fn hostile(address: SocketAddr, until: &Arc<AtomicBool>) -> Vec<std::thread::JoinHandle<()>> {
    let there = Arc::new(Barrier::new(SOURCES + 1));
    let attackers = (0..SOURCES)
        .map(|source| {
            let (until, there) = (Arc::clone(until), Arc::clone(&there));
            let source = u8::try_from(source).expect("few");
            std::thread::spawn(move || {
                let new = |kind: usize| {
                    let mut socket = connect_from(10 + source, address);
                    let _ = match kind % 3 {
                        0 => Ok(()),
                        1 => socket.write_all(HELLO),
                        _ => socket.write_all(&begun()),
                    };
                    socket
                };
                let mut held: Vec<_> = (0..10).map(new).collect();
                there.wait();
                let mut turn = 0;
                while !until.load(Ordering::Relaxed) {
                    for socket in &mut held {
                        let _ = socket.write_all(b"x");
                    }
                    // One of them anew.
                    turn += 1;
                    held[turn % 10] = new(turn);
                    std::thread::sleep(Duration::from_millis(200));
                }
            })
        })
        .collect();
    there.wait();
    attackers
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_hostile_connections_hinder_no_honest_client() {
    let site = Site::new();
    let gateway = site.start(POLICY, "login_grace_seconds: 5");
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    usual(&broker, at).await;
    // Side by side, and more than once: what else the machine does comes and goes.
    let mut ratios = Vec::new();
    for _ in 0..5 {
        let alone = usual(&broker, at).await;
        let over = Arc::new(AtomicBool::new(false));
        let attackers = tokio::task::block_in_place(|| hostile(gateway.address, &over));
        let beside = usual(&broker, at).await;
        // And whoever is new gets in.
        Broker::connect(&site, gateway.address).await.flow(at).await;
        over.store(true, Ordering::Relaxed);
        tokio::task::block_in_place(|| {
            attackers
                .into_iter()
                .for_each(|thread| thread.join().expect("joined"))
        });
        // Connections are taken in order: with this one, all of theirs have been.
        Broker::connect(&site, gateway.address).await;
        ratios.push(beside.as_secs_f64() / alone.as_secs_f64());
    }
    are_twice_at_most(ratios);
}

/// It asks for each kind of key in a connection of its own, and for most of them there is none.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_the_host_key_may_log_in_afterwards() {
    let site = Site::new();
    let gateway = site.start(POLICY, "penalty_exempt: []");
    let port = gateway.address.port().to_string();
    let mut scan = std::process::Command::new("ssh-keyscan");
    scan.args(["-p", &port, "127.0.0.1"]);
    let keys = String::from_utf8(output(scan).stdout).expect("text");
    assert!(keys.contains("ssh-ed25519"), "{keys}");
    let mut ssh = site.ssh(gateway.address, "alice", "alice");
    ssh.args(["-s", "adit-link"]);
    let answer = output(ssh);
    let stderr = String::from_utf8_lossy(&answer.stderr);
    assert!(!stderr.contains("closed"), "{stderr}");
    assert!(!answer.stdout.is_empty(), "the link's greeting: {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_connections_come_to_nothing_is_not_listened_to_for_a_while() {
    let site = Site::new();
    let gateway = site.start(POLICY, "penalty_exempt: []");
    let refused = || until_closed(connect(&gateway), b"").is_empty();
    let mut tries = 0;
    loop {
        let mut ssh = site.ssh(gateway.address, "alice", "mallory");
        ssh.args(["-s", "adit-link"]);
        let stderr = String::from_utf8_lossy(&output(ssh).stderr).into_owned();
        tries += 1;
        if !stderr.contains("Permission denied") {
            break;
        }
        assert!(tries < 20, "still listened to: {stderr}");
    }
    assert!(tries > 3, "refused after {tries}");
    assert!(refused());
    gateway.wait_log(|line| {
        line["message"]
            .as_str()
            .is_some_and(|m| m.starts_with("not listened to"))
    });
    // Another source is.
    let mut other = connect_from(2, gateway.address);
    let mut hello = [0; 8];
    other.read_exact(&mut hello).expect("read");
    assert_eq!(&hello, b"SSH-2.0-");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exempt_network_is_listened_to_whatever_has_come_from_it() {
    let site = Site::new();
    let gateway = site.start(POLICY, "penalty_exempt: [127.0.0.2/31]");
    let senseless = |from: u8| {
        let said = until_closed(
            connect_from(from, gateway.address),
            b"GET / HTTP/1.0\r\n\r\n",
        );
        said.starts_with(b"SSH-2.0-")
    };
    let tries = (0..20).take_while(|_| senseless(4)).count();
    assert!((1..20).contains(&tries), "still listened to after {tries}");
    for _ in 0..=tries {
        assert!(senseless(2) && senseless(3));
    }
}

/// Comes from a source and is greeted.
fn come(from: u8, gateway: &Running) -> TcpStream {
    let mut socket = connect_from(from, gateway.address);
    socket.read_exact(&mut [0; 8]).expect("greeted");
    socket
}

fn goes_on(mut socket: TcpStream) -> bool {
    is_answered(&mut socket, &begun())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_of_a_source_closes_its_oldest_and_no_other() {
    let site = Site::new();
    let gateway = site.start(POLICY, "max_unauthenticated_per_source: 2");
    let (first, second, other) = (come(1, &gateway), come(1, &gateway), come(2, &gateway));
    let third = come(1, &gateway);
    until_closed(first, b"");
    assert!(goes_on(other), "another source's");
    // Whoever logs in makes room: nobody has to go for the next.
    let _in = Broker::connect(&site, gateway.address).await;
    until_closed(second, b"");
    let fourth = come(1, &gateway);
    assert!(goes_on(third) && goes_on(fourth));
    gateway.wait_log(|line| line["each"] == 2 && line["from"] == "127.0.0.1");
}

#[test]
fn one_more_in_all_closes_the_oldest_of_whoever_has_most() {
    let site = Site::new();
    let gateway = site.start(POLICY, "max_unauthenticated: 3");
    let (alone, first, second) = (come(2, &gateway), come(1, &gateway), come(1, &gateway));
    let third = come(3, &gateway);
    until_closed(first, b"");
    assert!(goes_on(alone) && goes_on(second) && goes_on(third));
    gateway.wait_log(|line| line["limit"] == 3 && line["from"] == "127.0.0.1");
}
