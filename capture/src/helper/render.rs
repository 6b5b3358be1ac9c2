//! From programs to the text of one nft transaction. Nothing here is taken from a peer as text: numbers and addresses only.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use adit_capture::Family;
use adit_capture::mark::{self, DIRECT, HOST_UNREACHABLE, MARK, MASK, NETWORK_UNREACHABLE, REFUSE};
use adit_capture::wire::QueueBy;

use super::program::{Action, ChainName, Live, Program, QueueRule, Role, Rule};
use super::ranges::{Ranges, last_address};

/// The table that is ours.
pub(crate) const TABLE: &str = "inet adit";
/// A table that is there for a moment when a helper starts.
const PROBE: &str = "inet adit_probe";
/// In which a queue's rule is tried out.
pub(crate) const PROBE_CHAIN: &str = "tried";
pub(crate) const PROBE_QUEUE: u16 = 1;

/// Only a connection's first packet is judged: conntrack takes up connections that it has not seen begin as new ones too, and
/// those have to go on as they are. The first rule of each chain, as most packets meet no other.
const NOT_A_SYN: &str = "tcp flags & (fin | syn | rst | ack) != syn";

/// What a user may ask for in a second, and at once. A SYN beyond is dropped, and sent again a second later (RFC 6298, 2.1).
pub(crate) const RATE: u32 = 16_000;
pub(crate) const BURST: u32 = 8192;

/// The maps that lead to users' chains, with the type of their keys.
pub(crate) const MAPS: [(&str, &str); 5] = [
    (HELD, "uid"),
    (CAPTURED, "uid"),
    (JUDGED, "uid"),
    (GUARDED_V4, "inet_service"),
    (GUARDED_V6, "inet_service"),
];
pub(crate) const HELD: &str = "held";
pub(crate) const CAPTURED: &str = "captured";
pub(crate) const JUDGED: &str = "judged";
pub(crate) const GUARDED_V4: &str = "guarded_v4";
pub(crate) const GUARDED_V6: &str = "guarded_v6";

/// A chain that the kernel calls.
pub(crate) struct BaseChain {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) hook: &'static str,
    /// A number: some names of priorities are not accepted in every hook.
    pub(crate) priority: i32,
    rules: fn() -> Vec<String>,
}

impl BaseChain {
    pub(crate) fn rules(&self) -> Vec<String> {
        (self.rules)()
    }
}

pub(crate) const BASE_CHAINS: [BaseChain; 5] = [
    // Before the others, which a SYN that was held then meets with its verdict.
    BaseChain {
        name: "hold",
        kind: "filter",
        hook: "output",
        priority: -120,
        rules: hold,
    },
    // Before NAT (-100), so that it sees where a program wants to go.
    BaseChain {
        name: "judge",
        kind: "filter",
        hook: "output",
        priority: -110,
        rules: judge,
    },
    BaseChain {
        name: "capture",
        kind: "nat",
        hook: "output",
        priority: -100,
        rules: capture,
    },
    // A verdict's mark has done its work, and whoever comes after us sees none. Of this type because of the routes, which may
    // depend on marks: the kernel chose one by the verdict's, and here chooses again.
    BaseChain {
        name: "settle",
        kind: "route",
        hook: "output",
        priority: -90,
        rules: settle,
    },
    // A redirected connection may only reach the socket that its user's broker claimed with: else whoever binds a dead
    // broker's port would be given that user's connections.
    BaseChain {
        name: "guard",
        kind: "filter",
        hook: "input",
        priority: 0,
        rules: input,
    },
];

