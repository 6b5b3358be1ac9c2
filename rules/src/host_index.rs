//! Entries by the hosts they name.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;
use smol_str::SmolStr;

use crate::destination::Destination;
use crate::index::{Positions, push};
use crate::name_set;
use crate::targets::Hosts;

/// Entries, each a number, by host. They are added in ascending order.
#[derive(Debug, Default)]
pub(crate) struct HostIndex {
    v4: Networks<u32>,
    v6: Networks<u128>,
    names: HashMap<SmolStr, Positions>,
    suffixes: HashMap<SmolStr, Positions>,
    expressions: Positions,
}

/// One table for each length of network in use: an address is in few of them.
#[derive(Debug, Default)]
struct Networks<A> {
    /// The mask of the network, and its entries by their first address.
    by_mask: Vec<(A, HashMap<A, Positions>)>,
}

impl HostIndex {
    /// Adds `entry` for each of `hosts`.
    pub(crate) fn add(&mut self, entry: u32, hosts: &Hosts) {
        for network in hosts.addresses.networks() {
            match network {
                IpNet::V4(network) => {
                    let mask = network.netmask().into();
                    self.v4.add(mask, network.network().into(), entry);
                }
                IpNet::V6(network) => {
                    let mask = network.netmask().into();
                    self.v6.add(mask, network.network().into(), entry);
                }
            }
        }
        for name in hosts.names.exact() {
            push(self.names.entry(name.into()).or_default(), entry);
        }
        for suffix in hosts.names.below() {
            push(self.suffixes.entry(suffix.into()).or_default(), entry);
        }
        if hosts.names.expressions() > 0 {
            push(&mut self.expressions, entry);
        }
    }

    /// Gives all lists of entries that may name `destination`, normalized. Each is ascending and not empty.
    pub(crate) fn find<'a>(&'a self, destination: &Destination, mut found: impl FnMut(&'a [u32])) {
        match destination.address {
            Some(IpAddr::V4(address)) => {
                let bits = u32::from(address);
                self.v4.find(|mask| bits & mask, &mut found);
            }
            Some(IpAddr::V6(address)) => {
                let bits = u128::from(address);
                self.v6.find(|mask| bits & mask, &mut found);
            }
            None => {}
        }
        let Some(name) = &destination.name else {
            return;
        };
        if !self.expressions.is_empty() {
            found(&self.expressions);
        }
        if let Some(entries) = self.names.get(name.as_str()) {
            found(entries);
        }
        if !self.suffixes.is_empty() {
            let suffixes = name_set::above(name).filter_map(|it| self.suffixes.get(it));
            suffixes.for_each(|entries| found(entries));
        }
    }
}

impl<A: Copy + Eq + Hash> Networks<A> {
    fn add(&mut self, mask: A, first: A, entry: u32) {
        let known = self.by_mask.iter().position(|(own, _)| *own == mask);
        let table = known.unwrap_or(self.by_mask.len());
        if known.is_none() {
            self.by_mask.push((mask, HashMap::new()));
        }
        push(self.by_mask[table].1.entry(first).or_default(), entry);
    }

    fn find<'a>(&'a self, masked: impl Fn(A) -> A, found: &mut impl FnMut(&'a [u32])) {
        for (mask, table) in &self.by_mask {
            if let Some(entries) = table.get(&masked(*mask)) {
                found(entries);
            }
        }
    }
}
