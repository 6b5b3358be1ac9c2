//! Sessions that may last only so long, or only so long without a flow.
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::Limits;
use crate::sessions::Session;

/// Ends its session in time, unless it is dropped before.
#[derive(Debug)]
pub(crate) struct TimeOuts(AbortHandle);

impl Drop for TimeOuts {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl TimeOuts {
    /// Of a session that begins now; nothing where there is no such limit.
    pub(crate) fn start(session: &Arc<Session>, limits: &Limits) -> Option<Self> {
        let (forced, idle) = (limits.session_timeout, limits.idle_timeout);
        if forced.is_none() && idle.is_none() {
            return None;
        }
        let watched = watch(Arc::downgrade(session), forced, idle);
        Some(Self(tokio::spawn(watched).abort_handle()))
    }
}

async fn watch(session: Weak<Session>, forced: Option<Duration>, idle: Option<Duration>) {
    let forced = forced.map(|long| Instant::now() + long);
    loop {
        let now = Instant::now();
        let Some(session_now) = session.upgrade() else {
            return;
        };
        if forced.is_some_and(|at| at <= now) {
            return session_now
                .ending
                .end("the session has lasted as long as it may");
        }
        let idle_since = session_now.idle_since();
        let ends = idle.and_then(|long| Some(idle_since? + long));
        if ends.is_some_and(|at| at <= now) {
            return session_now.ending.end("nothing was open for too long");
        }
        drop(session_now);
        // While something is open, the soonest that it could be over.
        let looks = ends.or(idle.map(|long| now + long));
        let next = looks.into_iter().chain(forced).min();
        sleep_until(next.unwrap_or(now)).await;
    }
}
