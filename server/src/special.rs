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
/// (multicast), RFC 919 (broadcast), RFC 4291 2.5.5.1 (IPv4-compatible); for credentials and
/// configuration, the pages of AWS on instance metadata (169.254.169.254, which Google, Azure and
/// OpenStack share, and fd00:ec2::254), on ECS tasks (169.254.170.2) and on EKS pods (169.254.170.23
/// and fd00:ec2::23), of Azure on 168.63.129.16, of Alibaba on 100.100.100.200, of Google on
/// fd20:ce::254; of cloud-init, which asks there, on Scaleway (169.254.42.42, fd00:42::42), Akamai
/// (fd00:a9fe:a9fe::1) and Alibaba (fd00:100::100:200); of Oracle's images on fd00:c1::a9fe:a9fe.
const RANGES: &[SpecialRange] = &[
    v4("this network or unspecified", [0, 0, 0, 0], 8),
    v4("loopback", [127, 0, 0, 0], 8),
    v4("link-local", [169, 254, 0, 0], 16),
    v4("cloud metadata", [169, 254, 169, 254], 32),
    v4("cloud metadata", [169, 254, 42, 42], 32),
    v4("cloud metadata", [169, 254, 170, 2], 32),
    v4("cloud metadata", [169, 254, 170, 23], 32),
    v4("cloud metadata", [168, 63, 129, 16], 32),
    v4("cloud metadata", [100, 100, 100, 200], 32),
    v4("multicast", [224, 0, 0, 0], 4),
    v4("broadcast", [255, 255, 255, 255], 32),
    v6("unspecified, loopback or IPv4-compatible", [0; 8], 96),
    v6("link-local", [0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6("multicast", [0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    v6("cloud metadata", [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
    v6("cloud metadata", [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128),
    v6("cloud metadata", [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
    v6(
        "cloud metadata",
        [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe],
        128,
    ),
    v6(
        "cloud metadata",
        [0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1],
        128,
    ),
    v6(
        "cloud metadata",
        [0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200],
        128,
    ),
    v6("cloud metadata", [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
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

/// The range that keeps `address`, which must be canonical, out of reach of an entry for `network`,
/// if one does: the entry reaches a special address only when all of its network lies in that range,
/// so that whoever wrote it meant it.
///
/// An address behind a translator (NAT64) is judged as the IPv4 address that the translator makes of
/// it.
pub fn withheld(address: IpAddr, network: Option<IpNet>) -> Option<&'static SpecialRange> {
    let of = |address| RANGES.iter().filter(move |r| r.network.contains(&address));
    let within = |range: IpNet| network.is_some_and(|network| range.contains(&network));
    if let Some(range) = of(address).find(|range| !within(range.network)) {
        return Some(range);
    }
    let IpAddr::V6(address) = address else {
        return None;
    };
    if let Some(inner) = well_known(address) {
        return of(inner.into()).find(|range| !well_known_net(range.network).is_some_and(within));
    }
    // How much of the prefix is the site's own is not known, so that only an entry for the address
    // itself can mean it.
    if network.is_some_and(|network| network.prefix_len() == 128) {
        return None;
    }
    local_use(address).find_map(|inner| of(inner.into()).next())
}

/// RFC 6052 section 2.1: the IPv4 address is the last 32 bits.
const WELL_KNOWN: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

fn well_known(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = address.segments();
    ([a, b, c, d, e, f] == WELL_KNOWN)
        .then(|| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

/// A range of IPv4 behind the well-known prefix.
fn well_known_net(range: IpNet) -> Option<IpNet> {
    let IpNet::V4(range) = range else {
        return None;
    };
    let [a, b, c, d, e, f] = WELL_KNOWN;
    let [o0, o1, o2, o3] = range.network().octets();
    let (high, low) = (u16::from_be_bytes([o0, o1]), u16::from_be_bytes([o2, o3]));
    let network = Ipv6Addr::new(a, b, c, d, e, f, high, low);
    Ipv6Net::new(network, 96 + range.prefix_len())
        .ok()
        .map(IpNet::V6)
}

/// RFC 8215, 64:ff9b:1::/48: sites cut prefixes of their own out of it, so that the IPv4 address can
/// be in each of the places of RFC 6052 section 2.2 for a prefix of 48 bits or more. All readings
/// that leave the bits zero that have to be; those that mean no host (0.0.0.0/8) only when there
/// are no others.
fn local_use(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bytes = address.octets();
    let ours = bytes.starts_with(&[0, 0x64, 0xff, 0x9b, 0, 1]);
    let readings = [
        [6, 7, 9, 10],
        [7, 9, 10, 11],
        [9, 10, 11, 12],
        [12, 13, 14, 15],
    ]
    .into_iter()
    .filter(move |places| {
        let [.., last] = *places;
        bytes.iter().skip(last + 1).all(|byte| *byte == 0)
    })
    .map(move |places| Ipv4Addr::from(places.map(|place| bytes.get(place).copied().unwrap_or(0))));
    let hosts: Vec<_> = readings
        .clone()
        .filter(|reading| reading.octets()[0] != 0)
        .collect();
    let found = if hosts.is_empty() {
        readings.collect()
    } else {
        hosts
    };
    found.into_iter().filter(move |_| ours)
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
        for metadata in [
            "fd00:42::42",
            "fd00:c1::a9fe:a9fe",
            "fd00:a9fe:a9fe::1",
            "fd00:100::100:200",
        ] {
            check(metadata, "fd00::/8", Some("cloud metadata"));
            check(metadata, &format!("{metadata}/128"), None);
        }
        check("169.254.42.42", "169.254.0.0/16", Some("cloud metadata"));
    }

    #[test]
    fn what_is_behind_a_translator_is_judged_as_what_it_becomes() {
        check("64:ff9b::127.0.0.1", "64:ff9b::/96", Some("loopback"));
        check("64:ff9b::127.0.0.1", "64:ff9b::127.0.0.0/104", None);
        check("64:ff9b::127.0.0.1", "", Some("loopback"));
        let metadata = "64:ff9b::169.254.169.254";
        check(metadata, "64:ff9b::/96", Some("link-local"));
        check(metadata, "64:ff9b::169.254.0.0/112", Some("cloud metadata"));
        check(metadata, "64:ff9b::169.254.169.254/128", None);
        let this = Some("this network or unspecified");
        check("64:ff9b::", "::/0", this);
        check("64:ff9b::0.1.2.3", "::/0", this);
        check("64:ff9b::224.0.0.1", "::/0", Some("multicast"));
        check("64:ff9b::255.255.255.255", "::/0", Some("broadcast"));
        check("64:ff9b::168.63.129.16", "::/0", Some("cloud metadata"));
        // 127.0.0.1 behind prefixes of 48, 56, 64 and 96 bits: RFC 6052 section 2.2.
        for address in [
            "64:ff9b:1:7f00:0:100::",
            "64:ff9b:1:ab7f:0:1::",
            "64:ff9b:1:abcd:7f:0:100:0",
            "64:ff9b:1:abcd:0:1:7f00:1",
        ] {
            check(address, "64:ff9b:1::/48", Some("loopback"));
            check(address, &format!("{address}/128"), None);
        }
        check("64:ff9b:1::", "64:ff9b:1::/48", this);
        // 10.0.0.1, in the same places.
        for address in [
            "64:ff9b:1:a00:0:100::",
            "64:ff9b:1:ab0a:0:1::",
            "64:ff9b:1:abcd:a:0:100:0",
            "64:ff9b:1::10.0.0.1",
        ] {
            check(address, "64:ff9b:1::/48", None);
        }
    }

    #[test]
    fn every_clouds_metadata_has_to_be_named() {
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "168.63.129.16",
            "100.100.100.200",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
        ] {
            let (length, most) = match address.contains(':') {
                true => (128, "::/0"),
                false => (32, "0.0.0.0/0"),
            };
            let network = most.parse().expect("network");
            let parsed = address.parse().expect("address");
            assert!(withheld(parsed, Some(network)).is_some(), "{address}");
            check(address, &format!("{address}/{length}"), None);
        }
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
            "64:ff9b:2::127.0.0.1",
        ] {
            check(address, "", None);
        }
    }
}
