//! How a flow ended, and what its program is told of it.

use std::io;

use adit_capture::questions::Answer;
use adit_link::{Refusal, RefusalReason, RelayEnd};
use adit_rules::{Block, OnDown, Refusal as Blocks, TunnelPermit};

use crate::flow_table::{Action, Flow, Outcome, State};
use crate::stage::Stage;
use crate::zone_link::ZoneDown;

/// How a flow ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) state: State,
    pub(super) reason: Option<String>,
    pub(super) cause: Cause,
    /// Where it failed, if it did.
    pub(super) stage: Option<Stage>,
}

/// What a program is told of, each way of asking in its own words: one that is held at its SYN by [`Cause::answer`], one that came
/// through an entry by a reply. One whose connection was accepted for it sees a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A rule blocks it.
    Blocked(Blocks),
    /// The gateway's policy denies it.
    Denied,
    /// The destination refuses.
    Refused,
    /// No way to the host.
    HostUnreachable,
    /// No way to its network.
    NetworkUnreachable,
    /// Its name has no address.
    Unresolvable,
    /// The destination is silent.
    TimedOut,
    /// No room; there may be some in a moment.
    Busy,
    /// No gateway answers.
    NoGateway,
    /// None has answered in the time that `hold` gives.
    NoGatewayYet,
    /// Something of ours broke: the destination may be well, but there is no way to it.
    Broken,
    /// The kernel connects it itself.
    Direct,
    /// It is over, or nobody waits for an answer any more.
    Over,
}

impl Cause {
    /// What a program hears that is held at its SYN: what its own connect would have given.
    pub(super) fn answer(self) -> Answer {
        match self {
            Self::Blocked(Blocks::Reset) | Self::Refused | Self::Over => Answer::Refuse,
            // Silence. The kernel asks again with the next SYN, until the program has had enough.
            Self::Blocked(Blocks::Drop) | Self::TimedOut | Self::Busy => Answer::Drop,
            Self::NetworkUnreachable => Answer::NetworkUnreachable,
            Self::Denied
            | Self::HostUnreachable
            | Self::Unresolvable
            | Self::NoGateway
            | Self::Broken => Answer::HostUnreachable,
            // From here on the time is the program's own.
            Self::NoGatewayYet => Answer::Drop,
            Self::Direct => Answer::Direct,
        }
    }

    /// Where a flow fails because of it.
    fn stage(self) -> Option<Stage> {
        Some(match self {
            Self::Blocked(_) => Stage::Blocked,
            Self::Denied => Stage::Denied,
            Self::Refused => Stage::Refused,
            Self::HostUnreachable | Self::NetworkUnreachable => Stage::Unreachable,
            Self::Unresolvable => Stage::Unresolvable,
            Self::TimedOut => Stage::Silent,
            Self::NoGateway | Self::NoGatewayYet => Stage::ZoneDown,
            Self::Busy | Self::Broken => Stage::Gateway,
            Self::Direct | Self::Over => return None,
        })
    }

    /// Of a direct connection that failed.
    pub(super) fn of_connect(error: &io::Error) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the errors of connect(2) that have a word of their own"
        )]
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::HostUnreachable => Self::HostUnreachable,
            io::ErrorKind::NetworkUnreachable => Self::NetworkUnreachable,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Broken,
        }
    }
}

impl Ending {
    /// Someone said no.
    pub(super) fn refused(cause: Cause, reason: impl Into<String>) -> Self {
        Self {
            state: State::Refused,
            reason: Some(reason.into()),
            cause,
            stage: cause.stage(),
        }
    }

    /// Something is wrong on the way.
    pub(super) fn failed(cause: Cause, reason: impl Into<String>) -> Self {
        Self {
            state: State::Failed,
            reason: Some(reason.into()),
            cause,
            stage: cause.stage(),
        }
    }

    pub(super) fn closed(reason: Option<String>) -> Self {
        Self {
            state: State::Closed,
            reason,
            cause: Cause::Over,
            stage: None,
        }
    }

    /// The kernel connects it itself.
    pub(super) fn direct() -> Self {
        Self {
            state: State::Direct,
            reason: None,
            cause: Cause::Direct,
            stage: None,
        }
    }

