//! Where log and audit go.
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::audit;
use crate::config::{Log, LogFormat, LogLevel, LogTo};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The journal was asked for.
    #[error("the journal cannot be written to: {0}")]
    Journal(io::Error),
    /// Only the client's standard error is left, and nobody said that it may see the audit.
    #[error(
        "the journal cannot be written to ({0}), and the audit is not for the client's eyes: if it may go to its standard error, say so with log: {{to: stderr}} in the file or --log-to stderr"
    )]
    Nowhere(io::Error),
    /// Another log is in place.
    #[error(transparent)]
    Again(#[from] tracing_subscriber::util::TryInitError),
}

/// Whose standard error it is that we would write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    /// The service manager's or the administrator's.
    Ours,
    /// The client's, over the Secure Shell server that started us: no place for an audit unless
    /// somebody says so.
    Clients,
}

/// Starts logging.
///
/// # Errors
/// The journal was asked for, or is all there could be, and is not there.
pub fn start(log: Log, stderr: Stderr) -> Result<(), LogError> {
    let wanted = match (log.to, stderr) {
        (LogTo::Journal, _) | (LogTo::Auto, Stderr::Clients) => true,
        (LogTo::Stderr, _) => false,
        (LogTo::Auto, Stderr::Ours) => stderr_is_journal(),
    };
    if wanted {
        match tracing_journald::layer() {
            Ok(journal) => {
                return begin(
                    journal.with_syslog_identifier("adit-server".to_owned()),
                    log,
                );
            }
            Err(error) if log.to == LogTo::Journal => return Err(LogError::Journal(error)),
            Err(error) if stderr == Stderr::Clients => return Err(LogError::Nowhere(error)),
            Err(_) => {}
        }
    }
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => begin(lines, log),
        LogFormat::Json => begin(lines.json().flatten_event(true), log),
    }
}

fn begin(
    layer: impl Layer<tracing_subscriber::Registry> + Send + Sync,
    log: Log,
) -> Result<(), LogError> {
    Ok(tracing_subscriber::registry()
        .with(layer.with_filter(filter(log.level)))
        .try_init()?)
}

/// The audit is written at any level.
fn filter(level: LogLevel) -> Targets {
    let (ours, others) = match level {
        LogLevel::Error => (Level::ERROR, LevelFilter::OFF),
        LogLevel::Warn => (Level::WARN, LevelFilter::OFF),
        LogLevel::Info => (Level::INFO, LevelFilter::ERROR),
        LogLevel::Debug => (Level::DEBUG, LevelFilter::INFO),
    };
    Targets::new()
        .with_default(others)
        .with_target("adit_server", ours)
        .with_target("adit_link", ours)
        .with_target(audit::TARGET, Level::INFO)
}

/// systemd.exec(5), `$JOURNAL_STREAM`: device and inode of the stream, to be compared with those of
/// the descriptor.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}
