//! Which message is legal in which state of a session. What is not in this table ends the session.

use adit_capture::wire::Request;

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Connected; nothing said.
    New,
    /// Versions exchanged.
    Greeted,
    /// Holds its user's claim.
    Claimed,
}

/// The kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Hello,
    Claim,
    MarkedSocket,
    OriginalSources,
    Queue,
    Release,
}

const PERMITTED: [(State, &[Kind]); 3] = [
    (State::New, &[Kind::Hello]),
    (
        State::Greeted,
        &[Kind::Claim, Kind::MarkedSocket, Kind::Queue, Kind::Release],
    ),
    (
        State::Claimed,
        &[
            Kind::Claim,
            Kind::MarkedSocket,
            Kind::OriginalSources,
            Kind::Queue,
            Kind::Release,
        ],
    ),
];

impl State {
    /// `queued`: whether the session has a queue, of which there is one.
    pub(crate) fn permits(self, kind: Kind, queued: bool) -> bool {
        if kind == Kind::Queue && queued {
            return false;
        }
        PERMITTED
            .iter()
            .any(|(state, kinds)| *state == self && kinds.contains(&kind))
    }
}

impl Kind {
    pub(crate) fn of(request: &Request) -> Kind {
        match request {
            Request::Hello { .. } => Kind::Hello,
            Request::Claim { .. } => Kind::Claim,
            Request::MarkedSocket { .. } => Kind::MarkedSocket,
            Request::OriginalSources { .. } => Kind::OriginalSources,
            Request::Queue => Kind::Queue,
            Request::Release => Kind::Release,
        }
    }

    /// Most descriptors that may come with it.
    pub(crate) fn descriptors(self) -> usize {
        match self {
            Kind::Claim => 2,
            Kind::Hello
            | Kind::MarkedSocket
            | Kind::OriginalSources
            | Kind::Queue
            | Kind::Release => 0,
        }
    }
}
