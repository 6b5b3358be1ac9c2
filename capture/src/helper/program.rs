//! What the kernel does for one user, as a plain value: compiled from a claim, rendered for nft, read back from nft, compared.

use std::fmt;

use adit_capture::wire::QueueBy;
use adit_capture::{Claim, Family, OnBrokerGone, Step, Verdict};

use super::ranges::{Growing, Ranges};

/// Everything of one user in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) word: OnBrokerGone,
    pub(crate) ports: Ports,
    pub(crate) live: Live,
    /// What is held at its SYN while the broker is there; nothing for a claim that asks about nothing.
    pub(crate) hold: Option<Hold>,
    /// Rules of the nat hook: where handed over connections go.
    pub(crate) nat: Vec<Rule>,
    /// Rules of the filter hook while the broker is there.
    pub(crate) open: Vec<Rule>,
    /// Rules of the filter hook once it is gone; empty for a claim that is then removed.
    pub(crate) gone: Vec<Rule>,
}

/// Which connections are held, and where they wait for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) queue: QueueRule,
    /// Rules that come before all others of the user.
    pub(crate) rules: Vec<Rule>,
}

/// The rule that leads to a queue of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueRule {
    /// The queue's number.
    pub(crate) number: u16,
    /// `None`: a helper was killed before it could write the rule. What is asked about is handed over.
    pub(crate) by: Option<QueueBy>,
}

/// Where the user's broker listens; a family without a listener is refused instead of handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ports {
    pub(crate) v4: Option<u16>,
    pub(crate) v6: Option<u16>,
}

impl Ports {
    pub(crate) fn of(self, family: Family) -> Option<u16> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// Which filter rules are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Live {
    Open,
    Gone,
}

/// One rule: TCP connections of a family to these addresses and ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) family: Family,
    pub(crate) to: Ranges,
    pub(crate) ports: Ranges,
    pub(crate) action: Action,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Accept,
    Reject,
    Redirect(u16),
    /// To the queue of this number.
    Ask(u16),
}

/// Up to seven chains, their elements in the maps and two routing rules.
const MIN_SIZE: usize = 32;

/// Both families, in the order in which rules are written.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Program {
    /// The program of a claim whose broker is there. `queue`: where it asks; without one what it asks about is handed over.
    pub(crate) fn of_claim(claim: &Claim, ports: Ports, queue: Option<QueueRule>) -> Program {
        let nat = |verdict, family| match (verdict, ports.of(family)) {
            (Verdict::Ask | Verdict::HandOver, Some(port)) => Action::Redirect(port),
            // Blocked ones never come this far: the filter hook is asked first.
            (Verdict::Ask | Verdict::HandOver | Verdict::Pass | Verdict::Block, _) => {
                Action::Accept
            }
        };
        let open = |verdict, family| match (verdict, ports.of(family)) {
            (Verdict::Ask | Verdict::HandOver, Some(_)) | (Verdict::Pass, _) => Action::Accept,
            (Verdict::Ask | Verdict::HandOver, None) | (Verdict::Block, _) => Action::Reject,
        };
        let gone = |verdict, _family| match verdict {
            Verdict::Pass => Action::Accept,
            Verdict::Ask | Verdict::HandOver | Verdict::Block => Action::Reject,
        };
        let parts: Vec<Part> = FAMILIES
            .into_iter()
            .map(|family| (family, parts(claim, family).collect()))
            .collect();
        Program {
            word: claim.on_broker_gone,
            ports,
            live: Live::Open,
            hold: queue.and_then(|queue| Hold::of_parts(&parts, ports, queue)),
            nat: rules(&parts, nat),
            open: rules(&parts, open),
            gone: match claim.on_broker_gone {
                OnBrokerGone::Block => rules(&parts, gone),
                OnBrokerGone::Release => Vec::new(),
            },
        }
    }
}

impl Hold {
    fn of_parts(parts: &[Part], ports: Ports, queue: QueueRule) -> Option<Hold> {
        let hold = |verdict, family| match (verdict, ports.of(family)) {
            (Verdict::Ask, Some(_)) => Action::Ask(queue.number),
            // Where nobody listens, it is refused as all that is handed over.
            (Verdict::Ask | Verdict::HandOver | Verdict::Pass | Verdict::Block, _) => {
                Action::Accept
            }
        };
        let mut rules = rules(parts, hold);
        // What comes after the last question of a family says nothing more.
        for family in FAMILIES {
            let asks = |rule: &Rule| rule.family == family && rule.action != Action::Accept;
            let kept = rules.iter().rposition(asks).map_or(0, |last| last + 1);
            let mut place = 0;
            rules.retain(|rule| {
                place += 1;
                rule.family != family || place <= kept
            });
        }
        (!rules.is_empty()).then_some(Hold { queue, rules })
    }
}

/// Whether some of its connections are to be held.
pub(crate) fn asks(claim: &Claim) -> bool {
    let steps = claim.steps.iter().map(|step| step.verdict);
    steps
        .chain([claim.default])
        .any(|verdict| verdict == Verdict::Ask)
}

