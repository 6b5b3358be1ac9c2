//! Sets of addresses: single addresses, networks and ranges of both families.
//!
//! An IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2) is the IPv4 address everywhere here, as it is on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::diagnostics::Fault;
use crate::ranges::RangeSet;

/// First and last address of a contiguous run in one family, not IPv4-mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressRange {
    /// IPv4, as numbers.
    V4(u32, u32),
    /// IPv6, as numbers.
    V6(u128, u128),
}

impl From<IpNet> for AddressRange {
    fn from(network: IpNet) -> Self {
        match network {
            IpNet::V4(network) => Self::V4(network.network().into(), network.broadcast().into()),
            IpNet::V6(network) => Self::v6(network.network(), network.broadcast()),
        }
    }
}

impl AddressRange {
    fn v6(first: Ipv6Addr, last: Ipv6Addr) -> Self {
        match (first.to_ipv4_mapped(), last.to_ipv4_mapped()) {
            (Some(first), Some(last)) => Self::V4(first.into(), last.into()),
            (Some(_) | None, _) => Self::V6(first.into(), last.into()),
        }
    }

    fn between(first: IpAddr, last: IpAddr) -> Option<Self> {
        match (first.to_canonical(), last.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Some(Self::V4(first.into(), last.into())),
            (IpAddr::V6(first), IpAddr::V6(last)) => Some(Self::V6(first.into(), last.into())),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    fn is_backwards(self) -> bool {
        match self {
            Self::V4(first, last) => first > last,
            Self::V6(first, last) => first > last,
        }
    }

    /// The least range around it whose ends do not differ in the last bits, so many of IPv4 and so many of IPv6.
    pub(crate) fn widened(self, (v4, v6): (u32, u32)) -> Self {
        match self {
            Self::V4(first, last) => {
                let low_bits = 1_u32.checked_shl(v4).map_or(u32::MAX, |bit| bit - 1);
                Self::V4(first & !low_bits, last | low_bits)
            }
            Self::V6(first, last) => {
                let low_bits = 1_u128.checked_shl(v6).map_or(u128::MAX, |bit| bit - 1);
                Self::V6(first & !low_bits, last | low_bits)
            }
        }
    }
}

/// Addresses of both families.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AddressSet {
    v4: RangeSet<u32>,
    v6: RangeSet<u128>,
}

impl Default for AddressSet {
    fn default() -> Self {
        Self::from_iter([])
    }
}

impl FromIterator<AddressRange> for AddressSet {
    fn from_iter<I: IntoIterator<Item = AddressRange>>(ranges: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for range in ranges {
            match range {
                AddressRange::V4(first, last) => v4.push((first, last)),
                AddressRange::V6(first, last) => v6.push((first, last)),
            }
        }
        Self {
            v4: RangeSet::new(v4),
            v6: RangeSet::new(v6),
        }
    }
}

impl AddressSet {
    /// Whether `address` is a member.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.contains(address.into()),
            IpAddr::V6(address) => self.v6.contains(address.into()),
        }
    }

    /// Whether every member of `other` is a member.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.v4.covers(&other.v4) && self.v6.covers(&other.v6)
    }

    /// Every address that is no member.
    pub(crate) fn complement(&self) -> Self {
        Self {
            v4: self.v4.complement(),
            v6: self.v6.complement(),
        }
    }

    /// Every address that is a member of one of both.
    pub(crate) fn union(&self, other: &Self) -> Self {
        self.ranges().chain(other.ranges()).collect()
    }

    /// Whether nothing is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Some member.
    pub(crate) fn first(&self) -> Option<IpAddr> {
        let v4 = self.v4.first().map(|bits| Ipv4Addr::from(bits).into());
        v4.or_else(|| self.v6.first().map(|bits| Ipv6Addr::from(bits).into()))
    }

    /// The set as runs of addresses.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = AddressRange> {
        let v4 = self.v4.ranges().iter();
        let v6 = self.v6.ranges().iter();
        v4.map(|&(first, last)| AddressRange::V4(first, last))
            .chain(v6.map(|&(first, last)| AddressRange::V6(first, last)))
    }

    /// The fewest networks that together are the set, ascending, IPv4 first.
    pub(crate) fn networks(&self) -> Vec<IpNet> {
        let v4 = self.v4.ranges().iter();
        let v6 = self.v6.ranges().iter();
        v4.flat_map(|&(first, last)| Ipv4Subnets::new(first.into(), last.into(), 0))
            .map(IpNet::V4)
            .chain(
                v6.flat_map(|&(first, last)| Ipv6Subnets::new(first.into(), last.into(), 0))
                    .map(IpNet::V6),
            )
            .collect()
    }
}

