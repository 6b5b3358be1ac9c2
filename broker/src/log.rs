//! Where the broker's log goes: the journal under systemd, else standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging at `level` and above; the environment variable `ADIT_LOG` says otherwise
/// (`debug`, `adit_broker=trace`).
pub(crate) fn start(level: &str) {
    let filter = EnvFilter::try_from_env("ADIT_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},russh=error")));
    let registry = tracing_subscriber::registry().with(filter);
    // systemd sets it where standard error is the journal (systemd.exec(5)).
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal).init();
        return;
    }
    let plain = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    registry.with(plain).init();
}
