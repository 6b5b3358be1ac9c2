//! What nft is given, carried out by a small kernel of our own, gives each connection what the claim says.

use std::collections::HashMap;
use std::net::IpAddr;

use adit_capture::mark::{DIRECT, MARK, REDIRECT, REFUSE};
use adit_capture::wire::QueueBy;
use adit_capture::{Claim, Family, OnBrokerGone, Verdict};
use proptest::prelude::*;

use super::program::{Live, Ports, Program, QueueRule};
use super::program_tests::{claims, meaning, ports};
use super::render;

const UID: u32 = 1000;
const STRANGER: u32 = 1001;
const QUEUE: u16 = 44_288;

/// The table as text says it, and nothing that this text does not use.
#[derive(Debug, Default)]
struct Kernel {
    chains: HashMap<String, Vec<String>>,
    sets: HashMap<String, Vec<(u128, u128)>>,
    maps: HashMap<String, HashMap<u32, String>>,
}

/// The first packet of a TCP connection to another host.
#[derive(Debug, Clone, Copy)]
struct Syn {
    uid: u32,
    to: IpAddr,
    port: u16,
    mark: u32,
    connection_mark: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Direct,
    Refused,
    Redirected(u16),
    Asked(u16),
}

/// How one chain ends.
enum End {
    /// This hook has nothing against it.
    Accepted,
    Fate(Fate),
}

