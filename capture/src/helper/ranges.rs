//! Sets of numbers as sorted, disjoint, not even adjacent ranges: addresses and ports in the one form that can be compared.

use std::collections::BTreeMap;
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

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.0.iter().copied()
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

/// A set of numbers that grows: each addition costs what it adds, not what is there.
#[derive(Debug, Default)]
pub(crate) struct Growing {
    /// Low → high; disjoint.
    ranges: BTreeMap<u128, u128>,
}

impl Growing {
    pub(crate) fn add(&mut self, (mut low, mut high): (u128, u128)) {
        let touching: Vec<(u128, u128)> = self.touching(low, high).collect();
        for (other_low, other_high) in touching {
            self.ranges.remove(&other_low);
            low = low.min(other_low);
            high = high.max(other_high);
        }
        self.ranges.insert(low, high);
    }

    /// Whether some of the range is in the set.
    pub(crate) fn touches(&self, (low, high): (u128, u128)) -> bool {
        self.touching(low, high).next().is_some()
    }

    /// The parts of a range that are not in the set.
    pub(crate) fn missing(&self, (mut low, high): (u128, u128)) -> Vec<(u128, u128)> {
        let mut missing = Vec::new();
        let mut inside: Vec<(u128, u128)> = self.touching(low, high).collect();
        inside.reverse();
        for (taken_low, taken_high) in inside {
            if taken_low > low {
                missing.push((low, taken_low - 1));
            }
            match taken_high.checked_add(1) {
                Some(next) if next <= high => low = next,
                Some(_) | None => return missing,
            }
        }
        missing.push((low, high));
        missing
    }

    /// The ranges that have a number with this one in common, the highest first.
    fn touching(&self, low: u128, high: u128) -> impl Iterator<Item = (u128, u128)> {
        self.ranges
            .range(..=high)
            .rev()
            .map(|(low, high)| (*low, *high))
            .take_while(move |(_, other_high)| *other_high >= low)
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
        fn what_is_missing_agrees_with_membership(
            added in prop::collection::vec((0_u128..200, 0_u128..40), 0..8),
            low in 0_u128..200,
            length in 0_u128..60,
        ) {
            let mut growing = Growing::default();
            let ranges: Vec<_> = added.iter().map(|(low, length)| (*low, low + length)).collect();
            ranges.iter().for_each(|range| growing.add(*range));
            let missing = Ranges::new(growing.missing((low, low + length)));
            let set = Ranges::new(ranges);
            let touches = (low..=low + length).any(|number| has(&set, number));
            prop_assert_eq!(growing.touches((low, low + length)), touches);
            for number in 0..260 {
                let asked = (low..=low + length).contains(&number);
                prop_assert_eq!(has(&missing, number), asked && !has(&set, number));
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
