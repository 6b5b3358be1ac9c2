//! Sets of numbers as sorted, disjoint, not even adjacent ranges: addresses and ports in the one form that can be compared.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use adit_capture::Family;

/// A set of addresses of one family, or of ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    pub(crate) fn new(ranges: impl IntoIterator<Item = (u128, u128)>) -> Ranges {
        let mut sorted: Vec<_> = ranges
            .into_iter()
            .filter(|(low, high)| low <= high)
            .collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(sorted.len());
        for (low, high) in sorted {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                Some(_) | None => merged.push((low, high)),
            }
        }
        Ranges(merged)
    }

    pub(crate) fn all_addresses(family: Family) -> Ranges {
        Ranges(vec![(0, last_address(family))])
    }

    pub(crate) fn all_ports() -> Ranges {
        Ranges(vec![(0, u128::from(u16::MAX))])
    }

    /// The networks of that family among these.
    pub(crate) fn of_networks(networks: &[IpNet], family: Family) -> Ranges {
        Ranges::new(
            networks
                .iter()
                .filter_map(|network| match (network, family) {
                    (IpNet::V4(net), Family::V4) => Some((
                        net.network().to_bits().into(),
                        net.broadcast().to_bits().into(),
                    )),
                    (IpNet::V6(net), Family::V6) => {
                        Some((net.network().to_bits(), net.broadcast().to_bits()))
                    }
                    (IpNet::V4(_), Family::V6) | (IpNet::V6(_), Family::V4) => None,
                }),
        )
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.0.iter().copied()
    }

    pub(crate) fn union(&self, other: &Ranges) -> Ranges {
        Ranges::new(self.iter().chain(other.iter()))
    }

    pub(crate) fn minus(&self, other: &Ranges) -> Ranges {
        let mut left = Vec::new();
        let mut holes = other.0.iter().peekable();
        for (mut low, high) in self.iter() {
            let mut spent = false;
            while let Some(&&(hole_low, hole_high)) = holes.peek() {
                if hole_low > high {
                    break;
                }
                if hole_high >= low {
                    if hole_low > low {
                        left.push((low, hole_low - 1));
                    }
                    if hole_high >= high {
                        spent = true;
                        break;
                    }
                    low = hole_high + 1;
                }
                holes.next();
            }
            if !spent {
                left.push((low, high));
            }
        }
        Ranges(left)
    }

    /// The fewest networks that are exactly these addresses.
    pub(crate) fn networks(&self, family: Family) -> Vec<IpNet> {
        let bits: u32 = match family {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        let mut networks = Vec::new();
        for (mut low, high) in self.iter() {
            loop {
                let aligned = low.trailing_zeros().min(bits);
                // `span` is None for the 2^128 addresses that a count cannot hold.
                let span = (high - low).checked_add(1);
                let host_bits = aligned.min(span.map_or(bits, u128::ilog2));
                networks.push(network(low, bits - host_bits, family));
                let last = low | low_bits(host_bits);
                if last >= high {
                    break;
                }
                low = last + 1;
            }
        }
        networks
    }
}

/// The highest address of a family, as a number.
pub(crate) fn last_address(family: Family) -> u128 {
    match family {
        Family::V4 => u32::MAX.into(),
        Family::V6 => u128::MAX,
    }
}

fn low_bits(count: u32) -> u128 {
    1_u128.checked_shl(count).map_or(u128::MAX, |bit| bit - 1)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "an IPv4 range holds 32 bits, a length 128"
)]
fn network(address: u128, length: u32, family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::new_assert(
            Ipv4Addr::from_bits(address as u32),
            length as u8,
        )),
        Family::V6 => IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::from_bits(address),
            length as u8,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = Ranges> {
        prop::collection::vec((0_u128..200, 0_u128..40), 0..8)
            .prop_map(|list| Ranges::new(list.into_iter().map(|(low, len)| (low, low + len))))
    }

    fn has(set: &Ranges, number: u128) -> bool {
        set.iter()
            .any(|(low, high)| low <= number && number <= high)
    }

    proptest! {
        #[test]
        fn set_algebra_agrees_with_membership(a in ranges(), b in ranges()) {
            let (union, minus) = (a.union(&b), a.minus(&b));
            for number in 0..260 {
                prop_assert_eq!(has(&union, number), has(&a, number) || has(&b, number));
                prop_assert_eq!(has(&minus, number), has(&a, number) && !has(&b, number));
            }
        }

        #[test]
        fn networks_are_exactly_the_addresses(set in ranges(), offset in any::<u64>()) {
            let set = Ranges::new(set.iter().map(|(l, h)| (l + u128::from(offset), h + u128::from(offset))));
            let networks = set.networks(Family::V6);
            prop_assert_eq!(Ranges::of_networks(&networks, Family::V6), set);
        }
    }

    #[test]
    fn the_whole_of_a_family_is_one_network() {
        for (family, expected) in [(Family::V4, "0.0.0.0/0"), (Family::V6, "::/0")] {
            let networks = Ranges::all_addresses(family).networks(family);
            assert_eq!(networks, [expected.parse::<IpNet>().unwrap()]);
        }
    }
}
