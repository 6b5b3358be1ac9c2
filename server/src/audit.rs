//! The audit: one line for every stream that was asked for, one for how it ended; for those that a
//! link had no room for, their number when it ends. Never a byte of payload.
//!
//! Everything a client chose is recorded as a text value, which all three outputs (journal, JSON,
//! text) escape, so that nobody can write lines of their own.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use adit_link::{Counters, Refusal, RelayEnd};
use jiff::Zoned;

use crate::asker::Asker;
use crate::audit_event::Event;
use crate::audit_share;
use crate::credential::Credential;
use crate::log_queue;
use crate::permissions::Permissions;
use crate::throttle::{Throttle, shown};
use crate::user_name::UserName;

/// Target of all audit events: filters can pick them by it.
pub const TARGET: &str = "audit";

/// Who is at the other end of a link.
#[derive(Debug, Clone)]
pub struct Who {
    /// The number of the session, as long as the process lives.
    pub session: u64,
    /// The authenticated user.
    pub user: UserName,
    /// Where from, as far as we know.
    pub from: String,
    /// The address of that.
    pub address: Option<IpAddr>,
    /// What the user was authenticated by.
    pub credential: Credential,
    /// The methods that were shown.
    pub how: String,
}

impl Who {
    /// As the policy sees it, for a stream of this application, now.
    pub(crate) fn asker<'a>(
        &'a self,
        permissions: &'a Permissions,
        application: Option<&'a str>,
    ) -> Asker<'a> {
        Asker {
            user: &self.user,
            principals: &permissions.principals,
            from: self.address,
            application,
            at: Zoned::now().datetime(),
        }
    }

    /// The certificate, for a line; nothing where there was none.
    pub(crate) fn certificate(&self) -> Option<String> {
        self.credential.certificate().map(ToString::to_string)
    }
}

/// A stream that was asked for and not answered yet. Dropped without an answer, it says that.
#[derive(Debug)]
pub(crate) struct Question {
    record: Option<Record>,
}

#[derive(Debug)]
struct Record {
    /// Tells the lines of one stream from those of others, as long as the process lives.
    id: u64,
    who: Arc<Who>,
    asked: String,
    application: String,
}

/// Streams that a link refused by itself, before anybody looked at what was asked for: their number
/// is all there is to say.
pub(crate) fn refused_by_link(who: &Who, streams: u64) {
    if streams > 0 {
        tracing::info!(
            target: TARGET,
            id = Event::Surplus.id(),
            event = Event::Surplus.name(),
            session = who.session,
            user = who.user.as_str(),
            from = who.from.as_str(),
            key = who.credential.key(),
            certificate = who.certificate(),
            streams,
            "refused by the link"
        );
    }
}

impl Question {
    pub(crate) fn new(who: Arc<Who>, asked: String, application: Option<&str>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let application = application.unwrap_or("-").to_owned();
        let record = Record {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            who,
            asked,
            application,
        };
        Self {
            record: Some(record),
        }
    }

    /// `why` is the full reason, which the broker does not see.
    pub(crate) fn refused(mut self, refusal: &Refusal, why: &str) {
        if let Some(record) = self.record.take() {
            record.refused(&format!("{:?}", refusal.reason), why, 0);
        }
    }

    /// The same for what is more than the user may ask for or have: it can cause as many of these as it
    /// likes, so there are few lines of them in a second.
    pub(crate) fn surplus(mut self, refusal: &Refusal, why: &str) {
        if let Some(record) = self.record.take()
            && let Some(left_out) = audit_share::admit_surplus(&record.who.user)
        {
            record.refused(&format!("{:?}", refusal.reason), why, left_out);
        }
    }

    /// There is no room for a line: only counted.
    pub(crate) fn unwritten(mut self) {
        self.record = None;
        log_queue::lose(1);
    }

    /// What the broker says.
    pub(crate) fn application(&self) -> Option<&str> {
        let record = self.record.as_ref()?;
        Some(record.application.as_str()).filter(|known| *known != "-")
    }

