//! A rule as it is meant.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::application::{Application, Fact};
use crate::clause::{Applications, Clause};
use crate::date::Date;
use crate::decision::{Block, By, Decision, PassPermit, Refusal, TunnelPermit};
use crate::destination::Destination;
use crate::diagnostics::Place;
use crate::elsewhere::Elsewhere;
use crate::port::{self, PortSet};
use crate::targets::Targets;
use crate::telling::Telling;
use crate::truth::Truth;
use crate::user::{People, User};
use crate::zone::{Connect, OnDown};

/// One rule, and equally the default, which is a rule that matches everything.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Its name, or its position ("rule 3"), or "default".
    pub(crate) label: SmolStr,
    /// Where it stands; `None` when it has no file.
    pub(crate) at: Option<At>,
    /// When it is asked at all.
    pub(crate) validity: Validity,
    /// Whose flows; `None` is anybody's.
    pub(crate) people: Option<Box<People>>,
    /// Which applications; `None` is any, also an unknown one.
    pub(crate) applications: Option<Applications>,
    /// Which hosts; `None` is any.
    pub(crate) targets: Option<Arc<Targets>>,
    /// Which ports.
    pub(crate) ports: PortSet,
    /// Whether entries of a set's file are among these, which change without the author's doing.
    pub(crate) is_of_a_file: bool,
    /// What a flow gets that matches.
    pub(crate) action: Action,
    /// What is told of it.
    pub(crate) telling: Telling,
}

/// Where a rule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    /// Which of the policy's files.
    pub(crate) file: u16,
    /// Line in it, from 1.
    pub(crate) line: u32,
}

impl From<Place> for At {
    fn from(place: Place) -> Self {
        Self {
            file: place.file,
            line: place.line,
        }
    }
}

/// When a rule is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    /// Always.
    Always,
    /// Up to this day, and on it.
    Until(Date),
    /// Never: the administrator switched it off.
    Off,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Through this zone.
    Tunnel {
        /// Its name.
        zone: Arc<str>,
        /// The rule's word, else the zone's.
        on_down: OnDown,
        /// The rule's word, else the zone's.
        connect: Connect,
        /// To where; `None` is where the program asked.
        elsewhere: Option<Box<Elsewhere>>,
    },
    /// Directly.
    Pass,
    /// Not at all.
    Block(Refusal),
}

/// What is the same for all flows of a broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Circumstances {
    /// Whose flows.
    pub(crate) user: User,
    /// When; `None` is when nothing has expired.
    pub(crate) today: Option<Date>,
}

/// What a rule asks of a flow, in the order in which it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matcher {
    /// `enabled:`
    Enabled,
    /// `expires:`
    Expires,
    /// `user:`
    User,
    /// `group:`
    Group,
    /// `to:`
    Target,
    /// `ports:`
    Port,
    /// `app:`
    Application,
}

impl Matcher {
    /// As the rule file calls it.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Expires => "expires",
            Self::User => "user",
            Self::Group => "group",
            Self::Target => "to",
            Self::Port => "ports",
            Self::Application => "app",
        }
    }
}

/// What a rule says of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It matches.
    Yes,
    /// This matcher says no, the first that does.
    No(Matcher),
    /// None says no, but what this one has under `not` cannot be answered.
    Doubt(Matcher),
    /// It depends on this fact of the application.
    Needs(Fact),
}

impl Rule {
    /// A rule for every flow.
    pub(crate) fn for_everything(label: &str, at: Option<At>, action: Action) -> Self {
        Self {
            label: label.into(),
            at,
            validity: Validity::Always,
            people: None,
            applications: None,
            targets: None,
            ports: port::all(),
            is_of_a_file: false,
            action,
            telling: Telling::default(),
        }
    }

    /// Asks about a flow. `application: None`: it was not looked up yet. The application comes last, because looking it up
    /// costs most.
    pub(crate) fn ask(
        &self,
        destination: &Destination,
        application: Option<&Application>,
        circumstances: &Circumstances,
    ) -> Answer {
        let mut doubt = match self.ask_before_any_flow(circumstances) {
            Answer::Yes => None,
            Answer::Doubt(matcher) => Some(matcher),
            answer @ (Answer::No(_) | Answer::Needs(_)) => return answer,
        };
        match self.targets.as_ref().map(|it| it.truth(destination)) {
            Some(Truth::No) => return Answer::No(Matcher::Target),
            Some(Truth::Doubt) => doubt = doubt.or(Some(Matcher::Target)),
            Some(Truth::Yes | Truth::Pending(_)) | None => {}
        }
        if !self.ports.contains(destination.port) {
            return Answer::No(Matcher::Port);
        }
        let applications = self.applications.as_ref();
        match applications
            .map(|it| it.truth(|own| own.takes(application), |own| own.truth(application)))
        {
            Some(Truth::No) => return Answer::No(Matcher::Application),
            Some(Truth::Pending(fact)) => return Answer::Needs(fact),
            Some(Truth::Doubt) => doubt = doubt.or(Some(Matcher::Application)),
            Some(Truth::Yes) | None => {}
        }
        doubt.map_or(Answer::Yes, Answer::Doubt)
    }

    /// What it says of all flows alike.
    pub(crate) fn ask_before_any_flow(&self, circumstances: &Circumstances) -> Answer {
        match self.validity {
            Validity::Always => {}
            Validity::Off => return Answer::No(Matcher::Enabled),
            Validity::Until(last) => {
                if circumstances.today.is_some_and(|today| today > last) {
                    return Answer::No(Matcher::Expires);
                }
            }
        }
        let Some(people) = &self.people else {
            return Answer::Yes;
        };
        match people.truths(&circumstances.user) {
            (Truth::No, _) => Answer::No(Matcher::User),
            (_, Truth::No) => Answer::No(Matcher::Group),
            (Truth::Doubt, _) => Answer::Doubt(Matcher::User),
            (_, Truth::Doubt) => Answer::Doubt(Matcher::Group),
            (Truth::Yes | Truth::Pending(_), Truth::Yes | Truth::Pending(_)) => Answer::Yes,
        }
    }

