//! Where the log goes: to the journal when the service manager connected us to it, else to standard error.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging. `ADIT_LOG` chooses what; `info` by default.
pub(crate) fn start() {
    let filter =
        EnvFilter::try_from_env("ADIT_LOG").unwrap_or_else(|_unset| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    match in_journal().then(tracing_journald::layer) {
        Some(Ok(journal)) => registry.with(journal).init(),
        Some(Err(_)) | None => {
            let ansi = io::stderr().is_terminal();
            registry
                .with(
                    tracing_subscriber::fmt::layer()
                        .with_writer(io::stderr)
                        .with_ansi(ansi),
                )
                .init();
        }
    }
}

/// Whether standard error is the journal's own stream (systemd.exec(5), `$JOURNAL_STREAM`).
fn in_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    fstat(io::stderr().as_fd())
        .is_ok_and(|stream| named == format!("{}:{}", stream.st_dev, stream.st_ino))
}

/// Between two lines of one kind that anyone can provoke.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps lines that any local user can provoke from filling the log: one a second, which tells how many were left out.
#[derive(Debug)]
pub(crate) struct Sparing {
    /// The last line, and how many were left out since.
    said: Mutex<Option<(Instant, u64)>>,
}

impl Sparing {
    pub(crate) const fn new() -> Sparing {
        Sparing {
            said: Mutex::new(None),
        }
    }

    /// How many were left out before this one; `None` when this one is to be left out as well.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match said.as_mut() {
            Some((last, unsaid)) if now.duration_since(*last) < PAUSE => {
                *unsaid += 1;
                None
            }
            Some(_) | None => {
                let unsaid = said.map_or(0, |(_, unsaid)| unsaid);
                *said = Some((now, 0));
                Some(unsaid)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_a_count() {
        let sparing = Sparing::new();
        let start = Instant::now();
        for (after, expected) in [
            (0, Some(0)),
            (1, None),
            (999, None),
            (1000, Some(2)),
            (1999, None),
            (9000, Some(1)),
            (10_000, Some(0)),
        ] {
            let admitted = sparing.admit(start + Duration::from_millis(after));
            assert_eq!(admitted, expected, "{after} ms");
        }
    }
}
