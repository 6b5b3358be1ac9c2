//! Hosts of a rule: `to:`.

use crate::address::{AddressRange, AddressSet};
use crate::destination::Destination;
use crate::name_set::NameSet;
use crate::truth::Truth;

/// Hosts of a rule.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    /// One of these, …
    pub(crate) any: Hosts,
    /// … or none of these.
    pub(crate) none_of: Option<Hosts>,
    /// As the administrator wrote them, cut short for people.
    pub(crate) shown: String,
}

/// Hosts by address and by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Hosts {
    pub(crate) addresses: AddressSet,
    pub(crate) names: NameSet,
}

impl Targets {
    /// Whether `destination`, normalized, is one of them. What is not known of it satisfies nothing, and is doubt where a
    /// `not` asks for it.
    pub(crate) fn truth(&self, destination: &Destination) -> Truth {
        let any = self.any.truth(destination).surely();
        match &self.none_of {
            Some(none_of) if any != Truth::Yes => none_of.truth(destination).not(),
            Some(_) | None => any,
        }
    }

    /// Whether all hosts that `other` takes, in doubt too, are taken. Never a wrong yes.
    pub(crate) fn cover(&self, other: &Self) -> bool {
        let takes_any = match &self.none_of {
            None => self.any.covers(&other.any),
            // Each destination of the others has an address, when they are addresses, and none of these is excluded.
            Some(none_of) => {
                self.any.covers(&other.any)
                    || none_of.names.is_empty()
                        && other.any.names.is_empty()
                        && none_of
                            .addresses
                            .complement()
                            .union(&self.any.addresses)
                            .covers(&other.any.addresses)
            }
        };
        let takes_rest = match (&self.none_of, &other.none_of) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(own), Some(theirs)) => theirs.covers(own),
        };
        takes_any && takes_rest
    }

    /// How many comparisons of names it costs, roughly, to find out whether `other` is covered.
    pub(crate) fn cost_of_covering(&self, other: &Self) -> usize {
        let (own, theirs) = (&self.any.names, &other.any.names);
        // As many as a search takes among sorted names, for what stands in one rule and in the other.
        let search = 2 * (usize::BITS - own.len().leading_zeros()) as usize;
        1 + theirs
            .len()
            .saturating_mul(8 + search + 100 * own.expressions())
    }

    /// The addresses that could be taken, whatever their names.
    pub(crate) fn possible_addresses(&self) -> AddressSet {
        match &self.none_of {
            None => self.any.addresses.clone(),
            Some(none_of) => none_of.addresses.complement().union(&self.any.addresses),
        }
    }

    /// Whether a flow without a known name can be in doubt.
    pub(crate) fn excludes_names(&self) -> bool {
        self.none_of.as_ref().is_some_and(|it| !it.names.is_empty())
    }

    /// Whether its `not` leaves no address, and nothing else names one.
    pub(crate) fn excludes_every_address(&self) -> bool {
        let is_every = |it: &Hosts| it.addresses.complement().is_empty();
        self.any.addresses.is_empty() && self.none_of.as_ref().is_some_and(is_every)
    }

    /// Whether no host at all is meant.
    pub(crate) fn is_empty(&self) -> bool {
        self.none_of.is_none() && self.any.is_empty()
    }
}

impl Hosts {
    /// Nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.names.is_empty()
    }

    fn truth(&self, destination: &Destination) -> Truth {
        let by_address = match destination.address {
            _ if self.addresses.is_empty() => Truth::No,
            None => Truth::Doubt,
            Some(address) => self.addresses.contains(address).into(),
        };
        let by_name = match &destination.name {
            _ if self.names.is_empty() => Truth::No,
            None => Truth::Doubt,
            Some(name) => self.names.matches(name).into(),
        };
        by_address.or(by_name)
    }

    fn covers(&self, other: &Self) -> bool {
        self.addresses.covers(&other.addresses) && self.names.covers(&other.names)
    }
}

/// Every address of both families.
pub(crate) fn every_address() -> AddressSet {
    AddressSet::from_iter([
        AddressRange::V4(0, u32::MAX),
        AddressRange::V6(0, u128::MAX),
    ])
}
