//! Rules that can never match because earlier ones take all their flows.

use std::net::IpAddr;

use crate::address::AddressSet;
use crate::destination::Destination;
use crate::index::Index;
use crate::name::NamePattern;
use crate::port::PortSet;
use crate::rule::{Rule, Targets};

/// As many earlier rules are tried together; more would make a long file slow.
const MOST_TOGETHER: usize = 256;

/// Looks for shadows among rules, as long as its patience lasts: the time may grow with the square of their number.
pub(crate) struct Search<'a> {
    rules: &'a [Rule],
    index: Index,
    patience: usize,
}

/// A search that was given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfPatience;

impl<'a> Search<'a> {
    /// At most `patience` pairs of rules are compared.
    pub(crate) fn new(rules: &'a [Rule], patience: usize) -> Self {
        Self {
            rules,
            index: Index::new(rules),
            patience,
        }
    }

    /// Positions of the earlier rules that together take every flow of the rule at `position`; empty when they may not.
    ///
    /// One rule may do so alone. Several are only found where each takes all hosts and a part of the ports, or all
    /// ports and a part of the addresses: other combinations are rare and would need a search.
    pub(crate) fn shadows_of(&mut self, position: usize) -> Result<Vec<usize>, OutOfPatience> {
        let rule = &self.rules[position];
        let candidates = self.sharing_a_flow_with(position)?;
        let alone = candidates.iter().find(|&&it| self.rules[it].covers(rule));
        if let Some(alone) = alone {
            return Ok(vec![*alone]);
        }
        let takes_its_applications = |it: &usize| self.rules[*it].covers_applications(rule);
        if !candidates.iter().any(takes_its_applications) {
            return Ok(Vec::new());
        }
        let earlier: Vec<usize> = (0..position)
            .filter(takes_its_applications)
            .take(MOST_TOGETHER)
            .collect();
        self.patience = self.patience.saturating_sub(position);
        Ok(together_on_ports(self.rules, &earlier, rule)
            .or_else(|| together_on_addresses(self.rules, &earlier, rule))
            .unwrap_or_default())
    }

    /// Earlier rules that take a certain flow of the rule: what covers all its flows has one of these.
    fn sharing_a_flow_with(&mut self, position: usize) -> Result<Vec<usize>, OutOfPatience> {
        let rule = &self.rules[position];
        let sample = sample(rule.targets.as_ref(), rule.ports.first().unwrap_or(1));
        let mut found = Vec::new();
        for earlier in self.index.candidates(&sample) {
            if earlier >= position {
                break;
            }
            self.patience = self.patience.checked_sub(1).ok_or(OutOfPatience)?;
            if self.rules[earlier].ports.contains(sample.port) {
                found.push(earlier);
            }
        }
        Ok(found)
    }
}

/// A destination that the hosts of a rule match, as far as the index is concerned.
fn sample(targets: Option<&Targets>, port: u16) -> Destination {
    let address: Option<IpAddr> = targets.and_then(|targets| targets.addresses.first());
    let name = targets.and_then(|targets| targets.names.first());
    let name = name.map(|pattern| match pattern {
        NamePattern::Exact(name) => name.clone(),
        NamePattern::Below(suffix) => format!("x.{suffix}"),
        NamePattern::Regex(_) => "x".to_owned(),
    });
    Destination {
        name: if address.is_none() { name } else { None },
        address,
        port,
    }
}

fn together_on_ports(rules: &[Rule], earlier: &[usize], rule: &Rule) -> Option<Vec<usize>> {
    let involved = earlier
        .iter()
        .copied()
        .filter(|&it| rules[it].covers_targets(rule));
    needed(involved.collect(), |group| {
        let ranges = group.iter().flat_map(|&it| rules[it].ports.ranges());
        PortSet::new(ranges.copied().collect()).covers(&rule.ports)
    })
}

fn together_on_addresses(rules: &[Rule], earlier: &[usize], rule: &Rule) -> Option<Vec<usize>> {
    let targets = rule.targets.as_ref().filter(|it| it.names.is_empty())?;
    let addresses = |&it: &usize| rules[it].targets.as_ref().map(|it| it.addresses.ranges());
    let involved = earlier
        .iter()
        .copied()
        .filter(|&it| rules[it].ports.covers(&rule.ports));
    needed(involved.collect(), |group| {
        let ranges = group.iter().filter_map(addresses).flatten();
        AddressSet::from_iter(ranges).covers(&targets.addresses)
    })
}

/// The members of `group` that it takes to cover, if the whole of it does.
fn needed(mut group: Vec<usize>, covers: impl Fn(&[usize]) -> bool) -> Option<Vec<usize>> {
    if !covers(&group) {
        return None;
    }
    for index in (0..group.len()).rev() {
        let dropped = group.remove(index);
        if !covers(&group) {
            group.insert(index, dropped);
        }
    }
    Some(group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Action;

    #[test]
    fn patience_ends() {
        let rules = [1, 2, 3].map(|port| Rule {
            ports: PortSet::new(vec![(port, port)]),
            ..Rule::for_everything("any", None, Action::Pass)
        });
        let mut search = Search::new(&rules, 2);
        assert_eq!(search.shadows_of(0), Ok(Vec::new()));
        assert_eq!(search.shadows_of(1), Ok(Vec::new()));
        assert_eq!(search.shadows_of(2), Err(OutOfPatience));
    }
}
