//! Zones that the same addresses are tunnelled through: often meant so, and worth knowing.

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::address::{AddressRange, AddressSet};
use crate::diagnostics::{Fault, Place};
use crate::findings::Findings;
use crate::rule::{Action, Rule, Validity};

/// More overlaps than this are not told.
const MOST_TOLD: usize = 10;

/// Addresses of a zone that could be those of another one: first, last, and the zone.
type Run = (u128, u128, usize);

/// Notes overlaps, each pair of zones once, where the second of both is named for the first time. Rules for any host are not
/// meant: they overlap with everything.
pub(crate) fn note(rules: &[Rule], places: &[Place], findings: &mut Findings) {
    let mut zones: BTreeMap<Arc<str>, (Place, Vec<AddressRange>)> = BTreeMap::new();
    for (rule, place) in rules.iter().zip(places) {
        let (Action::Tunnel { zone, .. }, Some(targets)) = (&rule.action, &rule.targets) else {
            continue;
        };
        if rule.validity != Validity::Off {
            let (_, ranges) = zones
                .entry(Arc::clone(zone))
                .or_insert((*place, Vec::new()));
            ranges.extend(targets.any.addresses.ranges());
        }
    }
    let mut zones: Vec<_> = zones.into_iter().collect();
    zones.sort_by_key(|(_, (place, _))| (place.file, place.line, place.column));
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (index, (_, (_, ranges))) in zones.iter().enumerate() {
        for range in AddressSet::from_iter(ranges.iter().copied()).ranges() {
            match range {
                AddressRange::V4(first, last) => v4.push((first.into(), last.into(), index)),
                AddressRange::V6(first, last) => v6.push((first, last, index)),
            }
        }
    }
    let v4 = overlaps(v4)
        .into_iter()
        .map(|(first, last, pair)| (show_v4(first, last), pair));
    let v6 = overlaps(v6)
        .into_iter()
        .map(|(first, last, pair)| (show_v6(first, last), pair));
    let mut told = HashSet::new();
    for (shown, (one, other)) in v4.chain(v6) {
        if told.len() == MOST_TOLD || !told.insert((one, other)) {
            continue;
        }
        let ((one, _), (other, (place, _))) = (&zones[one], &zones[other]);
        let fault = Fault::new(format!(
            "{shown} is tunnelled through {one:?} and through {other:?}"
        ));
        let hint = "which of them, the first rule that matches says; `adit explain` tells";
        findings.note(*place, fault.hint(hint));
    }
}

/// Runs that two zones have in common, the lower zone first. Of three zones that meet, not every pair is found.
fn overlaps(mut runs: Vec<Run>) -> Vec<(u128, u128, (usize, usize))> {
    runs.sort_unstable();
    let mut found = Vec::new();
    // What reaches furthest, and what does of all other zones.
    let mut reach: [Option<(u128, usize)>; 2] = [None, None];
    for (first, last, zone) in runs {
        let other = reach.iter().flatten().find(|(_, other)| *other != zone);
        if let Some(&(end, other)) = other.filter(|(end, _)| *end >= first) {
            found.push((first, last.min(end), (zone.min(other), zone.max(other))));
        }
        let own = reach
            .iter()
            .position(|it| it.is_some_and(|(_, own)| own == zone));
        let slot = own.unwrap_or(1);
        if reach[slot].is_none_or(|(end, _)| end < last) {
            reach[slot] = Some((last, zone));
        }
        if reach[0].is_none_or(|(end, _)| reach[1].is_some_and(|(other, _)| other > end)) {
            reach.swap(0, 1);
        }
    }
    found
}

fn show_v4(first: u128, last: u128) -> String {
    let number = |bits: u128| u32::try_from(bits).unwrap_or(u32::MAX);
    let (first, last) = (number(first), number(last));
    let ends = (
        Ipv4Addr::from(first).to_string(),
        Ipv4Addr::from(last).to_string(),
    );
    show(AddressRange::V4(first, last), ends)
}

fn show_v6(first: u128, last: u128) -> String {
    let ends = (
        Ipv6Addr::from(first).to_string(),
        Ipv6Addr::from(last).to_string(),
    );
    show(AddressRange::V6(first, last), ends)
}

/// As a network or an address where it is one.
fn show(range: AddressRange, (first, last): (String, String)) -> String {
    match AddressSet::from_iter([range]).networks().as_slice() {
        _ if first == last => first,
        [network] => network.to_string(),
        _ => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shows_what_is_in_common() {
        let runs = vec![(0, 9, 0), (5, 20, 1), (30, 31, 0), (31, 31, 1), (40, 50, 2)];
        assert_eq!(overlaps(runs), [(5, 9, (0, 1)), (31, 31, (0, 1))]);
        assert_eq!(show_v4(0x0a00_0000, 0x0aff_ffff), "10.0.0.0/8");
        assert_eq!(show_v4(0x0a00_0001, 0x0a00_0001), "10.0.0.1");
        assert_eq!(show_v4(0x0a00_0001, 0x0a00_0002), "10.0.0.1-10.0.0.2");
        assert_eq!(show_v6(0, 1), "::/127");
    }

    proptest! {
        #[test]
        fn finds_one_exactly_where_there_is_one(
            runs in prop::collection::vec((0u128..60, 0u128..12, 0usize..4), 0..9),
        ) {
            // Of one zone, runs are apart.
            let mut apart: Vec<Run> = Vec::new();
            for (first, more, zone) in runs {
                let last = first + more;
                if apart.iter().all(|it| it.2 != zone || it.1 < first || last < it.0) {
                    apart.push((first, last, zone));
                }
            }
            let meet = |one: &Run, other: &Run| one.2 != other.2 && one.0 <= other.1 && other.0 <= one.1;
            let expected = apart.iter().any(|one| apart.iter().any(|other| meet(one, other)));
            let found = overlaps(apart.clone());
            prop_assert_eq!(!found.is_empty(), expected, "{:?}", apart);
            for (first, last, (one, other)) in found {
                prop_assert!(first <= last);
                for zone in [one, other] {
                    let holds = |it: &Run| it.2 == zone && it.0 <= first && last <= it.1;
                    prop_assert!(apart.iter().any(holds), "{:?}", apart);
                }
            }
        }
    }
}
