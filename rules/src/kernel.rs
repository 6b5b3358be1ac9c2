//! What the kernel can decide alone: it sees addresses and ports, and knows neither applications nor names.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::address::AddressSet;
use crate::commuting::{Bundle, Bundles};
use crate::decision::Refusal;
use crate::kernel_room::{self, KERNEL_ROOM, KernelRoom};
use crate::port;
use crate::rule::{Action, Answer, Circumstances, Rule};
use crate::targets::every_address;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// Whether all that the kernel could decide alone found room. The rest it asks the broker about.
    pub is_whole: bool,
}

/// The program of rules in their order.
pub(crate) fn program(
    rules: &[Rule],
    default: &Rule,
    circumstances: &Circumstances,
) -> KernelProgram {
    program_within(KERNEL_ROOM, rules, default, circumstances)
}

fn program_within(
    room: KernelRoom,
    rules: &[Rule],
    default: &Rule,
    circumstances: &Circumstances,
) -> KernelProgram {
    let mut bundles = Bundles::default();
    let mut last_word = verdict(default, Answer::Yes);
    for rule in rules {
        let Some(bundle) = bundle(rule, circumstances) else {
            continue;
        };
        if bundle.is_everything() {
            last_word = bundle.verdict;
            break;
        }
        bundles.add(bundle);
    }
    let (bundles, default) = bundles.against(last_word);
    let fitting = kernel_room::fitting(bundles, room);
    let is_whole = fitting.is_ok();
    KernelProgram {
        steps: fitting.unwrap_or_else(|squeezed| squeezed),
        default,
        is_whole,
    }
}

/// `None`: the kernel sees no flow that the rule could take. It knows no names, and a flow it leaves to the broker has
/// none.
fn bundle(rule: &Rule, circumstances: &Circumstances) -> Option<Bundle> {
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
    Some(Bundle {
        to: to.ranges().collect(),
        ports: rule.ports.clone(),
        verdict: verdict(rule, answer),
    })
}

/// A rule that asks for an application, that can be in doubt, or of which something is to be told, leaves all that it could match to the broker, which asks
/// the later rules too. Only its own word counts for how: the kernel cannot know which of the later ones will decide.
fn verdict(rule: &Rule, answer: Answer) -> KernelVerdict {
    let is_plain = rule.applications.is_none()
        && !rule.telling.is_wanted()
        && answer == Answer::Yes
        && !rule.targets.as_ref().is_some_and(|it| it.excludes_names());
    match &rule.action {
        // Whose a connection is can be known only as long as its program is there: it waits for that, and for no more.
        Action::Tunnel { .. } => match rule.is_handed_over() {
            true => KernelVerdict::HandOver,
            false => KernelVerdict::Ask,
        },
        Action::Pass if is_plain => KernelVerdict::Pass,
        Action::Block(Refusal::Reset) if is_plain => KernelVerdict::Block,
        // Silence is an answer of the broker's.
        Action::Pass | Action::Block(_) => KernelVerdict::Ask,
    }
}

impl From<Bundle> for KernelStep {
    fn from(bundle: Bundle) -> Self {
        let ports = if port::is_all(&bundle.ports) {
            Vec::new()
        } else {
            let ranges = bundle.ports.ranges().iter();
            ranges.map(|&(low, high)| low..=high).collect()
        };
        Self {
            to: bundle.to.into_iter().collect::<AddressSet>().networks(),
            ports,
            verdict: bundle.verdict,
        }
    }
}
