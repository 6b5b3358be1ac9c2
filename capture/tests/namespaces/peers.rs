//! Who may ask what, and what becomes of those who may not.

use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use adit_capture::wire::{Reply, Request};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::Case;
use crate::lab::{Helper, Puppet, SOCKET, adit_capture, hand_over, kernel_state, sh};

pub(crate) const CASES: &[Case] = &[
    ("system_accounts_are_refused", system_accounts_are_refused),
    (
        "system_accounts_that_are_named",
        system_accounts_that_are_named,
    ),
    ("odd_listeners_are_refused", odd_listeners_are_refused),
    ("one_broker_of_a_user", one_broker_of_a_user),
    (
        "out_of_order_ends_the_session",
        out_of_order_ends_the_session,
    ),
    ("descriptors_out_of_place", descriptors_out_of_place),
    ("sessions_are_bounded", sessions_are_bounded),
    ("sockets_that_nobody_takes", sockets_that_nobody_takes),
    ("a_large_claim", a_large_claim),
    ("without_root", without_root),
];

const USER: u32 = 1000;

fn claim() -> String {
    hand_over(&["10.1.0.0/16", "fd00::/8"], "block")
}

fn check_claim(uid: u32, expected: &str) {
    let mut broker = Puppet::of_user(uid);
    broker.expect("listeners", "ok");
    broker.expect("session", "ok");
    broker.expect(&format!("claim {}", claim()), expected);
}

fn system_accounts_are_refused() {
    let before = kernel_state();
    let _helper = Helper::start(&[]);
    for uid in [0, 1, 33, 999] {
        check_claim(uid, "NotAllowed");
    }
    assert_eq!(kernel_state(), before);
    check_claim(1000, "ok");
}

fn system_accounts_that_are_named() {
    sh("echo 'capture_system_users: [root, 34]' > /run/capture.yaml");
    let helper = Helper::start(&["--config", "/run/capture.yaml", "--allow-uid", "33"]);
    for (uid, expected) in [(0, "ok"), (33, "ok"), (34, "ok"), (35, "NotAllowed")] {
        check_claim(uid, expected);
    }
    helper.kill();
    sh("echo 'capture_users: [root]' > /run/capture.yaml");
    let (done, log) = adit_capture(&["--socket", SOCKET, "--config", "/run/capture.yaml"]);
    assert!(!done && log.contains("capture_users"), "{log}");
}

fn odd_listeners_are_refused() {
    let before = kernel_state();
    let _helper = Helper::start(&["--allow-uid", "0"]);
    // As root, who alone can make a listener of another network namespace.
    let mut broker = Puppet::of_user(0);
    broker.expect("session", "ok");
    for (kind, why) in [
        ("nothing", "0 sockets"),
        ("not_listening", "not a TCP socket that listens"),
        ("udp", "not a TCP socket that listens"),
        ("file", "not a TCP socket that listens"),
        ("unix", "not a TCP socket that listens"),
        ("any_address", "not to 0.0.0.0:"),
        ("other_loopback", "not to 127.0.0.2:"),
        ("any_v6", "not to [::]:"),
        ("twice", "of one family"),
        ("elsewhere", "not of this network namespace"),
    ] {
        let answer = broker.expect(&format!("odd {kind} {}", claim()), "BadListener");
        assert!(answer.contains(why), "{kind}: {answer}");
    }
    assert_eq!(kernel_state(), before);
    // The session is none the worse for it.
    broker.expect("listeners", "ok");
    broker.expect(&format!("claim {}", claim()), "ok");
}

fn one_broker_of_a_user() {
    let _helper = Helper::start(&[]);
    let first = Puppet::broker(USER, &claim());
    let mut second = Puppet::of_user(USER);
    second.expect("listeners", "ok");
    second.expect("session", "ok");
    second.expect(&format!("claim {}", claim()), "Busy");
    second.expect("release", "Busy");
    first.kill();
    second.expect(&format!("claim {}", claim()), "ok");
}

/// A session by hand.
struct Raw(UnixStream);

