//! Where on its way a flow failed, and what its program saw of it.

use adit_capture::questions::Answer;
use serde::{Deserialize, Serialize};

/// Where on its way a flow failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// A rule blocks it.
    Blocked,
    /// Another user's program opened it.
    Foreign,
    /// The capture helper or the kernel did not give what the rules or the way need.
    Helper,
    /// No gateway of the zone answers.
    ZoneDown,
    /// The link to the gateway was lost.
    LinkLost,
    /// The gateway's policy says no.
    Denied,
    /// The gateway could not do it.
    Gateway,
    /// The gateway can't resolve the name.
    Unresolvable,
    /// The destination, or a firewall in front of it, says no.
    Refused,
    /// There is no way to the destination.
    Unreachable,
    /// The destination does not answer.
    Silent,
    /// The far side reset it before it was open.
    Reset,
    /// The program stopped waiting before there was an answer.
    GivenUp,
    /// The program insists on another way.
    Bound,
    /// Someone said `adit close`.
    Closed,
}

impl Stage {
    /// What failed, in a few words.
    pub fn what(self) -> &'static str {
        match self {
            Self::Blocked => "a rule blocks it",
            Self::Foreign => "another user's program opened it",
            Self::Helper => "the capture helper did not do its part",
            Self::ZoneDown => "no gateway of the zone answers",
            Self::LinkLost => "the link to the gateway was lost",
            Self::Denied => "the gateway's policy denies it",
            Self::Gateway => "the gateway could not do it",
            Self::Unresolvable => "the gateway can't resolve the name",
            Self::Refused => "the destination refuses",
            Self::Unreachable => "there is no way to the destination",
            Self::Silent => "the destination does not answer",
            Self::Reset => "the far side reset it before it was open",
            Self::GivenUp => "the program stopped waiting before there was an answer",
            Self::Bound => "the program insists on a network device",
            Self::Closed => "someone closed it with `adit close`",
        }
    }

    /// What can be done about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Blocked => {
                "if it should not be blocked, change that rule or put another before it; `adit explain` tells what a file would give"
            }
            Self::Foreign => "each user's connections are carried by a broker of that user",
            Self::Helper => "see `adit status` and `systemctl status adit-capture.socket`",
            Self::ZoneDown => {
                "`adit status` says which gateway was tried, why it failed and when it is tried next"
            }
            Self::LinkLost => {
                "try again: the next connection takes a new link; if that is lost too, see the gateway's log"
            }
            Self::Denied => {
                "the gateway's administrator finds it in the audit log and can allow it in the gateway's `policy:`"
            }
            Self::Gateway => "try again; if it lasts, the gateway's log says more",
            Self::Unresolvable => "is the name right, and does the gateway's resolver know it?",
            Self::Refused => {
                "is the service up, and the port right? If it is, a firewall in front of it says no"
            }
            Self::Unreachable => {
                "is the host up, and is there a route to it from where it is dialled?"
            }
            Self::Silent => {
                "is the host up? Firewalls that drop, between where it is dialled and there, look the same"
            }
            Self::Reset => "the service, or something in front of it, hung up: see its log",
            Self::GivenUp => {
                "the destination, or the gateway, was slower than the program: let it wait longer, or see `adit status`"
            }
            Self::Bound => {
                "let the program use any device (curl: without `--interface`), or let a rule pass it"
            }
            Self::Closed => "nothing, if that was meant",
        }
    }
}

/// What a program saw of a flow that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saw {
    /// connect() gave "connection refused".
    ConnectionRefused,
    /// connect() gave "no route to host".
    NoRouteToHost,
    /// connect() gave "network is unreachable".
    NetworkUnreachable,
    /// Nothing, until its own time-out.
    Nothing,
    /// A reset of a connection that had been accepted.
    Reset,
    /// The words of the entry that it had asked.
    Reply,
}

impl Saw {
    /// Of a program that was held in connect() until this answer.
    pub(crate) fn of(answer: Answer) -> Option<Self> {
        match answer {
            Answer::Refuse => Some(Self::ConnectionRefused),
            Answer::HostUnreachable => Some(Self::NoRouteToHost),
            Answer::NetworkUnreachable => Some(Self::NetworkUnreachable),
            Answer::Drop => Some(Self::Nothing),
            Answer::Direct | Answer::Redirect => None,
        }
    }

    /// In the words of the program's own errors.
    pub fn what(self) -> &'static str {
        match self {
            Self::ConnectionRefused => "connection refused",
            Self::NoRouteToHost => "no route to host",
            Self::NetworkUnreachable => "network is unreachable",
            Self::Nothing => "nothing, until its own time is up",
            Self::Reset => "a connection that was accepted, then reset",
            Self::Reply => "the refusal of the entry that it had asked",
        }
    }
}