    /// The number of its lines, and the application as they have it.
    pub(crate) fn subject(&self) -> (u64, String) {
        let subject = |record: &Record| (record.id, record.application.clone());
        self.record.as_ref().map(subject).unwrap_or_default()
    }

    pub(crate) fn opened(mut self, dialled: SocketAddr, entry: &str) -> Open {
        let dialled = dialled.to_string();
        let record = self.record.take();
        if let Some(record) = &record {
            record.opened(&dialled, entry);
        }
        Open {
            record,
            dialled,
            since: Instant::now(),
            counters: Arc::default(),
            end: None,
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.refused(
                "Cancelled",
                "the broker gave up, or its link ended, before there was an answer",
                0,
            );
        }
    }
}

impl Record {
    fn refused(&self, reason: &str, why: &str, left_out: u64) {
        if !audit_share::has_room(&self.who.user) {
            return log_queue::lose(1);
        }
        tracing::info!(
            target: TARGET,
            id = Event::Refuse.id(),
            event = Event::Refuse.name(),
            session = self.who.session,
            stream = self.id,
            user = self.who.user.as_str(),
            from = self.who.from.as_str(),
            key = self.who.credential.key(),
            certificate = self.who.certificate(),
            asked = self.asked.as_str(),
            application = self.application.as_str(),
            reason,
            why,
            left_out = (left_out > 0).then_some(left_out),
            "refused"
        );
        audit_share::noted(&self.who.user);
    }

    fn opened(&self, dialled: &str, entry: &str) {
        tracing::info!(
            target: TARGET,
            id = Event::Open.id(),
            event = Event::Open.name(),
            session = self.who.session,
            stream = self.id,
            user = self.who.user.as_str(),
            from = self.who.from.as_str(),
            key = self.who.credential.key(),
            certificate = self.who.certificate(),
            asked = self.asked.as_str(),
            application = self.application.as_str(),
            dialled,
            entry,
            "opened"
        );
        audit_share::noted(&self.who.user);
    }

    fn ended(&self, open: &Open, end: &str) {
        tracing::info!(
            target: TARGET,
            id = Event::End.id(),
            event = Event::End.name(),
            session = self.who.session,
            stream = self.id,
            user = self.who.user.as_str(),
            asked = self.asked.as_str(),
            dialled = open.dialled.as_str(),
            sent = open.counters.down.load(Ordering::Relaxed),
            received = open.counters.up.load(Ordering::Relaxed),
            seconds = open.since.elapsed().as_secs_f64(),
            end,
            "ended"
        );
        audit_share::noted(&self.who.user);
    }
}

/// An open stream. Its end is written when this is dropped, so that no way of ending goes without a
/// line.
#[derive(Debug)]
pub(crate) struct Open {
    record: Option<Record>,
    dialled: String,
    since: Instant,
    /// What was relayed so far.
    pub(crate) counters: Arc<Counters>,
    end: Option<End>,
}

#[derive(Debug)]
enum End {
    Relay(RelayEnd),
    Closed(Arc<str>),
}

impl Open {
    pub(crate) fn ended(mut self, end: RelayEnd) {
        self.end = Some(End::Relay(end));
    }

    /// By somebody's word.
    pub(crate) fn closed(mut self, why: Arc<str>) {
        self.end = Some(End::Closed(why));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let end = match &self.end {
            None => "stopped by the gateway".to_owned(),
            Some(End::Closed(why)) => format!("closed: {why}"),
            Some(End::Relay(RelayEnd::Finished)) => "finished".to_owned(),
            Some(End::Relay(RelayEnd::ResetHere(error))) => {
                format!("reset by the destination: {error}")
            }
            Some(End::Relay(RelayEnd::ResetThere)) => "reset by the application".to_owned(),
            Some(End::Relay(RelayEnd::Refused(refusal))) => format!("refused: {refusal}"),
            Some(End::Relay(RelayEnd::LinkEnded(end))) => format!("link ended: {end}"),
        };
        if let Some(record) = &self.record {
            record.ended(self, &end);
        }
    }
}

