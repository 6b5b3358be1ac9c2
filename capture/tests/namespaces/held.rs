//! Connections that are held at their SYN: what each answer gives, and who may ask and answer.

use std::time::{Duration, Instant};

use crate::Case;
use crate::held_endings::queues;
use crate::lab::{Helper, Puppet, ask, hand_over, make_zone, sh};

pub(crate) const CASES: &[Case] = &[
    ("held_answers", held_answers),
    ("held_direct_leaves_no_mark", held_direct_leaves_no_mark),
    ("held_only_what_asks", held_only_what_asks),
    ("held_marks_of_others", held_marks_of_others),
    ("held_the_copy_has_no_power", held_the_copy_has_no_power),
    ("held_odd_answers", held_odd_answers),
    ("held_who_may_ask", held_who_may_ask),
    ("held_not_at_all", held_not_at_all),
    ("held_costs", held_costs),
];

const USER: u32 = 1000;
const OTHER: u32 = 1001;
const ZONE: [&str; 2] = ["10.9.0.0/24", "fd09::/64"];
const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn question(broker: &mut Puppet) -> (String, Vec<String>) {
    let said = broker.expect("question", "ok");
    let mut words = said.split(' ').map(str::to_owned);
    (words.next().unwrap(), words.collect())
}

/// The program asks, the broker answers; the program's errno.
pub(crate) fn answered(
    program: &mut Puppet,
    broker: &mut Puppet,
    to: &str,
    answer: &str,
) -> String {
    program.tell(&format!("errno {to}"));
    let (id, words) = question(broker);
    assert_eq!(words[1], to);
    broker.expect(&format!("answer {id} {answer}"), "ok");
    program.answer()
}

/// Beside each a connection that the kernel itself treats so, without a helper.
fn held_answers() {
    make_zone();
    sh("ip route add unreachable 10.8.0.0/16 && ip route add unreachable fd08::/16");
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:443 [fd09::2]:443", "ok");
    let mut program = Puppet::of_user(USER);
    let mut direct = |to: &str| program.ask(&format!("errno {to}"));
    let truths: Vec<[String; 3]> = [
        ["10.9.0.2:1", "10.8.0.1:443", "172.16.0.1:443"],
        ["[fd09::2]:1", "[fd08::1]:443", "[2001:db8::1]:443"],
    ]
    .iter()
    .map(|places| places.map(&mut direct))
    .collect();
    let _helper = Helper::start(&[]);
    let mut broker = Puppet::asker(USER, &["10.0.0.0/8", "fd00::/8"], "block");
    for (to, listener, truth) in [
        ("10.9.0.2:443", "0", &truths[0]),
        ("[fd09::2]:443", "1", &truths[1]),
        // Where there is no route: on its way to lo.
        ("10.7.0.1:443", "0", &truths[0]),
        ("[fd07::1]:443", "1", &truths[1]),
    ] {
        let [refused, host, network] = truth;
        assert_eq!([refused, host, network], ["111", "113", "101"]);
        assert_eq!(&answered(&mut program, &mut broker, to, "refuse"), refused);
        assert_eq!(&answered(&mut program, &mut broker, to, "host"), host);
        assert_eq!(&answered(&mut program, &mut broker, to, "network"), network);
        assert_eq!(answered(&mut program, &mut broker, to, "redirect"), "0");
        let accepted = broker.expect(&format!("accept {listener}"), "ok");
        assert!(accepted.ends_with(to), "{accepted}");
        server.expect(&format!("accept_none {listener}"), "ok");
    }
    // A direct one to where there is no route.
    for to in ["10.7.0.1:443", "[fd07::1]:443"] {
        assert_eq!(answered(&mut program, &mut broker, to, "direct"), "101");
    }
    for (to, listener) in [("10.9.0.2:443", "0"), ("[fd09::2]:443", "1")] {
        // The program's own address, at both ends; and where the question came from.
        program.tell(&format!("connect {to}"));
        let (id, words) = question(&mut broker);
        broker.expect(&format!("answer {id} direct"), "ok");
        let from = program.answer();
        assert_eq!(from, format!("ok {}", words[0]));
        let accepted = server.expect(&format!("accept {listener}"), "ok");
        assert!(accepted.starts_with(&words[0]), "{accepted}, {words:?}");
        broker.expect(&format!("accept_none {listener}"), "ok");
        // Silence: the same SYN again after a second, as a question of its own; then the program has had enough.
        program.tell(&format!("connect {to}"));
        let start = Instant::now();
        let (first, words) = question(&mut broker);
        broker.expect(&format!("answer {first} drop"), "ok");
        let (second, again) = question(&mut broker);
        assert!(first != second && words == again);
        assert!(start.elapsed() >= SECOND);
        assert_eq!(program.answer(), "TimedOut");
    }
}

