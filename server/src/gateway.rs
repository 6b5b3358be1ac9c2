//! What all connections share, and the way of one stream: authorize, resolve, dial.
//!
//! The steps know nothing of links or channels, so that whatever asks (a stream of a link today)
//! goes the same way.
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use adit_link::{Refusal, RefusalReason};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::allowance::{Allowance, Allowances, Pace, Rates};
use crate::asked::{Asked, NotADestination};
use crate::audit::{Open, Question};
use crate::audit_share;
use crate::config::Limits;
use crate::dial::{DialError, dial};
use crate::log_queue;
use crate::metrics::Metrics;
use crate::permissions::{NotPermitted, Permissions, Way};
use crate::policy::{Authorized, Denial, Judgement, Policy};
use crate::quota::{Full, Place, Quota};
use crate::rejudge;
use crate::resolve::{ResolveError, Resolver};
use crate::service;
use crate::sessions::{Ending, Entered, Flow, Session, Sessions, Subject};
use crate::user_name::UserName;

const DRAINING: &str = "the gateway takes nothing new";
const STOPPING: &str = "the gateway is stopping";

/// The part of the gateway that decides and dials.
#[derive(Debug)]
pub struct Gateway {
    policy: RwLock<Arc<Policy>>,
    allowances: RwLock<Arc<Allowances>>,
    banner: RwLock<Option<Arc<str>>>,
    motd: RwLock<Option<Arc<str>>>,
    rates: Rates,
    limits: Limits,
    streams: Arc<Quota>,
    resolver: Resolver,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    changes: AtomicU64,
    drain: Ending,
    stop: watch::Sender<bool>,
}

/// A destination that answered.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) connected: TcpStream,
    pub(crate) open: Open,
    pub(crate) entered: Entered,
    pub(crate) pace: Pace,
    /// Held as long as the stream lives.
    pub(crate) place: Place,
}

/// What a stream was judged by.
struct Reached {
    way: Way,
    asked: Asked,
    policy: Arc<Policy>,
    permissions: Arc<Permissions>,
}

