//! Brokers and helpers that come, go and are killed.

use crate::Case;
use crate::lab::{Helper, Puppet, SOCKET, adit_capture, hand_over, kernel_state, make_zone, sh};

pub(crate) const CASES: &[Case] = &[
    ("broker_killed_block", broker_killed_block),
    ("broker_killed_release", broker_killed_release),
    (
        "helper_restarted_broker_comes_back",
        helper_restarted_broker_comes_back,
    ),
    (
        "helper_restarted_nobody_comes_back",
        helper_restarted_nobody_comes_back,
    ),
    ("helper_stopped", helper_stopped),
    (
        "everything_killed_port_hijack",
        everything_killed_port_hijack,
    ),
    (
        "everything_killed_marked_hijack",
        everything_killed_marked_hijack,
    ),
    ("marks_are_taken_back", marks_are_taken_back),
    ("a_strange_table_stays", a_strange_table_stays),
    (
        "a_flushed_ruleset_is_written_anew",
        a_flushed_ruleset_is_written_anew,
    ),
    ("until_idle", until_idle),
    ("clean", clean),
    ("one_helper", one_helper),
    ("socket_file", socket_file),
    ("socket_activation", socket_activation),
];

const USER: u32 = 1000;
const OTHER: u32 = 1001;

/// A zone with a server in it that the user could reach directly: what leaks arrives there.
fn leaky_zone() -> Puppet {
    make_zone();
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:443 [fd09::2]:443", "ok");
    server
}

const ZONE: [&str; 2] = ["10.9.0.0/24", "fd09::/64"];
const SERVERS: [&str; 2] = ["10.9.0.2:443", "[fd09::2]:443"];

fn check_refused(program: &mut Puppet, server: &mut Puppet) {
    for (to, listener) in SERVERS.iter().zip(["0", "1"]) {
        program.expect(&format!("connect {to}"), "ConnectionRefused");
        server.expect(&format!("accept_none {listener}"), "ok");
    }
}

fn broker_killed_block() {
    let mut server = leaky_zone();
    let mut helper = Helper::start(&[]);
    let broker = Puppet::broker(
        USER,
        &hand_over(&[&ZONE[..], &["172.16.0.0/12"]].concat(), "block"),
    );
    broker.kill();
    helper.wait_log("word is applied");
    let mut program = Puppet::of_user(USER);
    check_refused(&mut program, &mut server);
    // Also where there is no route: refused, not unreachable.
    program.expect("connect 172.16.0.1:80", "ConnectionRefused");
    // The next broker takes over.
    let mut broker = Puppet::broker(USER, &hand_over(&ZONE, "block"));
    for (to, listener) in SERVERS.iter().zip(["0", "1"]) {
        program.expect(&format!("connect {to}"), "ok");
        broker.expect(&format!("accept {listener}"), "ok");
    }
    broker.expect("release", "ok");
    program.expect(&format!("connect {}", SERVERS[0]), "ok 10.9.0.1:");
}

fn broker_killed_release() {
    let mut server = leaky_zone();
    let before = kernel_state();
    let mut helper = Helper::start(&[]);
    let other = hand_over(&["10.7.0.0/16"], "block");
    let mut other_broker = Puppet::broker(OTHER, &other);
    let broker = Puppet::broker(USER, &hand_over(&ZONE, "release"));
    broker.kill();
    helper.wait_log("word is applied");
    Puppet::of_user(USER).expect("connect 10.9.0.2:443", "ok 10.9.0.1:");
    server.expect("accept 0", "ok");
    Puppet::of_user(OTHER).expect("connect 10.7.0.1:443", "ok");
    other_broker.expect("accept 0", "ok");
    other_broker.expect("release", "ok");
    assert_eq!(kernel_state(), before);
}

