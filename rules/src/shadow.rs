//! Rules that can never match because earlier ones take all their flows.

use std::net::IpAddr;

use crate::address::AddressSet;
use crate::destination::Destination;
use crate::index::Index;
use crate::name::NamePattern;
use crate::port::PortSet;
use crate::rule::{Rule, Targets};

/// Positions of the earlier rules that together take every flow of the rule at `position`; empty when they may not.
///
/// One rule may do so alone. Several are only found where each takes all hosts and the rest of the ports, or all ports
/// and the rest of the addresses: other combinations are rare and would need a search.
pub(crate) fn shadowed_by(rules: &[Rule], index: &Index, position: usize) -> Vec<usize> {
    let rule = &rules[position];
    let candidates: Vec<usize> = earlier(rules, index, position).collect();
    if let Some(alone) = candidates.iter().find(|&&it| rules[it].covers(rule)) {
        return vec![*alone];
    }
    let takes_its_applications = |it: &usize| rules[*it].covers_applications(rule);
    if !candidates.iter().any(takes_its_applications) {
        return Vec::new();
    }
    let earlier: Vec<usize> = (0..position)
        .filter(takes_its_applications)
        .take(MOST_TOGETHER)
        .collect();
    together_on_ports(rules, &earlier, rule)
        .or_else(|| together_on_addresses(rules, &earlier, rule))
        .unwrap_or_default()
}

/// As many earlier rules are tried together; more would make a long file slow.
const MOST_TOGETHER: usize = 256;

/// Earlier rules that take at least one flow of the rule: what covers all of it is among them.
fn earlier<'a>(
    rules: &'a [Rule],
    index: &'a Index,
    position: usize,
) -> impl Iterator<Item = usize> + 'a {
    let rule = &rules[position];
    let sample = sample(rule.targets.as_ref(), rule.ports.first().unwrap_or(1));
    index
        .candidates(&sample)
        .take_while(move |&it| it < position)
        .filter(move |&it| rules[it].ports.contains(sample.port))
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
