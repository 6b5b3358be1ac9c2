//! What programs see: handed over, passed, refused.

use crate::Case;
use crate::lab::{Helper, Puppet, hand_over, kernel_state, make_zone, sh};

pub(crate) const CASES: &[Case] = &[
    ("handed_over_without_a_route", handed_over_without_a_route),
    ("everything_handed_over", everything_handed_over),
    ("pass_block_and_order", pass_block_and_order),
    ("marked_sockets_get_through", marked_sockets_get_through),
    ("two_users", two_users),
    (
        "a_family_without_a_listener_is_refused",
        a_family_without_a_listener_is_refused,
    ),
    (
        "connections_from_before_go_on",
        connections_from_before_go_on,
    ),
    (
        "a_claim_replaces_the_one_before",
        a_claim_replaces_the_one_before,
    ),
    (
        "release_leaves_everything_as_it_was",
        release_leaves_everything_as_it_was,
    ),
    ("multipath_tcp_is_captured", multipath_tcp_is_captured),
];

const USER: u32 = 1000;
const OTHER: u32 = 70_001;

/// A program of the user connects, the broker is given the connection, and knows where it wanted to go.
fn check_handed_over(broker: &mut Puppet, program: &mut Puppet, to: &str) {
    let from = program.expect(&format!("connect {to}"), "ok");
    let listener = if to.starts_with('[') { "1" } else { "0" };
    assert_eq!(
        broker.expect(&format!("accept {listener}"), "ok"),
        format!("{from} {to}")
    );
}

fn handed_over_without_a_route() {
    let _helper = Helper::start(&[]);
    let mut program = Puppet::of_user(USER);
    for to in ["10.1.2.3:443", "[fd00::5]:443"] {
        program.expect(&format!("connect {to}"), "NetworkUnreachable");
    }
    let mut broker = Puppet::broker(USER, &hand_over(&["10.1.0.0/16", "fd00::/8"], "block"));
    for to in [
        "10.1.2.3:443",
        "[fd00::5]:443",
        "10.1.255.255:1",
        "[fdff::1]:65535",
    ] {
        check_handed_over(&mut broker, &mut program, to);
    }
    // What is not claimed is as it was, and so is another user.
    program.expect("connect 10.2.0.1:443", "NetworkUnreachable");
    let mut other = Puppet::of_user(OTHER);
    other.expect("connect 10.1.2.3:443", "NetworkUnreachable");
    let mut root = Puppet::of_user(0);
    root.expect("connect 10.1.2.3:443", "NetworkUnreachable");
}

fn everything_handed_over() {
    let _helper = Helper::start(&[]);
    let claim = r#"{"steps":[],"default":"hand_over","on_broker_gone":"block"}"#;
    let mut broker = Puppet::broker(USER, claim);
    let mut program = Puppet::of_user(USER);
    for to in ["8.8.8.8:53", "[2001:db8::1]:80"] {
        check_handed_over(&mut broker, &mut program, to);
    }
    // Local ones are nobody's business.
    program.expect("listen 127.0.0.1:7777", "ok");
    let from = program.expect("connect 127.0.0.1:7777", "ok");
    program.expect("accept 0", &format!("ok {from} 127.0.0.1:7777"));
    broker.expect("accept_none 0", "ok");
}

fn pass_block_and_order() {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut server = Puppet::in_zone();
    for port in [80, 23, 443, 22] {
        server.expect(&format!("listen 10.9.0.2:{port} [fd09::2]:{port}"), "ok");
    }
    let claim = r#"{"steps":[
        {"to":["10.9.0.2/32","fd09::2/128"],"ports":[{"start":80,"end":81}],"verdict":"pass"},
        {"to":[],"ports":[{"start":23,"end":23}],"verdict":"block"},
        {"to":["10.9.0.0/24","fd09::/64"],"ports":[{"start":1,"end":442},{"start":443,"end":1000}],"verdict":"hand_over"}
    ],"default":"pass","on_broker_gone":"block"}"#
        .replace('\n', "");
    let mut broker = Puppet::broker(USER, &claim);
    let mut program = Puppet::of_user(USER);
    program.expect("connect 10.9.0.2:80", "ok 10.9.0.1:");
    program.expect("connect [fd09::2]:80", "ok [fd09::1]:");
    server.expect("accept 0", "ok 10.9.0.1:");
    server.expect("accept 1", "ok [fd09::1]:");
    for to in ["10.9.0.2:23", "[fd09::2]:23", "10.9.0.77:23"] {
        program.expect(&format!("connect {to}"), "ConnectionRefused");
    }
    for to in [
        "10.9.0.2:443",
        "[fd09::2]:443",
        "10.9.0.2:22",
        "10.9.0.200:1000",
    ] {
        check_handed_over(&mut broker, &mut program, to);
    }
    // Beyond the claimed ports: the host's own answer.
    program.expect("connect 10.9.0.2:2000", "ConnectionRefused");
    broker.expect("accept_none 0", "ok");
}

fn marked_sockets_get_through() {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:443 [fd09::2]:443", "ok");
    let mut broker = Puppet::broker(USER, &hand_over(&["0.0.0.0/0", "::/0"], "block"));
    broker.expect("marked 10.9.0.2:443", "ok 10.9.0.1:");
    broker.expect("marked [fd09::2]:443", "ok [fd09::1]:");
    server.expect("accept 0", "ok 10.9.0.1:");
    server.expect("accept 1", "ok [fd09::1]:");
    // Without the mark the broker is a program of its user like any other.
    broker.expect("connect 10.9.0.2:443", "ok");
    broker.expect("accept 0", "ok");
    // The routes of last resort are not for marked ones: they see the truth.
    broker.expect("marked 172.16.0.1:443", "NetworkUnreachable");
}

