//! Many connections that are held, and what becomes of them when nobody answers any more.

use std::time::{Duration, Instant};

use crate::Case;
use crate::held::{answered, connect_times, question};
use crate::lab::{Helper, Puppet, ask, hand_over, kernel_state, make_zone, sh};

pub(crate) const CASES: &[Case] = &[
    ("held_broker_killed_block", held_broker_killed_block),
    ("held_broker_killed_release", held_broker_killed_release),
    ("held_released", held_released),
    ("held_claim_without_asking", held_claim_without_asking),
    ("held_helper_killed", held_helper_killed),
    ("held_helper_killed_half_way", held_helper_killed_half_way),
    ("held_helper_stopped", held_helper_stopped),
    ("held_given_up", held_given_up),
    ("held_given_up_does_not_leak", held_given_up_does_not_leak),
    (
        "held_a_full_queue_is_nobody_elses",
        held_a_full_queue_is_nobody_elses,
    ),
    ("held_a_flood_is_bounded", held_a_flood_is_bounded),
    ("held_questions_have_a_rate", held_questions_have_a_rate),
    ("held_shares", held_shares),
    ("held_table_deleted", held_table_deleted),
];

const USER: u32 = 1000;
const OTHER: u32 = 1001;
const ZONE: [&str; 2] = ["10.9.0.0/24", "fd09::/64"];
const CROWD: usize = 500;
const SECOND: Duration = Duration::from_secs(1);
/// Less than it takes until a SYN that was lost is sent again.
const AT_ONCE: Duration = Duration::from_millis(800);

/// Many are held, and something happens: what becomes of them all, within this time.
fn check_crowd(program: &mut Puppet, event: impl FnOnce(), within: Duration, expected: &str) {
    let start = Instant::now();
    event();
    let said = program.ask(&format!("outcome {}", within.as_millis()));
    assert_eq!(said, expected);
    println!("{CROWD} held: {said} after {:?}", start.elapsed());
}

/// A zone that can be reached directly, a helper, a broker that is asked, and a program with many connections.
fn crowd(word: &str) -> (Puppet, Helper, Puppet, Puppet) {
    make_zone();
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:443", "ok");
    let helper = Helper::start(&[]);
    let mut broker = Puppet::asker(USER, &ZONE, word);
    let mut program = Puppet::of_user(USER);
    program.expect(&format!("start {CROWD} 10.9.0.2:443"), "ok");
    broker.expect(&format!("questions {CROWD}"), "ok");
    (server, helper, broker, program)
}

fn held_broker_killed_block() {
    let (mut server, mut helper, broker, mut program) = crowd("block");
    check_crowd(&mut program, || broker.kill(), AT_ONCE, "500x111");
    server.expect("accept_none 0", "ok");
    helper.wait_log("word is applied");
    let rules = sh("nft list map inet adit held");
    assert!(!rules.contains("goto"), "{rules}");
    // The next broker is asked again.
    let mut broker = Puppet::asker(USER, &ZONE, "block");
    assert_eq!(
        answered(&mut program, &mut broker, "10.9.0.2:443", "network"),
        "101"
    );
}

fn held_broker_killed_release() {
    let (mut server, mut helper, broker, mut program) = crowd("release");
    check_crowd(&mut program, || broker.kill(), AT_ONCE, "500x0");
    helper.wait_log("word is applied");
    (0..CROWD).for_each(|_| drop(server.expect("accept 0", "ok")));
    assert!(!kernel_state().contains("adit"));
}

fn held_released() {
    let (mut server, _helper, mut broker, mut program) = crowd("block");
    let release = || {
        broker.expect("release", "ok");
    };
    check_crowd(&mut program, release, AT_ONCE, "500x0");
    server.expect("accept 0", "ok");
    assert!(!kernel_state().contains("adit"));
    // The session's queue is good for another claim.
    broker.expect(&format!("claim {}", ask(&ZONE, "block")), "ok");
    assert_eq!(
        answered(&mut program, &mut broker, "10.9.0.2:443", "host"),
        "113"
    );
}

fn held_claim_without_asking() {
    let (mut server, _helper, mut broker, mut program) = crowd("block");
    let claim = || {
        broker.expect(&format!("claim {}", hand_over(&ZONE, "block")), "ok");
    };
    check_crowd(&mut program, claim, AT_ONCE, "500x0");
    server.expect("accept_none 0", "ok");
    (0..CROWD).for_each(|_| drop(broker.expect("accept 0", "ok")));
    // And one that asks again.
    broker.expect(&format!("claim {}", ask(&ZONE, "block")), "ok");
    assert_eq!(
        answered(&mut program, &mut broker, "10.9.0.2:443", "refuse"),
        "111"
    );
}

