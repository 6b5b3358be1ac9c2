//! Bounds how often a line is logged that anybody can cause, so that a flood of them hides nothing
//! and fills no disk. Of the audit, only refusals are left out: of logins, and of streams beyond what a
//! user may have.
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind in each [`PERIOD`].
const LINES: u64 = 10;
const PERIOD: Duration = Duration::from_secs(1);
/// Longest text of a stranger's that is shown, in characters.
const MAX_SHOWN: usize = 64;

/// Counts the lines of one kind.
#[derive(Debug)]
pub(crate) struct Throttle {
    counted: Mutex<Counted>,
}

#[derive(Debug)]
struct Counted {
    since: Option<Instant>,
    said: u64,
    left_out: u64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

impl Throttle {
    pub(crate) const fn new() -> Self {
        let counted = Counted {
            since: None,
            said: 0,
            left_out: 0,
        };
        Self {
            counted: Mutex::new(counted),
        }
    }

    /// `None`: this line is left out. Otherwise how many were since the last one.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |since| now.saturating_duration_since(since) >= PERIOD;
        if counted.since.is_none_or(over) {
            (counted.since, counted.said) = (Some(now), 0);
        }
        if counted.said >= LINES {
            counted.left_out += 1;
            return None;
        }
        counted.said += 1;
        Some(std::mem::take(&mut counted.left_out))
    }
}

/// A log line of this level that is left out when there are too many from this place; `left_out`
/// says how many were.
macro_rules! seldom {
    ($level:ident, $($rest:tt)*) => {{
        static LINES: $crate::throttle::Throttle = $crate::throttle::Throttle::new();
        if let Some(left_out) = LINES.admit(std::time::Instant::now()) {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::$level!(left_out, $($rest)*);
        }
    }};
}
pub(crate) use seldom;

/// The beginning of a stranger's text.
pub(crate) fn shown(text: &str) -> &str {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let (throttle, start) = (Throttle::new(), Instant::now());
        let said = (0..1000).filter(|_| throttle.admit(start).is_some());
        assert_eq!(said.count(), 10);
        assert_eq!(throttle.admit(start + Duration::from_millis(999)), None);
        assert_eq!(throttle.admit(start + Duration::from_secs(1)), Some(991));
        assert_eq!(throttle.admit(start + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shown("alice"), "alice");
        assert_eq!(shown(&"ä".repeat(65)), "ä".repeat(64));
    }
}