/// Why a stream is not opened: the step that said no.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    #[error(transparent)]
    NoDestination(#[from] NotADestination),
    #[error("the audit cannot be written for now")]
    NoAudit,
    #[error("too many lines of the audit about this user wait to be written")]
    Behind,
    #[error("{DRAINING}")]
    Draining,
    #[error("this user asks for too many streams a second")]
    TooFast,
    #[error("too many streams: {0}")]
    TooMany(#[from] Full),
    #[error(transparent)]
    NotPermitted(#[from] NotPermitted),
    #[error(transparent)]
    Denied(#[from] Denial),
    #[error(transparent)]
    Unresolved(#[from] ResolveError),
    #[error(transparent)]
    Unreached(#[from] DialError),
}

impl NotOpened {
    /// What the broker is told. For what the policy allowed the whole truth, otherwise see
    /// [`Denial::for_broker`].
    fn refusal(&self) -> Refusal {
        let (reason, detail) = match self {
            Self::NoDestination(NotADestination::Name) => {
                (RefusalReason::Unresolvable, self.to_string())
            }
            Self::NoDestination(NotADestination::PortZero | NotADestination::Port) => {
                (RefusalReason::Failed, self.to_string())
            }
            Self::NoAudit
            | Self::Behind
            | Self::Draining
            | Self::TooFast
            | Self::TooMany(_)
            | Self::Unresolved(ResolveError::Busy(_)) => (RefusalReason::Busy, self.to_string()),
            // Stock clients are told nothing beyond that.
            Self::NotPermitted(NotPermitted::Forwarding) => (RefusalReason::Denied, String::new()),
            Self::NotPermitted(NotPermitted::Destination(_)) => {
                (RefusalReason::Denied, self.to_string())
            }
            Self::Denied(denial) => (RefusalReason::Denied, denial.for_broker()),
            Self::Unresolved(ResolveError::TimedOut { .. }) => {
                (RefusalReason::TimedOut, self.to_string())
            }
            Self::Unresolved(ResolveError::Lookup { .. } | ResolveError::Empty { .. }) => {
                (RefusalReason::Unresolvable, self.to_string())
            }
            Self::Unreached(error) => (error.reason(), error.to_string()),
        };
        Refusal { reason, detail }
    }

    /// Is it more than the user may ask for or have?
    fn is_surplus(&self) -> bool {
        matches!(self, Self::TooFast | Self::TooMany(_))
    }

    /// Into the audit, with the full reason.
    fn note(&self, question: Question, refusal: &Refusal) {
        match self.is_surplus() {
            true => question.surplus(refusal, &self.to_string()),
            false => question.refused(refusal, &self.to_string()),
        }
    }
}

/// Can the audit of one more stream of this user's be written?
fn auditable(user: &UserName) -> Result<(), NotOpened> {
    if !log_queue::has_room() {
        return Err(NotOpened::NoAudit);
    }
    match audit_share::has_room(user) {
        true => Ok(()),
        false => Err(NotOpened::Behind),
    }
}

impl Gateway {
    /// A gateway with this policy and these bounds. How many streams there can be in all follows
    /// from the limit of descriptors, which has to be raised before.
    pub fn new(policy: Policy, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            policy: RwLock::new(Arc::new(policy)),
            allowances: RwLock::default(),
            banner: RwLock::default(),
            motd: RwLock::default(),
            rates: Rates::default(),
            limits,
            streams: Quota::new(
                limits.max_streams_per_user,
                service::descriptors_for_streams(),
            ),
            resolver: Resolver::new(),
            sessions: Arc::default(),
            metrics: Arc::default(),
            changes: AtomicU64::new(0),
            drain: Ending::new(),
            stop: watch::Sender::new(false),
        })
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Judges new streams by another policy from now on.
    pub fn replace_policy(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Lets users have so much from now on.
    pub fn replace_allowances(&self, allowances: Allowances) {
        let mut held = self
            .allowances
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *held = Arc::new(allowances);
    }

    /// Shows this text before each login from now on.
    pub fn replace_banner(&self, banner: Option<Arc<str>>) {
        *self.banner.write().unwrap_or_else(PoisonError::into_inner) = banner;
    }

    pub(crate) fn banner(&self) -> Option<Arc<str>> {
        let banner = self.banner.read().unwrap_or_else(PoisonError::into_inner);
        banner.clone()
    }

    /// Shows this text to those who ask for a shell from now on.
    pub fn replace_motd(&self, motd: Option<Arc<str>>) {
        *self.motd.write().unwrap_or_else(PoisonError::into_inner) = motd;
    }

    pub(crate) fn motd(&self) -> Option<Arc<str>> {
        let motd = self.motd.read().unwrap_or_else(PoisonError::into_inner);
        motd.clone()
    }

    /// How much this user may have.
    pub(crate) fn allowance(&self, user: &UserName) -> Allowance {
        let held = self
            .allowances
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        held.of(user)
    }

    /// To be called after a change of who may log in, before what is live is judged again.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// How many such changes there were.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Who is logged in.
    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes nothing new from now on; what is open goes on, `deadline` at most.
    pub fn drain(&self, deadline: Duration) {
        let seconds = deadline.as_secs();
        let words = format!("{DRAINING}; what is open can go on for {seconds} s");
        self.drain.end(&words);
    }

    /// Resolves when [`Gateway::drain`] was called, with words for those who have something open.
    pub(crate) async fn draining(&self) -> Arc<str> {
        self.drain.said().await
    }

    /// Was it?
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_said()
    }

    /// Says goodbye on all links and ends them.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Resolves when the session has to end, because of its own or because the gateway stops.
    pub(crate) async fn over(&self, session: &Session) -> Arc<str> {
        tokio::select! {
            why = session.ending.said() => why,
            () = self.stopped() => STOPPING.into(),
        }
    }

    /// Resolves when [`Gateway::stop`] was called.
    pub(crate) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives in self, so that waiting cannot fail.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// The whole way of a stream up to a connected destination; both outcomes are in the audit when
    /// this returns, and the third one when it is dropped before. Nothing is opened that the audit
    /// has no room for.
    pub(crate) async fn open(
        &self,
        question: Question,
        session: &Arc<Session>,
        way: Way,
        asked: Result<Asked, NotADestination>,
    ) -> Result<Dialled, Refusal> {
        let user = &session.who.user;
        if let Err(error) = auditable(user) {
            question.unwritten();
            return Err(error.refusal());
        }
        let application = question.application().map(str::to_owned);
        let reached = self
            .reach(session, application.as_deref(), way, asked)
            .await;
        // Asked again, since the dialling may have taken long.
        let reached = match (reached, auditable(user)) {
            (Ok((_, connected, ..)), Err(error)) => {
                adit_link::reset(connected);
                question.unwritten();
                return Err(error.refusal());
            }
            (reached, _) => reached,
        };
        match reached {
            Ok((reached, connected, permit, place)) => {
                let subject = Subject::Dialled(reached.way, reached.asked);
                let (address, entry) = (permit.address(), permit.entry());
                let (open, entered) = self.enter(question, session, subject, address, entry);
                // A reload that came in between has judged what was listed then.
                if !Arc::ptr_eq(&reached.policy, &self.policy())
                    || !Arc::ptr_eq(&reached.permissions, &session.permissions())
                {
                    rejudge::flow(self, session, entered.flow());
                }
                Ok(Dialled {
                    connected,
                    open,
                    entered,
                    pace: self.rates.pace(user, self.allowance(user)),
                    place,
                })
            }
            Err(error) => {
                let refusal = error.refusal();
                Metrics::count(&self.metrics.refused);
                error.note(question, &refusal);
                Err(refusal)
            }
        }
    }

    /// A place for a socket of this user's, whatever it is for.
    pub(crate) fn place(&self, user: &UserName) -> Result<Place, Full> {
        self.streams.take_within(user, self.allowance(user).flows)
    }

    /// A connection that came in for a client does not find one.
    pub(crate) fn crowded(&self, question: Question, full: Full) {
        let error = NotOpened::from(full);
        Metrics::count(&self.metrics.refused);
        error.note(question, &error.refusal());
    }

    /// A connection that came in for a client; what it may listen at was looked at before.
    pub(crate) fn accepted(
        &self,
        question: Question,
        session: &Arc<Session>,
        connected: TcpStream,
        peer: SocketAddr,
        (subject, place): (Subject, Place),
    ) -> Result<Dialled, Refusal> {
        let user = &session.who.user;
        if let Err(error) = auditable(user) {
            question.unwritten();
            return Err(error.refusal());
        }
        let (open, entered) = self.enter(question, session, subject, peer, "permitlisten");
        rejudge::flow(self, session, entered.flow());
        Ok(Dialled {
            connected,
            open,
            entered,
            pace: self.rates.pace(user, self.allowance(user)),
            place,
        })
    }

    async fn reach(
        &self,
        session: &Session,
        application: Option<&str>,
        way: Way,
        asked: Result<Asked, NotADestination>,
    ) -> Result<(Reached, TcpStream, Authorized, Place), NotOpened> {
        let asked = asked?;
        if self.is_draining() {
            return Err(NotOpened::Draining);
        }
        let user = &session.who.user;
        let permissions = session.permissions();
        permissions.opens(way, &asked)?;
        let deadline = Instant::now() + self.limits.dial_timeout;
        let allowance = self.allowance(user);
        if !self.rates.admit_open(user, allowance) {
            return Err(NotOpened::TooFast);
        }
        let place = self.streams.take_within(user, allowance.flows)?;
        let asker = session.who.asker(&permissions, application);
        let policy = self.policy();
        let authorized = match policy.judge(&asker, &asked)? {
            Judgement::Dial(authorized) => vec![authorized],
            Judgement::Resolve(resolvable) => {
                let addresses = self
                    .resolver
                    .lookup(&resolvable, self.limits.dial_timeout)
                    .await?;
                policy.judge_resolved(&asker, &resolvable, &addresses)?
            }
        };
        let (connected, permit) = dial(
            &authorized,
            deadline.saturating_duration_since(Instant::now()),
        )
        .await?;
        let permit = permit.clone();
        let reached = Reached {
            way,
            asked,
            policy,
            permissions,
        };
        Ok((reached, connected, permit, place))
    }

    /// In the audit and in the list.
    fn enter(
        &self,
        question: Question,
        session: &Arc<Session>,
        subject: Subject,
        dialled: SocketAddr,
        entry: &str,
    ) -> (Open, Entered) {
        let (id, application) = question.subject();
        let open = question.opened(dialled, entry);
        let flow = Flow {
            id,
            subject,
            dialled,
            entry: entry.to_owned(),
            application,
            since: Instant::now().into_std(),
            counters: Arc::clone(&open.counters),
            ending: Ending::new(),
        };
        Metrics::count(&self.metrics.opened);
        (open, session.enter(flow, &self.metrics))
    }
}