fn helper_restarted_broker_comes_back() {
    let mut server = leaky_zone();
    let helper = Helper::start(&[]);
    let mut broker = Puppet::broker(USER, &hand_over(&ZONE, "block"));
    let rules = kernel_state();
    helper.kill();
    broker.expect("gone", "ok");
    let mut program = Puppet::of_user(USER);
    // Without a helper, and with one that has only just come: as before.
    program.expect("connect 10.9.0.2:443", "ok");
    broker.expect("accept 0", "ok");
    let mut helper = Helper::start(&["--grace", "2"]);
    assert_eq!(kernel_state(), rules);
    program.expect("connect [fd09::2]:443", "ok");
    broker.expect("accept 1", "ok");
    broker.expect("session", "ok");
    broker.expect(&format!("claim {}", hand_over(&ZONE, "block")), "ok");
    // The grace of another user's rules ends without touching ours: that user's end is the event to wait for.
    let orphan = Puppet::broker(OTHER, &hand_over(&["10.7.0.0/16"], "block"));
    orphan.kill();
    helper.wait_log("word is applied");
    sh("sleep 2.2");
    program.expect("connect 10.9.0.2:443", "ok");
    broker.expect("accept 0", "ok");
    server.expect("accept_none 0", "ok");
}

fn helper_restarted_nobody_comes_back() {
    let mut server = leaky_zone();
    let before = kernel_state();
    let helper = Helper::start(&[]);
    let blocked = Puppet::broker(USER, &hand_over(&ZONE, "block"));
    let released = Puppet::broker(OTHER, &hand_over(&["fd00::/8"], "release"));
    let rules = kernel_state();
    helper.kill();
    blocked.kill();
    released.kill();
    assert_eq!(kernel_state(), rules);
    let mut program = Puppet::of_user(USER);
    // A redirect to a port that is closed: refused as well.
    check_refused(&mut program, &mut server);
    let mut helper = Helper::start(&["--grace", "1"]);
    assert_eq!(kernel_state(), rules);
    helper.wait_log("word is applied");
    helper.wait_log("word is applied");
    check_refused(&mut program, &mut server);
    Puppet::of_user(OTHER).expect("connect [fd09::2]:443", "ok [fd09::1]:");
    // Whoever claims again can also say goodbye to what is left.
    let mut broker = Puppet::of_user(USER);
    broker.expect("session", "ok");
    broker.expect("release", "ok");
    assert_eq!(kernel_state(), before);
}

fn helper_stopped() {
    let mut server = leaky_zone();
    let helper = Helper::start(&[]);
    let _blocked = Puppet::broker(USER, &hand_over(&ZONE, "block"));
    let _released = Puppet::broker(OTHER, &hand_over(&ZONE, "release"));
    assert!(helper.stop().success());
    check_refused(&mut Puppet::of_user(USER), &mut server);
    Puppet::of_user(OTHER).expect("connect 10.9.0.2:443", "ok 10.9.0.1:");
    let chains = sh("nft list chains inet");
    assert!(chains.contains(&format!("u{USER}_block")) && !chains.contains(&format!("u{OTHER}_")));
}

/// After helper and broker were killed, someone else listens on the broker's ports: that user's connections are not for them.
fn everything_killed_port_hijack() {
    let mut server = leaky_zone();
    let helper = Helper::start(&[]);
    let mut broker = Puppet::of_user(USER);
    let ports = broker.expect("listeners", "ok");
    let (v4, v6) = ports.split_once(' ').unwrap();
    broker.expect("session", "ok");
    broker.expect(&format!("claim {}", hand_over(&ZONE, "block")), "ok");
    helper.kill();
    broker.kill();
    let mut thief = Puppet::of_user(OTHER);
    thief.expect(&format!("listen 127.0.0.1:{v4} [::1]:{v6}"), "ok");
    let mut program = Puppet::of_user(USER);
    check_refused(&mut program, &mut server);
    thief.expect("accept_none 0", "ok");
    thief.expect("accept_none 1", "ok");
    // They can be connected to directly, as anyone's listener.
    program.expect(&format!("connect 127.0.0.1:{v4}"), "ok");
    // And no helper marks them: the ports still belong to the dead broker's claim.
    let _helper = Helper::start(&["--grace", "1000"]);
    thief.expect("session", "ok");
    thief.expect(
        &format!("claim {}", hand_over(&["10.7.0.0/16"], "block")),
        "BadListener",
    );
}

