//! How a flow ended, and what its program is told of it.

use adit_capture::questions::Answer;
use adit_link::{Refusal, RefusalReason, RelayEnd};

use crate::flow_table::{Flow, State};

/// How a flow ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) state: State,
    pub(super) reason: Option<String>,
    /// What a program hears that is held at its SYN; one whose connection was accepted sees a reset.
    pub(super) answer: Answer,
}

impl Ending {
    /// Someone said no.
    pub(super) fn refused(reason: impl Into<String>) -> Self {
        Self {
            state: State::Refused,
            reason: Some(reason.into()),
            answer: Answer::Refuse,
        }
    }

    /// Something broke: the destination may be well, but there is no way to it.
    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self {
            state: State::Failed,
            reason: Some(reason.into()),
            answer: Answer::HostUnreachable,
        }
    }

    pub(super) fn closed(reason: Option<String>) -> Self {
        Self {
            state: State::Closed,
            reason,
            answer: Answer::Refuse,
        }
    }

    /// The kernel connects it itself.
    pub(super) fn direct() -> Self {
        Self {
            state: State::Direct,
            reason: None,
            answer: Answer::Direct,
        }
    }

    pub(super) fn answering(self, answer: Answer) -> Self {
        Self { answer, ..self }
    }

    pub(super) fn of_relay(end: RelayEnd, flow: &Flow) -> Self {
        match end {
            RelayEnd::Finished => Self::closed(None),
            RelayEnd::ResetHere(error) => {
                Self::closed(Some(format!("reset by the application: {error}")))
            }
            RelayEnd::ResetThere => Self::closed(Some("reset by the destination".to_owned())),
            RelayEnd::Refused(refusal) => Self::of_refusal(&refusal),
            RelayEnd::LinkEnded(end) => {
                let was = if flow.was_open() {
                    "while open"
                } else {
                    "before it opened"
                };
                Self::failed(format!("link lost {was}: {end}"))
            }
        }
    }

    /// The gateway's word, as the program's own connect would have put it.
    pub(super) fn of_refusal(refusal: &Refusal) -> Self {
        let (reason, answer) = match refusal.reason {
            RefusalReason::Denied => ("denied", Answer::HostUnreachable),
            RefusalReason::Refused => ("refused", Answer::Refuse),
            RefusalReason::HostUnreachable => ("host unreachable", Answer::HostUnreachable),
            RefusalReason::NetworkUnreachable => {
                ("network unreachable", Answer::NetworkUnreachable)
            }
            RefusalReason::Unresolvable => ("unresolvable", Answer::HostUnreachable),
            // Silence. The kernel asks again with the next SYN, until the program has had enough.
            RefusalReason::TimedOut => ("timed out", Answer::Drop),
            RefusalReason::Busy => ("busy", Answer::Drop),
            RefusalReason::Failed => ("failed", Answer::HostUnreachable),
        };
        let text = match refusal.detail.as_str() {
            "" => reason.to_owned(),
            detail => format!("{reason}: {detail}"),
        };
        Self::refused(text).answering(answer)
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
    let (destination, rule) = (view.destination, view.rule.as_deref().unwrap_or("-"));
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