fn held_helper_killed() {
    let (mut server, helper, mut broker, mut program) = crowd("block");
    helper.kill();
    broker.expect("gone", "ok");
    // The SYNs are sent again after a second, and nobody has the queue open: they are handed over.
    let close = || {
        broker.expect("drop_queue", "ok");
    };
    check_crowd(&mut program, close, SECOND * 3, "500x0");
    server.expect("accept_none 0", "ok");
    (0..CROWD).for_each(|_| drop(broker.expect("accept 0", "ok")));
    // The next helper finds the rules, and the broker is asked again.
    let rules = kernel_state();
    let _helper = Helper::start(&[]);
    assert_eq!(kernel_state(), rules);
    program.expect("connect 10.9.0.2:443", "ok");
    broker.expect("accept 0", "ok");
    broker.expect("session", "ok");
    broker.expect("queue", "ok");
    broker.expect(&format!("claim {}", ask(&ZONE, "block")), "ok");
    assert_eq!(
        answered(&mut program, &mut broker, "10.9.0.2:443", "host"),
        "113"
    );
}

/// A helper that was killed before it could write the rule that leads to the queue: what it left is no stranger's.
fn held_helper_killed_half_way() {
    let (mut server, helper, broker, _program) = crowd("block");
    helper.kill();
    broker.kill();
    // Without iptables installed, nft lists the rule as nothing but its handle.
    sh("chain='inet adit u1000_queue44288'
        nft delete rule $chain handle $(nft -a list chain $chain | sed -n '/limit/d; s/^\t\t.*handle //p')");
    let rules = kernel_state();
    let _helper = Helper::start(&[]);
    assert_eq!(kernel_state(), rules);
    let mut program = Puppet::of_user(USER);
    program.expect("connect 10.9.0.2:443", "ConnectionRefused");
    server.expect("accept_none 0", "ok");
    // Its number is still taken; another user gets the next.
    let mut other = Puppet::asker(OTHER, &ZONE, "block");
    assert!(sh("nft list chains inet").contains("u1001_queue44289"));
    other.expect("release", "ok");
    let mut broker = Puppet::asker(USER, &ZONE, "block");
    assert_eq!(
        answered(&mut program, &mut broker, "10.9.0.2:443", "host"),
        "113"
    );
}

fn held_helper_stopped() {
    let (mut server, helper, _broker, mut program) = crowd("block");
    let stop = || assert!(helper.stop().success());
    check_crowd(&mut program, stop, AT_ONCE, "500x111");
    server.expect("accept_none 0", "ok");
}

/// A program that does not wait, and one that takes its source port.
fn held_given_up() {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut broker = Puppet::asker(USER, &ZONE, "block");
    let mut program = Puppet::of_user(USER);
    program.expect("start 3 10.9.0.2:443", "ok");
    broker.expect("questions 3", "ok 1 3");
    program.expect("give_up", "ok");
    // All of it is answered in vain, and nothing comes of it.
    for (id, answer) in [(1, "redirect"), (2, "refuse"), (3, "direct")] {
        broker.expect(&format!("answer {id} {answer}"), "ok");
    }
    broker.expect("accept_none 0", "ok");
    for answer in ["refuse", "redirect"] {
        program.tell("connect_from 10.9.0.1:5555 10.9.0.2:443");
        let (id, words) = question(&mut broker);
        assert_eq!(words[0], "10.9.0.1:5555");
        broker.expect(&format!("answer {id} {answer}"), "ok");
        match answer {
            "refuse" => assert_eq!(program.answer(), "ConnectionRefused"),
            _ => assert_eq!(program.answer(), "ok 10.9.0.1:5555"),
        }
    }
    broker.expect("accept 0", "ok");
}

/// A socket that was closed has no user any more, by whom the rules would know where its SYN has to go.
fn held_given_up_does_not_leak() {
    make_zone();
    sh("nft add table inet witness
        nft add chain inet witness out '{ type filter hook postrouting priority 0; }'
        nft add rule inet witness out oifname up0 tcp dport 443 counter");
    let mut helper = Helper::start(&[]);
    let mut broker = Puppet::asker(USER, &ZONE, "block");
    let mut program = Puppet::of_user(USER);
    for to in ["10.9.0.2:443", "[fd09::2]:443"] {
        program.tell(&format!("start 2 {to}"));
        assert_eq!(program.answer(), "ok");
        let ids = broker.expect("questions 2", "ok");
        program.expect("give_up", "ok");
        for id in ids.split(' ') {
            broker.expect(&format!("answer {id} redirect"), "ok");
        }
    }
    // And those that are held when nobody is left to answer.
    program.expect("start 2 10.9.0.2:443", "ok");
    broker.expect("questions 2", "ok");
    program.expect("give_up", "ok");
    broker.kill();
    helper.wait_log("word is applied");
    let seen = sh("nft list chain inet witness out");
    assert!(seen.contains("packets 0 "), "{seen}");
}

/// What `/proc/net/netfilter/nfnetlink_queue` says of a queue: held, and dropped because it was full.
pub(crate) fn queues() -> Vec<(u32, u32)> {
    let text = std::fs::read_to_string("/proc/net/netfilter/nfnetlink_queue").unwrap();
    let number = |word: Option<&str>| word.unwrap().parse().unwrap();
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            (number(words.nth(2)), number(words.nth(2)))
        })
        .collect()
}