/// A socket keeps its mark when its program lets go of the port, and hands it on to what it accepts: another user's marked
/// sockets open nobody else's guard.
fn everything_killed_marked_hijack() {
    let mut server = leaky_zone();
    let helper = Helper::start(&[]);
    let mut broker = Puppet::of_user(USER);
    let ports = broker.expect("listeners", "ok");
    let (v4, v6) = ports.split_once(' ').unwrap();
    broker.expect("session", "ok");
    broker.expect(&format!("claim {}", hand_over(&ZONE, "block")), "ok");
    let mut thief = Puppet::of_user(OTHER);
    let own = thief.expect("listeners", "ok");
    thief.expect("session", "ok");
    thief.expect(
        &format!("claim {}", hand_over(&["10.7.0.0/16"], "block")),
        "ok",
    );
    assert_ne!(thief.expect("mark 0", "ok"), "0");
    assert_ne!(thief.expect("mark 0", "ok"), broker.expect("mark 0", "ok"));
    // The v6 one gives what it accepted, the v4 one itself.
    thief.expect(
        &format!("connect [::1]:{}", own.split_once(' ').unwrap().1),
        "ok",
    );
    thief.expect("accept 1", "ok");
    helper.kill();
    broker.kill();
    thief.expect(&format!("rebind_accepted [::1]:{v6}"), "ok");
    thief.expect(&format!("rebind_listener 0 127.0.0.1:{v4}"), "ok");
    assert_ne!(thief.expect("mark 0", "ok"), "0");
    assert_ne!(thief.expect("mark 2", "ok"), "0");
    let mut program = Puppet::of_user(USER);
    check_refused(&mut program, &mut server);
    thief.expect("accept_none 0", "ok");
    thief.expect("accept_none 2", "ok");
    // What it has is a listener of its own; it only is not that user's.
    program.expect(&format!("connect 127.0.0.1:{v4}"), "ok");
}

fn marks_are_taken_back() {
    let mut helper = Helper::start(&[]);
    let mut broker = Puppet::broker(USER, &hand_over(&ZONE, "block"));
    // 1000 is 0x3e8.
    let marked = 0x03e8_ad18.to_string();
    for refused_or_done in ["claim", "bad"] {
        let claim = match refused_or_done {
            "claim" => hand_over(&ZONE, "block"),
            _ => r#"{"steps":[{"to":[],"ports":[{"start":9,"end":8}],"verdict":"block"}],"default":"pass","on_broker_gone":"block"}"#.into(),
        };
        broker.ask(&format!("claim {claim}"));
        assert_eq!(broker.expect("mark 0", "ok"), marked);
        assert_eq!(broker.expect("mark 1", "ok"), marked);
    }
    broker.expect("release", "ok");
    assert_eq!(broker.expect("mark 0", "ok"), "0");
    assert_eq!(broker.expect("mark 1", "ok"), "0");
    broker.expect(&format!("claim {}", hand_over(&ZONE, "block")), "ok");
    assert_eq!(broker.expect("mark 0", "ok"), marked);
    broker.expect("leave", "ok");
    helper.wait_log("word is applied");
    // The session's end is answered for when another's claim is.
    Puppet::broker(OTHER, &hand_over(&ZONE, "block")).kill();
    assert_eq!(broker.expect("mark 0", "ok"), "0");
}

/// The helper does not start, what is there stays, and only a cleaning removes it.
fn check_strange(before: &str) {
    let strange = kernel_state();
    let (done, log) = adit_capture(&["--socket", SOCKET]);
    assert!(!done && log.contains("adit-capture --clean"), "{log}");
    assert_eq!(kernel_state(), strange);
    let (done, log) = adit_capture(&["--clean", "--uid", "1000"]);
    assert!(!done && log.contains("cannot be read back"), "{log}");
    assert_eq!(kernel_state(), strange);
    let (done, log) = adit_capture(&["--clean"]);
    assert!(done && log.contains("it is removed"), "{log}");
    assert_eq!(kernel_state(), before);
}

