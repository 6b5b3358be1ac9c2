//! Destination patterns of a gateway's policy file: `10.20.0.0/16:443`, `*.finance.corp:*`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::address::{self, AddressRange, AddressSet};
use crate::destination::Destination;
use crate::diagnostics::Fault;
use crate::name::{self, NamePattern};
use crate::port::{self, PortSet};

/// One entry of `allow:` in a gateway's policy, `HOST:PORTS`.
///
/// HOST is an address, a network, a name or `*.wildcard` (IPv6 in brackets: `[2001:db8::/32]:443`), PORTS one of
/// `443`, `8000-8100`, `443,80` and `*`.
#[derive(Debug, Clone)]
pub struct AllowEntry {
    written: String,
    host: Host,
    ports: PortSet,
}

#[derive(Debug, Clone)]
enum Host {
    Network(IpNet, AddressSet),
    Name(NamePattern),
}

impl AllowEntry {
    /// Whether the entry allows `destination`: a network by its address, a name by its name. A destination with both
    /// needs only one of them to match, so ask about the address that is really dialled.
    pub fn matches(&self, destination: &Destination) -> bool {
        self.ports.contains(destination.port)
            && match &self.host {
                Host::Network(_, addresses) => destination
                    .address
                    .is_some_and(|address| addresses.contains(address)),
                Host::Name(pattern) => destination
                    .name
                    .as_deref()
                    .is_some_and(|name| pattern.matches(&name::normalize(name))),
            }
    }

    /// The network this entry allows, when written as an address or network. An IPv4-mapped one is given as IPv4.
    pub fn network(&self) -> Option<IpNet> {
        match &self.host {
            Host::Network(network, _) => Some(*network),
            Host::Name(_) => None,
        }
    }
}

/// Entries are equal when they are written alike.
impl PartialEq for AllowEntry {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for AllowEntry {}

/// As written.
impl fmt::Display for AllowEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl FromStr for AllowEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map_err(|fault| fault.to_string())
    }
}

fn parse(text: &str) -> Result<AllowEntry, Fault> {
    let Some((host, ports)) = split(text) else {
        return Err(Fault::new(format!("{text:?} does not say which ports"))
            .hint("write HOST:PORTS, such as 10.20.0.0/16:443; all ports are HOST:*"));
    };
    Ok(AllowEntry {
        written: text.to_owned(),
        host: parse_host(host)?,
        ports: parse_ports(ports)?,
    })
}

/// At the last colon, unless that is inside brackets or the host has colons without brackets.
fn split(text: &str) -> Option<(&str, &str)> {
    let (host, ports) = text.rsplit_once(':')?;
    (!ports.contains(']')).then_some((host, ports))
}

fn parse_host(text: &str) -> Result<Host, Fault> {
    let bare = match text.strip_prefix('[') {
        None if text.contains(':') && !text.contains("://") => {
            return Err(Fault::new(format!("{text:?} needs brackets"))
                .hint("IPv6 stands in brackets: [2001:db8::1]:443, [2001:db8::/32]:443"));
        }
        None if text == "*" => {
            return Err(Fault::new("\"*\" is not the name of a host")
                .hint("everything is two entries: 0.0.0.0/0 and [::/0]"));
        }
        None => text,
        Some(rest) => match rest.strip_suffix(']') {
            Some(bare) if bare.contains(':') => bare,
            Some(_) => {
                return Err(Fault::new(format!(
                    "{text:?} is not an IPv6 address or network"
                )));
            }
            None => {
                return Err(Fault::new(format!(
                    "the bracket of {text:?} is not closed at its end"
                ))
                .hint("a network stands in brackets as a whole: [2001:db8::/32]:443"));
            }
        },
    };
    match address::parse(bare) {
        None => NamePattern::parse(bare).map(Host::Name),
        Some(range) => network(bare, range?),
    }
}

fn network(text: &str, range: AddressRange) -> Result<Host, Fault> {
    let addresses = AddressSet::from_iter([range]);
    let is_range = !text.contains('/') && text.parse::<IpAddr>().is_err();
    match addresses.networks().as_slice() {
        [network] if !is_range => Ok(Host::Network(*network, addresses)),
        _ => Err(Fault::new(format!("{text:?} is a range of addresses"))
            .hint("write networks, one an entry")),
    }
}

