//! From programs to the text of one nft transaction. Nothing here is taken from a peer as text: numbers and addresses only.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use adit_capture::Family;
use adit_capture::mark;
use adit_capture::wire::QueueBy;

use super::base_chains::{
    BASE_CHAINS, BaseChain, CAPTURED, GUARDED_V4, GUARDED_V6, HELD, JUDGED, MAPS,
};
use super::large_set::{SetName, sets};
use super::program::{Action, ChainName, Live, Program, QueueRule, Role, Rule};
use super::ranges::{Ranges, last_address};

/// The table that is ours.
pub(crate) const TABLE: &str = "inet adit";
/// A table that is there for a moment when a helper starts.
const PROBE: &str = "inet adit_probe";
/// In which a queue's rule is tried out.
pub(crate) const PROBE_CHAIN: &str = "tried";
pub(crate) const PROBE_QUEUE: u16 = 1;

/// What a user may ask for in a second, and at once. A SYN beyond is dropped, and sent again a second later (RFC 6298, 2.1).
pub(crate) const RATE: u32 = 16_000;
pub(crate) const BURST: u32 = 8192;

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
    let (known, needed) = (
        before.map_or_else(BTreeMap::new, |before| sets(uid, before)),
        sets(uid, after),
    );
    for (set, to) in needed.iter().filter(|(set, _)| !known.contains_key(set)) {
        add_set(&mut text, *set, to);
    }
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
    for set in known.keys().filter(|set| !needed.contains_key(set)) {
        delete_set(&mut text, *set);
    }
    text
}

fn add_set(text: &mut String, set: SetName, to: &Ranges) {
    let (kind, family) = (set.kind(), set.family);
    let list: Vec<String> = to.iter().map(|range| addresses(range, family)).collect();
    let list = list.join(", ");
    line(
        text,
        format_args!(
            "add set {TABLE} {set} {{ type {kind}; flags interval; elements = {{ {list} }}; }}"
        ),
    );
}

/// Helpers before this one wrote no sets, and what is not there cannot be deleted.
fn delete_set(text: &mut String, set: SetName) {
    let kind = set.kind();
    line(
        text,
        format_args!("add set {TABLE} {set} {{ type {kind}; flags interval; }}"),
    );
    line(text, format_args!("delete set {TABLE} {set}"));
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
    for set in sets(uid, before).into_keys() {
        delete_set(&mut text, set);
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
        match SetName::of_rule(self.uid, self.rule) {
            Some(set) => write!(f, "{field} @{set} ")?,
            None => {
                let list = to.iter().map(|range| addresses(range, *family));
                write!(f, "{field} {{ {} }} ", list.collect::<Vec<_>>().join(", "))?;
            }
        }
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
