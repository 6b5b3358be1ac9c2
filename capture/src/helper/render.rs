//! From programs to the text of one nft transaction. Nothing here is taken from a peer as text: numbers and addresses only.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use adit_capture::Family;
use adit_capture::mark::{self, MARK, MASK};

use super::program::{Action, ChainName, Live, Program, Role, Rule};
use super::ranges::{Ranges, last_address};

/// The table that is ours.
pub(crate) const TABLE: &str = "inet adit";
/// A table that is there for a moment when a helper starts.
const PROBE: &str = "inet adit_probe";

/// Only a connection's first packet is judged: conntrack takes up connections that it has not seen begin as new ones too, and
/// those have to go on as they are.
const NOT_A_SYN: &str = "tcp flags & (fin | syn | rst | ack) != syn";

/// The maps that lead to users' chains, with the type of their keys.
pub(crate) const MAPS: [(&str, &str); 4] = [
    (CAPTURED, "uid"),
    (JUDGED, "uid"),
    (GUARDED_V4, "inet_service"),
    (GUARDED_V6, "inet_service"),
];
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

pub(crate) const BASE_CHAINS: [BaseChain; 3] = [
    // Before NAT (-100), so that it sees where a program wants to go.
    BaseChain {
        name: "judge",
        kind: "filter",
        hook: "output",
        priority: -110,
        rules: || output(JUDGED),
    },
    BaseChain {
        name: "capture",
        kind: "nat",
        hook: "output",
        priority: -100,
        rules: || output(CAPTURED),
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

fn output(map: &str) -> Vec<String> {
    vec![
        "meta l4proto != tcp accept".into(),
        format!("{NOT_A_SYN} accept"),
        format!("meta mark & {MASK:#x} == {MARK:#x} accept"),
        "fib daddr type local accept".into(),
        format!("meta skuid vmap @{map}"),
    ]
}

fn input() -> Vec<String> {
    vec![
        "iif != lo accept".into(),
        "meta l4proto != tcp accept".into(),
        format!("{NOT_A_SYN} accept"),
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

/// Takes it out, also if it is not there.
pub(crate) fn remove_probe() -> String {
    format!("add table {PROBE}\ndelete table {PROBE}\n")
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
    let chain = |role| ChainName { uid, role };
    for (role, rules) in [
        (Role::Nat, &after.nat),
        (Role::Open, &after.open),
        (Role::Gone(after.word.into()), &after.gone),
    ] {
        line(&mut text, format_args!("add chain {TABLE} {}", chain(role)));
        for rule in rules {
            line(
                &mut text,
                format_args!("add rule {TABLE} {} {}", chain(role), RuleText(rule)),
            );
        }
    }
    let guard = chain(Role::Guard);
    line(&mut text, format_args!("add chain {TABLE} {guard}"));
    line(
        &mut text,
        format_args!(
            "add rule {TABLE} {guard} {}reject with tcp reset",
            not_its_listener(uid)
        ),
    );
    for (map, element) in elements(uid, after) {
        line(
            &mut text,
            format_args!("add element {TABLE} {map} {{ {element} }}"),
        );
    }
    if let Some(before) = before.filter(|before| before.word != after.word) {
        line(
            &mut text,
            format_args!(
                "delete chain {TABLE} {}",
                chain(Role::Gone(before.word.into()))
            ),
        );
    }
    text
}

/// Whose listener has no mark that is its own has no listener.
fn not_its_listener(uid: u32) -> String {
    mark::of_listener(uid).map_or_else(String::new, |mark| format!("socket mark != {mark:#010x} "))
}

/// Takes one user out.
pub(crate) fn remove(uid: u32, before: &Program) -> String {
    let mut text = empty(uid, before);
    for role in [
        Role::Nat,
        Role::Open,
        Role::Gone(before.word.into()),
        Role::Guard,
    ] {
        line(
            &mut text,
            format_args!("delete chain {TABLE} {}", ChainName { uid, role }),
        );
    }
    text
}

/// Takes everything out.
pub(crate) fn remove_table() -> String {
    format!("delete table {TABLE}\n")
}

/// Puts the other filter rules in force.
pub(crate) fn swap(uid: u32, before: &Program, live: Live) -> String {
    let (old, new) = (
        filter_chain(uid, before, before.live),
        filter_chain(uid, before, live),
    );
    format!(
        "delete element {TABLE} {JUDGED} {{ {uid} : goto {old} }}\n\
         add element {TABLE} {JUDGED} {{ {uid} : goto {new} }}\n"
    )
}

/// Takes the elements that lead to a user's chains, and what is in the chains; the chains stay.
fn empty(uid: u32, before: &Program) -> String {
    let mut text = String::new();
    for (map, element) in elements(uid, before) {
        line(
            &mut text,
            format_args!("delete element {TABLE} {map} {{ {element} }}"),
        );
    }
    for role in [
        Role::Nat,
        Role::Open,
        Role::Gone(before.word.into()),
        Role::Guard,
    ] {
        line(
            &mut text,
            format_args!("flush chain {TABLE} {}", ChainName { uid, role }),
        );
    }
    text
}

fn elements(uid: u32, program: &Program) -> Vec<(&'static str, String)> {
    let nat = ChainName {
        uid,
        role: Role::Nat,
    };
    let guard = ChainName {
        uid,
        role: Role::Guard,
    };
    let filter = filter_chain(uid, program, program.live);
    let mut elements = vec![
        (JUDGED, format!("{uid} : goto {filter}")),
        (CAPTURED, format!("{uid} : goto {nat}")),
    ];
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

struct RuleText<'a>(&'a Rule);

impl std::fmt::Display for RuleText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Rule {
            family,
            to,
            ports,
            action,
        } = self.0;
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