/// Reads an address, a network or a range. `None`: it does not look like one, so it can be a name.
pub(crate) fn parse(text: &str) -> Option<Result<AddressRange, Fault>> {
    if text.contains("://") {
        return None;
    }
    if let Some((address, length)) = text.split_once('/') {
        return Some(network(address, length).map(AddressRange::from));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return AddressRange::between(address, address).map(Ok);
    }
    if let Some((first, last)) = text.split_once('-')
        && let Ok(first) = first.trim().parse()
    {
        return Some(range(first, last.trim()));
    }
    let wildcard = network_with_stars(text).map(Err);
    wildcard.or_else(|| looks_numeric(text).then(|| Err(not_an_address(text))))
}

/// `10.20.*.*` is a network to whoever writes it, and would be the name of no host.
fn network_with_stars(text: &str) -> Option<Fault> {
    let labels: Vec<&str> = text.split('.').take(5).collect();
    let is_number = |label: &&str| label.parse::<u8>().is_ok();
    let numbers = labels.iter().take_while(|label| is_number(label)).count();
    let stars = labels.iter().filter(|label| **label == "*").count();
    let all_numbers = labels.iter().filter(|label| is_number(label)).count();
    if all_numbers == 0 || stars == 0 || all_numbers + stars != labels.len() || labels.len() > 4 {
        return None;
    }
    let fault = Fault::new(format!("{text:?} is not a network, and no name either"));
    if numbers != all_numbers {
        return Some(fault.hint("write a network as 10.20.0.0/16"));
    }
    let address: Vec<&str> = (0..4)
        .map(|at| labels.get(at).filter(|_| at < numbers).unwrap_or(&"0"))
        .copied()
        .collect();
    let address = address.join(".");
    Some(fault.hint(format!("the network is {address}/{}", 8 * numbers)))
}

/// Reads ADDRESS/LENGTH of a network, whose host bits must be zero.
pub(crate) fn network(address: &str, length: &str) -> Result<IpNet, Fault> {
    let Ok(parsed) = address.parse::<IpAddr>() else {
        return Err(Fault::new(format!(
            "{address:?} is not an address, so {address}/{length} is not a network"
        ))
        .hint("write a network as 10.20.0.0/16 or 2001:db8::/32"));
    };
    let most = if parsed.is_ipv4() { 32 } else { 128 };
    let digits = length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
    let Some(length) = length.parse().ok().filter(|&it| digits && it <= most) else {
        return Err(
            Fault::new(format!("{length:?} is not the length of a network"))
                .hint(format!("for {parsed} it is a number from 0 to {most}")),
        );
    };
    let Ok(network) = IpNet::new(parsed, length) else {
        return Err(Fault::new(format!("{address}/{length} is not a network")));
    };
    if network.trunc() == network {
        return Ok(network);
    }
    Err(Fault::new(format!(
        "{network} has bits set behind the network's length"
    ))
    .hint(format!(
        "the network is {}; the one address is {parsed}",
        network.trunc()
    )))
}

fn range(first: IpAddr, last: &str) -> Result<AddressRange, Fault> {
    let Ok(parsed) = last.parse::<IpAddr>() else {
        return Err(Fault::new(format!("a range ends with {last:?}"))
            .hint("write both ends as whole addresses: 10.0.0.1-10.0.0.9"));
    };
    match AddressRange::between(first, parsed) {
        None => Err(Fault::new(format!(
            "a range from {first} to {parsed} mixes IPv4 and IPv6"
        ))),
        Some(range) if range.is_backwards() => Err(Fault::new(format!(
            "a range from {first} to {parsed} is empty"
        ))
        .hint(format!("the lower end comes first: {parsed}-{first}"))),
        Some(range) => Ok(range),
    }
}

/// Whether `text` can only be meant as an address: no name holds a colon, and none ends in a label of digits.
fn looks_numeric(text: &str) -> bool {
    let last_label = text.trim_end_matches('.').rsplit('.').next();
    text.contains(':')
        || last_label.is_some_and(|label| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit())
        })
}