    pub(super) fn blocked(block: &Block, flow: &Flow) -> Self {
        flow.decided(Action::Block, block.rule(), None);
        let cause = Cause::Blocked(block.refusal());
        Self::refused(cause, format!("blocked by rule {}", block.rule()))
    }

    pub(super) fn down(down: &ZoneDown, permit: &TunnelPermit) -> Self {
        let cause = match permit.on_down() {
            // A gateway that can't be trusted is no matter of time.
            OnDown::Hold if !down.untrusted => Cause::NoGatewayYet,
            OnDown::Hold | OnDown::Reject | OnDown::Pass => Cause::NoGateway,
        };
        Self::failed(cause, down.to_string())
    }

    pub(super) fn given_up() -> Self {
        Self::closed(Some("given up by the application".to_owned())).at(Stage::GivenUp)
    }

    /// Not where its cause says.
    pub(super) fn at(self, stage: Stage) -> Self {
        let stage = Some(stage);
        Self { stage, ..self }
    }

    fn unless_open(self, stage: Stage, flow: &Flow) -> Self {
        if flow.was_open() {
            self
        } else {
            self.at(stage)
        }
    }

    pub(super) fn into_outcome(self) -> Outcome {
        Outcome {
            state: self.state,
            stage: self.stage,
            reason: self.reason,
        }
    }

    pub(super) fn of_relay(end: RelayEnd, flow: &Flow) -> Self {
        match end {
            RelayEnd::Finished => Self::closed(None),
            RelayEnd::ResetHere(error) => {
                Self::closed(Some(format!("reset by the application: {error}")))
                    .unless_open(Stage::GivenUp, flow)
            }
            RelayEnd::ResetThere => Self::closed(Some("reset by the destination".to_owned()))
                .unless_open(Stage::Reset, flow),
            RelayEnd::Refused(refusal) => Self::of_refusal(&refusal),
            RelayEnd::LinkEnded(end) => {
                let was = if flow.was_open() {
                    "while open"
                } else {
                    "before it opened"
                };
                Self::failed(Cause::Broken, format!("link lost {was}: {end}")).at(Stage::LinkLost)
            }
        }
    }

    /// The gateway's word.
    pub(super) fn of_refusal(refusal: &Refusal) -> Self {
        let (reason, cause) = match refusal.reason {
            RefusalReason::Denied => ("denied", Cause::Denied),
            RefusalReason::Refused => ("refused", Cause::Refused),
            RefusalReason::HostUnreachable => ("host unreachable", Cause::HostUnreachable),
            RefusalReason::NetworkUnreachable => ("network unreachable", Cause::NetworkUnreachable),
            RefusalReason::Unresolvable => ("unresolvable", Cause::Unresolvable),
            RefusalReason::TimedOut => ("timed out", Cause::TimedOut),
            RefusalReason::Busy => ("busy", Cause::Busy),
            RefusalReason::Failed => ("failed", Cause::Broken),
        };
        let text = match refusal.detail.as_str() {
            "" => reason.to_owned(),
            detail => format!("{reason}: {detail}"),
        };
        Self::refused(cause, text)
    }
}

pub(super) fn report(flow: &Flow, ending: &Ending) {
    let is_said = match ending.state {
        State::Refused | State::Failed => tracing::enabled!(tracing::Level::INFO),
        State::Deciding | State::Opening | State::Open | State::Closed | State::Direct => {
            tracing::enabled!(tracing::Level::DEBUG)
        }
    };
    if !is_said {
        return;
    }
    let view = flow.view();
    let application = view
        .application
        .as_deref()
        .unwrap_or("unknown")
        .escape_debug();
    let reason = ending.reason.as_deref().unwrap_or("finished");
    let (destination, rule) = (&view.destination, view.rule.as_deref().unwrap_or("-"));
    let zone = view.zone.as_deref().unwrap_or("-");
    match ending.state {
        State::Refused | State::Failed => tracing::info!(
            flow = flow.id, %destination, %application, rule, zone,
            state = %ending.state, reason, "flow not carried"
        ),
        State::Deciding | State::Opening | State::Open | State::Closed | State::Direct => {
            tracing::debug!(
                flow = flow.id, %destination, %application, rule, zone,
                state = %ending.state, up = view.up, down = view.down, reason, "flow ended"
            )
        }
    }
}
