//! What goes over the control socket: one request a connection, one line of JSON each way.
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::rejudge::Closed;
use crate::sessions::{Flow, Session};

/// A longer request is refused unread.
pub const MAX_REQUEST: usize = 4096;
/// A longer answer is not believed.
pub const MAX_ANSWER: u64 = 256 << 20;

/// What is asked of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Who is logged in, and what is open.
    Sessions {},
    /// End one session.
    Kill {
        /// Its id.
        id: u64,
    },
    /// Take nothing new, and end when the old is over or this time is.
    Drain {
        /// Seconds.
        deadline: u64,
    },
    /// Read the file again and judge everything anew.
    Reload {},
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// To `sessions`.
    Sessions(Vec<SessionView>),
    /// To `reload`.
    Reloaded(Reloaded),
    /// To `kill` and `drain`.
    Done,
    /// It could not be done; why.
    Error(String),
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What was closed.
    #[serde(flatten)]
    pub closed: Closed,
    /// Keys of the file that differ from what the gateway was started with, and take effect when it is
    /// started again.
    #[serde(default)]
    pub at_next_start: Vec<String>,
}

/// One session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionView {
    /// To name it by.
    pub id: u64,
    /// Who.
    pub user: String,
    /// Address and port.
    pub from: String,
    /// The methods that were shown, such as `publickey` or `certificate,totp`.
    pub proof: String,
    /// Fingerprint.
    pub key: String,
    /// Its id, serial and authority.
    pub certificate: Option<String>,
    /// When the login was.
    pub since: Timestamp,
    /// Bytes to destinations.
    pub sent: u64,
    /// Bytes from destinations.
    pub received: u64,
    /// What is open.
    pub flows: Vec<FlowView>,
}

/// One open flow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowView {
    /// The audit's `stream`.
    pub id: u64,
    /// As it was asked for.
    pub asked: String,
    /// Where it goes.
    pub dialled: String,
    /// The entry that allowed it.
    pub entry: String,
    /// What the broker says; not proven.
    pub application: String,
    /// Bytes to the destination.
    pub sent: u64,
    /// Bytes from it.
    pub received: u64,
    /// Since it was opened.
    pub age_ms: u64,
}

impl SessionView {
    pub(crate) fn of(session: &Session) -> Self {
        let (sent, received) = session.bytes();
        let credential = &session.who.credential;
        Self {
            id: session.id,
            user: session.who.user.to_string(),
            from: session.who.from.clone(),
            proof: session.who.how.clone(),
            key: credential.key().to_owned(),
            certificate: session.who.certificate(),
            since: session.since,
            sent,
            received,
            flows: session.flows().iter().map(FlowView::of).collect(),
        }
    }
}

impl FlowView {
    fn of(flow: &Arc<Flow>) -> Self {
        let (sent, received) = flow.bytes();
        Self {
            id: flow.id,
            asked: flow.subject.to_string(),
            dialled: flow.dialled.to_string(),
            entry: flow.entry.clone(),
            application: flow.application.clone(),
            sent,
            received,
            age_ms: u64::try_from(flow.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}
