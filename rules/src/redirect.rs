//! Where a rule of a later layer leads elsewhere: what the rules of earlier layers say of that destination, in words.

use crate::application::Application;
use crate::decision::Decision;
use crate::destination::Destination;
use crate::elsewhere::Elsewhere;
use crate::explanation::Asked;
use crate::layer;
use crate::rule::{Answer, Rule};

/// A rule that leads elsewhere, and the rules that stand before its layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Redirect<'a> {
    rule: &'a Rule,
    pub(crate) elsewhere: &'a Elsewhere,
    /// What is asked about where it leads.
    pub(crate) earlier: Asked<'a>,
}

/// How an earlier rule closes it.
#[derive(Debug)]
pub(crate) struct Closed<'a> {
    pub(crate) by: &'a Rule,
    pub(crate) answer: Answer,
    pub(crate) decision: Decision,
    pub(crate) because: String,
}

impl<'a> Redirect<'a> {
    /// That of the rule at `position`, if earlier layers have a say.
    pub(crate) fn of(asked: Asked<'a>, position: usize) -> Option<Self> {
        let rule = asked.rules.get(position)?;
        let earlier = Asked {
            rules: asked.before(position),
            ..asked
        };
        let elsewhere = rule.elsewhere()?;
        (!earlier.rules.is_empty()).then_some(Self {
            rule,
            elsewhere,
            earlier,
        })
    }

    /// The earlier rule that closes it. `at` is what a rule would be asked about that leads nowhere else.
    pub(crate) fn closed(
        &self,
        at: impl Fn(&Rule) -> Destination,
        application: &Application,
    ) -> Option<Closed<'a>> {
        let answers = self.earlier.rules.iter().map(|by| {
            let to = self.elsewhere.instead_of(at(by));
            let circumstances = self.earlier.circumstances;
            (by, by.ask(&to, Some(application), circumstances), to)
        });
        let mut answers = answers.filter(|(_, answer, _)| !matches!(answer, Answer::No(_)));
        let (by, answer, to) = answers.next()?;
        let decision = match answer {
            Answer::Yes => Decision::Block(layer::closed_by(by, &self.rule.action)?),
            Answer::No(_) | Answer::Doubt(_) | Answer::Needs(_) => by.decide_in_doubt(),
        };
        let says = match (answer, by.action.as_str()) {
            (Answer::Yes, "block") => "blocks",
            (Answer::Yes, _) => "tunnels otherwise",
            (_, _) => "may take",
        };
        let led = &self.rule.label;
        Some(Closed {
            by,
            answer,
            decision,
            because: format!("it {says} {to}, where {led:?} of a later layer leads: blocked"),
        })
    }
}