impl Kernel {
    /// One transaction.
    fn load(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [verb, what, "inet", "adit", rest @ ..] = &words[..] else {
                panic!("{line}")
            };
            let (name, rest) = (rest.first().copied().unwrap_or_default(), rest.get(1..));
            let rest = rest.unwrap_or_default().join(" ");
            let name = name.to_owned();
            match (*verb, *what) {
                ("add", "table") => {}
                ("add", "map") => drop(self.maps.entry(name).or_default()),
                ("add", "chain") => drop(self.chains.entry(name).or_default()),
                ("add", "set") => {
                    let elements = rest.split_once("elements = { ").map(|(_, rest)| list(rest));
                    let set = self.sets.entry(name).or_default();
                    set.extend(elements.unwrap_or_default());
                }
                ("add", "rule") => self.chains.get_mut(&name).unwrap().push(rest),
                ("add", "element") => {
                    let (key, target) = element(&rest);
                    assert_eq!(self.maps.get_mut(&name).unwrap().insert(key, target), None);
                }
                ("delete", "element") => {
                    let (key, target) = element(&rest);
                    assert_eq!(self.maps.get_mut(&name).unwrap().remove(&key), Some(target));
                }
                ("flush", "chain") => self.chains.get_mut(&name).unwrap().clear(),
                ("delete", "chain") => {
                    self.chains.remove(&name).unwrap();
                    assert!(!self.is_named(&name), "{line}");
                }
                ("delete", "set") => {
                    self.sets.remove(&name).unwrap();
                    assert!(!self.is_named(&format!("@{name}")), "{line}");
                }
                _ => panic!("{line}"),
            }
        }
    }

    /// The kernel deletes nothing that something leads to.
    fn is_named(&self, name: &str) -> bool {
        let rules = self.chains.values().flatten();
        let elements = self.maps.values().flat_map(HashMap::values);
        { rules }.any(|rule| rule.split(' ').any(|word| word == name)) || { elements }
            .any(|it| it == name)
    }

    /// The three hooks that decide, in their order.
    fn carry(&self, mut syn: Syn) -> Fate {
        for chain in ["hold", "judge", "capture"] {
            if let End::Fate(fate) = self.walk(chain, &mut syn) {
                return fate;
            }
        }
        Fate::Direct
    }

    /// What becomes of one that was asked about and goes on behind the queue.
    fn carry_on(&self, mut syn: Syn) -> Fate {
        for chain in ["judge", "capture"] {
            if let End::Fate(fate) = self.walk(chain, &mut syn) {
                return fate;
            }
        }
        Fate::Direct
    }

    fn walk(&self, chain: &str, syn: &mut Syn) -> End {
        for rule in &self.chains[chain] {
            if let Some(end) = self.rule(rule, syn) {
                return end;
            }
        }
        End::Accepted
    }

    /// `None`: a condition does not hold, or it decides nothing.
    fn rule(&self, rule: &str, syn: &mut Syn) -> Option<End> {
        let mut rest = rule;
        while !rest.is_empty() {
            let (holds, behind) = self.condition(rest, syn)?;
            if !holds {
                return None;
            }
            if behind == rest {
                return self.statement(rest, syn);
            }
            rest = behind;
        }
        None
    }

    /// Whether what stands first holds, and what is behind it. A statement that ends the rule is no condition: it holds, and
    /// nothing is taken away.
    fn condition<'a>(&self, rest: &'a str, syn: &mut Syn) -> Option<(bool, &'a str)> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).unwrap(),
            None => text.parse().unwrap(),
        };
        let word = |rest: &'a str| rest.split_once(' ').unwrap_or((rest, ""));
        let fixed = [
            ("tcp flags & (fin | syn | rst | ack) != syn ", false),
            ("meta l4proto != tcp ", false),
            ("meta l4proto tcp ", true),
            ("oif lo ", false),
            ("meta nfproto ipv4 ", syn.to.is_ipv4()),
            ("fib daddr type local ", false),
            ("meta mark != 0 ", syn.mark != 0),
            ("limit rate over 16000/second burst 8192 packets ", false),
        ];
        if let Some((known, holds)) = fixed.iter().find(|(known, _)| rest.starts_with(known)) {
            return Some((*holds, &rest[known.len()..]));
        }
        if let Some(behind) = rest.strip_prefix("meta mark & 0xffff == ") {
            let (wanted, behind) = word(behind);
            return Some((syn.mark & 0xffff == number(wanted), behind));
        }
        for (prefix, sets_connection) in [("meta mark set ", false), ("ct mark set ", true)] {
            if let Some(behind) = rest.strip_prefix(prefix) {
                let (value, behind) = word(behind);
                match sets_connection {
                    true => syn.connection_mark = number(value),
                    false => syn.mark = number(value),
                }
                return Some((true, behind));
            }
        }
        for (prefix, value) in [("meta mark ", syn.mark), ("ct mark ", syn.connection_mark)] {
            if let Some(behind) = rest.strip_prefix(prefix) {
                let (wanted, behind) = word(behind);
                return Some((value == number(wanted), behind));
            }
        }
        let of_family = |v4: bool| (syn.to.is_ipv4() == v4).then(|| bits(syn.to));
        for (prefix, value) in [
            ("ip daddr ", of_family(true)),
            ("ip6 daddr ", of_family(false)),
            ("tcp dport ", Some(syn.port.into())),
        ] {
            if let Some(behind) = rest.strip_prefix(prefix) {
                let (ranges, behind) = self.ranges(behind);
                let is_in = |value| {
                    ranges
                        .iter()
                        .any(|(low, high)| (*low..=*high).contains(&value))
                };
                return Some((value.is_some_and(is_in), behind));
            }
        }
        Some((true, rest))
    }

    fn ranges<'a>(&self, rest: &'a str) -> (Vec<(u128, u128)>, &'a str) {
        if let Some(named) = rest.strip_prefix('@') {
            let (name, behind) = named.split_once(' ').unwrap();
            return (self.sets[name].clone(), behind);
        }
        let (inside, behind) = rest.strip_prefix("{ ").unwrap().split_once(" } ").unwrap();
        (list(inside), behind)
    }

    fn statement(&self, statement: &str, syn: &mut Syn) -> Option<End> {
        let words: Vec<&str> = statement.split(' ').collect();
        match words[..] {
            ["accept"] => Some(End::Accepted),
            ["reject", "with", ..] => Some(End::Fate(Fate::Refused)),
            ["redirect", "to", port] => Some(End::Fate(Fate::Redirected(port_of(port)))),
            ["queue", "num", number, "bypass"] => Some(End::Fate(Fate::Asked(port_of(number)))),
            ["goto", chain] => Some(self.walk(chain, syn)),
            ["meta", "skuid", "vmap", map] => {
                let target = self.maps[map.trim_start_matches('@')].get(&syn.uid)?;
                Some(self.walk(target, syn))
            }
            _ => panic!("{statement}"),
        }
    }
}

/// Behind a colon or not.
fn port_of(text: &str) -> u16 {
    text.trim_start_matches(':').parse().unwrap()
}

/// `KEY : goto CHAIN`.
fn element(text: &str) -> (u32, String) {
    let text = text.strip_prefix("{ ").and_then(|it| it.strip_suffix(" }"));
    let (key, target) = text.unwrap().split_once(" : goto ").unwrap();
    (key.parse().unwrap(), target.to_owned())
}

