//! Where the broker's log goes: the journal under systemd, else standard error.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Keeps the log's writer alive; what is still to be written is written when it goes.
#[must_use]
pub(crate) struct LogWriter(Option<WorkerGuard>);

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogWriter({})", self.0.is_some())
    }
}

/// Starts logging at `level` and above; the environment variable `ADIT_LOG` says otherwise
/// (`debug`, `adit_broker=trace`).
pub(crate) fn start(level: &str) -> LogWriter {
    let filter = EnvFilter::try_from_env("ADIT_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},russh=error")));
    let registry = tracing_subscriber::registry().with(filter);
    if in_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal).init();
        return LogWriter(None);
    }
    // A thread of its own: a terminal that was stopped must not stop the flows. It drops what it can't keep.
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let plain = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    registry.with(plain).init();
    LogWriter(Some(guard))
}

/// Whether standard error is the journal's own stream (systemd.exec(5), `$JOURNAL_STREAM`).
fn in_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    nix::sys::stat::fstat(std::io::stderr().as_fd())
        .is_ok_and(|stream| named == format!("{}:{}", stream.st_dev, stream.st_ino))
}
