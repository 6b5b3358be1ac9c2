//! The policy against a reference that is as plain as can be: bits compared one by one, ranges in
//! numbers, entries in a row.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_link::Host;
use adit_server::asked::Asked;
use adit_server::asker::{Asker, Conditions};
use adit_server::policy::{Denial, Entry, Judgement, Policy};
use adit_server::user_name::UserName;
use proptest::prelude::*;

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const NAMES: [&str; 4] = ["db.corp", "erp.corp", "corp", "db.other"];

/// What an entry is for, before it is written down.
#[derive(Debug, Clone)]
enum Target {
    Network(IpAddr, u8),
    Name(&'static str),
    /// All names below.
    Below(&'static str),
}

#[derive(Debug, Clone)]
struct Allow {
    target: Target,
    ports: Option<(u16, u16)>,
}

#[derive(Debug, Clone)]
struct Line {
    users: Vec<usize>,
    allow: Vec<Allow>,
}

impl Allow {
    fn written(&self) -> String {
        let host = match &self.target {
            Target::Network(IpAddr::V4(address), prefix) => format!("{address}/{prefix}"),
            Target::Network(IpAddr::V6(address), prefix) => format!("[{address}/{prefix}]"),
            Target::Name(name) => (*name).to_owned(),
            Target::Below(name) => format!("*.{name}"),
        };
        match self.ports {
            None => format!("{host}:*"),
            Some((low, high)) => format!("{host}:{low}-{high}"),
        }
    }

    fn has_port(&self, port: u16) -> bool {
        self.ports
            .is_none_or(|(low, high)| low <= port && port <= high)
    }

    fn has_name(&self, name: &str) -> bool {
        match self.target {
            Target::Network(..) => false,
            Target::Name(own) => own == name,
            Target::Below(own) => name
                .strip_suffix(own)
                .is_some_and(|rest| rest.ends_with('.')),
        }
    }

    fn has_address(&self, address: IpAddr) -> bool {
        matches!(self.target, Target::Network(network, prefix) if within(address, network, prefix))
    }
}

/// The first `prefix` bits are the same.
fn within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        octets
            .iter()
            .flat_map(|octet| (0..8).map(move |i| octet & (0x80 >> i) != 0))
            .collect()
    };
    address.is_ipv4() == network.is_ipv4()
        && bits(address)[..prefix.into()] == bits(network)[..prefix.into()]
}