fn a_strange_table_stays() {
    let before = kernel_state();
    for rules in [
        "add table inet adit",
        "add table inet adit; add chain inet adit judge { type filter hook output priority -110; policy drop; }",
        "add table inet adit; add chain inet adit u1000_nat; add rule inet adit u1000_nat counter drop",
    ] {
        sh(&format!("nft '{rules}'"));
        check_strange(&before);
    }
    // What is everybody's, with as much in it as before, and doing something else.
    for change in [
        "nft replace rule inet adit judge handle $(nft -a list chain inet adit judge | sed -n 's/.*ad17.*handle //p') accept",
        "nft chain inet adit guard '{ policy drop; }'",
        "nft delete rule inet adit guard handle $(nft -a list chain inet adit guard | sed -n 's/.*ipv6.*handle //p')",
    ] {
        let helper = Helper::start(&[]);
        Puppet::broker(USER, &hand_over(&ZONE, "block")).kill();
        assert!(helper.stop().success());
        sh(change);
        check_strange(&before);
    }
    // A rule more in a table of ours is a strange table as well; who was refused by it still is.
    let mut server = leaky_zone();
    let before = kernel_state();
    let helper = Helper::start(&[]);
    let broker = Puppet::broker(USER, &hand_over(&ZONE, "block"));
    broker.kill();
    assert!(helper.stop().success());
    sh("nft insert rule inet adit u1000_open tcp dport 23 drop");
    let mut program = Puppet::of_user(USER);
    let (done, _) = adit_capture(&["--socket", SOCKET]);
    assert!(!done);
    check_refused(&mut program, &mut server);
    check_strange(&before);
}

/// The first line of many a firewall's configuration is `flush ruleset`.
fn a_flushed_ruleset_is_written_anew() {
    let mut server = leaky_zone();
    let before = kernel_state();
    let mut helper = Helper::start(&[]);
    let mut broker = Puppet::broker(USER, &hand_over(&ZONE, "block"));
    Puppet::broker(OTHER, &hand_over(&ZONE, "block")).kill();
    helper.wait_log("word is applied");
    let rules = sorted(&kernel_state());
    for line in ["flush ruleset", "delete table inet adit"] {
        sh(&format!("nft {line}"));
        helper.wait_log("written anew");
        assert_eq!(sorted(&kernel_state()), rules);
        Puppet::of_user(USER).expect("connect 10.9.0.2:443", "ok");
        broker.expect("accept 0", "ok");
        check_refused(&mut Puppet::of_user(OTHER), &mut server);
    }
    // What is changed in some other way is put right at our next change.
    sh("nft flush table inet adit; nft delete chain inet adit u1000_guard || true");
    broker.expect(&format!("claim {}", hand_over(&ZONE, "release")), "ok");
    check_refused(&mut Puppet::of_user(OTHER), &mut server);
    broker.expect("release", "ok");
    let mut other = Puppet::of_user(OTHER);
    other.expect("session", "ok");
    other.expect("release", "ok");
    assert_eq!(kernel_state(), before);
}

