//! What the kernel can decide alone: it sees addresses and ports, and knows neither applications nor names.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::address::{AddressRange, AddressSet};
use crate::decision::Refusal;
use crate::port::{self, PortSet};
use crate::rule::{Action, Answer, Circumstances, Rule};
use crate::targets::every_address;
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
struct Draft {
    /// Not merged yet: many neighbours are cheaper to merge together.
    to: Vec<AddressRange>,
    ports: PortSet,
    verdict: KernelVerdict,
}

/// The program of rules in their order.
pub(crate) fn program(
    rules: &[Rule],
    default: &Rule,
    circumstances: &Circumstances,
) -> KernelProgram {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut last_word = verdict(default, Answer::Yes);
    for rule in rules {
        let Some(draft) = draft(rule, circumstances) else {
            continue;
        };
        if draft.is_everything() {
            last_word = draft.verdict;
            break;
        }
        match drafts.last_mut() {
            Some(last) if last.verdict == draft.verdict && last.ports == draft.ports => {
                last.to.extend(draft.to);
            }
            Some(_) | None => drafts.push(draft),
        }
    }
    // Neighbours may be everything together.
    if let Some(first) = drafts.iter().position(Draft::is_everything) {
        last_word = drafts[first].verdict;
        drafts.truncate(first);
    }
    while drafts.pop_if(|last| last.verdict == last_word).is_some() {}
    KernelProgram {
        steps: drafts.into_iter().map(KernelStep::from).collect(),
        default: last_word,
    }
}

/// `None`: the kernel sees no flow that the rule could take. It knows no names, and a flow it leaves to the broker has
/// none.
fn draft(rule: &Rule, circumstances: &Circumstances) -> Option<Draft> {
    let answer = rule.ask_before_any_flow(circumstances);
    if matches!(answer, Answer::No(_)) || rule.is_empty() {
        return None;
    }
    let to = match &rule.targets {
        None => every_address(),
        Some(targets) => targets.possible_addresses(),
    };
    if to.is_empty() {
        return None;
    }
    Some(Draft {
        to: to.ranges().collect(),
        ports: rule.ports.clone(),
        verdict: verdict(rule, answer),
    })
}

/// A rule that asks for an application, or that can be in doubt, leaves all that it could match to the broker, which asks
/// the later rules too. Only its own word counts for how: the kernel cannot know which of the later ones will decide.
fn verdict(rule: &Rule, answer: Answer) -> KernelVerdict {
    let is_plain = rule.applications.is_none()
        && answer == Answer::Yes
        && !rule.targets.as_ref().is_some_and(|it| it.excludes_names());
    match &rule.action {
        Action::Tunnel { connect, .. } => match connect {
            Connect::Honest => KernelVerdict::Ask,
            Connect::Early => KernelVerdict::HandOver,
        },
        Action::Pass if is_plain => KernelVerdict::Pass,
        Action::Block(Refusal::Reset) if is_plain => KernelVerdict::Block,
        // Silence is an answer of the broker's.
        Action::Pass | Action::Block(_) => KernelVerdict::Ask,
    }
}

impl Draft {
    fn is_everything(&self) -> bool {
        // The cheap question first: almost no rule has all ports and many addresses.
        port::is_all(&self.ports)
            && self.to.iter().copied().collect::<AddressSet>() == every_address()
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
            to: draft.to.into_iter().collect::<AddressSet>().networks(),
            ports,
            verdict: draft.verdict,
        }
    }
}
