//! Policies and flows as plain data, judged by asking every rule in turn with nothing but comparisons.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use adit_rules::{Application, Destination};
use ipnet::IpNet;
use proptest::prelude::*;

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
    pub(crate) app: Vec<ModelApp>,
    pub(crate) to: Vec<ModelHost>,
    pub(crate) ports: Vec<(u16, u16)>,
    pub(crate) action: &'static str,
    /// Its word for `connect`; said only when it tunnels.
    pub(crate) connect: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub(crate) enum ModelApp {
    Unknown,
    Name(&'static str),
    Path(&'static str),
    Below(&'static str),
    StartsWith(&'static str),
}

#[derive(Debug, Clone)]
pub(crate) enum ModelHost {
    Network(IpNet),
    Mapped(Ipv4Addr),
    Range(IpAddr, IpAddr),
    Name(&'static str),
    Below(&'static str),
    StartsWith(&'static str),
}

#[derive(Debug, Clone)]
pub(crate) struct ModelFlow {
    pub(crate) address: Option<IpAddr>,
    pub(crate) name: Option<&'static str>,
    pub(crate) port: u16,
    pub(crate) application: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) action: String,
    pub(crate) zone: Option<String>,
    pub(crate) connect: Option<&'static str>,
    pub(crate) rule: String,
}

impl ModelPolicy {
    /// First match wins.
    pub(crate) fn judge(&self, flow: &ModelFlow) -> Verdict {
        let rule = self.rules.iter().find(|rule| {
            rule.takes_destination(flow)
                && (rule.app.is_empty() || rule.app.iter().any(|app| app.takes(flow)))
        });
        let connect = self.connect(rule);
        let (action, rule) = match rule {
            Some(rule) => (rule.action, rule.name.as_str()),
            None => (self.default, "default"),
        };
        let (action, zone) = match action.split_once(' ') {
            Some((action, zone)) => (action, Some(zone.to_owned())),
            None => (action, None),
        };
        Verdict {
            action: action.to_owned(),
            zone,
            connect,
            rule: rule.to_owned(),
        }
    }

    /// Whether the first rule that takes the destination asks for the application.
    pub(crate) fn asks_for_application(&self, flow: &ModelFlow) -> bool {
        let first = self.rules.iter().find(|rule| rule.takes_destination(flow));
        first.is_some_and(|rule| !rule.app.is_empty())
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

    /// What a kernel must do that sees an address and a port: the first rule that takes them says so.
    pub(crate) fn kernel(&self, flow: &ModelFlow) -> &'static str {
        let flow = flow.without_name();
        let first = self.rules.iter().find(|rule| rule.takes_destination(&flow));
        let action = first.map_or(self.default, |rule| rule.action);
        let asks_for_application = first.is_some_and(|rule| !rule.app.is_empty());
        match self.connect(first) {
            Some("early") => "hand over",
            Some(_) => "ask",
            None if asks_for_application => "ask",
            None => action,
        }
    }

    pub(crate) fn to_yaml(&self) -> String {
        let mut text = String::from("version: 1\nzones:\n");
        for (name, connect) in ["z1", "z2"].iter().zip(self.zones) {
            let connect = connect.map_or(String::new(), |word| format!(", connect: {word}"));
            let _ = writeln!(text, "  {name}: {{gateways: [gw]{connect}}}");
        }
        let _ = writeln!(text, "default: {}\nrules:", self.default);
        for rule in &self.rules {
            let _ = writeln!(text, "  - name: {}", rule.name);
            let app: Vec<String> = rule.app.iter().map(ModelApp::to_yaml).collect();
            let to: Vec<String> = rule.to.iter().map(ModelHost::to_yaml).collect();
            let ports = rule.ports.iter();
            let ports: Vec<String> = ports.map(|(low, high)| format!("{low}-{high}")).collect();
            for (key, values) in [("app", app), ("to", to), ("ports", ports)] {
                if !values.is_empty() {
                    let _ = writeln!(text, "    {key}: [{}]", values.join(", "));
                }
            }
            let _ = match rule.action.split_once(' ') {
                Some((action, zone)) => writeln!(text, "    action: {action}\n    zone: {zone}"),
                None => writeln!(text, "    action: {}", rule.action),
            };
            if let (Some(word), true) = (rule.connect, rule.action.starts_with("tunnel")) {
                let _ = writeln!(text, "    connect: {word}");
            }
        }
        text
    }
}

impl ModelRule {
    fn takes_destination(&self, flow: &ModelFlow) -> bool {
        (self.to.is_empty() || self.to.iter().any(|host| host.takes(flow)))
            && (self.ports.is_empty()
                || self
                    .ports
                    .iter()
                    .any(|&(low, high)| low <= flow.port && flow.port <= high))
    }
}

impl ModelApp {
    fn takes(&self, flow: &ModelFlow) -> bool {
        match (self, flow.application) {
            (Self::Unknown, application) => application.is_none(),
            (_, None) => false,
            (Self::Name(name), Some(path)) => path.ends_with(&format!("/{name}")),
            (Self::Path(own), Some(path)) => *own == path,
            (Self::Below(directory), Some(path)) => path.starts_with(&format!("{directory}/")),
            (Self::StartsWith(start), Some(path)) => path.starts_with(start),
        }
    }

    fn to_yaml(&self) -> String {
        match self {
            Self::Unknown => "unknown".to_owned(),
            Self::Name(text) | Self::Path(text) => (*text).to_owned(),
            Self::Below(directory) => format!("\"{directory}/**\""),
            Self::StartsWith(start) => format!("{{regex: \"^{start}\"}}"),
        }
    }
}

impl ModelHost {
    fn takes(&self, flow: &ModelFlow) -> bool {
        let address = flow.address.map(|address| match address {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        });
        match (self, address, flow.name) {
            (Self::Network(network), Some(address), _) => network.contains(&address),
            (Self::Mapped(own), Some(address), _) => IpAddr::V4(*own) == address,
            (Self::Range(first, last), Some(address), _) => {
                first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last
            }
            (Self::Name(own), _, Some(name)) => *own == name,
            (Self::Below(suffix), _, Some(name)) => name.ends_with(&format!(".{suffix}")),
            (Self::StartsWith(start), _, Some(name)) => name.starts_with(start),
            (Self::Network(_) | Self::Mapped(_) | Self::Range(..), None, _)
            | (Self::Name(_) | Self::Below(_) | Self::StartsWith(_), _, None) => false,
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
        match self.application {
            Some(path) => Application::Known {
                path: PathBuf::from(path),
            },
            None => Application::Unknown,
        }
    }

    pub(crate) fn without_name(&self) -> Self {
        Self {
            name: None,
            ..self.clone()
        }
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
const PROGRAMS: [&str; 4] = ["/usr/bin/a", "/usr/bin/b", "/opt/x/a", "/opt/x/y/c"];

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
    ]
}

fn app() -> impl Strategy<Value = ModelApp> {
    prop_oneof![
        Just(ModelApp::Unknown),
        prop::sample::select(&["a", "b", "c"]).prop_map(ModelApp::Name),
        prop::sample::select(&PROGRAMS).prop_map(ModelApp::Path),
        prop::sample::select(&["/opt", "/opt/x", "/usr/bin"]).prop_map(ModelApp::Below),
        prop::sample::select(&["/usr", "/opt/x/"]).prop_map(ModelApp::StartsWith),
    ]
}

fn ports() -> impl Strategy<Value = (u16, u16)> {
    prop_oneof![
        6 => (1u16..12, 0u16..5).prop_map(|(low, more)| (low, low + more)),
        1 => Just((1, 65535)),
        1 => Just((8, 65535)),
    ]
}

/// Two in three are empty, which is any.
fn few<T: std::fmt::Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![2 => prop::collection::vec(item, 1..4), 1 => Just(()).prop_map(|()| Vec::new())]
}

fn action() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["pass", "block", "tunnel z1", "tunnel z2"][..])
}

fn connect() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(&[None, Some("honest"), Some("early")][..])
}

pub(crate) fn policy() -> impl Strategy<Value = ModelPolicy> {
    let app = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(app(), 1..3)];
    let rule = (app, few(host()), few(ports()), action(), connect());
    let rules = prop::collection::vec(rule, 0..9);
    (rules, action(), [connect(), connect()]).prop_map(|(rules, default, zones)| {
        let rules = rules.into_iter().enumerate();
        let rules = rules.map(|(index, (app, to, ports, action, connect))| ModelRule {
            name: format!("r{index}"),
            app,
            to,
            ports,
            action,
            connect,
        });
        ModelPolicy {
            rules: rules.collect(),
            default,
            zones,
        }
    })
}

pub(crate) fn flow() -> impl Strategy<Value = ModelFlow> {
    let port = prop_oneof![8 => 0u16..16, 1 => Just(65535u16)];
    (
        prop::option::weighted(0.9, flow_address()),
        prop::option::weighted(0.4, prop::sample::select(&NAMES)),
        port,
        prop::option::weighted(0.8, prop::sample::select(&PROGRAMS)),
    )
        .prop_map(|(address, name, port, application)| ModelFlow {
            address,
            name,
            port,
            application,
        })
}
