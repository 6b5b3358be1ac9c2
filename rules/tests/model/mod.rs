//! Policies and flows as plain data, judged by asking every rule in turn with nothing but comparisons.

pub(crate) mod application;
pub(crate) mod logic;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_rules::{Application, Destination};
use ipnet::IpNet;
use proptest::prelude::*;

use application::{ModelApp, ModelFacts, ModelUser, USERS};
use logic::{Known, List, and, or};

#[derive(Debug, Clone)]
pub(crate) struct ModelPolicy {
    pub(crate) rules: Vec<ModelRule>,
    pub(crate) default: &'static str,
    /// The word for `connect` of `z1` and `z2`.
    pub(crate) zones: [Option<&'static str>; 2],
}

#[derive(Debug, Clone)]
pub(crate) struct ModelRule {
    pub(crate) name: String,
    pub(crate) app: List<ModelApp>,
    pub(crate) to: List<ModelHost>,
    pub(crate) ports: List<(u16, u16)>,
    pub(crate) users: List<&'static str>,
    pub(crate) groups: List<&'static str>,
    pub(crate) action: &'static str,
    /// Whether it blocks without a word; said only when it blocks.
    pub(crate) drops: bool,
    /// Its word for `connect`; said only when it tunnels.
    pub(crate) connect: Option<&'static str>,
    /// The host and the port to tunnel to instead; said only when it tunnels.
    pub(crate) elsewhere: (Option<&'static str>, Option<u16>),
    /// A key and its value, or nothing: when it is asked, or what is told of it, which changes nothing.
    pub(crate) validity: &'static str,
    /// Whether `to` is written as a set.
    pub(crate) is_set: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum ModelHost {
    Network(IpNet),
    Mapped(Ipv4Addr),
    Range(IpAddr, IpAddr),
    Name(&'static str),
    Below(&'static str),
    StartsWith(&'static str),
    /// One label that starts so, directly below this.
    Label(&'static str, &'static str),
}

#[derive(Debug, Clone)]
pub(crate) struct ModelFlow {
    pub(crate) address: Option<IpAddr>,
    pub(crate) name: Option<&'static str>,
    pub(crate) port: u16,
    pub(crate) application: Option<ModelFacts>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) action: String,
    pub(crate) zone: Option<String>,
    pub(crate) connect: Option<&'static str>,
    /// Where a tunnel or a pass goes.
    pub(crate) dialled: Option<(Option<IpAddr>, Option<String>, u16)>,
    pub(crate) drops: bool,
    pub(crate) rule: String,
}

impl ModelPolicy {
    /// First match wins, and a rule of which nobody knows whether it matches blocks.
    pub(crate) fn judge(&self, flow: &ModelFlow, user: ModelUser) -> Verdict {
        let takes = |rule: &&ModelRule| rule.takes(flow, user) != Some(false);
        let rule = self.rules.iter().find(takes);
        let (action, name) = match rule {
            Some(rule) => (rule.action, rule.name.as_str()),
            None => (self.default, "default"),
        };
        let is_known = rule.is_none_or(|rule| rule.takes(flow, user) == Some(true));
        let action = if is_known { action } else { "block" };
        let (word, zone) = match action.split_once(' ') {
            Some((action, zone)) => (action, Some(zone.to_owned())),
            None => (action, None),
        };
        Verdict {
            action: word.to_owned(),
            zone,
            connect: self.connect(rule).filter(|_| is_known),
            dialled: (word != "block").then(|| dialled(flow, rule.filter(|_| word == "tunnel"))),
            drops: rule.is_some_and(|rule| rule.drops && rule.action == "block"),
            rule: name.to_owned(),
        }
    }

    /// What `connect` is for what a rule, or the default, tunnels.
    fn connect(&self, rule: Option<&ModelRule>) -> Option<&'static str> {
        let (action, own) = match rule {
            Some(rule) => (rule.action, rule.connect),
            None => (self.default, None),
        };
        let of_zone = match action {
            "tunnel z1" => self.zones[0],
            "tunnel z2" => self.zones[1],
            _ => return None,
        };
        Some(own.or(of_zone).unwrap_or("honest"))
    }

    /// What a kernel must do that sees an address and a port: the first rule that could take them says so.
    pub(crate) fn kernel(&self, flow: &ModelFlow, user: ModelUser) -> &'static str {
        let flow = flow.without_name();
        let could = |rule: &&ModelRule| {
            and([rule.is_asked(user), rule.takes_destination(&flow)]) != Some(false)
        };
        let first = self.rules.iter().find(could);
        let action = first.map_or(self.default, |rule| rule.action);
        let is_the_brokers = first.is_some_and(|rule| {
            let excluded = rule.to.none_of.iter().flatten();
            !rule.app.is_any()
                || rule.is_asked(user).is_none()
                || excluded.into_iter().any(ModelHost::is_name)
                || rule.drops && action == "block"
                || rule.is_told_of()
        });
        match self.connect(first) {
            Some("early") if first.is_none_or(|rule| rule.app.is_any()) => "hand over",
            Some(_) => "ask",
            None if is_the_brokers => "ask",
            None => action,
        }
    }

    pub(crate) fn to_yaml(&self) -> String {
        let mut text = String::from("version: 1\nzones:\n");
        for (name, connect) in ["z1", "z2"].iter().zip(self.zones) {
            let connect = connect.map_or(String::new(), |word| format!(", connect: {word}"));
            let _ = writeln!(text, "  {name}: {{gateways: [gw]{connect}}}");
        }
        let _ = writeln!(text, "sets:");
        for rule in &self.rules {
            let to: Vec<String> = rule.to.any.iter().map(ModelHost::to_yaml).collect();
            let _ = writeln!(text, "  {}: [{}]", rule.name, to.join(", "));
        }
        let _ = writeln!(text, "default: {}\nrules:", self.default);
        for rule in &self.rules {
            let _ = writeln!(text, "  - name: {}", rule.name);
            let to = match (&rule.to.none_of, rule.is_set && !rule.to.any.is_empty()) {
                (None, true) => Some(format!("\"@{}\"", rule.name)),
                (Some(_), true) => rule.to.to_yaml(ModelHost::to_yaml).map(|list| {
                    let (_, not) = list.split_once("{not").expect("there is one");
                    format!("[\"@{}\", {{not{not}", rule.name)
                }),
                (_, false) => rule.to.to_yaml(ModelHost::to_yaml),
            };
            let lists = [
                ("app", rule.app.to_yaml(ModelApp::to_yaml)),
                ("to", to),
                (
                    "ports",
                    rule.ports.to_yaml(|(low, high)| format!("{low}-{high}")),
                ),
                ("user", rule.users.to_yaml(|user| (*user).to_owned())),
                ("group", rule.groups.to_yaml(|group| (*group).to_owned())),
            ];
            for (key, list) in lists {
                if let Some(list) = list {
                    let _ = writeln!(text, "    {key}: {list}");
                }
            }
            let _ = match rule.action.split_once(' ') {
                Some((action, zone)) => writeln!(text, "    action: {action}\n    zone: {zone}"),
                None => writeln!(text, "    action: {}", rule.action),
            };
            if let (Some(word), true) = (rule.connect, rule.action.starts_with("tunnel")) {
                let _ = writeln!(text, "    connect: {word}");
            }
            if rule.action.starts_with("tunnel") {
                let (host, port) = rule.elsewhere;
                for (key, value) in [
                    ("destination", host.map(str::to_owned)),
                    ("port", port.map(|port| port.to_string())),
                ] {
                    if let Some(value) = value {
                        let _ = writeln!(text, "    {key}: \"{value}\"");
                    }
                }
            }
            if rule.drops && rule.action == "block" {
                let _ = writeln!(text, "    with: drop");
            }
            if !rule.validity.is_empty() {
                let _ = writeln!(text, "    {}", rule.validity);
            }
        }
        text
    }
}

/// Where a flow goes that is not blocked.
fn dialled(flow: &ModelFlow, rule: Option<&ModelRule>) -> (Option<IpAddr>, Option<String>, u16) {
    let (host, port) = rule.map_or((None, None), |rule| rule.elsewhere);
    let (address, name) = match host {
        None => (
            flow.address.map(|address| address.to_canonical()),
            flow.name.map(str::to_owned),
        ),
        Some(host) => match host.parse() {
            Ok(address) => (Some(address), None),
            Err(_) => (None, Some(host.to_owned())),
        },
    };
    (address, name, port.unwrap_or(flow.port))
}

impl ModelRule {
    /// The kernel tells nobody.
    fn is_told_of(&self) -> bool {
        ["log: true", "notify: true"].contains(&self.validity)
    }

    /// Whether it matches; `None`: nobody can know.
    pub(crate) fn takes(&self, flow: &ModelFlow, user: ModelUser) -> Known {
        let application = flow.application.as_ref();
        let app = self
            .app
            .takes(|it| it.surely(application), |it| it.known(application));
        and([self.is_asked(user), self.takes_destination(flow), app])
    }

    fn is_asked(&self, user: ModelUser) -> Known {
        let surely = |known: Known| Some(known == Some(true));
        and([
            Some(!["enabled: false", "expires: 2026-06-30"].contains(&self.validity)),
            self.users.takes(|it| surely(user.is(it)), |it| user.is(it)),
            self.groups
                .takes(|it| surely(user.is_in(it)), |it| user.is_in(it)),
        ])
    }

    fn takes_destination(&self, flow: &ModelFlow) -> Known {
        let surely = |host: &ModelHost| Some(host.takes(flow) == Some(true));
        let has = |port: u16| move |(low, high): &(u16, u16)| (*low..=*high).contains(&port);
        let is_in = |range: &(u16, u16)| Some(has(flow.port)(range));
        // All that can be written is all; the ranges of this small world have no gaps further up.
        let mut every_port = (1..20).chain([u16::MAX]);
        let is_all = every_port.all(|port| self.ports.any.iter().any(has(port)));
        and([
            self.to.takes(surely, |host| host.takes(flow)),
            or([self.ports.takes(is_in, is_in), Some(is_all)]),
        ])
    }
}

impl ModelHost {
    fn is_name(&self) -> bool {
        matches!(
            self,
            Self::Name(_) | Self::Below(_) | Self::StartsWith(_) | Self::Label(..)
        )
    }

    /// `None`: it is a name, and the flow has none, or an address likewise.
    fn takes(&self, flow: &ModelFlow) -> Known {
        let address = flow.address.map(|address| match address {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        });
        match self {
            Self::Network(network) => Some(network.contains(&address?)),
            Self::Mapped(own) => Some(IpAddr::V4(*own) == address?),
            Self::Range(first, last) => {
                let address = address?;
                let is_between = *first <= address && address <= *last;
                Some(first.is_ipv4() == address.is_ipv4() && is_between)
            }
            Self::Name(own) => Some(*own == flow.name?),
            Self::Below(suffix) => Some(flow.name?.ends_with(&format!(".{suffix}"))),
            Self::StartsWith(start) => Some(flow.name?.starts_with(start)),
            Self::Label(start, parent) => {
                let (label, rest) = flow.name?.split_once('.').unwrap_or_default();
                Some(label.starts_with(start) && rest == *parent)
            }
        }
    }

    fn to_yaml(&self) -> String {
        match self {
            Self::Network(network) => format!("\"{network}\""),
            Self::Mapped(address) => format!("\"::ffff:{address}\""),
            Self::Range(first, last) => format!("\"{first}-{last}\""),
            Self::Name(name) => (*name).to_owned(),
            Self::Below(suffix) => format!("\"*.{suffix}\""),
            Self::StartsWith(start) => format!("{{regex: \"^{start}\"}}"),
            Self::Label(start, parent) => format!("\"{start}*.{parent}\""),
        }
    }
}

impl ModelFlow {
    pub(crate) fn destination(&self) -> Destination {
        Destination {
            address: self.address,
            name: self.name.map(str::to_owned),
            port: self.port,
        }
    }

    pub(crate) fn application(&self) -> Application {
        application::application(self.application.as_ref())
    }

    pub(crate) fn without_name(&self) -> Self {
        Self {
            name: None,
            ..self.clone()
        }
    }

    /// All that it can be when what is not known of the application is.
    pub(crate) fn worlds(&self) -> impl Iterator<Item = Self> {
        let worlds = ModelFacts::worlds(self.application.as_ref()).into_iter();
        worlds.map(|facts| Self {
            application: Some(facts),
            ..self.clone()
        })
    }
}

/// Small worlds, so that rules meet: sixteen addresses of each family, a dozen ports, a few names and programs.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        4 => (0u32..16).prop_map(|low| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + low))),
        3 => (0u128..16).prop_map(|low| IpAddr::V6(Ipv6Addr::from((0x2001_0db8 << 96) + low))),
        1 => Just(IpAddr::V4(Ipv4Addr::BROADCAST)),
        1 => Just(IpAddr::V6(Ipv6Addr::from(u128::MAX))),
    ]
}

fn flow_address() -> impl Strategy<Value = IpAddr> {
    let mapped =
        (0u32..16).prop_map(|low| Ipv4Addr::from(0x0a00_0000 + low).to_ipv6_mapped().into());
    prop_oneof![5 => address(), 1 => mapped]
}

const NAMES: [&str; 5] = ["corp", "a.corp", "b.a.corp", "ab.corp", "x.example"];

fn host() -> impl Strategy<Value = ModelHost> {
    let network = (address(), 0u8..6).prop_map(|(address, host_bits)| {
        let length = if address.is_ipv4() { 32 } else { 128 } - host_bits;
        ModelHost::Network(IpNet::new_assert(address, length).trunc())
    });
    let range = (address(), address())
        .prop_filter("one family", |(one, other)| {
            one.is_ipv4() == other.is_ipv4()
        })
        .prop_map(|(one, other)| ModelHost::Range(one.min(other), one.max(other)));
    prop_oneof![
        6 => network,
        3 => range,
        1 => (0u32..16).prop_map(|low| ModelHost::Mapped(Ipv4Addr::from(0x0a00_0000 + low))),
        1 => prop::sample::select(&["0.0.0.0/0", "::/0", "10.0.0.0/8"])
            .prop_map(|text| ModelHost::Network(text.parse().expect("a network"))),
        1 => prop::sample::select(&NAMES).prop_map(ModelHost::Name),
        1 => prop::sample::select(&["corp", "a.corp"]).prop_map(ModelHost::Below),
        1 => prop::sample::select(&["a", "x"]).prop_map(ModelHost::StartsWith),
        1 => prop::sample::select(&[("a", "corp"), ("", "a.corp"), ("ab", "corp")])
            .prop_map(|(start, parent)| ModelHost::Label(start, parent)),
    ]
}

fn ports() -> impl Strategy<Value = (u16, u16)> {
    prop_oneof![
        6 => (1u16..12, 0u16..5).prop_map(|(low, more)| (low, low + more)),
        1 => Just((1, 65535)),
        1 => Just((8, 65535)),
    ]
}

/// One in three is any; one in six has a `not`.
fn list<T: std::fmt::Debug + Clone>(
    item: impl Strategy<Value = T>,
    under_not: impl Strategy<Value = T>,
) -> impl Strategy<Value = List<T>> {
    let any = prop_oneof![2 => prop::collection::vec(item, 1..4), 1 => Just(()).prop_map(|()| Vec::new())];
    let none_of = prop::option::weighted(0.17, prop::collection::vec(under_not, 1..3));
    (any, none_of).prop_map(|(any, none_of)| List { any, none_of })
}

/// Mostly any.
fn rarely<T: std::fmt::Debug + Clone>(
    list: impl Strategy<Value = List<T>>,
) -> impl Strategy<Value = List<T>> {
    prop::option::weighted(0.35, list).prop_map(|list| {
        list.unwrap_or(List {
            any: Vec::new(),
            none_of: None,
        })
    })
}

fn action() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["pass", "block", "tunnel z1", "tunnel z2"][..])
}