/// Other programs' rules and routes see a connection without a mark, also when its SYN is sent again, and where they mark
/// connections themselves.
fn held_direct_leaves_no_mark() {
    make_zone();
    sh("nft add table inet witness
        nft add chain inet witness out '{ type filter hook postrouting priority 0; }'
        nft add rule inet witness out tcp dport 443 meta mark 0 ct mark 0 counter
        nft add rule inet witness out tcp dport 444 meta mark 0 ct mark 5 counter
        nft add rule inet witness out tcp dport 443-444 meta mark != 0 counter
        nft add rule inet witness out tcp dport 443-444 ct mark != { 0, 5 } counter
        nft add chain inet witness theirs '{ type filter hook output priority -150; }'
        nft add rule inet witness theirs tcp dport 444 ct mark set 5
        ip link add wrong0 type veth peer name wrong1 && ip link set wrong0 up && ip link set wrong1 up
        ip rule add pref 100 fwmark 0x1/0x1 lookup 77; ip -6 rule add pref 100 fwmark 0x1/0x1 lookup 77
        ip route add default dev wrong0 table 77; ip -6 route add default dev wrong0 table 77
        ip neigh add 10.9.0.77 lladdr 02:00:00:00:00:77 dev up0");
    let _helper = Helper::start(&[]);
    let mut server = Puppet::in_zone();
    let mut broker = Puppet::asker(USER, &ZONE, "block");
    broker.expect("always direct", "ok");
    let mut program = Puppet::of_user(USER);
    for port in [443, 444] {
        server.expect(&format!("listen 10.9.0.2:{port} [fd09::2]:{port}"), "ok");
        program.expect(&format!("connect 10.9.0.2:{port}"), "ok 10.9.0.1:");
        program.expect(&format!("connect [fd09::2]:{port}"), "ok [fd09::1]:");
        program.expect(&format!("connect 10.9.0.77:{port}"), "TimedOut");
    }
    let seen =
        sh("nft list chain inet witness out | sed -n 's/.*counter packets \\([0-9]*\\).*/\\1/p'");
    let seen: Vec<u32> = seen.lines().map(|count| count.parse().unwrap()).collect();
    // Two packets of each handshake at least, and a SYN that was sent twice.
    assert!(seen[0] >= 6 && seen[1] >= 6, "{seen:?}");
    assert_eq!(seen[2..], [0, 0]);
}

fn held_only_what_asks() {
    make_zone();
    let _helper = Helper::start(&[]);
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:80", "ok");
    let mut broker = Puppet::of_user(USER);
    broker.expect("listeners", "ok");
    broker.expect("session", "ok");
    let claim = r#"{"steps":[
        {"to":["10.9.0.2/32"],"ports":[{"start":80,"end":80}],"verdict":"pass"},
        {"to":["10.9.0.2/32"],"ports":[{"start":443,"end":443}],"verdict":"hand_over"},
        {"to":["10.9.0.2/32"],"ports":[{"start":23,"end":23}],"verdict":"block"},
        {"to":["10.9.0.0/24"],"ports":[],"verdict":"ask"}
    ],"default":"pass","on_broker_gone":"block"}"#
        .replace('\n', "");
    let why = broker.expect(&format!("claim {claim}"), "BadClaim");
    assert!(why.contains("needs a queue"), "{why}");
    broker.expect("queue", "ok");
    broker.expect(&format!("claim {claim}"), "ok");
    let mut program = Puppet::of_user(USER);
    program.expect("connect 10.9.0.2:80", "ok 10.9.0.1:");
    program.expect("connect 10.9.0.2:443", "ok");
    broker.expect("accept 0", "ok");
    program.expect("connect 10.9.0.2:23", "ConnectionRefused");
    broker.expect("no_question", "ok");
    // Other users, and the broker's own marked sockets.
    Puppet::of_user(OTHER).expect("connect 10.9.0.2:22", "ConnectionRefused");
    broker.expect("marked 10.9.0.2:22", "ConnectionRefused");
    broker.expect("no_question", "ok");
    assert_eq!(
        answered(&mut program, &mut broker, "10.9.0.2:22", "host"),
        "113"
    );
}

