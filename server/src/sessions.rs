//! Who is logged in and what of it is open: to be shown, to be ended, and to be judged again.
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use adit_link::Counters;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::asked::Asked;
use crate::audit::{LoggedIn, Who};
use crate::login::Proof;
use crate::metrics::Metrics;
use crate::permissions::{Permissions, Way};

/// The sessions that are live.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: Mutex<BTreeMap<u64, Arc<Session>>>,
}

/// One login, until its connection is gone.
#[derive(Debug)]
pub struct Session {
    pub(crate) id: u64,
    pub(crate) who: Arc<Who>,
    pub(crate) since: Timestamp,
    /// What it was proved by, where this program authenticated.
    pub(crate) proof: Option<Proof>,
    pub(crate) ending: Arc<Ending>,
    /// What its brokers are told; nothing when empty.
    notice: watch::Sender<Arc<str>>,
    permissions: watch::Sender<Arc<Permissions>>,
    flows: Mutex<BTreeMap<u64, Arc<Flow>>>,
    /// Since when no flow is open, while none is.
    idle_since: Mutex<Option<tokio::time::Instant>>,
    /// Of the flows that ended.
    sent: AtomicU64,
    received: AtomicU64,
}

/// One open stream.
#[derive(Debug)]
pub(crate) struct Flow {
    /// As in the audit.
    pub(crate) id: u64,
    pub(crate) subject: Subject,
    pub(crate) dialled: SocketAddr,
    pub(crate) entry: String,
    pub(crate) application: String,
    pub(crate) since: Instant,
    pub(crate) counters: Arc<Counters>,
    pub(crate) ending: Ending,
}

/// What a flow is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A destination that was asked for.
    Dialled(Way, Asked),
    /// A connection that came in for `ssh -R`.
    Accepted {
        /// Where it listens, as it was asked for.
        host: String,
        /// 0 for any.
        wanted: u16,
        /// The one it got.
        port: u16,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialled(_, asked) => asked.fmt(f),
            Self::Accepted { host, port, .. } => write!(f, "{host}:{port}"),
        }
    }
}

/// A word that something has to end, with the reason. Once said it stays.
#[derive(Debug)]
pub(crate) struct Ending(watch::Sender<Option<Arc<str>>>);

impl Ending {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// The first reason counts.
    pub(crate) fn end(&self, why: &str) {
        self.0.send_if_modified(|said| {
            let first = said.is_none();
            if first {
                *said = Some(why.into());
            }
            first
        });
    }

    pub(crate) fn is_said(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Resolves when the word was said.
    pub(crate) async fn said(&self) -> Arc<str> {
        let mut said = self.0.subscribe();
        loop {
            if let Some(why) = &*said.borrow_and_update() {
                return Arc::clone(why);
            }
            // The sender lives in self, so that waiting cannot fail.
            let _ = said.changed().await;
        }
    }
}

impl Session {
    /// A session that is in no list yet.
    pub(crate) fn new(
        who: Who,
        permissions: Permissions,
        proof: Option<Proof>,
        ending: Arc<Ending>,
    ) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            id,
            who: Arc::new(Who { session: id, ..who }),
            since: Timestamp::now(),
            proof,
            ending,
            notice: watch::Sender::new("".into()),
            permissions: watch::Sender::new(Arc::new(permissions)),
            flows: Mutex::default(),
            idle_since: Mutex::new(Some(tokio::time::Instant::now())),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        })
    }

    pub(crate) fn permissions(&self) -> Arc<Permissions> {
        Arc::clone(&self.permissions.borrow())
    }

    pub(crate) fn permit(&self, permissions: Permissions) {
        self.permissions.send_replace(Arc::new(permissions));
    }

    /// Resolves when its permissions, now or after a change, do not allow this.
    pub(crate) async fn not_permitted(&self, allowed: impl Fn(&Permissions) -> bool) {
        let mut permissions = self.permissions.subscribe();
        // The sender lives in self, so that waiting cannot fail.
        let _ = permissions.wait_for(|held| !allowed(held)).await;
    }

    /// Tells its brokers something in the place of what they were told before; nothing takes it back.
    pub(crate) fn notify(&self, words: &str) {
        self.notice.send_replace(words.into());
    }

    /// What its brokers are to be told; changed when there is something already.
    pub(crate) fn notices(&self) -> watch::Receiver<Arc<str>> {
        let mut notices = self.notice.subscribe();
        if !notices.borrow().is_empty() {
            notices.mark_changed();
        }
        notices
    }

    /// Since when no flow is open; nothing while one is.
    pub(crate) fn idle_since(&self) -> Option<tokio::time::Instant> {
        *lock(&self.idle_since)
    }

    pub(crate) fn flows(&self) -> Vec<Arc<Flow>> {
        lock(&self.flows).values().cloned().collect()
    }

    /// Bytes to and from destinations, of all flows there were.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let mut bytes = (
            self.sent.load(Ordering::Relaxed),
            self.received.load(Ordering::Relaxed),
        );
        for flow in lock(&self.flows).values() {
            let (sent, received) = flow.bytes();
            bytes = (bytes.0 + sent, bytes.1 + received);
        }
        bytes
    }

    /// Lists a flow until what is returned is dropped.
    pub(crate) fn enter(self: &Arc<Self>, flow: Flow, metrics: &Arc<Metrics>) -> Entered {
        let flow = Arc::new(flow);
        let mut flows = lock(&self.flows);
        flows.insert(flow.id, Arc::clone(&flow));
        *lock(&self.idle_since) = None;
        drop(flows);
        Entered {
            session: Arc::clone(self),
            flow,
            metrics: Arc::clone(metrics),
        }
    }
}

