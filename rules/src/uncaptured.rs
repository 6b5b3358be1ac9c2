//! Destinations of which no captured connection can be, whatever the rules say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::{AddressRange, AddressSet};
use crate::destination::Destination;
use crate::diagnostics::{Fault, Place};
use crate::findings::Findings;
use crate::rule::{Rule, Validity};

const LOOPBACK_V4: (Ipv4Addr, Ipv4Addr) = (
    Ipv4Addr::new(127, 0, 0, 0),
    Ipv4Addr::new(127, 255, 255, 255),
);

/// Why a connection to `destination`, normalized, is not captured. `None`: it is, unless the address is one of the host's own.
pub(crate) fn why(destination: &Destination) -> Option<&'static str> {
    match (destination.address, &destination.name) {
        (Some(address), _) => why_not_to(address),
        (None, Some(_)) => Some(
            "a captured connection is known by its address, not by a name: this is what one through an entry gets",
        ),
        (None, None) => None,
    }
}

fn why_not_to(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        address if address.is_loopback() => Some("connections within the host go their own way"),
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            Some("IPv6 link-local connections go their own way")
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// Warns of rules that are about such addresses alone.
pub(crate) fn warn(rules: &[Rule], places: &[Place], findings: &mut Findings) {
    let uncaptured = uncaptured();
    for (rule, place) in rules.iter().zip(places) {
        let Some(targets) = rule
            .targets
            .as_ref()
            .filter(|_| rule.validity != Validity::Off)
        else {
            continue;
        };
        let hosts = &targets.any;
        let is_of_addresses = hosts.names.is_empty() && !hosts.addresses.is_empty();
        if targets.none_of.is_none() && is_of_addresses && uncaptured.covers(&hosts.addresses) {
            let fault = Fault::new(format!(
                "{:?} is only about connections that are never captured",
                rule.label
            ));
            let hint = "loopback and IPv6 link-local ones go as they would without Adit, whatever the rules say";
            findings.warning(*place, fault.hint(hint));
        }
    }
}

fn uncaptured() -> AddressSet {
    let link_local = u128::from(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0));
    AddressSet::from_iter([
        AddressRange::V4(LOOPBACK_V4.0.into(), LOOPBACK_V4.1.into()),
        AddressRange::V6(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        AddressRange::V6(link_local, link_local | ((1 << 118) - 1)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination;

    #[test]
    fn both_say_the_same_of_an_address() {
        for (text, is_captured) in [
            ("10.0.0.1", true),
            ("126.255.255.255", true),
            ("127.0.0.0", false),
            ("127.255.255.255", false),
            ("128.0.0.0", true),
            ("[::]", true),
            ("[::1]", false),
            ("[::2]", true),
            ("[::ffff:127.0.0.1]", false),
            ("[fe7f:ffff::]", true),
            ("[fe80::]", false),
            ("[febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff]", false),
            ("[fec0::]", true),
        ] {
            let destination = destination::parse(&format!("{text}:80")).unwrap();
            let address = destination.address.unwrap();
            assert_eq!(why(&destination).is_none(), is_captured, "{text}");
            assert_eq!(!uncaptured().contains(address), is_captured, "{text}");
        }
    }
}