/// Addresses, networks, ports and ranges, as far as the closing brace.
fn list(text: &str) -> Vec<(u128, u128)> {
    let text = text.split(" }").next().unwrap_or_default();
    let number = |text: &str| match text.parse::<IpAddr>() {
        Ok(address) => bits(address),
        Err(_) => text.parse().unwrap(),
    };
    let range = |text: &str| {
        if let Ok(network) = text.parse::<ipnet::IpNet>() {
            return (bits(network.network()), bits(network.broadcast()));
        }
        match text.split_once('-') {
            Some((low, high)) => (number(low), number(high)),
            None => (number(text), number(text)),
        }
    };
    text.split(", ").map(range).collect()
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// What a claim's words come to, said without any rules.
fn meant(claim: &Claim, ports: Ports, by: Option<QueueBy>, to: IpAddr, port: u16) -> Fate {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    match (meaning(claim, to, port), ports.of(family)) {
        (Verdict::Pass, _) => Fate::Direct,
        (Verdict::Block, _) | (Verdict::Ask | Verdict::HandOver, None) => Fate::Refused,
        (Verdict::Ask, Some(_)) if by.is_some() => Fate::Asked(QUEUE),
        (Verdict::Ask | Verdict::HandOver, Some(port)) => Fate::Redirected(port),
    }
}

fn flows(claims: &[Claim]) -> Vec<(IpAddr, u16)> {
    let networks = claims
        .iter()
        .flat_map(|claim| &claim.steps)
        .flat_map(|step| &step.to);
    let edges = networks.flat_map(|network| [network.network(), network.broadcast()]);
    let some =
        ["10.0.0.9", "10.0.0.77", "192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
    let ports = claims
        .iter()
        .flat_map(|claim| &claim.steps)
        .flat_map(|step| &step.ports);
    let ports: Vec<u16> = ports
        .flat_map(|range| [*range.start(), *range.end()])
        .chain([443])
        .collect();
    edges
        .chain(some)
        .enumerate()
        .flat_map(|(at, to)| [(to, ports[at % ports.len()]), (to, 444)])
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_nft_is_given_does_what_the_claims_say(
        claims in prop::collection::vec(claims(), 1..4),
        ports in ports(),
        by in prop::sample::select(vec![None, Some(QueueBy::Nft)]),
    ) {
        let queue = QueueRule { number: QUEUE, by };
        let mut kernel = Kernel::default();
        kernel.load(&render::skeleton());
        let mut before: Option<Program> = None;
        let flows = flows(&claims);
        let syn = |to, port| Syn { uid: UID, to, port, mark: 0, connection_mark: 0 };
        for claim in &claims {
            let after = Program::of_claim(claim, ports, by.map(|_| queue));
            kernel.load(&render::replace(UID, before.as_ref(), &after));
            for &(to, port) in &flows {
                let expected = meant(claim, ports, by, to, port);
                prop_assert_eq!(kernel.carry(syn(to, port)), expected, "{} {}", to, port);
                prop_assert_eq!(kernel.carry(Syn { uid: STRANGER, ..syn(to, port) }), Fate::Direct);
                prop_assert_eq!(kernel.carry(Syn { mark: MARK, ..syn(to, port) }), Fate::Direct);
                if let Fate::Asked(_) = expected {
                    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
                    let redirected = ports.of(family).map(Fate::Redirected);
                    prop_assert_eq!(Some(kernel.carry_on(syn(to, port))), redirected);
                    prop_assert_eq!(Some(kernel.carry(Syn { mark: REDIRECT, ..syn(to, port) })), redirected);
                    prop_assert_eq!(kernel.carry(Syn { mark: DIRECT, ..syn(to, port) }), Fate::Direct);
                    prop_assert_eq!(kernel.carry(Syn { mark: REFUSE, ..syn(to, port) }), Fate::Refused);
                }
            }
            before = Some(after);
        }
        let (Some(claim), Some(mut program)) = (claims.last(), before) else { return Ok(()) };
        if claim.on_broker_gone == OnBrokerGone::Block {
            kernel.load(&render::swap(UID, &program, Live::Gone));
            program.live = Live::Gone;
            for &(to, port) in &flows {
                let expected = match meaning(claim, to, port) {
                    Verdict::Pass => Fate::Direct,
                    Verdict::Ask | Verdict::HandOver | Verdict::Block => Fate::Refused,
                };
                prop_assert_eq!(kernel.carry(syn(to, port)), expected, "gone: {} {}", to, port);
            }
        }
        kernel.load(&render::remove(UID, &program));
        for &(to, port) in &flows {
            prop_assert_eq!(kernel.carry(syn(to, port)), Fate::Direct);
        }
        let left: Vec<_> = kernel.chains.keys().chain(kernel.sets.keys()).filter(|name| name.starts_with("u1000")).collect();
        prop_assert!(left.is_empty(), "{:?}", left);
    }
}