impl Flow {
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (
            self.counters.down.load(Ordering::Relaxed),
            self.counters.up.load(Ordering::Relaxed),
        )
    }
}

/// A flow's place in the list of its session.
#[derive(Debug)]
pub(crate) struct Entered {
    session: Arc<Session>,
    flow: Arc<Flow>,
    metrics: Arc<Metrics>,
}

impl Entered {
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Resolves when the flow has to end.
    pub(crate) async fn ended(&self) -> Arc<str> {
        self.flow.ending.said().await
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let (sent, received) = self.flow.bytes();
        let mut flows = lock(&self.session.flows);
        self.session.sent.fetch_add(sent, Ordering::Relaxed);
        self.session.received.fetch_add(received, Ordering::Relaxed);
        self.metrics.sent.fetch_add(sent, Ordering::Relaxed);
        self.metrics.received.fetch_add(received, Ordering::Relaxed);
        flows.remove(&self.flow.id);
        if flows.is_empty() {
            *lock(&self.session.idle_since) = Some(tokio::time::Instant::now());
        }
    }
}

/// A session's place in the list, left when dropped.
#[derive(Debug)]
pub(crate) struct Present {
    among: Arc<Sessions>,
    id: u64,
    _audited: LoggedIn,
}

impl Sessions {
    pub(crate) fn enter(self: &Arc<Self>, session: &Arc<Session>) -> Present {
        lock(&self.live).insert(session.id, Arc::clone(session));
        Present {
            among: Arc::clone(self),
            id: session.id,
            _audited: LoggedIn::new(&session.who),
        }
    }

    /// In the order of their logins.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        lock(&self.live).values().cloned().collect()
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Session>> {
        lock(&self.live).get(&id).cloned()
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        lock(&self.among.live).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Credential;

    fn session() -> Arc<Session> {
        let who = Who {
            session: 0,
            user: "alice".parse().expect("name"),
            from: "192.0.2.1:7".to_owned(),
            address: None,
            credential: Credential::Elsewhere,
            how: "publickey".to_owned(),
        };
        Session::new(who, Permissions::all(), None, Arc::new(Ending::new()))
    }

    #[tokio::test]
    async fn the_first_reason_to_end_counts_and_stays() {
        let ending = Ending::new();
        ending.end("first");
        ending.end("second");
        assert_eq!(&*ending.said().await, "first");
        assert_eq!(&*ending.said().await, "first");
    }

    #[test]
    fn bytes_of_a_flow_count_when_it_is_over_as_well() {
        let session = session();
        let counters = Arc::new(Counters::default());
        counters.down.store(5, Ordering::Relaxed);
        counters.up.store(7, Ordering::Relaxed);
        let at: SocketAddr = "192.0.2.9:443".parse().expect("address");
        let flow = Flow {
            id: 1,
            subject: Subject::Dialled(Way::Link, Asked::Address(at)),
            dialled: at,
            entry: "e".to_owned(),
            application: "-".to_owned(),
            since: Instant::now(),
            counters,
            ending: Ending::new(),
        };
        let entered = session.enter(flow, &Arc::default());
        assert_eq!((session.bytes(), session.flows().len()), ((5, 7), 1));
        drop(entered);
        assert_eq!((session.bytes(), session.flows().len()), ((5, 7), 0));
    }

    #[test]
    fn a_session_is_listed_as_long_as_it_is_present() {
        let sessions = Arc::new(Sessions::default());
        let session = session();
        let present = sessions.enter(&session);
        assert!(sessions.get(session.id).is_some() && sessions.all().len() == 1);
        drop(present);
        assert!(sessions.get(session.id).is_none());
    }
}