fn connect() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(&[None, Some("honest"), Some("early")][..])
}

/// Each of both, or what was asked.
pub(crate) fn elsewhere(weight: f64) -> impl Strategy<Value = (Option<&'static str>, Option<u16>)> {
    let hosts = &["10.0.0.3", "2001:db8::3", "a.corp", "far.example"];
    (
        prop::option::weighted(weight, prop::sample::select(&hosts[..])),
        prop::option::weighted(weight, 1u16..12),
    )
}

/// What leaves none but port 0, which nobody can mean, is refused.
fn leaves_a_port(list: &List<(u16, u16)>) -> bool {
    let Some(none_of) = list.none_of.as_ref().filter(|_| list.any.is_empty()) else {
        return true;
    };
    (1..=u16::MAX).any(|port| {
        let mut ranges = none_of.iter();
        !ranges.any(|(low, high)| (*low..=*high).contains(&port))
    })
}

fn rule() -> impl Strategy<Value = ModelRule> {
    let account = || prop::sample::select(&["alice", "1000", "bob", "staff", "60"][..]);
    let users = rarely(rarely(list(account(), account())));
    let groups = rarely(rarely(list(account(), account())));
    let apps = rarely(list(application::app(), application::app_under_not()));
    (
        (
            apps,
            list(host(), host()),
            list(ports(), ports()).prop_filter("it leaves a port", leaves_a_port),
            (action(), connect(), elsewhere(0.2)),
        ),
        (users, groups),
        prop::bool::weighted(0.2),
        prop::sample::select(
            &[
                "",
                "",
                "",
                "",
                "",
                "",
                "enabled: false",
                "expires: 2026-06-30",
                "expires: 2026-07-01",
                "log: true",
                "notify: true",
            ][..],
        ),
        any::<bool>(),
    )
        .prop_map(
            |(
                (app, to, ports, (action, connect, elsewhere)),
                (users, groups),
                drops,
                validity,
                is_set,
            )| {
                ModelRule {
                    name: String::new(),
                    app,
                    to,
                    ports,
                    users,
                    groups,
                    action,
                    drops,
                    connect,
                    elsewhere,
                    validity,
                    is_set,
                }
            },
        )
}

pub(crate) fn policy() -> impl Strategy<Value = ModelPolicy> {
    let rules = prop::collection::vec(rule(), 0..9);
    (rules, action(), [connect(), connect()]).prop_map(|(mut rules, default, zones)| {
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("r{index}");
        }
        ModelPolicy {
            rules,
            default,
            zones,
        }
    })
}

pub(crate) fn user() -> impl Strategy<Value = ModelUser> {
    prop::sample::select(&USERS)
}

pub(crate) fn flow() -> impl Strategy<Value = ModelFlow> {
    let port = prop_oneof![8 => 0u16..16, 1 => Just(65535u16)];
    (
        prop::option::weighted(0.9, flow_address()),
        prop::option::weighted(0.4, prop::sample::select(&NAMES)),
        port,
        prop::option::weighted(0.8, application::facts()),
    )
        .prop_map(|(address, name, port, application)| ModelFlow {
            address,
            name,
            port,
            application,
        })
}