fn two_users() {
    let _helper = Helper::start(&[]);
    let mut first = Puppet::broker(USER, &hand_over(&["10.1.0.0/16"], "block"));
    let mut second = Puppet::broker(OTHER, &hand_over(&["10.0.0.0/8", "fd00::/8"], "release"));
    let (mut of_first, mut of_second) = (Puppet::of_user(USER), Puppet::of_user(OTHER));
    check_handed_over(&mut first, &mut of_first, "10.1.2.3:443");
    check_handed_over(&mut second, &mut of_second, "10.1.2.3:443");
    of_first.expect("connect [fd00::1]:443", "NetworkUnreachable");
    let rules_of = |uid: u32| sh(&format!("nft list chain inet adit u{uid}_nat"));
    let before = rules_of(OTHER);
    first.expect("release", "ok");
    assert_eq!(rules_of(OTHER), before);
    of_first.expect("connect 10.1.2.3:443", "NetworkUnreachable");
    check_handed_over(&mut second, &mut of_second, "[fd00::1]:443");
    second.expect("accept_none 0", "ok");
}

fn a_family_without_a_listener_is_refused() {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:443 [fd09::2]:443", "ok");
    let mut broker = Puppet::of_user(USER);
    broker.expect("listen 127.0.0.1:0", "ok");
    broker.expect("session", "ok");
    broker.expect(
        &format!("claim {}", hand_over(&["0.0.0.0/0", "::/0"], "block")),
        "ok",
    );
    let mut program = Puppet::of_user(USER);
    check_handed_over(&mut broker, &mut program, "10.9.0.2:443");
    program.expect("connect [fd09::2]:443", "ConnectionRefused");
}

/// Conntrack starts with our table, and takes connections that it has not seen begin for new ones.
fn connections_from_before_go_on() {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:443", "ok");
    let mut program = Puppet::of_user(USER);
    program.expect("connect 10.9.0.2:443", "ok");
    server.expect("accept 0", "ok");
    program.expect("talk", "ok");
    let mut broker = Puppet::broker(USER, &hand_over(&["10.9.0.0/24"], "block"));
    program.expect("talk", "ok");
    server.expect("hear", "ok 2");
    broker.expect("accept_none 0", "ok");
}

/// Multipath TCP (mptcp, RFC 8684) makes the sockets that speak on the wire itself; they are the user's all the same.
fn multipath_tcp_is_captured() {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:443 [fd09::2]:443", "ok");
    let mut broker = Puppet::broker(USER, &hand_over(&["10.0.0.0/8", "fd00::/8"], "block"));
    let mut program = Puppet::of_user(USER);
    for (to, listener) in [
        ("10.9.0.2:443", "0"),
        ("[fd09::2]:443", "1"),
        ("10.1.2.3:443", "0"),
    ] {
        let from = program.expect(&format!("connect_mptcp {to}"), "ok");
        let accepted = broker.expect(&format!("accept {listener}"), "ok");
        assert_eq!(accepted, format!("{from} {to}"));
        let owner = broker.ask(&format!("owner {accepted}"));
        assert!(
            owner.starts_with(&format!("{USER} {} ", program.pid())),
            "{owner}"
        );
    }
    server.expect("accept_none 0", "ok");
    broker.kill();
}

fn a_claim_replaces_the_one_before() {
    let _helper = Helper::start(&[]);
    let mut broker = Puppet::broker(USER, &hand_over(&["10.1.0.0/16"], "block"));
    let mut program = Puppet::of_user(USER);
    check_handed_over(&mut broker, &mut program, "10.1.2.3:443");
    broker.expect(
        &format!("claim {}", hand_over(&["10.2.0.0/16"], "release")),
        "ok",
    );
    check_handed_over(&mut broker, &mut program, "10.2.2.3:443");
    program.expect("connect 10.1.2.3:443", "NetworkUnreachable");
    // A refused one changes nothing.
    let before = kernel_state();
    let empty_range = r#"{"steps":[{"to":[],"ports":[{"start":9,"end":8}],"verdict":"block"}],"default":"pass","on_broker_gone":"block"}"#;
    broker.expect(&format!("claim {empty_range}"), "BadClaim");
    assert_eq!(kernel_state(), before);
    check_handed_over(&mut broker, &mut program, "10.2.2.3:443");
}

fn release_leaves_everything_as_it_was() {
    sh("nft add table inet foreign
        nft add chain inet foreign out '{ type filter hook output priority 5; policy accept; }'
        ip rule add pref 32800 from 192.0.2.1 lookup 77 && ip route add 192.0.2.0/24 dev lo table 77");
    let before = kernel_state();
    let _helper = Helper::start(&[]);
    assert_eq!(kernel_state(), before);
    let claim = r#"{"steps":[{"to":["10.0.0.0/9"],"ports":[],"verdict":"pass"}],"default":"hand_over","on_broker_gone":"block"}"#;
    let mut first = Puppet::broker(USER, claim);
    let mut second = Puppet::broker(OTHER, &hand_over(&["fd00::/8"], "release"));
    assert_ne!(kernel_state(), before);
    first.expect("release", "ok");
    second.expect("release", "ok");
    assert_eq!(kernel_state(), before);
}