impl Raw {
    fn connect() -> Raw {
        let stream = UnixStream::connect(SOCKET).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(8)))
            .unwrap();
        Raw(stream)
    }

    fn greeted() -> Raw {
        let mut raw = Raw::connect();
        raw.send(&Request::Hello { version: 1 }.encode().unwrap());
        assert_eq!(
            raw.reply(),
            Some(Reply::Hello {
                version: 1,
                features: vec!["original-source".into(), "ask".into()]
            })
        );
        raw
    }

    fn send(&mut self, body: &[u8]) {
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        // A session that the helper ended already takes nothing; the reply then tells why.
        if let Err(error) = self.0.write_all(&frame) {
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}");
        }
    }

    /// `None`: the session has ended.
    fn reply(&mut self) -> Option<Reply> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut body).unwrap();
        Some(Reply::decode(&body).unwrap())
    }

    /// It is told why, and that was the last word.
    fn check_ended(mut self, why: &str) {
        match self.reply() {
            Some(Reply::Error { text, .. }) => assert!(text.contains(why), "{text}, not {why}"),
            other => panic!("{other:?} instead of {why}"),
        }
        assert_eq!(self.reply(), None, "{why}");
    }
}

fn out_of_order_ends_the_session() {
    let before = kernel_state();
    let _helper = Helper::start(&[]);
    let release = || Request::Release.encode().unwrap();
    for (body, why) in [
        (release(), "a Release is not legal now (New)"),
        (
            br#"{"marked_socket":{"family":"v4"}}"#.to_vec(),
            "a MarkedSocket is not legal now",
        ),
        (
            format!(r#"{{"claim":{{"claim":{}}}}}"#, claim()).into_bytes(),
            "a Claim is not legal now",
        ),
        (
            Request::Hello { version: 2 }.encode().unwrap(),
            "version 2 is not spoken here",
        ),
        (
            br#"{"hello":{"version":1,"more":1}}"#.to_vec(),
            "unknown field",
        ),
        (b"".to_vec(), "not a message"),
        (vec![b' '; 4097], "4097 bytes"),
    ] {
        let mut raw = Raw::connect();
        raw.send(&body);
        raw.check_ended(why);
    }
    for (body, why) in [
        (
            Request::Hello { version: 1 }.encode().unwrap(),
            "a Hello is not legal now (Greeted)",
        ),
        (br#""goodbye""#.to_vec(), "unknown variant"),
    ] {
        let mut raw = Raw::greeted();
        raw.send(&body);
        raw.check_ended(why);
    }
    // Longer than its kind may be; who may not claim is not even heard that far.
    let long = [release(), vec![b' '; 5000]].concat();
    let mut raw = Raw::greeted();
    raw.send(&long);
    raw.check_ended("a frame of 5009 bytes, and 4096 is the most here");
    Raw::connect().check_ended("no hello within");
    assert_eq!(kernel_state(), before);
}

fn descriptors_out_of_place() {
    let _helper = Helper::start(&[]);
    let null = std::fs::File::open("/dev/null").unwrap();
    let body = br#"{"marked_socket":{"family":"v4"}}"#;
    let frame = [&33_u32.to_be_bytes()[..], body].concat();
    // How many descriptors come with which byte.
    for (at, count, why) in [
        (0, 1, "1 descriptors with a MarkedSocket"),
        (0, 3, "descriptors that have no place there"),
        (2, 1, "descriptors that have no place there"),
        (4, 1, "descriptors that have no place there"),
    ] {
        let mut raw = Raw::greeted();
        raw.0.write_all(&frame[..at]).unwrap();
        let rights = vec![null.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
        let bytes = [IoSlice::new(&frame[at..])];
        sendmsg(&raw.0, &bytes, &mut control, SendFlags::empty()).unwrap();
        raw.check_ended(why);
    }
}

fn sessions_are_bounded() {
    let helper = Helper::start(&[]);
    let mut open: Vec<Raw> = (0..8).map(|_| Raw::greeted()).collect();
    Raw::connect().check_ended("8 sessions of a user");
    for _ in 0..100 {
        Raw::connect().check_ended("8 sessions of a user");
    }
    let lines = helper.lines_with("too many sessions");
    assert!(lines < 20, "{lines}");
    // Another user is not kept out.
    Puppet::of_user(USER).expect("session", "ok");
    open.pop();
    // The end of one is taken note of soon, and then there is room again.
    let room = (0..500).any(|_| {
        let mut raw = Raw::connect();
        raw.send(&Request::Hello { version: 1 }.encode().unwrap());
        matches!(raw.reply(), Some(Reply::Hello { .. }))
    });
    assert!(room);
}

/// Descriptors under way count against one limit of all of root's programs (unix(7), `ETOOMANYREFS`).
fn sockets_that_nobody_takes() {
    const EACH: usize = 40;
    let _helper = Helper::limited(64);
    let mut broker = Puppet::broker(USER, &claim());
    let mut lazy: Vec<Raw> = (0..8).map(|_| Raw::greeted()).collect();
    for raw in &mut lazy {
        (0..EACH).for_each(|_| raw.send(br#"{"marked_socket":{"family":"v4"}}"#));
    }
    for _ in 0..50 {
        broker.expect("marked 127.0.0.1:1", "ConnectionRefused");
    }
    // Who begins to take them gets them all.
    for raw in &mut lazy {
        (0..EACH).for_each(|_| assert_eq!(raw.reply(), Some(Reply::Socket)));
    }
    drop(lazy);
    // Another program of root's leaves some lying about.
    let (one, other) = UnixStream::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let rights = [null.as_fd(); 100];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
    sendmsg(
        &one,
        &[IoSlice::new(b"x")],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
    broker.expect("marked 127.0.0.1:1", "Kernel too many descriptors");
    drop((one, other));
    broker.expect("marked 127.0.0.1:1", "ConnectionRefused");
    broker.expect("release", "ok");
}

fn a_large_claim() {
    let before = kernel_state();
    let helper = Helper::start(&[]);
    let networks = |count: u32| {
        let of = |n: u32| format!("10.{}.{}.{}/32", n >> 15, (n >> 7) & 255, (n << 1) & 255);
        let list: Vec<String> = (0..count).map(of).collect();
        hand_over(
            &list.iter().map(String::as_str).collect::<Vec<_>>(),
            "block",
        )
    };
    let mut other = Puppet::broker(1001, &claim());
    let mut broker = Puppet::of_user(USER);
    broker.expect("listeners", "ok");
    broker.expect("session", "ok");
    let start = std::time::Instant::now();
    broker.tell(&format!("claim {}", networks(100_000)));
    // Another user's broker is served meanwhile, over and over.
    let mut served = 0;
    let answer = loop {
        match broker.try_answer() {
            Some(answer) => break answer,
            None => other.expect("marked 127.0.0.1:1", "ConnectionRefused"),
        };
        served += 1;
    };
    assert_eq!(answer, "ok");
    assert!(served > 100, "{served}");
    println!(
        "100,000 networks: {:?}, {served} marked sockets meanwhile",
        start.elapsed()
    );
    let mut program = Puppet::of_user(USER);
    program.expect("connect 10.0.100.20:443", "ok");
    broker.expect("accept 0", "ok");
    program.expect("connect 10.0.100.21:443", "NetworkUnreachable");
    broker.expect(&format!("claim {}", networks(131_073)), "BadClaim");
    // All users together have room for no more; small claims have room of their own.
    other.expect(&format!("claim {}", claim()), "ok");
    let room = other.expect(&format!("claim {}", networks(100_000)), "Kernel");
    assert!(room.contains("of 196608 for claims of that size"), "{room}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", helper.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    println!("most memory: {peak} kB");
    assert!(peak < 150_000, "{peak} kB");
    broker.expect("release", "ok");
    other.expect(&format!("claim {}", networks(40_000)), "ok");
    other.expect("release", "ok");
    assert_eq!(kernel_state(), before);
}

fn without_root() {
    let exe = env!("CARGO_BIN_EXE_adit-capture");
    let line = format!(
        "mkdir -p /run/adit && chmod 777 /run/adit
         setpriv --reuid 1000 --clear-groups --bounding-set -all {exe} --socket /run/adit/x.sock 2>&1 || true"
    );
    let said = sh(&line);
    assert!(said.contains("has to be started by root"), "{said}");
}
