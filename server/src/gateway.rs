//! What all connections share, and the way of one stream: authorize, resolve, dial.
//!
//! The steps know nothing of links or channels, so that whatever asks (a stream of a link today)
//! goes the same way.
use std::sync::{Arc, PoisonError, RwLock};

use adit_link::{Refusal, RefusalReason};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::asked::{Asked, NotADestination};
use crate::audit::{Open, Question, Who};
use crate::config::Limits;
use crate::dial::{DialError, dial};
use crate::log_queue;
use crate::policy::{Authorized, Denial, Judgement, Policy};
use crate::quota::{Full, Place, Quota};
use crate::resolve::{ResolveError, Resolver};
use crate::service;
use crate::user_name::UserName;

/// The part of the gateway that decides and dials.
#[derive(Debug)]
pub struct Gateway {
    policy: RwLock<Arc<Policy>>,
    limits: Limits,
    streams: Arc<Quota>,
    resolver: Resolver,
    stop: watch::Sender<bool>,
}

/// A destination that answered.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) connected: TcpStream,
    pub(crate) open: Open,
    /// Held as long as the stream lives.
    pub(crate) place: Place,
}

/// Why a stream is not opened: the step that said no.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    #[error(transparent)]
    NoDestination(#[from] NotADestination),
    #[error("the audit cannot be written for now")]
    NoAudit,
    #[error("too many streams: {0}")]
    TooMany(#[from] Full),
    #[error("the key or certificate does not permit {0}")]
    NotPermitted(Asked),
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
            Self::NoDestination(NotADestination::PortZero) => {
                (RefusalReason::Failed, self.to_string())
            }
            Self::NoAudit | Self::TooMany(_) | Self::Unresolved(ResolveError::Busy(_)) => {
                (RefusalReason::Busy, self.to_string())
            }
            Self::NotPermitted(_) => (RefusalReason::Denied, self.to_string()),
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
}

impl Gateway {
    /// A gateway with this policy and these bounds. How many streams there can be in all follows
    /// from the limit of descriptors, which has to be raised before.
    pub fn new(policy: Policy, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            policy: RwLock::new(Arc::new(policy)),
            limits,
            streams: Quota::new(
                limits.max_streams_per_user,
                service::descriptors_for_streams(),
            ),
            resolver: Resolver::new(),
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

    /// See [`Policy::knows`].
    pub(crate) fn knows(&self, user: &UserName) -> bool {
        self.policy().knows(user)
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says goodbye on all links and ends them.
    pub fn stop(&self) {
        self.stop.send_replace(true);
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
        who: &Who,
        asked: Result<Asked, NotADestination>,
    ) -> Result<Dialled, Refusal> {
        if !log_queue::has_room() {
            question.unwritten();
            return Err(NotOpened::NoAudit.refusal());
        }
        match self.reach(who, asked).await {
            Ok((connected, permit, place)) => {
                let open = question.opened(permit.address(), permit.entry());
                Ok(Dialled {
                    connected,
                    open,
                    place,
                })
            }
            Err(error) => {
                let refusal = error.refusal();
                question.refused(&refusal, &error.to_string());
                Err(refusal)
            }
        }
    }

    async fn reach(
        &self,
        who: &Who,
        asked: Result<Asked, NotADestination>,
    ) -> Result<(TcpStream, Authorized, Place), NotOpened> {
        let asked = asked?;
        if !who.permissions.opens(&asked) {
            return Err(NotOpened::NotPermitted(asked));
        }
        let deadline = Instant::now() + self.limits.dial_timeout;
        let place = self.streams.take(&who.user)?;
        let policy = self.policy();
        let authorized = match policy.judge(&who.user, &asked)? {
            Judgement::Dial(authorized) => vec![authorized],
            Judgement::Resolve(resolvable) => {
                let addresses = self
                    .resolver
                    .lookup(&resolvable, self.limits.dial_timeout)
                    .await?;
                policy.judge_resolved(&resolvable, &addresses)?
            }
        };
        let (connected, permit) = dial(
            &authorized,
            deadline.saturating_duration_since(Instant::now()),
        )
        .await?;
        Ok((connected, permit.clone(), place))
    }
}
