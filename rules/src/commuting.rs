//! Steps of the kernel's program that say the same, brought together wherever nothing between them speaks against it: a kernel
//! asks its steps one after another, and finds an address in a large set as fast as in a small one.

use std::collections::{BTreeMap, HashMap};

use crate::address::{AddressRange, AddressSet};
use crate::kernel::KernelVerdict;
use crate::port::{self, PortSet};
use crate::targets::every_address;

/// Addresses and ports with one verdict, of one rule or of several.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    /// Not merged yet: many are cheaper to merge together.
    pub(crate) to: Vec<AddressRange>,
    pub(crate) ports: PortSet,
    pub(crate) verdict: KernelVerdict,
}

/// Bundles in order, of which the first that matches decides.
#[derive(Debug, Default)]
pub(crate) struct Bundles {
    list: Vec<Bundle>,
    /// The last of those that say the same about the same ports.
    last_alike: HashMap<(PortSet, KernelVerdict), usize>,
    /// Where in the list an address is spoken of last, for each verdict.
    places: HashMap<KernelVerdict, Places>,
}

impl Bundle {
    pub(crate) fn is_everything(&self) -> bool {
        // The cheap question first: almost no rule has all ports and many addresses.
        port::is_all(&self.ports)
            && self.to.iter().copied().collect::<AddressSet>() == every_address()
    }

    fn is_like(&self, other: &Self) -> bool {
        self.verdict == other.verdict && self.ports == other.ports
    }
}

impl Bundles {
    /// Adds what comes behind all that is there. It joins an earlier bundle of the same word if none of those behind that one
    /// says something else of its addresses.
    pub(crate) fn add(&mut self, bundle: Bundle) {
        let barrier = self.barrier(&bundle);
        let key = (bundle.ports.clone(), bundle.verdict);
        let alike = self.last_alike.get(&key).copied();
        let place = match alike.filter(|alike| barrier.is_none_or(|barrier| barrier < *alike)) {
            Some(alike) => alike,
            None => {
                self.list.push(Bundle {
                    to: Vec::new(),
                    ports: bundle.ports,
                    verdict: bundle.verdict,
                });
                self.last_alike.insert(key, self.list.len() - 1);
                self.list.len() - 1
            }
        };
        let places = self.places.entry(bundle.verdict).or_default();
        for range in &bundle.to {
            places.put(*range, place);
        }
        self.list[place].to.extend(bundle.to);
    }

    /// The last place in which something else is said of one of its addresses.
    fn barrier(&mut self, bundle: &Bundle) -> Option<usize> {
        let others = self.places.iter_mut();
        let others = others.filter(|(verdict, _)| **verdict != bundle.verdict);
        others
            .flat_map(|(_, places)| bundle.to.iter().filter_map(|range| places.last(*range)))
            .max()
    }

    /// The bundles that say something else than what is said when none of them matches.
    pub(crate) fn against(self, default: KernelVerdict) -> (Vec<Bundle>, KernelVerdict) {
        let (mut list, mut default) = (self.list, default);
        loop {
            let before = list.len();
            if let Some(first) = list.iter().position(Bundle::is_everything) {
                default = list[first].verdict;
                list.truncate(first);
            }
            drop_what_goes_without_saying(&mut list, default);
            join_neighbours(&mut list);
            if list.len() == before {
                return (list, default);
            }
        }
    }
}

/// What says the same as the default, of addresses of which nothing else is said behind it.
fn drop_what_goes_without_saying(list: &mut Vec<Bundle>, default: KernelVerdict) {
    let mut behind = Places::default();
    for bundle in list.iter_mut().rev() {
        if bundle.verdict == default {
            bundle.to.retain(|range| behind.last(*range).is_some());
        }
        for range in &bundle.to {
            behind.put(*range, 0);
        }
    }
    list.retain(|bundle| !bundle.to.is_empty());
}

fn join_neighbours(list: &mut Vec<Bundle>) {
    list.dedup_by(|next, bundle| {
        let alike = bundle.is_like(next);
        if alike {
            bundle.to.append(&mut next.to);
        }
        alike
    });
}

/// A place for each address that was given one. Never one that is too low, which is what matters; sometimes one that is too
/// high, so that no question costs more than what was put in since.
#[derive(Debug, Default)]
struct Places {
    v4: Runs,
    v6: Runs,
}

impl Places {
    fn put(&mut self, range: AddressRange, place: usize) {
        let (runs, low, high) = self.of(range);
        let place = runs.last(low, high).map_or(place, |last| last.max(place));
        runs.replace(low, high, place);
    }

    /// The last place that an address of the range has.
    fn last(&mut self, range: AddressRange) -> Option<usize> {
        let (runs, low, high) = self.of(range);
        runs.last(low, high)
    }

    fn of(&mut self, range: AddressRange) -> (&mut Runs, u128, u128) {
        match range {
            AddressRange::V4(low, high) => (&mut self.v4, low.into(), high.into()),
            AddressRange::V6(low, high) => (&mut self.v6, low, high),
        }
    }
}

/// Low → high and place; disjoint.
#[derive(Debug, Default)]
struct Runs(BTreeMap<u128, (u128, usize)>);

/// So many runs are looked at one by one; more become one run.
const FEW: usize = 8;

impl Runs {
    fn last(&mut self, low: u128, high: u128) -> Option<usize> {
        let mut few = self.touching(low, high).map(|(_, _, place)| place);
        let last = few.by_ref().take(FEW).max()?;
        if few.next().is_none() {
            return Some(last);
        }
        drop(few);
        let last = self.touching(low, high).map(|(_, _, place)| place).max()?;
        self.replace(low, high, last);
        Some(last)
    }

    fn replace(&mut self, low: u128, high: u128, place: usize) {
        let touching: Vec<_> = self.touching(low, high).collect();
        for (other_low, other_high, other) in touching {
            self.0.remove(&other_low);
            if other_low < low {
                self.0.insert(other_low, (low - 1, other));
            }
            if other_high > high {
                self.0.insert(high + 1, (other_high, other));
            }
        }
        self.0.insert(low, (high, place));
    }

    /// The highest first.
    fn touching(&self, low: u128, high: u128) -> impl Iterator<Item = (u128, u128, usize)> {
        self.0
            .range(..=high)
            .rev()
            .map(|(other_low, (other_high, place))| (*other_low, *other_high, *place))
            .take_while(move |(_, other_high, _)| *other_high >= low)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_is_never_too_low(
            puts in prop::collection::vec((0u128..300, 0u128..40, 0usize..50), 0..60),
            low in 0u128..300,
            length in 0u128..200,
        ) {
            let (mut runs, mut of_each) = (Runs::default(), vec![None; 600]);
            for (low, length, place) in puts {
                let place = runs.last(low, low + length).map_or(place, |last| last.max(place));
                runs.replace(low, low + length, place);
                for number in low..=low + length {
                    let known = &mut of_each[usize::try_from(number).unwrap()];
                    *known = (*known).max(Some(place));
                }
            }
            let range = usize::try_from(low).unwrap()..=usize::try_from(low + length).unwrap();
            let expected = of_each[range].iter().flatten().max().copied();
            prop_assert!(runs.last(low, low + length) >= expected);
            prop_assert_eq!(runs.last(low, low + length).is_some(), expected.is_some());
        }
    }
}
