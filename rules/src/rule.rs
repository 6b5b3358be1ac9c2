//! A rule as it is meant.

use std::sync::Arc;

use crate::address::AddressSet;
use crate::application::{Application, ApplicationPattern};
use crate::decision::{Block, Decision, PassPermit, TunnelPermit};
use crate::destination::Destination;
use crate::name::NamePattern;
use crate::port::{self, PortSet};
use crate::zone::{Connect, OnDown};

/// One rule, and equally the default, which is a rule that matches everything.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Its name, or its position ("rule 3"), or "default".
    pub(crate) label: Arc<str>,
    /// Line in its file, from 1; `None` when it has no file.
    pub(crate) line: Option<usize>,
    /// Which applications; `None` is any, also an unknown one.
    pub(crate) applications: Option<Vec<ApplicationPattern>>,
    /// Which hosts; `None` is any.
    pub(crate) targets: Option<Targets>,
    /// Which ports.
    pub(crate) ports: PortSet,
    /// What a flow gets that matches.
    pub(crate) action: Action,
}

/// Hosts of a rule.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    /// By address.
    pub(crate) addresses: AddressSet,
    /// By name.
    pub(crate) names: Vec<NamePattern>,
    /// As the administrator wrote them, cut short for people.
    pub(crate) shown: String,
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
    },
    /// Directly.
    Pass,
    /// Not at all.
    Block,
}

/// The first matcher of a rule that says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// `to:`
    Target,
    /// `ports:`
    Port,
    /// `app:`
    Application,
}

impl Targets {
    /// Whether `destination`, normalized, is one of them.
    pub(crate) fn matches(&self, destination: &Destination) -> bool {
        let by_address = |address| self.addresses.contains(address);
        destination.address.is_some_and(by_address)
            || destination
                .name
                .as_deref()
                .is_some_and(|name| self.names.iter().any(|pattern| pattern.matches(name)))
    }

    fn cover(&self, other: &Self) -> bool {
        self.addresses.covers(&other.addresses)
            && other
                .names
                .iter()
                .all(|name| self.names.iter().any(|own| own.covers(name)))
    }
}

impl Rule {
    /// A rule for every flow.
    pub(crate) fn for_everything(label: &str, line: Option<usize>, action: Action) -> Self {
        Self {
            label: label.into(),
            line,
            applications: None,
            targets: None,
            ports: port::all(),
            action,
        }
    }

    /// The first matcher that says no; the application is asked about last, because looking it up costs most.
    pub(crate) fn mismatch(
        &self,
        destination: &Destination,
        application: &Application,
    ) -> Option<Mismatch> {
        self.mismatch_of_destination(destination).or_else(|| {
            let patterns = self.applications.as_ref()?;
            let matches = patterns.iter().any(|it| it.matches(application));
            (!matches).then_some(Mismatch::Application)
        })
    }

    /// As `mismatch`, without the application.
    pub(crate) fn mismatch_of_destination(&self, destination: &Destination) -> Option<Mismatch> {
        let targets = self.targets.as_ref();
        if targets.is_some_and(|targets| !targets.matches(destination)) {
            Some(Mismatch::Target)
        } else if self.ports.contains(destination.port) {
            None
        } else {
            Some(Mismatch::Port)
        }
    }

    /// Whether the rule takes every flow that `other` takes. Never a wrong yes; a no may be one of ignorance, where
    /// regular expressions or globs meet.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.covers_applications(other)
            && self.covers_targets(other)
            && self.ports.covers(&other.ports)
    }

    /// As `covers`, of the applications alone.
    pub(crate) fn covers_applications(&self, other: &Self) -> bool {
        match (&self.applications, &other.applications) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => others
                .iter()
                .all(|other| own.iter().any(|it| it.covers(other))),
        }
    }

    /// As `covers`, of the hosts alone.
    pub(crate) fn covers_targets(&self, other: &Self) -> bool {
        match (&self.targets, &other.targets) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(other)) => own.cover(other),
        }
    }

    /// Whether a program hears of success before anything is decided.
    pub(crate) fn is_early(&self) -> bool {
        match self.action {
            Action::Tunnel { connect, .. } => connect == Connect::Early,
            Action::Pass | Action::Block => false,
        }
    }

    /// The decision for a flow that matches.
    pub(crate) fn decide(&self, destination: Destination) -> Decision {
        let label = Arc::clone(&self.label);
        match &self.action {
            Action::Tunnel {
                zone,
                on_down,
                connect,
            } => Decision::Tunnel(TunnelPermit::new(
                Arc::clone(zone),
                destination,
                label,
                *on_down,
                *connect,
            )),
            Action::Pass => Decision::Pass(PassPermit::new(destination, label)),
            Action::Block => Decision::Block(Block::new(label)),
        }
    }
}

impl Action {
    /// As in the rule file.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Tunnel { .. } => "tunnel",
            Self::Pass => "pass",
            Self::Block => "block",
        }
    }
}