fn held_marks_of_others() {
    make_zone();
    let _helper = Helper::start(&["--allow-uid", "0"]);
    let mut broker = Puppet::asker(0, &ZONE, "block");
    // Root may mark its sockets.
    let mut program = Puppet::of_user(0);
    program.expect("connect_with_mark 7 10.9.0.2:443", "ok");
    broker.expect("accept 0", "ok");
    broker.expect("no_question", "ok");
    program.tell("connect_with_mark 0 10.9.0.2:443");
    let (id, _) = question(&mut broker);
    broker.expect(&format!("answer {id} redirect"), "ok");
    assert!(program.answer().starts_with("ok"));
}

/// `median maximum` in microseconds.
pub(crate) fn connect_times(program: &mut Puppet) -> (u64, u64) {
    let said = program.expect("time_connects 300 10.9.0.2:443", "ok");
    let (median, most) = said.split_once(' ').unwrap();
    (median.parse().unwrap(), most.parse().unwrap())
}

fn held_the_copy_has_no_power() {
    make_zone();
    let _helper = Helper::start(&["--allow-uid", "0"]);
    let mut user = Puppet::of_user(USER);
    user.expect("raw_queue", "ok");
    for how in ["to", "plain"] {
        assert_eq!(user.ask(&format!("try_power {how}")), "-1 -1 -1 -1 -1");
    }
    // A program that changes its user when it starts has root's powers, and may be given the copy as its standard output.
    let mut root = Puppet::of_user(0);
    root.expect("raw_queue", "ok");
    assert_eq!(root.ask("try_power plain"), "-1 -1 -1 -1 -1");
    assert_ne!(root.ask("try_power to"), "-1 -1 -1 -1 -1");
}

fn held_odd_answers() {
    make_zone();
    let _helper = Helper::start(&[]);
    for odd in ["0 0 0 1 7 0 0 0", "0 0 0 1 1 0 0 1", "0 0 0 1 0 0 0 0"] {
        let mut broker = Puppet::of_user(USER);
        broker.expect("raw_queue", "ok");
        // In two parts, and behind one about nobody.
        broker.expect("raw_answer 0 0 0 9 1 0 0 0 0 0 0", "ok");
        broker.expect("raw_answer 9 3 0 0 0", "ok");
        broker.expect(&format!("raw_answer {odd}"), "ok");
        let last = broker.ask("raw_last_word");
        assert!(
            last.contains("Protocol") && last.contains("not an answer"),
            "{last}"
        );
    }
    let mut broker = Puppet::asker(USER, &ZONE, "block");
    for id in [0, 5, u32::MAX] {
        broker.expect(&format!("answer {id} redirect"), "ok");
    }
    let mut program = Puppet::of_user(USER);
    assert_eq!(
        answered(&mut program, &mut broker, "10.9.0.2:443", "host"),
        "113"
    );
    broker.expect("marked 10.9.0.2:1", "ConnectionRefused");
}