    /// How many comparisons of plain patterns it costs, roughly, to find out whether `other` is covered.
    pub(crate) fn cost_of_covering(&self, other: &Self) -> usize {
        let by_application = match (&self.applications, &other.applications) {
            (Some(own), Some(others)) => {
                let count = |list: &Applications| {
                    list.any.len() + list.none_of.as_ref().map_or(0, Vec::len)
                };
                let cost = |clause: &Clause| clause.cost_of_matching();
                let own: usize = own
                    .any
                    .iter()
                    .chain(own.none_of.iter().flatten())
                    .map(cost)
                    .sum();
                own.saturating_mul(count(others))
            }
            (_, _) => 1,
        };
        let by_host = match (&self.targets, &other.targets) {
            (Some(own), Some(others)) => own.cost_of_covering(others),
            (_, _) => 1,
        };
        by_application.saturating_add(by_host)
    }

    /// Whether the rule takes every flow that `other` takes, as long as `other` is asked, hosts and ports aside. Never a wrong
    /// yes; a no may be one of ignorance, where regular expressions or globs meet.
    pub(crate) fn covers_all_but_destination(&self, other: &Self) -> bool {
        let is_asked_as_long = match (self.validity, other.validity) {
            (Validity::Off, _) => false,
            (Validity::Always, _) | (Validity::Until(_), Validity::Off) => true,
            (Validity::Until(_), Validity::Always) => false,
            (Validity::Until(own), Validity::Until(last)) => last <= own,
        };
        let takes_people = match (&self.people, &other.people) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(other)) => own.covers(other),
        };
        is_asked_as_long && takes_people && self.covers_applications(other)
    }

    /// A quick no to whether `covers_all_but_destination` could say yes.
    pub(crate) fn may_cover_applications(&self, other: &Self) -> bool {
        let (Some(own), Some(others)) = (&self.applications, &other.applications) else {
            return self.applications.is_none();
        };
        let takes = |it: &Clause| own.any.iter().any(|clause| clause.may_cover(it));
        own.none_of.is_some() || others.any.first().is_none_or(takes)
    }

    /// How many comparisons of first characters `may_cover_applications` takes.
    pub(crate) fn cost_of_a_quick_no(&self) -> usize {
        self.applications
            .as_ref()
            .map_or(1, |it| it.any.len().max(1))
    }

    fn covers_applications(&self, other: &Self) -> bool {
        match (&self.applications, &other.applications) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(other)) => own.covers(other, Clause::covers, Clause::is_apart_from),
        }
    }

    /// As `covers_all_but_destination`, of the hosts alone.
    pub(crate) fn covers_targets(&self, other: &Self) -> bool {
        match (&self.targets, &other.targets) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other) || own.cover(other),
        }
    }

    /// Whether no flow can match, as one of its lists is empty.
    pub(crate) fn is_empty(&self) -> bool {
        let no_application = |it: &Applications| it.any.is_empty() && it.none_of.is_none();
        self.applications.as_ref().is_some_and(no_application)
            || self.targets.as_ref().is_some_and(|it| it.is_empty())
            || self.ports.is_empty()
    }

    /// Whether a program hears of success before its destination has answered.
    pub(crate) fn is_early(&self) -> bool {
        match self.action {
            Action::Tunnel { connect, .. } => connect == Connect::Early,
            Action::Pass | Action::Block(_) => false,
        }
    }

    /// Whether all that it could match is accepted before anything is decided: the rule does not have to know whose it is.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.is_early() && self.applications.is_none()
    }

    /// Where it tunnels to instead of where the program asked.
    pub(crate) fn elsewhere(&self) -> Option<&Elsewhere> {
        match &self.action {
            Action::Tunnel { elsewhere, .. } => elsewhere.as_deref(),
            Action::Pass | Action::Block(_) => None,
        }
    }

    /// The decision for a flow that matches.
    pub(crate) fn decide(&self, destination: Destination) -> Decision {
        let by = self.as_decider();
        match &self.action {
            Action::Tunnel {
                zone,
                on_down,
                connect,
                elsewhere,
            } => {
                let dialled = elsewhere
                    .as_ref()
                    .map(|it| it.instead_of(destination.clone()));
                let zone = Arc::clone(zone);
                let permit = TunnelPermit::new(zone, destination, by, *on_down, *connect);
                Decision::Tunnel(match dialled {
                    Some(dialled) => permit.to(dialled),
                    None => permit,
                })
            }
            Action::Pass => Decision::Pass(PassPermit::new(destination, by)),
            Action::Block(refusal) => Decision::Block(Block::new(by, *refusal)),
        }
    }

    /// The decision for a flow of which nobody can say whether it matches.
    pub(crate) fn decide_in_doubt(&self) -> Decision {
        let refusal = match self.action {
            Action::Block(refusal) => refusal,
            Action::Tunnel { .. } | Action::Pass => Refusal::Reset,
        };
        Decision::Block(Block::in_doubt(self.as_decider(), refusal))
    }

    /// As what decided.
    pub(crate) fn as_decider(&self) -> By {
        By {
            label: self.label.clone(),
            telling: self.telling,
        }
    }
}

impl Action {
    /// As in the rule file.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Tunnel { .. } => "tunnel",
            Self::Pass => "pass",
            Self::Block(_) => "block",
        }
    }
}
