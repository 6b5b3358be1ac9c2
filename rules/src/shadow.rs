//! Rules that can never match because earlier ones take all their flows.

use std::borrow::Cow;

use crate::address::AddressSet;
use crate::application::Application;
use crate::clause::{Applications, Clause};
use crate::destination::Destination;
use crate::index::Index;
use crate::path_pattern::PathPattern;
use crate::port::PortSet;
use crate::rule::{Rule, Validity};
use crate::targets::Targets;

/// As many earlier rules are tried together; more would make a long file slow.
const MOST_TOGETHER: usize = 256;

/// Looks for shadows among rules, as long as its patience lasts: the time may grow with the square of their number.
pub(crate) struct Search<'a> {
    rules: &'a [Rule],
    index: &'a Index,
    patience: usize,
    /// For several rules together: when it is over, only single rules are tried.
    patience_together: usize,
    /// The index knows no rule for certain binaries that takes its flows.
    any_application: Application,
}

/// A search that was given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfPatience;

impl<'a> Search<'a> {
    /// Among the rules of which `index` is. At most `patience` pairs of patterns are compared.
    pub(crate) fn new(rules: &'a [Rule], index: &'a Index, patience: usize) -> Self {
        Self {
            rules,
            index,
            patience,
            patience_together: patience,
            any_application: Application::of("/"),
        }
    }

    /// Positions of the earlier rules that together take every flow of the rule at `position`; empty when they may not.
    ///
    /// One rule may do so alone. Several are only found where each takes all hosts and a part of the ports, or all
    /// ports and a part of the addresses: other combinations are rare and would need a search.
    pub(crate) fn shadows_of(&mut self, position: usize) -> Result<Vec<usize>, OutOfPatience> {
        let rule = &self.rules[position];
        if rule.validity == Validity::Off || rule.is_empty() {
            return Ok(Vec::new());
        }
        let destination = sample(rule.targets.as_deref(), rule.ports.first().unwrap_or(1));
        let application = match &rule.applications {
            // No rule for certain binaries takes the flows of all.
            None => Some(Cow::Borrowed(&self.any_application)),
            Some(applications) => sample_application(applications).map(Cow::Owned),
        };
        // What covers all flows of the rule takes this one too.
        let mut may_be_several = false;
        for earlier in self.index.candidates(&destination, application.as_deref()) {
            if earlier >= position {
                break;
            }
            let other = &self.rules[earlier];
            let cost = other.cost_of_a_quick_no();
            self.patience = self.patience.checked_sub(cost).ok_or(OutOfPatience)?;
            if !other.ports.contains(destination.port) || !other.may_cover_applications(rule) {
                continue;
            }
            let cost = other.cost_of_covering(rule);
            self.patience = self.patience.checked_sub(cost).ok_or(OutOfPatience)?;
            if other.covers_all_but_destination(rule) {
                if other.covers_targets(rule) && other.ports.covers(&rule.ports) {
                    return Ok(vec![earlier]);
                }
                may_be_several = true;
            }
        }
        let several = may_be_several.then(|| self.several(position)).flatten();
        Ok(several.unwrap_or_default())
    }

    fn several(&mut self, position: usize) -> Option<Vec<usize>> {
        let rule = &self.rules[position];
        let mut earlier = Vec::new();
        for (other, it) in self.rules[..position].iter().zip(0..) {
            let cost = other.cost_of_a_quick_no();
            self.patience_together = self.patience_together.checked_sub(cost)?;
            if !other.may_cover_applications(rule) {
                continue;
            }
            let cost = other.cost_of_covering(rule);
            self.patience_together = self.patience_together.checked_sub(cost)?;
            if other.covers_all_but_destination(rule) {
                earlier.push(it);
            }
            if earlier.len() == MOST_TOGETHER {
                break;
            }
        }
        let cost = earlier.len() * earlier.len();
        self.patience_together = self.patience_together.checked_sub(cost)?;
        together_on_ports(self.rules, &earlier, rule)
            .or_else(|| together_on_addresses(self.rules, &earlier, rule))
    }
}

/// A destination that the hosts of a rule match, as far as the index is concerned.
fn sample(targets: Option<&Targets>, port: u16) -> Destination {
    let nowhere = Destination {
        name: None,
        address: None,
        port,
    };
    let Some(targets) = targets else {
        return nowhere;
    };
    match targets.possible_addresses().first() {
        // One of those that are meant by a `not`: what the index finds for it are rules for it and rules for all.
        Some(address) => Destination {
            address: Some(address),
            ..nowhere
        },
        None => Destination {
            name: targets.any.names.sample(),
            ..nowhere
        },
    }
}

/// One of the applications, as far as the index is concerned. `None`: any must be looked at.
fn sample_application(applications: &Applications) -> Option<Application> {
    match applications.any.first()? {
        Clause::Unknown => Some(Application::Unknown),
        Clause::Path(PathPattern::Path(path)) => Some(Application::of(path)),
        Clause::Path(PathPattern::Name(name)) => Some(Application::of(format!("/{name}"))),
        Clause::Path(_) | Clause::Facts(_) => None,
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
    let targets = rule.targets.as_ref()?;
    if !targets.any.names.is_empty() || targets.none_of.is_some() {
        return None;
    }
    let addresses = |&it: &usize| {
        rules[it]
            .targets
            .as_ref()
            .map(|it| it.any.addresses.ranges())
    };
    let involved = earlier
        .iter()
        .copied()
        .filter(|&it| rules[it].ports.covers(&rule.ports));
    needed(involved.collect(), |group| {
        let ranges = group.iter().filter_map(addresses).flatten();
        AddressSet::from_iter(ranges).covers(&targets.any.addresses)
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
            ports: PortSet::new(vec![(100, 200 + port)]),
            ..Rule::for_everything("any", None, Action::Pass)
        });
        let index = Index::new(&rules);
        let all = |patience| {
            let mut search = Search::new(&rules, &index, patience);
            let all = (0..rules.len()).map(|position| search.shadows_of(position));
            all.collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(all(2), Err(OutOfPatience));
        assert_eq!(all(20), Ok(vec![Vec::new(); 3]));
    }
}
