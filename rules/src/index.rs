//! Which rules are worth asking about a destination. The index only leaves out rules that cannot match; whether one
//! does, the rule itself decides.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::destination::Destination;
use crate::name::NamePattern;
use crate::rule::{Rule, Targets};

/// Positions of rules, ascending.
type Positions = Vec<usize>;

/// Rules by what they ask of the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    any: Positions,
    v4: Networks,
    v6: Networks,
    names: HashMap<String, Positions>,
    suffixes: HashMap<String, Positions>,
    expressions: Positions,
}

/// One table for each length of network in use: an address is in few of them.
#[derive(Debug, Clone, Default)]
struct Networks {
    by_length: Vec<(u8, HashMap<u128, Positions>)>,
}

impl Index {
    /// Of rules in their order.
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (position, rule) in rules.iter().enumerate() {
            match &rule.targets {
                None => index.any.push(position),
                Some(targets) => index.add(position, targets),
            }
        }
        index
    }

    fn add(&mut self, position: usize, targets: &Targets) {
        for network in targets.addresses.networks() {
            match network {
                IpNet::V4(network) => {
                    let bits = u128::from(u32::from(network.network()));
                    self.v4.add(network.prefix_len(), bits, position);
                }
                IpNet::V6(network) => {
                    let bits = network.network().into();
                    self.v6.add(network.prefix_len(), bits, position);
                }
            }
        }
        for name in &targets.names {
            push(
                match name {
                    NamePattern::Exact(name) => self.names.entry(name.clone()).or_default(),
                    NamePattern::Below(suffix) => self.suffixes.entry(suffix.clone()).or_default(),
                    NamePattern::Regex(_) => &mut self.expressions,
                },
                position,
            );
        }
    }

    /// Positions of the rules that may match `destination`, normalized; ascending, each once.
    pub(crate) fn candidates<'a>(&'a self, destination: &Destination) -> Candidates<'a> {
        let mut lists: Vec<&[usize]> = vec![&self.any];
        match destination.address {
            Some(IpAddr::V4(address)) => {
                self.v4.find(u32::from(address).into(), 32, &mut lists);
            }
            Some(IpAddr::V6(address)) => self.v6.find(address.into(), 128, &mut lists),
            None => {}
        }
        if let Some(name) = &destination.name {
            lists.push(&self.expressions);
            lists.extend(self.names.get(name).map(Vec::as_slice));
            let mut rest = name.as_str();
            while let Some((_, suffix)) = rest.split_once('.') {
                lists.extend(self.suffixes.get(suffix).map(Vec::as_slice));
                rest = suffix;
            }
        }
        Candidates { lists }
    }
}

impl Networks {
    fn add(&mut self, length: u8, bits: u128, position: usize) {
        let table = match self.by_length.iter().position(|(own, _)| *own == length) {
            Some(found) => &mut self.by_length[found].1,
            None => {
                self.by_length.push((length, HashMap::new()));
                let last = self.by_length.len() - 1;
                &mut self.by_length[last].1
            }
        };
        push(table.entry(bits).or_default(), position);
    }

    fn find<'a>(&'a self, address: u128, width: u8, lists: &mut Vec<&'a [usize]>) {
        for (length, table) in &self.by_length {
            let host_bits = u32::from(width - length);
            let network = (address.checked_shr(host_bits).unwrap_or(0))
                .checked_shl(host_bits)
                .unwrap_or(0);
            lists.extend(table.get(&network).map(Vec::as_slice));
        }
    }
}

fn push(positions: &mut Positions, position: usize) {
    if positions.last() != Some(&position) {
        positions.push(position);
    }
}

/// Merges ascending lists.
pub(crate) struct Candidates<'a> {
    lists: Vec<&'a [usize]>,
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let next = *self.lists.iter().filter_map(|list| list.first()).min()?;
        for list in &mut self.lists {
            if let [first, rest @ ..] = list
                && *first == next
            {
                *list = rest;
            }
        }
        Some(next)
    }
}