/// Chains are listed in the order in which they were made.
fn sorted(state: &str) -> Vec<String> {
    let mut lines: Vec<String> = state.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

fn until_idle() {
    let before = kernel_state();
    let helper = Helper::start(&["--until-idle"]);
    let mut broker = Puppet::broker(USER, &hand_over(&ZONE, "block"));
    broker.expect("release", "ok");
    broker.expect("leave", "ok");
    assert!(helper.wait().success());
    assert_eq!(kernel_state(), before);
    assert_eq!(sh("ls /run/adit/*.sock 2>/dev/null || echo none"), "none\n");
    // A claim that is left is something to do.
    let mut helper = Helper::start(&["--until-idle"]);
    Puppet::broker(USER, &hand_over(&ZONE, "block")).kill();
    helper.wait_log("word is applied");
    let mut broker = Puppet::of_user(USER);
    broker.expect("session", "ok");
    broker.expect("release", "ok");
    broker.kill();
    assert!(helper.wait().success());
    assert_eq!(kernel_state(), before);
}

fn clean() {
    let before = kernel_state();
    let helper = Helper::start(&[]);
    let first = Puppet::broker(USER, &hand_over(&ZONE, "block"));
    let second = Puppet::broker(OTHER, &hand_over(&ZONE, "block"));
    let (done, log) = adit_capture(&["--clean"]);
    assert!(!done && log.contains("already runs"), "{log}");
    // A program that the helper was about to run when it was killed must not keep the next one out: such a lock is its process's alone.
    let lock = sh("stat -c %i /run/adit/capture-*.lock");
    let locks = sh("cat /proc/locks");
    let of_helper = |line: &&str| line.contains(&format!(":{} ", lock.trim()));
    let kinds: Vec<_> = locks.lines().filter(of_helper).collect();
    assert!(kinds.len() == 1 && kinds[0].contains("POSIX"), "{kinds:?}");
    helper.kill();
    first.kill();
    second.kill();
    assert!(adit_capture(&["--clean", "--uid", "1000"]).0);
    let left = kernel_state();
    assert!(
        !left.contains("u1000_") && !left.contains("uidrange 1000-1000"),
        "{left}"
    );
    assert!(
        left.contains("u1001_nat") && left.contains("uidrange 1001-1001"),
        "{left}"
    );
    assert!(adit_capture(&["--clean"]).0);
    assert_eq!(kernel_state(), before);
    // Routes without rules, as after `nft flush ruleset`.
    let helper = Helper::start(&[]);
    let third = Puppet::broker(USER, &hand_over(&ZONE, "block"));
    helper.kill();
    third.kill();
    sh("nft flush ruleset");
    assert!(adit_capture(&["--clean"]).0);
    assert_eq!(kernel_state(), before);
}

fn one_helper() {
    let helper = Helper::start(&[]);
    let (done, log) = adit_capture(&["--socket", "/run/other.sock"]);
    assert!(!done);
    assert!(
        log.contains(&format!("process {}, listening at {SOCKET}", helper.pid())),
        "{log}"
    );
    // The first one is not disturbed.
    Puppet::broker(USER, &hand_over(&ZONE, "block")).expect("release", "ok");
}

fn socket_file() {
    let helper = Helper::start(&[]);
    assert_eq!(
        sh(&format!("stat -c %a {SOCKET}; stat -c %a /run/adit")),
        "666\n755\n"
    );
    helper.kill();
    let helper = Helper::start(&[]);
    Puppet::of_user(USER).expect("session", "ok");
    assert!(helper.stop().success());
    assert_eq!(sh("ls /run/adit/*.sock 2>/dev/null || echo none"), "none\n");
    sh(&format!("echo something of value > {SOCKET}"));
    let (done, log) = adit_capture(&["--socket", SOCKET]);
    assert!(!done && log.contains("is no socket"), "{log}");
    assert_eq!(sh(&format!("cat {SOCKET}")), "something of value\n");
}

fn socket_activation() {
    let listener = std::os::unix::net::UnixListener::bind(SOCKET.replace("/adit/", "/")).unwrap();
    let path = SOCKET.replace("/adit/", "/");
    sh(&format!(
        "chmod 666 {path}; mkdir /run/adit; ln -s {path} {SOCKET}"
    ));
    // What sd_listen_fds(3) asks for: the descriptor 3, and the pid of the program itself.
    let mut child = std::process::Command::new("sh")
        .args([
            "-c",
            "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" 3<&0 </dev/null",
        ])
        .arg(env!("CARGO_BIN_EXE_adit-capture"))
        .stdin(std::os::fd::OwnedFd::from(listener))
        .spawn()
        .unwrap();
    Puppet::of_user(USER).expect("session", "ok");
    sh(&format!("kill -TERM {}", child.id()));
    assert!(child.wait().unwrap().success());
    // The service manager's file is not ours to remove.
    sh(&format!("test -S {path}"));
}
