//! The audit: one line for every stream that was asked for, one for how it ended. Never a byte of payload.
//!
//! Everything a client chose is recorded as a text value, which all three outputs (journal, JSON, text) escape, so that nobody
//! can write lines of their own.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use adit_link::{Counters, Refusal, RelayEnd};

use crate::user_name::UserName;

/// Target of all audit events: filters can pick them by it.
pub const TARGET: &str = "audit";

/// Who is at the other end of a link.
#[derive(Debug, Clone)]
pub struct Who {
    /// The authenticated user.
    pub user: UserName,
    /// Where from, as far as we know.
    pub from: String,
    /// Fingerprint of the key that was used, as `ssh-keygen -l` writes it; `-` where another program authenticated.
    pub key: String,
}

/// What is said about one stream, from the question to the end.
#[derive(Debug)]
pub(crate) struct Record {
    /// Tells the lines of one stream from those of others, as long as the process lives.
    id: u64,
    who: Arc<Who>,
    asked: String,
    application: String,
}

impl Record {
    pub(crate) fn new(who: Arc<Who>, asked: String, application: Option<&str>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let application = application.unwrap_or("-").to_owned();
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), who, asked, application }
    }

    /// `why` is the full reason, which the broker does not see.
    pub(crate) fn refused(&self, refusal: &Refusal, why: &str) {
        tracing::info!(
            target: TARGET,
            event = "refuse",
            stream = self.id,
            user = self.who.user.as_str(),
            from = self.who.from.as_str(),
            key = self.who.key.as_str(),
            asked = self.asked.as_str(),
            application = self.application.as_str(),
            reason = ?refusal.reason,
            why,
            "refused"
        );
    }

    pub(crate) fn opened(self, dialled: SocketAddr, entry: &str) -> Open {
        let dialled = dialled.to_string();
        tracing::info!(
            target: TARGET,
            event = "open",
            stream = self.id,
            user = self.who.user.as_str(),
            from = self.who.from.as_str(),
            key = self.who.key.as_str(),
            asked = self.asked.as_str(),
            application = self.application.as_str(),
            dialled = dialled.as_str(),
            entry,
            "opened"
        );
        Open { record: self, dialled, since: Instant::now(), counters: Counters::default(), end: None }
    }
}

/// An open stream. Its end is written when this is dropped, so that no way of ending goes without a line.
#[derive(Debug)]
pub(crate) struct Open {
    record: Record,
    dialled: String,
    since: Instant,
    /// What was relayed so far.
    pub(crate) counters: Counters,
    end: Option<RelayEnd>,
}

impl Open {
    pub(crate) fn ended(mut self, end: RelayEnd) {
        self.end = Some(end);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let end = match &self.end {
            None => "stopped by the gateway".to_owned(),
            Some(RelayEnd::Finished) => "finished".to_owned(),
            Some(RelayEnd::ResetHere(error)) => format!("reset by the destination: {error}"),
            Some(RelayEnd::ResetThere) => "reset by the application".to_owned(),
            Some(RelayEnd::Refused(refusal)) => format!("refused: {refusal}"),
            Some(RelayEnd::LinkEnded(end)) => format!("link ended: {end}"),
        };
        tracing::info!(
            target: TARGET,
            event = "end",
            stream = self.record.id,
            user = self.record.who.user.as_str(),
            asked = self.record.asked.as_str(),
            dialled = self.dialled.as_str(),
            sent = self.counters.down.load(Ordering::Relaxed),
            received = self.counters.up.load(Ordering::Relaxed),
            seconds = self.since.elapsed().as_secs_f64(),
            end = end.as_str(),
            "ended"
        );
    }
}
