//! Addresses that mean the gateway itself or its surroundings rather than a host of the zone.
//!
//! Whoever reaches them through the gateway speaks with the gateway's own voice: a database that
//! trusts its loopback, a cloud's metadata service that hands out credentials. So a wide entry
//! ("0.0.0.0/0:*") or a name never leads there; an entry has to name the range itself.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A range of addresses that needs an entry of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialRange {
    /// What the range is, in words for a log line.
    pub what: &'static str,
    /// The addresses.
    pub network: IpNet,
}

/// The longest prefixes stand beside the ranges that hold them: an address can be in two, and then
/// needs leave for both.
///
/// Sources: RFC 6890 (this network, loopback, link-local, unspecified), RFC 5771 and 4291
/// (multicast), RFC 919 (broadcast), RFC 4291 2.5.5.1 (IPv4-compatible), RFC 6052 (the translation
/// prefix, for the same IPv4 ranges behind a translator), the instance metadata pages of AWS (IPv4
/// and IPv6), which Google, Azure and OpenStack share for IPv4.
const RANGES: &[SpecialRange] = &[
    v4("this network or unspecified", [0, 0, 0, 0], 8),
    v4("loopback", [127, 0, 0, 0], 8),
    v4("link-local", [169, 254, 0, 0], 16),
    v4("cloud metadata", [169, 254, 169, 254], 32),
    v4("multicast", [224, 0, 0, 0], 4),
    v4("broadcast", [255, 255, 255, 255], 32),
    v6("unspecified, loopback or IPv4-compatible", [0; 8], 96),
    v6("link-local", [0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6("multicast", [0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    v6("cloud metadata", [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
    v6(
        "translated loopback",
        [0x64, 0xff9b, 0, 0, 0, 0, 0x7f00, 0],
        104,
    ),
    v6(
        "translated link-local",
        [0x64, 0xff9b, 0, 0, 0, 0, 0xa9fe, 0],
        112,
    ),
];

const fn v4(what: &'static str, octets: [u8; 4], prefix: u8) -> SpecialRange {
    let [a, b, c, d] = octets;
    let network = Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix);
    SpecialRange {
        what,
        network: IpNet::V4(network),
    }
}

const fn v6(what: &'static str, segments: [u16; 8], prefix: u8) -> SpecialRange {
    let [a, b, c, d, e, f, g, h] = segments;
    let network = Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix);
    SpecialRange {
        what,
        network: IpNet::V6(network),
    }
}

/// An IPv4-mapped IPv6 address (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2) as the IPv4 address that the
/// kernel would dial for it.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The special ranges that hold `address`, which must be canonical.
pub fn ranges_of(address: IpAddr) -> impl Iterator<Item = &'static SpecialRange> {
    RANGES
        .iter()
        .filter(move |range| range.network.contains(&address))
}

/// The range that keeps `address` out of reach of an entry for `network`, if one does: the entry
/// reaches a special address only when all of its network lies in that range, so that whoever wrote
/// it meant it.
pub fn withheld(address: IpAddr, network: Option<IpNet>) -> Option<&'static SpecialRange> {
    ranges_of(address)
        .find(|range| !network.is_some_and(|network| range.network.contains(&network)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `network` empty: an entry by name.
    fn check(address: &str, network: &str, withheld_as: Option<&str>) {
        let network = (!network.is_empty()).then(|| network.parse().expect("test network"));
        let address = canonical(address.parse().expect("test address"));
        assert_eq!(
            withheld(address, network).map(|r| r.what),
            withheld_as,
            "{address} by {network:?}"
        );
    }

    #[test]
    fn special_addresses_need_a_network_of_their_own() {
        check("127.0.0.1", "", Some("loopback"));
        check("127.0.0.1", "0.0.0.0/0", Some("loopback"));
        check("127.0.0.1", "126.0.0.0/7", Some("loopback"));
        check("127.0.0.1", "127.0.0.0/8", None);
        check("127.0.0.1", "127.0.0.1/32", None);
        check("::ffff:127.0.0.1", "::/0", Some("loopback"));
        check(
            "::1",
            "::/0",
            Some("unspecified, loopback or IPv4-compatible"),
        );
        check("::1", "::1/128", None);
        check(
            "::",
            "::/0",
            Some("unspecified, loopback or IPv4-compatible"),
        );
        check(
            "::127.0.0.1",
            "::/0",
            Some("unspecified, loopback or IPv4-compatible"),
        );
        check("0.0.0.0", "0.0.0.0/0", Some("this network or unspecified"));
        check("169.254.1.1", "169.0.0.0/8", Some("link-local"));
        check("169.254.1.1", "169.254.0.0/16", None);
        check("fe80::1", "fe80::/9", Some("link-local"));
        check("fe80::1", "fe80::/10", None);
        check("239.1.1.1", "0.0.0.0/0", Some("multicast"));
        check("ff02::1", "::/0", Some("multicast"));
        check("255.255.255.255", "0.0.0.0/0", Some("broadcast"));
        check("fd00:ec2::254", "fd00::/8", Some("cloud metadata"));
        check("fd00:ec2::254", "fd00:ec2::254/128", None);
        check(
            "64:ff9b::127.0.0.1",
            "64:ff9b::/96",
            Some("translated loopback"),
        );
        check(
            "64:ff9b::169.254.169.254",
            "64:ff9b::/96",
            Some("translated link-local"),
        );
    }

    #[test]
    fn leave_for_link_local_is_not_leave_for_the_metadata_service() {
        check("169.254.169.254", "169.254.0.0/16", Some("cloud metadata"));
        check("169.254.169.254", "169.254.169.254/32", None);
    }

    #[test]
    fn ordinary_addresses_are_not_withheld() {
        for address in [
            "10.0.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "2001:db8::1",
            "fd00::1",
            "64:ff9b::10.0.0.1",
        ] {
            check(address, "", None);
        }
    }
}
