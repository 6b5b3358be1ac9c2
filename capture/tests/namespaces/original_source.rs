//! Which client a redirected connection is of, when the redirect had to change its source port.

use crate::Case;
use crate::lab::{Helper, Puppet, hand_over, make_zone};

pub(crate) const CASES: &[Case] = &[
    ("a_changed_source_port_v4", a_changed_source_port_v4),
    ("a_changed_source_port_v6", a_changed_source_port_v6),
    (
        "the_source_of_others_is_not_told",
        the_source_of_others_is_not_told,
    ),
    (
        "no_source_is_told_without_a_claim",
        no_source_is_told_without_a_claim,
    ),
];

const USER: u32 = 1000;
const OTHER: u32 = 1001;

fn claim() -> String {
    hand_over(&["10.9.0.0/24", "fd09::/64"], "block")
}

/// Connects and accepts: what the listener sees as the peer.
fn captured(program: &mut Puppet, broker: &mut Puppet, from: &str, to: &str) -> String {
    program.expect(&format!("connect_from {from} {to}"), "ok");
    let listener = u8::from(to.starts_with('['));
    let accepted = broker.expect(&format!("accept {listener}"), "ok");
    let (peer, original) = accepted.split_once(' ').unwrap();
    assert_eq!(original, to);
    peer.to_owned()
}

fn check(here: &str, there: &str) {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut broker = Puppet::broker(USER, &claim());
    let (mut program, mut later) = (Puppet::of_user(USER), Puppet::of_user(USER));
    let (client, first, second) = (
        format!("{here}:40000"),
        format!("{there}:443"),
        format!("{there}:444"),
    );
    let listener = u8::from(here.starts_with('['));
    let source_of =
        |broker: &mut Puppet, peer: &str| broker.ask(&format!("original_source {listener} {peer}"));

    let peer = captured(&mut program, &mut broker, &client, &first);
    assert_eq!(peer, client);
    assert_eq!(source_of(&mut broker, &peer), format!("ok {client}"));
    program.expect("reset", "ok");

    // The first one is gone, and conntrack still lists it.
    let peer = captured(&mut program, &mut broker, &client, &second);
    assert_ne!(peer, client);
    assert_eq!(broker.ask(&format!("owner {peer} {second}")), "none");
    assert_eq!(source_of(&mut broker, &peer), format!("ok {client}"));

    // A socket that really has the port which the redirect had picked: to go by the peer would take it for the client.
    let moved = captured(&mut later, &mut broker, &peer, &second);
    assert_ne!(moved, peer);
    let guessed = broker.ask(&format!("owner {peer} {second}"));
    assert!(
        guessed.starts_with(&format!("{USER} {} ", later.pid())),
        "{guessed}"
    );
    assert_eq!(source_of(&mut broker, &peer), format!("ok {client}"));
    assert_eq!(source_of(&mut broker, &moved), format!("ok {peer}"));
    let owner = broker.ask(&format!("owner {client} {second}"));
    assert!(
        owner.starts_with(&format!("{USER} {} ", program.pid())),
        "{owner}"
    );

    assert_eq!(source_of(&mut broker, &format!("{here}:9")), "none");
    let took = broker.expect(&format!("bench_source {listener} {moved}"), "ok");
    println!("µs for one original source: {took}");
}

fn a_changed_source_port_v4() {
    check("10.9.0.1", "10.9.0.2");
}

fn a_changed_source_port_v6() {
    check("[fd09::1]", "[fd09::2]");
}

fn the_source_of_others_is_not_told() {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut broker = Puppet::broker(USER, &claim());
    let mut other = Puppet::broker(OTHER, &claim());
    let mut program = Puppet::of_user(USER);
    let peer = captured(&mut program, &mut broker, "10.9.0.1:40000", "10.9.0.2:443");
    let own = broker.ask("address 0");
    for listener in [&own, "127.0.0.1:0", "127.0.0.2:1", "10.9.0.1:443"] {
        let answer = other.ask(&format!("original_source_at {listener} {peer}"));
        assert!(answer.starts_with("BadListener"), "{listener}: {answer}");
    }
    // Its own listener never saw that one. The session is none the worse for all this.
    assert_eq!(other.ask(&format!("original_source 0 {peer}")), "none");
    let mixed = other.ask("original_source 0 [fd09::1]:40000");
    assert!(mixed.starts_with("BadListener"), "{mixed}");
    let told = broker.ask(&format!("original_source_at {own} {peer}"));
    assert_eq!(told, format!("ok {peer}"));
    // A new claim with other listeners: the old ones are nobody's any more.
    broker.expect("listeners_anew", "ok");
    broker.expect(&format!("claim {}", claim()), "ok");
    let old = broker.ask(&format!("original_source_at {own} {peer}"));
    assert!(old.starts_with("BadListener"), "{old}");
}

fn no_source_is_told_without_a_claim() {
    make_zone();
    let _helper = Helper::start(&[]);
    let ask = "original_source 0 10.9.0.1:40000";
    let refused = "Protocol a OriginalSources is not legal now (Greeted)";
    let mut broker = Puppet::of_user(USER);
    broker.expect("listeners", "ok");
    broker.expect("session", "ok");
    assert_eq!(broker.ask(ask), refused);
    broker.expect("gone", "ok");
    let mut broker = Puppet::broker(USER, &claim());
    assert_eq!(broker.ask(ask), "none");
    broker.expect("release", "ok");
    assert_eq!(broker.ask(ask), refused);
}