/// A session, until it is dropped.
#[derive(Debug)]
pub(crate) struct LoggedIn {
    who: Arc<Who>,
    since: Instant,
}

impl LoggedIn {
    pub(crate) fn new(who: &Arc<Who>) -> Self {
        tracing::info!(
            target: TARGET,
            id = Event::Login.id(),
            event = Event::Login.name(),
            session = who.session,
            user = who.user.as_str(),
            from = who.from.as_str(),
            key = who.credential.key(),
            certificate = who.certificate(),
            how = who.how.as_str(),
            "logged in"
        );
        Self {
            who: Arc::clone(who),
            since: Instant::now(),
        }
    }
}

impl Drop for LoggedIn {
    fn drop(&mut self) {
        tracing::info!(
            target: TARGET,
            id = Event::Logout.id(),
            event = Event::Logout.name(),
            session = self.who.session,
            user = self.who.user.as_str(),
            seconds = self.since.elapsed().as_secs_f64(),
            "logged out"
        );
    }
}

/// What somebody showed who is not let in. Of what it says, only the address is known to be true.
pub(crate) struct RefusedLogin<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) user: &'a str,
    pub(crate) method: &'a str,
    pub(crate) credential: &'a Credential,
}

impl RefusedLogin<'_> {
    /// Anybody can cause such a line, so there are few of them in a second, and none where those of
    /// users have no room.
    pub(crate) fn because(&self, why: &str) {
        static LINES: Throttle = Throttle::new();
        if !log_queue::has_room() {
            return log_queue::lose(1);
        }
        let Some(left_out) = LINES.admit(Instant::now()) else {
            return;
        };
        let certificate = self.credential.certificate().map(ToString::to_string);
        tracing::info!(
            target: TARGET,
            id = Event::LoginRefused.id(),
            event = Event::LoginRefused.name(),
            user = shown(self.user),
            from = self.from.to_string(),
            method = self.method,
            key = self.credential.key(),
            certificate,
            why,
            left_out = (left_out > 0).then_some(left_out),
            "login refused"
        );
    }
}

/// The file was read again; what that closed.
pub(crate) fn reloaded(sessions: usize, flows: usize) {
    tracing::info!(
        target: TARGET,
        id = Event::Reload.id(),
        event = Event::Reload.name(),
        sessions,
        flows,
        "policy read again"
    );
}

/// Nothing new is taken from now on.
pub(crate) fn draining(deadline: u64) {
    tracing::info!(
        target: TARGET,
        id = Event::Drain.id(),
        event = Event::Drain.name(),
        deadline,
        "draining: nothing new is taken"
    );
}

/// An administrator ended a session.
pub(crate) fn killed(who: &Who) {
    tracing::info!(
        target: TARGET,
        id = Event::Kill.id(),
        event = Event::Kill.name(),
        session = who.session,
        user = who.user.as_str(),
        "killed"
    );
}

/// A place where a client lets the gateway listen for it, until it is dropped.
pub(crate) struct Listening {
    who: Arc<Who>,
    place: String,
}

impl Listening {
    pub(crate) fn new(who: &Arc<Who>, host: &str, port: u16) -> Self {
        let place = format!("{host}:{port}");
        tracing::info!(
            target: TARGET,
            id = Event::Listen.id(),
            event = Event::Listen.name(),
            session = who.session,
            user = who.user.as_str(),
            from = who.from.as_str(),
            key = who.credential.key(),
            certificate = who.certificate(),
            place = place.as_str(),
            "listens"
        );
        let who = Arc::clone(who);
        Self { who, place }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        tracing::info!(
            target: TARGET,
            id = Event::Unlisten.id(),
            event = Event::Unlisten.name(),
            session = self.who.session,
            user = self.who.user.as_str(),
            place = self.place.as_str(),
            "listens no more"
        );
    }
}