fn hold() -> Vec<String> {
    // A packet whose mark has changed gets another route, if one is found. So the connection bears it in the packet's place
    // where it bears none of someone else's.
    let known = |mark: u32, as_what: u32| {
        format!("meta mark {mark:#x} ct mark 0 ct mark set {as_what:#x} meta mark set 0 accept")
    };
    // On the way to `lo` for want of a route there is no address that an ICMP message of IPv4 could come from.
    let nowhere = |mark, as_what| format!("oif lo meta nfproto ipv4 {}", known(mark, as_what));
    let no_route = "reject with icmpx type no-route";
    vec![
        format!("{NOT_A_SYN} accept"),
        "meta l4proto != tcp accept".into(),
        // Those that were held and come here again with their verdict. Without a route, the kernel's own answer is that.
        nowhere(DIRECT, NETWORK_UNREACHABLE),
        format!("oif lo meta mark {DIRECT:#x} {no_route}"),
        known(DIRECT, DIRECT),
        format!("meta mark {REFUSE:#x} reject with tcp reset"),
        nowhere(HOST_UNREACHABLE, HOST_UNREACHABLE),
        nowhere(NETWORK_UNREACHABLE, NETWORK_UNREACHABLE),
        format!("meta mark {HOST_UNREACHABLE:#x} reject with icmpx type host-unreachable"),
        format!("meta mark {NETWORK_UNREACHABLE:#x} {no_route}"),
        // A verdict may replace the mark, and another's must not get lost.
        "meta mark != 0 accept".into(),
        "fib daddr type local accept".into(),
        format!("meta skuid vmap @{HELD}"),
    ]
}

fn judge() -> Vec<String> {
    output(JUDGED, &[])
}

fn capture() -> Vec<String> {
    // To where there is an address; what the port is does not matter, as `guard` tells the program the truth.
    let tell =
        |mark| format!("meta nfproto ipv4 ct mark {mark:#x} meta l4proto tcp redirect to :9");
    output(
        CAPTURED,
        &[tell(HOST_UNREACHABLE), tell(NETWORK_UNREACHABLE)],
    )
}

fn output(map: &str, more: &[String]) -> Vec<String> {
    let mut rules = vec![
        format!("{NOT_A_SYN} accept"),
        "meta l4proto != tcp accept".into(),
        format!("meta mark & {MASK:#x} == {MARK:#x} accept"),
        format!("meta mark {DIRECT:#x} accept"),
        format!("ct mark {DIRECT:#x} accept"),
    ];
    rules.extend_from_slice(more);
    rules.extend([
        "fib daddr type local accept".into(),
        format!("meta skuid vmap @{map}"),
    ]);
    rules
}

fn settle() -> Vec<String> {
    vec![
        format!("{NOT_A_SYN} accept"),
        format!("meta mark {DIRECT:#x} meta mark set 0"),
        format!("ct mark {DIRECT:#x} ct mark set 0"),
    ]
}

fn input() -> Vec<String> {
    vec![
        "iif != lo accept".into(),
        format!("{NOT_A_SYN} accept"),
        "meta l4proto != tcp accept".into(),
        format!(
            "meta nfproto ipv4 ct mark {HOST_UNREACHABLE:#x} reject with icmpx type host-unreachable"
        ),
        format!(
            "meta nfproto ipv4 ct mark {NETWORK_UNREACHABLE:#x} reject with icmpx type no-route"
        ),
        "ct status & dnat == 0 accept".into(),
        format!("meta nfproto ipv4 tcp dport vmap @{GUARDED_V4}"),
        format!("meta nfproto ipv6 tcp dport vmap @{GUARDED_V6}"),
    ]
}

/// The table without users.
pub(crate) fn skeleton() -> String {
    format!("add table {TABLE}\n{}", skeleton_in(TABLE))
}

/// The same as a table that does nothing, to see how this system's nft lists it.
pub(crate) fn probe() -> String {
    format!(
        "{}add table {PROBE} {{ flags dormant; }}\n{}",
        remove_probe(),
        skeleton_in(PROBE)
    )
}

/// What of it is listed, one thing at a time: some versions of nft cannot write the flags of a table as JSON.
pub(crate) fn probed() -> impl Iterator<Item = [&'static str; 5]> {
    let chains = BASE_CHAINS.map(|chain| ["list", "chain", "inet", "adit_probe", chain.name]);
    let maps = MAPS.map(|(map, _)| ["list", "map", "inet", "adit_probe", map]);
    chains.into_iter().chain(maps)
}

/// Takes it out, also if it is not there.
pub(crate) fn remove_probe() -> String {
    format!("add table {PROBE}\ndelete table {PROBE}\n")
}

/// A chain of it with the rule that leads to a queue, in nft's own words.
pub(crate) fn probe_queue() -> String {
    let rule = queue_statement(PROBE_QUEUE);
    format!("add chain {PROBE} {PROBE_CHAIN}\nadd rule {PROBE} {PROBE_CHAIN} {rule}\n")
}

/// The chain alone.
pub(crate) fn probe_chain() -> String {
    format!("add chain {PROBE} {PROBE_CHAIN}\n")
}