impl Program {
    /// How many networks and port ranges it is made of; never less than what a user's chains take beside them.
    pub(crate) fn size(&self) -> usize {
        let size = |rule: &Rule| rule.to.iter().count() + rule.ports.iter().count();
        self.nat.iter().map(size).sum::<usize>().max(MIN_SIZE)
    }
}

/// The addresses of which some port is handed over: those a program must be able to start a connection to.
pub(crate) fn handed_over(claim: &Claim, family: Family) -> Ranges {
    let (mut handed, mut decided) = (Vec::new(), Growing::default());
    for (verdict, to, ports) in parts(claim, family) {
        if matches!(verdict, Verdict::Ask | Verdict::HandOver) {
            handed.extend(to.iter().flat_map(|range| decided.missing(range)));
        }
        if ports == Ranges::all_ports() {
            to.iter().for_each(|range| decided.add(range));
        }
    }
    Ranges::new(handed)
}

/// What a claim says of a family's addresses and ports, in order; the last is for all of them.
type Part = (Family, Vec<(Verdict, Ranges, Ranges)>);

fn rules(parts: &[Part], action: impl Fn(Verdict, Family) -> Action) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (family, parts) in parts {
        let mut of_family: Vec<Rule> = parts
            .iter()
            .map(|(verdict, to, ports)| Rule {
                family: *family,
                to: to.clone(),
                ports: ports.clone(),
                action: action(*verdict, *family),
            })
            .collect();
        drop_what_goes_without_saying(&mut of_family);
        rules.append(&mut of_family);
    }
    rules
}

/// Rules that do what the last one does, for addresses of which no rule behind them does anything else. Each that is left
/// costs every connection some time.
fn drop_what_goes_without_saying(rules: &mut Vec<Rule>) {
    let Some(last) = rules.pop() else { return };
    let mut other = Growing::default();
    let mut kept = Vec::with_capacity(rules.len() + 1);
    for rule in rules.drain(..).rev() {
        if rule.action != last.action {
            rule.to.iter().for_each(|range| other.add(range));
        } else if !rule.to.iter().any(|range| other.touches(range)) {
            continue;
        }
        kept.push(rule);
    }
    kept.reverse();
    kept.push(last);
    *rules = kept;
}

/// The claim's steps as they concern one family, the default last.
fn parts(claim: &Claim, family: Family) -> impl Iterator<Item = (Verdict, Ranges, Ranges)> {
    let default = Step {
        to: Vec::new(),
        ports: Vec::new(),
        verdict: claim.default,
    };
    claim
        .steps
        .iter()
        .cloned()
        .chain([default])
        .filter_map(move |step| {
            let to = if step.to.is_empty() {
                Ranges::all_addresses(family)
            } else {
                Ranges::of_networks(&step.to, family)
            };
            let ports = if step.ports.is_empty() {
                Ranges::all_ports()
            } else {
                Ranges::new(
                    step.ports
                        .iter()
                        .map(|r| ((*r.start()).into(), (*r.end()).into())),
                )
            };
            (!to.is_empty()).then_some((step.verdict, to, ports))
        })
}

/// The chains of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Nat,
    Open,
    Gone(Word),
    Guard,
    Hold,
    /// Of this number.
    Queue(u16),
}

/// The claim's word, as part of a chain's name: so it is still known after everything but the kernel was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Word {
    Block,
    Release,
}

impl From<OnBrokerGone> for Word {
    fn from(word: OnBrokerGone) -> Word {
        match word {
            OnBrokerGone::Block => Word::Block,
            OnBrokerGone::Release => Word::Release,
        }
    }
}

/// The name of a user's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChainName {
    pub(crate) uid: u32,
    pub(crate) role: Role,
}

/// What a queue's chain is called, before its number: so the number is still known where nft does not list it.
const QUEUE: &str = "queue";

const ROLES: [(Role, &str); 6] = [
    (Role::Nat, "nat"),
    (Role::Open, "open"),
    (Role::Gone(Word::Block), "block"),
    (Role::Gone(Word::Release), "release"),
    (Role::Guard, "guard"),
    (Role::Hold, "hold"),
];

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Role::Queue(number) = self.role {
            return write!(f, "u{}_{QUEUE}{number}", self.uid);
        }
        let name = ROLES
            .iter()
            .find(|(role, _)| *role == self.role)
            .map_or("", |(_, name)| name);
        write!(f, "u{}_{name}", self.uid)
    }
}

impl ChainName {
    /// `None`: not a name of ours.
    pub(crate) fn parse(text: &str) -> Option<ChainName> {
        let (uid, role) = text.strip_prefix('u')?.split_once('_')?;
        let role = match role.strip_prefix(QUEUE) {
            Some(number) => Role::Queue(number.parse().ok()?),
            None => ROLES.iter().find(|(_, known)| *known == role)?.0,
        };
        let name = ChainName {
            uid: uid.parse().ok()?,
            role,
        };
        // Numbers have more than one spelling.
        (name.to_string() == text).then_some(name)
    }
}
