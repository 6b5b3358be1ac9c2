//! Where the log goes: to the journal when the service manager connected us to it, else to standard error.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;

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