/// Whoever has no queue open lets the connection go on.
fn queue_statement(number: u16) -> String {
    format!("queue num {number} bypass")
}

fn skeleton_in(table: &str) -> String {
    let mut text = String::new();
    for (map, key) in MAPS {
        line(
            &mut text,
            format_args!("add map {table} {map} {{ type {key} : verdict; }}"),
        );
    }
    for chain in BASE_CHAINS {
        let BaseChain {
            name,
            kind,
            hook,
            priority,
            ..
        } = chain;
        line(
            &mut text,
            format_args!(
                "add chain {table} {name} {{ type {kind} hook {hook} priority {priority}; policy accept; }}"
            ),
        );
        for rule in chain.rules() {
            line(&mut text, format_args!("add rule {table} {name} {rule}"));
        }
    }
    text
}

/// Puts one user's program in the place of what is there of that user.
pub(crate) fn replace(uid: u32, before: Option<&Program>, after: &Program) -> String {
    let mut text = before.map_or_else(String::new, |before| empty(uid, before));
    for (role, rules) in chains(after) {
        let chain = ChainName { uid, role };
        line(&mut text, format_args!("add chain {TABLE} {chain}"));
        match role {
            Role::Queue(_) => add_queue(&mut text, chain, after),
            Role::Guard => {
                let other = not_its_listener(uid);
                line(
                    &mut text,
                    format_args!("add rule {TABLE} {chain} {other}reject with tcp reset"),
                );
            }
            Role::Nat | Role::Open | Role::Gone(_) | Role::Hold => {
                for rule in rules {
                    let rule = RuleText { uid, rule };
                    line(&mut text, format_args!("add rule {TABLE} {chain} {rule}"));
                }
            }
        }
    }
    for (map, element) in elements(uid, after, after.live) {
        line(
            &mut text,
            format_args!("add element {TABLE} {map} {{ {element} }}"),
        );
    }
    let kept: Vec<Role> = chains(after).map(|(role, _)| role).collect();
    for (role, _) in before.into_iter().flat_map(chains) {
        if !kept.contains(&role) {
            let chain = ChainName { uid, role };
            line(&mut text, format_args!("delete chain {TABLE} {chain}"));
        }
    }
    text
}

/// A user's chains, in the order in which they are written: none leads to a later one.
fn chains(program: &Program) -> impl Iterator<Item = (Role, &[Rule])> {
    let hold = program.hold.iter().flat_map(|hold| {
        let queue: (_, &[Rule]) = (Role::Queue(hold.queue.number), &[]);
        [queue, (Role::Hold, &hold.rules)]
    });
    let others: [(_, &[Rule]); 4] = [
        (Role::Nat, &program.nat),
        (Role::Open, &program.open),
        (Role::Gone(program.word.into()), &program.gone),
        (Role::Guard, &[]),
    ];
    hold.chain(others)
}

/// The rule of xtables cannot be written as text; it is added right after.
fn add_queue(text: &mut String, chain: ChainName, program: &Program) {
    line(
        text,
        format_args!(
            "add rule {TABLE} {chain} limit rate over {RATE}/second burst {BURST} packets drop"
        ),
    );
    let queue = program.hold.as_ref().map(|hold| hold.queue);
    if let Some(QueueRule {
        number,
        by: Some(QueueBy::Nft),
    }) = queue
    {
        let rule = queue_statement(number);
        line(text, format_args!("add rule {TABLE} {chain} {rule}"));
    }
}

/// Whose listener has no mark that is its own has no listener.
fn not_its_listener(uid: u32) -> String {
    mark::of_listener(uid).map_or_else(String::new, |mark| format!("socket mark != {mark:#010x} "))
}

/// Takes one user out.
pub(crate) fn remove(uid: u32, before: &Program) -> String {
    let mut text = empty(uid, before);
    // Those that are led to last.
    let roles: Vec<Role> = chains(before).map(|(role, _)| role).collect();
    for role in roles.into_iter().rev() {
        let chain = ChainName { uid, role };
        line(&mut text, format_args!("delete chain {TABLE} {chain}"));
    }
    text
}

/// Takes everything out.
pub(crate) fn remove_table() -> String {
    format!("delete table {TABLE}\n")
}