fn held_a_full_queue_is_nobody_elses() {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:443", "ok");
    let mut quick = Puppet::asker(OTHER, &ZONE, "block");
    quick.expect("always direct", "ok");
    let mut of_other = Puppet::of_user(OTHER);
    let _ = connect_times(&mut of_other);
    let before = connect_times(&mut of_other);
    // This one reads nothing, and its user has more than may be held.
    let broker = Puppet::asker(USER, &ZONE, "block");
    let mut program = Puppet::of_user(USER);
    program.expect("start 5000 10.9.0.2:443", "ok");
    let held: Vec<u32> = queues().iter().map(|(held, _)| *held).collect();
    assert_eq!(held.iter().max(), Some(&4096), "{held:?}");
    let meanwhile = connect_times(&mut of_other);
    println!("median, p99: {before:?} us before, {meanwhile:?} us beside a full queue");
    assert!(meanwhile.0 <= 2 * before.0 + 20, "{before:?} {meanwhile:?}");
    check_crowd(&mut program, || broker.kill(), SECOND * 4, "5000x111");
    server.expect("accept 0", "ok");
}

/// More than are held or may be asked for are dropped by the kernel: nobody has to hear of them.
fn held_a_flood_is_bounded() {
    make_zone();
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:443 10.9.0.2:444", "ok");
    let mut helper = Helper::start(&[]);
    let mut broker = Puppet::asker(USER, &ZONE, "block");
    // Two programs, as each may have so many files, and two ports, as to each there are so many source ports.
    let mut programs = [443, 444].map(|port| (Puppet::of_user(USER), port));
    for (program, port) in &mut programs {
        program.tell(&format!("start 10000 10.9.0.2:{port}"));
    }
    for (program, _) in &mut programs {
        assert_eq!(program.answer(), "ok");
    }
    let held: Vec<u32> = queues().iter().map(|(held, _)| *held).collect();
    assert!(held.iter().all(|held| *held <= 4096), "{held:?}");
    broker.expect("questions 4096", "ok");
    broker.expect("leave", "ok");
    helper.wait_log("word is applied");
    // Not one of them got through; who was dropped comes again, and is refused as well.
    for (program, _) in &mut programs {
        assert_eq!(program.ask("outcome 19000"), "10000x111");
    }
    server.expect("accept_none 0", "ok");
    server.expect("accept_none 1", "ok");
}

/// No more than 8192 at once and 16,000 in a second come as far as the queue, where those beyond 4096 are dropped for want of room.
fn held_questions_have_a_rate() {
    make_zone();
    let _helper = Helper::start(&["--allow-uid", "0"]);
    let _broker = Puppet::asker(0, &ZONE, "block");
    // Sockets would be too slow: only root may send SYNs without.
    let mut program = Puppet::of_user(0);
    let said = program.expect("syns 60000 10.9.0.2:443", "ok");
    let (asked, millis) = said.split_once(' ').unwrap();
    let (asked, millis): (u32, u32) = (asked.parse().unwrap(), millis.parse().unwrap());
    let most = 8192 + 16 * (millis + 1);
    println!("{asked} of 60000 SYNs in {millis} ms: at most {most}");
    assert!(most < 60_000, "too slow to be too fast: {millis} ms");
    assert!((8192..=most).contains(&asked), "{asked}, at most {most}");
    assert_eq!(queues(), [(4096, asked - 4096)]);
}

/// In all users together no more than 16,384.
fn held_shares() {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut brokers: Vec<Puppet> = (0..6)
        .map(|number| Puppet::asker(1000 + number, &ZONE, "block"))
        .collect();
    // 16,384 by six.
    let mut program = Puppet::of_user(1003);
    program.expect("start 3000 10.9.0.2:443", "ok");
    let held = |queues: Vec<(u32, u32)>| queues.iter().map(|(held, _)| *held).max();
    assert_eq!(held(queues()), Some(2730));
    // With three there is room for 4096 of each; those that were dropped are sent again.
    for broker in brokers.drain(4..) {
        broker.kill();
    }
    brokers[0].expect("release", "ok");
    brokers[3].expect("questions 3000", "ok 1 3000");
    assert_eq!(held(queues()), Some(3000));
}

fn held_table_deleted() {
    let (mut server, mut helper, mut broker, mut program) = crowd("block");
    let rules = sh("nft list table inet adit | sort");
    sh("nft delete table inet adit");
    helper.wait_log("written anew");
    assert_eq!(sh("nft list table inet adit | sort"), rules);
    // The kernel dropped what was held with the hook that held it; it is asked about again.
    broker.expect(&format!("questions {CROWD}"), "ok 501 1000");
    server.expect("accept_none 0", "ok");
    check_crowd(&mut program, || broker.kill(), AT_ONCE, "500x111");
}
