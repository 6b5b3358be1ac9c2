//! Layers of rules: a later one adds to those before it and never weakens them.
//!
//! All layers make one list, and the first rule that matches decides. What makes it sound is that no rule of a later layer says
//! less than the [`Floor`] below it: what a flow gets that no earlier rule matches. So whatever a later layer adds, each flow gets
//! what it would get without that layer, or something stricter.

use std::fmt;
use std::path::PathBuf;

use crate::decision::{Block, Refusal};
use crate::rule::{Action, Rule};
use crate::zone::OnDown;

/// Whose word a layer is, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Author {
    /// Who administers the machine.
    Administrator,
    /// Who administers a zone, by its gateway.
    Gateway,
    /// The user.
    User,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Administrator => "the administrator",
            Self::Gateway => "the gateway",
            Self::User => "the user",
        })
    }
}

/// The rule files of one author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Whose word it is.
    pub author: Author,
    /// In the order of their rules.
    pub files: Vec<PathBuf>,
}

/// What flows get that no rule of the layers so far matches: a later layer may give more strictness, never less.
#[derive(Debug, Clone)]
pub(crate) struct Floor {
    action: Action,
    author: Author,
}

impl Floor {
    /// `action` is what `author` gives by default.
    pub(crate) fn new(action: Action, author: Author) -> Self {
        Self { action, author }
    }

    /// Whether `action` is as strict.
    pub(crate) fn admits(&self, action: &Action) -> bool {
        is_as_strict(action, &self.action)
    }

    /// Makes `action` as strict as the floor; whether it was not.
    pub(crate) fn raise(&self, action: &mut Action) -> bool {
        if self.admits(action) {
            return false;
        }
        action.clone_from(&self.action);
        true
    }

    /// Whose it is.
    pub(crate) fn author(&self) -> Author {
        self.author
    }

    /// As in a rule file.
    pub(crate) fn shown(&self) -> String {
        match &self.action {
            Action::Tunnel { zone, .. } => format!("tunnel {zone}"),
            Action::Pass | Action::Block(_) => self.action.as_str().to_owned(),
        }
    }
}

/// Whether a flow that gets `own` is nowhere that it would not be with `floor`. Tunnels through two zones, or to two destinations, are
/// not comparable.
pub(crate) fn is_as_strict(own: &Action, floor: &Action) -> bool {
    match (own, floor) {
        (Action::Block(_), _) | (_, Action::Pass) => true,
        (
            Action::Tunnel {
                zone,
                on_down,
                elsewhere,
                ..
            },
            Action::Tunnel {
                zone: floor,
                on_down: floor_down,
                elsewhere: floor_elsewhere,
                ..
            },
        ) => {
            let is_there = zone == floor && elsewhere == floor_elsewhere;
            is_there && keeps_closed(*on_down, *floor_down)
        }
        (Action::Tunnel { .. } | Action::Pass, Action::Tunnel { .. } | Action::Block(_)) => false,
    }
}

/// What a flow gets that `own`, of a later layer, tunnels to where `earlier` takes it. `None`: what `own` says is as strict.
pub(crate) fn closed_by(earlier: &Rule, own: &Action) -> Option<Block> {
    let Action::Tunnel { zone, on_down, .. } = own else {
        return None;
    };
    let refusal = match &earlier.action {
        Action::Pass => return None,
        Action::Tunnel {
            zone: theirs,
            on_down: their_down,
            elsewhere: None,
            ..
        } if zone == theirs && keeps_closed(*on_down, *their_down) => return None,
        Action::Tunnel { .. } => Refusal::Reset,
        Action::Block(refusal) => *refusal,
    };
    Some(Block::new(earlier.as_decider(), refusal))
}

/// Whether nothing leaves directly by `own` that would not by `floor`.
pub(crate) fn keeps_closed(own: OnDown, floor: OnDown) -> bool {
    match own {
        OnDown::Reject | OnDown::Hold => true,
        OnDown::Pass => floor == OnDown::Pass,
    }
}