/// First and last address of what has to be named, as numbers. Written down a second time on
/// purpose.
fn special_ranges(address: IpAddr) -> Vec<(u128, u128)> {
    let all: &[(&str, &str)] = match address {
        IpAddr::V4(_) => &[
            ("0.0.0.0", "0.255.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("169.254.169.254", "169.254.169.254"),
            ("169.254.42.42", "169.254.42.42"),
            ("169.254.170.2", "169.254.170.2"),
            ("169.254.170.23", "169.254.170.23"),
            ("168.63.129.16", "168.63.129.16"),
            ("100.100.100.200", "100.100.100.200"),
            ("224.0.0.0", "239.255.255.255"),
            ("255.255.255.255", "255.255.255.255"),
        ],
        IpAddr::V6(_) => &[
            ("::", "::ffff:ffff"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fd00:ec2::254", "fd00:ec2::254"),
            ("fd00:ec2::23", "fd00:ec2::23"),
            ("fd00:42::42", "fd00:42::42"),
            ("fd00:c1::a9fe:a9fe", "fd00:c1::a9fe:a9fe"),
            ("fd00:a9fe:a9fe::1", "fd00:a9fe:a9fe::1"),
            ("fd00:100::100:200", "fd00:100::100:200"),
            ("fd20:ce::254", "fd20:ce::254"),
            ("64:ff9b::", "64:ff9b::ff:ffff"),
            ("64:ff9b::7f00:0", "64:ff9b::7fff:ffff"),
            ("64:ff9b::a9fe:0", "64:ff9b::a9fe:ffff"),
            ("64:ff9b::a9fe:a9fe", "64:ff9b::a9fe:a9fe"),
            ("64:ff9b::a9fe:2a2a", "64:ff9b::a9fe:2a2a"),
            ("64:ff9b::a9fe:aa02", "64:ff9b::a9fe:aa02"),
            ("64:ff9b::a9fe:aa17", "64:ff9b::a9fe:aa17"),
            ("64:ff9b::a83f:8110", "64:ff9b::a83f:8110"),
            ("64:ff9b::6464:64c8", "64:ff9b::6464:64c8"),
            ("64:ff9b::e000:0", "64:ff9b::efff:ffff"),
            ("64:ff9b::ffff:ffff", "64:ff9b::ffff:ffff"),
        ],
    };
    let parse = |text: &str| number(text.parse().expect("address"));
    let ranges = all.iter().map(|(first, last)| (parse(first), parse(last)));
    ranges
        .filter(|(first, last)| (*first..=*last).contains(&number(address)))
        .collect()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// May this user reach this address, asked for by this name?
fn reference(lines: &[Line], user: usize, address: IpAddr, name: Option<&str>, port: u16) -> bool {
    let address = match address {
        IpAddr::V6(mapped) => mapped.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    let special = special_ranges(address);
    for line in lines.iter().filter(|line| line.users.contains(&user)) {
        for allow in line.allow.iter().filter(|allow| allow.has_port(port)) {
            let covers =
                allow.has_address(address) || name.is_some_and(|name| allow.has_name(name));
            let inside = |range: &(u128, u128)| match allow.target {
                Target::Network(network, prefix) => {
                    let size = if network.is_ipv4() { 32 } else { 128 } - u32::from(prefix);
                    let host = 1_u128.checked_shl(size).map_or(u128::MAX, |size| size - 1);
                    let first = number(network) & !host;
                    network.is_ipv4() == address.is_ipv4()
                        && range.0 <= first
                        && first + host <= range.1
                }
                Target::Name(_) | Target::Below(_) => false,
            };
            if covers && special.iter().all(inside) {
                return true;
            }
        }
    }
    false
}

fn policy(lines: &[Line]) -> Policy {
    let entries = lines.iter().enumerate().map(|(number, line)| Entry {
        name: format!("entry {number}").into(),
        conditions: Conditions::users(
            line.users
                .iter()
                .map(|user| user_name(*user))
                .collect::<HashSet<_>>(),
        ),
        allow: line
            .allow
            .iter()
            .map(|allow| allow.written().parse().expect("an entry"))
            .collect(),
    });
    Policy::new(entries.collect())
}

fn asker(user: &UserName) -> Asker<'_> {
    Asker {
        user,
        principals: &[],
        from: None,
        application: None,
        at: jiff::civil::DateTime::ZERO,
    }
}

fn user_name(user: usize) -> UserName {
    USERS[user].parse().expect("name")
}

/// Near the ranges where something changes, and anywhere.
fn address() -> impl Strategy<Value = IpAddr> {
    let edges = prop::sample::select(vec![
        "0.0.0.0",
        "10.0.0.1",
        "126.255.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.254.0.0",
        "169.254.169.254",
        "169.254.169.253",
        "169.255.0.0",
        "224.0.0.1",
        "223.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "255.255.255.254",
        "::",
        "::1",
        "::2:0:0",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "fd00:ec2::254",
        "fd00:ec2::253",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::e000:1",
        "64:ff9b::",
        "64:ff9b::a00:1",
        "168.63.129.16",
        "100.100.100.200",
        "fd20:ce::254",
        "fd00:42::42",
        "fd00:c1::a9fe:a9fe",
        "169.254.42.42",
        "2001:db8::1",
    ]);
    prop_oneof![
        4 => edges.prop_map(|text| text.parse().expect("address")),
        1 => any::<[u8; 4]>().prop_map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        1 => any::<[u8; 16]>().prop_map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
    ]
}

fn allow() -> impl Strategy<Value = Allow> {
    let network = (address(), any::<prop::sample::Index>()).prop_map(|(address, prefix)| {
        // What is written as IPv4-mapped is read as IPv4; the reference has it in that form from
        // the start.
        let address = address.to_canonical();
        let prefix = prefix.index(if address.is_ipv4() { 33 } else { 129 }) as u8;
        let network = ipnet::IpNet::new(address, prefix).expect("network").trunc();
        Target::Network(network.addr(), prefix)
    });
    let target = prop_oneof![
        3 => network,
        1 => prop::sample::select(&NAMES[..]).prop_map(Target::Name),
        1 => prop::sample::select(vec!["corp", "other"]).prop_map(Target::Below),
    ];
    let ports = prop::option::of((1_u16..100, 0_u16..50).prop_map(|(low, more)| (low, low + more)));
    (target, ports).prop_map(|(target, ports)| Allow { target, ports })
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let users = prop::collection::vec(0..USERS.len(), 0..3);
    let line = (users, prop::collection::vec(allow(), 0..4))
        .prop_map(|(users, allow)| Line { users, allow });
    prop::collection::vec(line, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn an_address_is_judged_as_the_reference_judges_it(lines in lines(), user in 0..USERS.len(), at in address(), port in 1_u16..150) {
        let expected = reference(&lines, user, at, None, port);
        let asked = Asked::new(&Host::Address(at), port).expect("a destination");
        match policy(&lines).judge(&asker(&user_name(user)), &asked) {
            Ok(Judgement::Dial(authorized)) => {
                prop_assert!(expected, "{at} was allowed");
                prop_assert_eq!(authorized.address().ip(), at.to_canonical());
                prop_assert_eq!(authorized.address().port(), port);
            }
            Ok(Judgement::Resolve(name)) => prop_assert!(false, "an address is looked up: {name:?}"),
            Err(denial) => prop_assert!(!expected, "{denial}"),
        }
    }

    #[test]
    fn a_name_leads_to_those_of_its_addresses_that_the_reference_allows(
        lines in lines(), user in 0..USERS.len(), name in prop::sample::select(&NAMES[..]), port in 1_u16..150,
        addresses in prop::collection::vec(address(), 0..4),
    ) {
        let expected: Vec<_> = addresses.iter().filter(|at| reference(&lines, user, **at, Some(name), port))
            .map(|at| at.to_canonical()).collect();
        let policy = policy(&lines);
        let asked = Asked::new(&Host::Name(name.to_owned()), port).expect("a destination");
        let got = match policy.judge(&asker(&user_name(user)), &asked) {
            Ok(Judgement::Resolve(resolvable)) => policy.judge_resolved(&asker(&user_name(user)), &resolvable, &addresses),
            Ok(Judgement::Dial(authorized)) => Ok(vec![authorized]),
            Err(denial) => Err(denial),
        };
        let got: Vec<_> = got.map_or_else(|_: Denial| Vec::new(), |all| all.iter().map(|one| one.address().ip()).collect());
        prop_assert_eq!(got, expected);
    }
}