/// Puts the other filter rules in force.
pub(crate) fn swap(uid: u32, before: &Program, live: Live) -> String {
    let mut text = String::new();
    let (old, new) = (
        elements(uid, before, before.live),
        elements(uid, before, live),
    );
    for (map, element) in old.iter().filter(|element| !new.contains(element)) {
        line(
            &mut text,
            format_args!("delete element {TABLE} {map} {{ {element} }}"),
        );
    }
    for (map, element) in new.iter().filter(|element| !old.contains(element)) {
        line(
            &mut text,
            format_args!("add element {TABLE} {map} {{ {element} }}"),
        );
    }
    text
}

/// Takes the elements that lead to a user's chains, and what is in the chains; the chains stay.
fn empty(uid: u32, before: &Program) -> String {
    let mut text = String::new();
    for (map, element) in elements(uid, before, before.live) {
        line(
            &mut text,
            format_args!("delete element {TABLE} {map} {{ {element} }}"),
        );
    }
    for (role, _) in chains(before) {
        let chain = ChainName { uid, role };
        line(&mut text, format_args!("flush chain {TABLE} {chain}"));
    }
    text
}

/// What leads to a user's chains.
fn elements(uid: u32, program: &Program, live: Live) -> Vec<(&'static str, String)> {
    let chain = |role| ChainName { uid, role };
    let (nat, guard, hold) = (chain(Role::Nat), chain(Role::Guard), chain(Role::Hold));
    let filter = filter_chain(uid, program, live);
    let mut elements = vec![
        (JUDGED, format!("{uid} : goto {filter}")),
        (CAPTURED, format!("{uid} : goto {nat}")),
    ];
    // Without a broker there is nobody to ask.
    if live == Live::Open && program.hold.is_some() {
        elements.push((HELD, format!("{uid} : goto {hold}")));
    }
    let ports = program.ports;
    for (map, port) in [(GUARDED_V4, ports.v4), (GUARDED_V6, ports.v6)] {
        elements.extend(port.map(|port| (map, format!("{port} : goto {guard}"))));
    }
    elements
}

pub(crate) fn filter_chain(uid: u32, program: &Program, live: Live) -> ChainName {
    let role = match live {
        Live::Open => Role::Open,
        Live::Gone => Role::Gone(program.word.into()),
    };
    ChainName { uid, role }
}

struct RuleText<'a> {
    uid: u32,
    rule: &'a Rule,
}

impl std::fmt::Display for RuleText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rule {
            family,
            to,
            ports,
            action,
        } = self.rule;
        // Not `meta nfproto`: beside a reject nft lists rules without it, and they would not be known again.
        let field = match family {
            Family::V4 => "ip daddr",
            Family::V6 => "ip6 daddr",
        };
        let list = to.iter().map(|range| addresses(range, *family));
        write!(f, "{field} {{ {} }} ", list.collect::<Vec<_>>().join(", "))?;
        if *ports == Ranges::all_ports() {
            write!(f, "meta l4proto tcp ")?;
        } else {
            let list = ports.iter().map(|(low, high)| match low == high {
                true => low.to_string(),
                false => format!("{low}-{high}"),
            });
            write!(
                f,
                "tcp dport {{ {} }} ",
                list.collect::<Vec<_>>().join(", ")
            )?;
        }
        match action {
            Action::Accept => write!(f, "accept"),
            Action::Reject => write!(f, "reject with tcp reset"),
            Action::Redirect(port) => write!(f, "redirect to :{port}"),
            Action::Ask(number) => {
                let role = Role::Queue(*number);
                write!(
                    f,
                    "goto {}",
                    ChainName {
                        uid: self.uid,
                        role
                    }
                )
            }
        }
    }
}

/// One range as nft reads it: a network where it is one, for the reader's sake.
fn addresses((low, high): (u128, u128), family: Family) -> String {
    let networks = Ranges::new([(low, high)]).networks(family);
    match networks.as_slice() {
        [network] if network.prefix_len() == network.max_prefix_len() => network.addr().to_string(),
        [network] => network.to_string(),
        _ => format!("{}-{}", address(low, family), address(high, family)),
    }
}

fn address(bits: u128, family: Family) -> String {
    debug_assert!(bits <= last_address(family), "an address beyond its family");
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).to_string(),
        Family::V6 => Ipv6Addr::from_bits(bits).to_string(),
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