fn not_an_address(text: &str) -> Fault {
    let fault = Fault::new(format!("{text:?} is not an address"));
    let bare = text.trim_start_matches('[').split(']').next();
    if text.starts_with('[') && bare.is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok()) {
        return fault.hint("write it without brackets; ports have a list of their own, `ports:`");
    }
    match text.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') => {
            fault.hint("ports have a list of their own, `ports:`")
        }
        Some(_) | None => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let shown = match parse(text) {
            None => "a name?".to_owned(),
            Some(Err(fault)) => format!("error: {fault}"),
            Some(Ok(range)) => {
                let networks = AddressSet::from_iter([range]).networks();
                let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
                networks.join(" ")
            }
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn reads_what_an_administrator_writes() {
        check("10.1.2.3", "10.1.2.3/32");
        check("2001:db8::1", "2001:db8::1/128");
        check("10.20.0.0/16", "10.20.0.0/16");
        check("0.0.0.0/0", "0.0.0.0/0");
        check("::/0", "::/0");
        check("2001:db8::/32", "2001:db8::/32");
        check(
            "10.0.0.1-10.0.0.9",
            "10.0.0.1/32 10.0.0.2/31 10.0.0.4/30 10.0.0.8/31",
        );
        check("10.0.0.0 - 10.0.0.255", "10.0.0.0/24");
        check("2001:db8::-2001:db8::1", "2001:db8::/127");
        check("erp.corp", "a name?");
        check("web-1.corp", "a name?");
        check("https://erp.corp/", "a name?");
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        check("::ffff:10.1.2.3", "10.1.2.3/32");
        check("::ffff:10.0.0.0/104", "10.0.0.0/8");
        check("::ffff:0.0.0.0/96", "0.0.0.0/0");
        check("::ffff:10.0.0.1-10.0.0.1", "10.0.0.1/32");
        let set = AddressSet::from_iter([AddressRange::V4(0x0a00_0001, 0x0a00_0001)]);
        assert!(set.contains("::ffff:10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn says_what_is_wrong() {
        check(
            "10.20.0.5/16",
            "error: 10.20.0.5/16 has bits set behind the network's length; the network is 10.20.0.0/16; the one address is 10.20.0.5",
        );
        check(
            "2001:db8::1/32",
            "error: 2001:db8::1/32 has bits set behind the network's length; the network is 2001:db8::/32; the one address is 2001:db8::1",
        );
        check(
            "10.0.0.0/33",
            "error: \"33\" is not the length of a network; for 10.0.0.0 it is a number from 0 to 32",
        );
        check(
            "10.0.0.0/+8",
            "error: \"+8\" is not the length of a network; for 10.0.0.0 it is a number from 0 to 32",
        );
        check(
            "erp.corp/24",
            "error: \"erp.corp\" is not an address, so erp.corp/24 is not a network; write a network as 10.20.0.0/16 or 2001:db8::/32",
        );
        for (text, network) in [
            ("10.0.0.*", "10.0.0.0/24"),
            ("192.168.*.*", "192.168.0.0/16"),
            ("10.*", "10.0.0.0/8"),
        ] {
            check(
                text,
                &format!(
                    "error: {text:?} is not a network, and no name either; the network is {network}"
                ),
            );
        }
        check(
            "10.*.0.1",
            "error: \"10.*.0.1\" is not a network, and no name either; write a network as 10.20.0.0/16",
        );
        check("10.*.corp", "a name?");
        check("*.corp", "a name?");
        check("10.0.0.256", "error: \"10.0.0.256\" is not an address");
        check("10.0.0", "error: \"10.0.0\" is not an address");
        check(
            "10.0.0.1:443",
            "error: \"10.0.0.1:443\" is not an address; ports have a list of their own, `ports:`",
        );
        check(
            "[::1]:443",
            "error: \"[::1]:443\" is not an address; write it without brackets; ports have a list of their own, `ports:`",
        );
        check(
            "10.0.0.1-9",
            "error: a range ends with \"9\"; write both ends as whole addresses: 10.0.0.1-10.0.0.9",
        );
        check(
            "10.0.0.9-10.0.0.1",
            "error: a range from 10.0.0.9 to 10.0.0.1 is empty; the lower end comes first: 10.0.0.1-10.0.0.9",
        );
        check(
            "10.0.0.9-::1",
            "error: a range from 10.0.0.9 to ::1 mixes IPv4 and IPv6",
        );
    }
}
