//! Sessions that may last only so long, or only so long without a flow, and are told so before.
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::Limits;
use crate::sessions::Session;

/// A warning comes no sooner than with this part of the time left.
const LAST_PART: u32 = 10;

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
        if limits.session_timeout.is_none() && limits.idle_timeout.is_none() {
            return None;
        }
        let watched = watch(Arc::downgrade(session), *limits);
        Some(Self(tokio::spawn(watched).abort_handle()))
    }
}

/// An end that a session comes to if nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    at: Instant,
    warns_at: Instant,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Lasted,
    Idle,
}

impl End {
    fn after(long: Duration, since: Instant, why: Why, limits: &Limits) -> Self {
        let at = since + long;
        let warns_at = at - limits.warning.min(long / LAST_PART);
        Self { at, warns_at, why }
    }

    /// The first one that comes.
    fn of(limits: &Limits, since: Instant, idle_since: Option<Instant>) -> Option<Self> {
        let lasted = limits.session_timeout;
        let lasted = lasted.map(|long| Self::after(long, since, Why::Lasted, limits));
        let idle = limits.idle_timeout.zip(idle_since);
        let idle = idle.map(|(long, since)| Self::after(long, since, Why::Idle, limits));
        lasted.into_iter().chain(idle).min_by_key(|end| end.at)
    }

    fn words(&self, now: Instant) -> String {
        let left = (self.at - now).as_secs_f64().ceil();
        match self.why {
            Why::Lasted => {
                format!(
                    "this session ends in {left} s, with all that is open: it has lasted as long as it may"
                )
            }
            Why::Idle => format!("this session ends in {left} s unless a flow is opened"),
        }
    }
}

impl Why {
    fn ended(self) -> &'static str {
        match self {
            Self::Lasted => "the session has lasted as long as it may",
            Self::Idle => "nothing was open for too long",
        }
    }
}

async fn watch(session: Weak<Session>, limits: Limits) {
    let since = Instant::now();
    let mut told: Option<End> = None;
    loop {
        let now = Instant::now();
        let Some(live) = session.upgrade() else {
            return;
        };
        let end = End::of(&limits, since, live.idle_since());
        match end {
            Some(end) if end.at <= now => return live.ending.end(end.why.ended()),
            Some(end) if end.warns_at <= now => {
                if told.replace(end) != Some(end) {
                    live.notify(&end.words(now));
                }
            }
            Some(_) | None => {
                if told.take().is_some() {
                    live.notify("");
                }
            }
        }
        drop(live);
        let next = end.map(|end| if told.is_some() { end.at } else { end.warns_at });
        // While something is open, the soonest that there could be something to say.
        let idle = limits
            .idle_timeout
            .map(|long| End::after(long, now, Why::Idle, &limits));
        let looks = next.into_iter().chain(idle.map(|idle| idle.warns_at)).min();
        sleep_until(looks.unwrap_or(now)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(session: u64, idle: u64, warning: u64) -> Limits {
        let seconds = |number| (number > 0).then(|| Duration::from_secs(number));
        Limits {
            session_timeout: seconds(session),
            idle_timeout: seconds(idle),
            warning: Duration::from_secs(warning),
            ..Limits::default()
        }
    }

    #[test]
    fn the_warning_comes_in_the_last_tenth_or_the_last_minute() {
        let since = Instant::now();
        let after = |seconds| since + Duration::from_secs(seconds);
        for (limits, idle_since, ends, warns) in [
            (limits(100, 0, 60), Some(since), 100, 90),
            (limits(36_000, 0, 60), Some(since), 36_000, 35_940),
            (limits(36_000, 0, 0), Some(since), 36_000, 36_000),
            (limits(100, 50, 60), None, 100, 90),
            (limits(100, 50, 60), Some(after(20)), 70, 65),
            (limits(100, 50, 60), Some(after(90)), 100, 90),
            (limits(0, 50, 2), Some(since), 50, 48),
        ] {
            let end = End::of(&limits, since, idle_since).expect("an end");
            assert_eq!((end.at, end.warns_at), (after(ends), after(warns)));
        }
        assert_eq!(End::of(&limits(0, 50, 60), since, None), None);
    }
}