fn parse_ports(text: &str) -> Result<PortSet, Fault> {
    if text == "*" {
        return Ok(port::all());
    }
    let ranges = text.split(',').map(|part| port::parse(part.trim()));
    Ok(PortSet::new(ranges.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn destination(name: Option<&str>, address: Option<&str>, port: u16) -> Destination {
        Destination {
            address: address.map(|address| address.parse().unwrap()),
            name: name.map(str::to_owned),
            port,
        }
    }

    #[track_caller]
    fn check(entry: &str, name: Option<&str>, address: Option<&str>, port: u16, expected: bool) {
        let entry: AllowEntry = entry.parse().unwrap();
        let destination = destination(name, address, port);
        assert_eq!(
            entry.matches(&destination),
            expected,
            "{entry} {destination}"
        );
    }

    #[test]
    fn matches_by_address() {
        check("10.20.0.0/16:443", None, Some("10.20.1.1"), 443, true);
        check("10.20.0.0/16:443", None, Some("10.21.1.1"), 443, false);
        check("10.20.0.0/16:443", None, Some("10.20.1.1"), 80, false);
        check(
            "10.20.0.0/16:443",
            None,
            Some("::ffff:10.20.1.1"),
            443,
            true,
        );
        check("10.20.0.0/16:443", Some("erp.corp"), None, 443, false);
        check("10.20.1.1:*", None, Some("10.20.1.1"), 1, true);
        check("10.20.1.1:*", None, Some("10.20.1.2"), 1, false);
        check(
            "[2001:db8::/32]:443",
            None,
            Some("2001:db8:1::1"),
            443,
            true,
        );
        check("[2001:db8::1]:443", None, Some("2001:db8::2"), 443, false);
        check(
            "[::ffff:10.0.0.0/104]:443",
            None,
            Some("10.9.9.9"),
            443,
            true,
        );
        check("0.0.0.0/0:*", None, Some("::1"), 443, false);
    }

    #[test]
    fn matches_by_name() {
        check("erp.corp:443", Some("ERP.corp."), None, 443, true);
        check(
            "erp.corp:443",
            Some("erp.corp"),
            Some("10.0.0.1"),
            443,
            true,
        );
        check("erp.corp:443", None, Some("10.0.0.1"), 443, false);
        check("*.corp:*", Some("a.b.corp"), None, 9, true);
        check("*.corp:*", Some("corp"), None, 9, false);
    }

    #[test]
    fn matches_ports() {
        for (port, expected) in [
            (443, true),
            (80, true),
            (8050, true),
            (81, false),
            (8101, false),
        ] {
            check("a:443,80, 8000-8100", Some("a"), None, port, expected);
        }
    }

    #[test]
    fn names_its_network() {
        let network = |text: &str| text.parse::<AllowEntry>().unwrap().network();
        assert_eq!(network("10.20.0.0/16:443"), "10.20.0.0/16".parse().ok());
        assert_eq!(network("10.20.0.1:443"), "10.20.0.1/32".parse().ok());
        assert_eq!(network("[2001:db8::1]:1"), "2001:db8::1/128".parse().ok());
        assert_eq!(
            network("[::ffff:10.0.0.0/104]:1"),
            "10.0.0.0/8".parse().ok()
        );
        assert_eq!(network("erp.corp:443"), None);
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = text.parse::<AllowEntry>().unwrap_err();
        assert_eq!(error, expected, "{text}");
    }

    #[test]
    fn refuses_what_is_no_entry() {
        let ports = "write HOST:PORTS, such as 10.20.0.0/16:443; all ports are HOST:*";
        refused(
            "10.20.0.0/16",
            &format!("\"10.20.0.0/16\" does not say which ports; {ports}"),
        );
        refused(
            "[2001:db8::1]",
            &format!("\"[2001:db8::1]\" does not say which ports; {ports}"),
        );
        refused("", &format!("\"\" does not say which ports; {ports}"));
        refused(
            "a:70000",
            "there is no port 70000; ports go from 1 to 65535",
        );
        refused(
            "a:",
            "\"\" is not a port; write a number, or a range such as 8000-8100",
        );
        refused(
            "2001:db8::1:443",
            "\"2001:db8::1\" needs brackets; IPv6 stands in brackets: [2001:db8::1]:443, [2001:db8::/32]:443",
        );
        refused(
            "[2001:db8::]/32:443",
            "the bracket of \"[2001:db8::]/32\" is not closed at its end; a network stands in brackets as a whole: [2001:db8::/32]:443",
        );
        refused("[corp]:443", "\"[corp]\" is not an IPv6 address or network");
        refused(
            "*:443",
            "\"*\" is not the name of a host; everything is two entries: 0.0.0.0/0 and [::/0]",
        );
        refused(
            "10.20.0.1/16:443",
            "10.20.0.1/16 has bits set behind the network's length; the network is 10.20.0.0/16; the one address is 10.20.0.1",
        );
        refused(
            "10.0.0.0-10.0.0.1:1",
            "\"10.0.0.0-10.0.0.1\" is a range of addresses; write networks, one an entry",
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "[\\[\\]:*a-c0-9./,-]{0,24}|.{0,40}", port: u16) {
            if let Ok(entry) = text.parse::<AllowEntry>() {
                let _ = entry.matches(&destination(Some("a.b"), Some("10.0.0.1"), port));
                prop_assert_eq!(entry.to_string(), text);
            }
        }
    }
}
