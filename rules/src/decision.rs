//! What the rules give for a flow. The permits are proofs: only this crate can make one, and only a permit can dial.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::application::Fact;
use crate::destination::Destination;
use crate::telling::Telling;
use crate::zone::{Connect, OnDown};

/// What the rules give for a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Through a zone.
    Tunnel(TunnelPermit),
    /// A direct connection.
    Pass(PassPermit),
    /// No connection.
    Block(Block),
}

impl Decision {
    /// Label of the rule that decided; `default` when none matched.
    pub fn rule(&self) -> &str {
        match self {
            Self::Tunnel(permit) => permit.rule(),
            Self::Pass(permit) => permit.rule(),
            Self::Block(block) => block.rule(),
        }
    }

    /// What that rule wants to be told of it.
    pub fn telling(&self) -> Telling {
        match self {
            Self::Tunnel(permit) => permit.by.telling,
            Self::Pass(permit) => permit.by.telling,
            Self::Block(block) => block.by.telling,
        }
    }

    /// `tunnel`, `pass` or `block`.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Tunnel(_) => "tunnel",
            Self::Pass(_) => "pass",
            Self::Block(_) => "block",
        }
    }

    /// The zone of a tunnel.
    pub fn zone(&self) -> Option<&str> {
        match self {
            Self::Tunnel(permit) => Some(permit.zone()),
            Self::Pass(_) | Self::Block(_) => None,
        }
    }
}

/// The rule that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct By {
    pub(crate) label: SmolStr,
    pub(crate) telling: Telling,
}

/// Leave to tunnel one destination through one zone. Made only by [`Policy::judge`](crate::Policy::judge).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPermit {
    zone: Arc<str>,
    destination: Destination,
    is_elsewhere: bool,
    by: By,
    on_down: OnDown,
    connect: Connect,
}

impl TunnelPermit {
    /// To what was asked for.
    pub(crate) fn new(
        zone: Arc<str>,
        destination: Destination,
        by: By,
        on_down: OnDown,
        connect: Connect,
    ) -> Self {
        Self {
            zone,
            destination,
            is_elsewhere: false,
            by,
            on_down,
            connect,
        }
    }

    /// The same to somewhere else than was asked for.
    pub(crate) fn to(self, destination: Destination) -> Self {
        Self {
            destination,
            is_elsewhere: true,
            ..self
        }
    }

    /// Name of the zone.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The one destination: what was asked for, or what the rule says instead.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The destination where it is another than was asked for.
    pub fn elsewhere(&self) -> Option<&Destination> {
        self.is_elsewhere.then_some(&self.destination)
    }

    /// Label of the rule that decided; `default` when none matched.
    pub fn rule(&self) -> &str {
        &self.by.label
    }

    /// What the flow gets while no gateway answers: the rule's word, else the zone's.
    pub fn on_down(&self) -> OnDown {
        self.on_down
    }

    /// What the program's `connect()` gives: the rule's word, else the zone's.
    pub fn connect(&self) -> Connect {
        self.connect
    }

    /// Leave to dial directly while no gateway answers: only where the administrator wrote `on_down: pass`, and never to
    /// somewhere else than was asked for.
    pub fn when_down(&self) -> Option<PassPermit> {
        match self.on_down {
            OnDown::Reject | OnDown::Hold => None,
            OnDown::Pass if self.is_elsewhere => None,
            OnDown::Pass => Some(PassPermit::new(self.destination.clone(), self.by.clone())),
        }
    }
}

/// Leave to dial one destination directly. Made only by [`Policy::judge`](crate::Policy::judge) and
/// [`TunnelPermit::when_down`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassPermit {
    destination: Destination,
    by: By,
}

impl PassPermit {
    pub(crate) fn new(destination: Destination, by: By) -> Self {
        Self { destination, by }
    }

    /// The one destination.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Label of the rule that decided; `default` when none matched.
    pub fn rule(&self) -> &str {
        &self.by.label
    }
}

/// No leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    by: By,
    refusal: Refusal,
    in_doubt: bool,
}

impl Block {
    /// By a rule that says so.
    pub(crate) fn new(by: By, refusal: Refusal) -> Self {
        Self {
            by,
            refusal,
            in_doubt: false,
        }
    }

    /// By a rule of which nobody can say whether it matches.
    pub(crate) fn in_doubt(by: By, refusal: Refusal) -> Self {
        Self {
            by,
            refusal,
            in_doubt: true,
        }
    }

    /// Label of the rule that decided; `default` when none matched.
    pub fn rule(&self) -> &str {
        &self.by.label
    }

    /// Whether it is only blocked because something under a `not` cannot be answered.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// What the program is told.
    pub fn refusal(&self) -> Refusal {
        self.refusal
    }
}

/// What a program is told of a connection that is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// "Connection refused", at once.
    Reset,
    /// Nothing: it waits until its own time is up.
    Drop,
}

impl Refusal {
    /// As in the rule file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Drop => "drop",
        }
    }
}

/// What [`Policy::judge`](crate::Policy::judge) gives when not everything about the application may be known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// What is still unknown of the application does not matter.
    Decided(Decision),
    /// A rule that could match asks for this: find it out, or give it up, and judge again. It is never asked for twice.
    Needs(Fact),
}