fn held_who_may_ask() {
    let _helper = Helper::start(&[]);
    let mut system = Puppet::of_user(33);
    system.expect("session", "ok");
    system.expect("queue", "NotAllowed");
    let mut broker = Puppet::of_user(USER);
    broker.expect("session", "ok");
    broker.expect("queue", "ok");
    let why = broker.ask("queue");
    assert!(why.contains("a Queue is not legal now"), "{why}");
    broker.expect("gone", "ok");
    // Each session's queue is its own, and is closed with it.
    let mut brokers: Vec<Puppet> = (0..4)
        .map(|number| {
            let mut broker = Puppet::of_user(1000 + number);
            broker.expect("session", "ok");
            broker.expect("queue", "ok");
            broker
        })
        .collect();
    assert_eq!(queues().len(), 4);
    for broker in &mut brokers {
        broker.expect("leave", "ok");
    }
    for _ in 0..100 {
        if queues().is_empty() {
            return;
        }
        sh("sleep 0.02");
    }
    panic!("{:?}", queues());
}

/// A kernel without a queue, played by an nft that takes none and lists none.
fn held_not_at_all() {
    make_zone();
    sh(
        r#"mount -t tmpfs tmpfs /usr/games && cp "$(readlink -f /usr/sbin/nft)" /usr/games/nft
        cat > /run/nft <<'END'
#!/bin/sh
case "$*" in *tried*) echo '{"nftables": []}'; exit;; esac
exec /usr/games/nft "$@"
END
        chmod 755 /run/nft && mount --bind /run/nft "$(readlink -f /usr/sbin/nft)""#,
    );
    let mut helper = Helper::spawn(&[]);
    helper.wait_log("cannot be held");
    helper.wait_log("ready");
    let mut broker = Puppet::of_user(USER);
    broker.expect("listeners", "ok");
    broker.expect("session", "ok");
    let why = broker.expect("queue", "NoQueue");
    assert!(
        why.contains("by nftables: ") && why.contains("by xtables: "),
        "{why}"
    );
    broker.expect(&format!("claim {}", ask(&ZONE, "block")), "BadClaim");
    broker.expect(&format!("claim {}", hand_over(&ZONE, "block")), "ok");
    Puppet::of_user(USER).expect("connect 10.9.0.2:443", "ok");
    broker.expect("accept 0", "ok");
}

/// Not judged, only told: what holding adds to a connection, and what the helper takes for a verdict.
fn held_costs() {
    make_zone();
    let helper = Helper::start(&[]);
    let mut server = Puppet::in_zone();
    server.expect("listen 10.9.0.2:443", "ok");
    let mut program = Puppet::of_user(USER);
    let _ = connect_times(&mut program);
    let without = connect_times(&mut program);
    let mut broker = Puppet::asker(USER, &ZONE, "block");
    broker.expect("always direct", "ok");
    let _ = connect_times(&mut program);
    let before = effort(&helper);
    let held = connect_times(&mut program);
    let after = effort(&helper);
    println!("median, p99: {without:?} us without, {held:?} us held and direct");
    let (verdicts, micros, wakeups) = (300.0, after.0 - before.0, after.1 - before.1);
    println!(
        "the helper: {:.1} us and {:.2} wake-ups a verdict",
        micros / verdicts,
        wakeups / verdicts
    );
}

/// Microseconds on a processor, and how often it began to wait (proc(5)).
fn effort(helper: &Helper) -> (f64, f64) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", helper.pid()));
    let (schedule, status) = (read("schedstat").unwrap(), read("status").unwrap());
    let nanos: f64 = schedule.split(' ').next().unwrap().parse().unwrap();
    let waits = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    (nanos / 1000.0, waits.unwrap().trim().parse().unwrap())
}
