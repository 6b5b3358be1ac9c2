//! What the kernel can decide alone: it sees addresses and ports, and knows neither applications nor names.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::address::{AddressRange, AddressSet};
use crate::port::{self, PortSet};
use crate::rule::{Action, Rule};
use crate::zone::Connect;

/// One step of what the kernel decides alone; the first that matches wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelStep {
    /// Destination networks, disjoint, IPv4 first; never empty. Every address is `0.0.0.0/0` and `::/0`.
    pub to: Vec<IpNet>,
    /// Destination ports, ascending and disjoint; empty is every port.
    pub ports: Vec<RangeInclusive<u16>>,
    /// What a flow gets that matches both.
    pub verdict: KernelVerdict,
}

/// What the kernel does with a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelVerdict {
    /// Holds it until the broker has judged it.
    Ask,
    /// Accepts it for the broker, which judges it then.
    HandOver,
    /// Connects it directly.
    Pass,
    /// Refuses it.
    Block,
}

/// Steps in order, and what a flow gets that no step matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelProgram {
    /// First match wins.
    pub steps: Vec<KernelStep>,
    /// When none matches.
    pub default: KernelVerdict,
}

/// A step while neighbours may still be merged into it.
#[derive(Debug, PartialEq, Eq)]
struct Draft {
    to: AddressSet,
    ports: PortSet,
    verdict: KernelVerdict,
}

/// The program of rules in their order.
pub(crate) fn program(rules: &[Rule], default: &Rule) -> KernelProgram {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut last_word = verdict(default);
    for rule in rules {
        let Some(draft) = draft(rule) else { continue };
        match drafts.last_mut() {
            Some(last) if last.verdict == draft.verdict && last.ports == draft.ports => {
                last.to = last.to.ranges().chain(draft.to.ranges()).collect();
            }
            Some(_) | None => drafts.push(draft),
        }
        let everything = drafts.pop_if(|last| last.is_everything());
        if let Some(everything) = everything {
            last_word = everything.verdict;
            break;
        }
    }
    while drafts.pop_if(|last| last.verdict == last_word).is_some() {}
    KernelProgram {
        steps: drafts.into_iter().map(KernelStep::from).collect(),
        default: last_word,
    }
}

/// `None`: a rule of names alone. The kernel knows none, and a flow it leaves to the broker has none.
fn draft(rule: &Rule) -> Option<Draft> {
    let to = match &rule.targets {
        None => every_address(),
        Some(targets) if targets.addresses.is_empty() => return None,
        Some(targets) => targets.addresses.clone(),
    };
    Some(Draft {
        to,
        ports: rule.ports.clone(),
        verdict: verdict(rule),
    })
}

/// A rule that asks for an application leaves all that it could match to the broker, which asks the later rules too.
/// Only its own word counts for how: the kernel cannot know which of the later ones will decide.
fn verdict(rule: &Rule) -> KernelVerdict {
    match (&rule.applications, &rule.action) {
        (_, Action::Tunnel { connect, .. }) => match connect {
            Connect::Honest => KernelVerdict::Ask,
            Connect::Early => KernelVerdict::HandOver,
        },
        (Some(_), Action::Pass | Action::Block) => KernelVerdict::Ask,
        (None, Action::Pass) => KernelVerdict::Pass,
        (None, Action::Block) => KernelVerdict::Block,
    }
}

fn every_address() -> AddressSet {
    AddressSet::from_iter([
        AddressRange::V4(0, u32::MAX),
        AddressRange::V6(0, u128::MAX),
    ])
}

impl Draft {
    fn is_everything(&self) -> bool {
        port::is_all(&self.ports) && self.to == every_address()
    }
}

impl From<Draft> for KernelStep {
    fn from(draft: Draft) -> Self {
        let ports = if port::is_all(&draft.ports) {
            Vec::new()
        } else {
            let ranges = draft.ports.ranges().iter();
            ranges.map(|&(low, high)| low..=high).collect()
        };
        Self {
            to: draft.to.networks(),
            ports,
            verdict: draft.verdict,
        }
    }
}
