//! Where log and audit go.
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::audit;
use crate::audit_file::AuditFile;
use crate::config::{Log, LogFormat, LogLevel, LogTo};
use crate::journal::JournalLayer;
pub use crate::log_queue::Flush;
use crate::log_queue::LogQueue;
use crate::log_sink::{JOURNAL, Sink};

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
    /// The file of the audit.
    #[error("the audit cannot be written to {}: {source}", file.display())]
    Audit {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No thread to write.
    #[error("no thread for the log: {0}")]
    Thread(io::Error),
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

/// Starts logging; what still waits is written when the returned value is dropped.
///
/// # Errors
/// The journal was asked for, or is all there could be, and is not there.
pub fn start(log: Log, audit_file: Option<&Path>, stderr: Stderr) -> Result<Flush, LogError> {
    let open = |path: &Path| {
        AuditFile::open(path).map_err(|source| LogError::Audit {
            file: path.to_owned(),
            source,
        })
    };
    let file = audit_file.map(open).transpose()?;
    let has_file = file.is_some();
    let wanted = match (log.to, stderr) {
        (LogTo::Journal, _) | (LogTo::Auto, Stderr::Clients) => true,
        (LogTo::Stderr, _) => false,
        (LogTo::Auto, Stderr::Ours) => stderr_is_journal(),
    };
    if wanted {
        match journal() {
            Ok(socket) => {
                let queue =
                    LogQueue::start(Sink::Journal(socket), file).map_err(LogError::Thread)?;
                return begin(JournalLayer(queue.clone()), log, queue, has_file);
            }
            Err(error) if log.to == LogTo::Journal => return Err(LogError::Journal(error)),
            Err(error) if stderr == Stderr::Clients => return Err(LogError::Nowhere(error)),
            Err(_) => {}
        }
    }
    let queue = LogQueue::start(Sink::Stderr, file).map_err(LogError::Thread)?;
    let lines = fmt::layer()
        .with_writer(Lines(queue.clone()))
        .with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => begin(lines, log, queue, has_file),
        LogFormat::Json => begin(lines.json().flatten_event(true), log, queue, has_file),
    }
}

/// A socket for entries, once it is known that somebody takes them.
fn journal() -> io::Result<UnixDatagram> {
    UnixDatagram::unbound()?.connect(JOURNAL)?;
    UnixDatagram::unbound()
}

/// What the formatter writes: a line with each call.
struct Lines(LogQueue);

struct Line<'a> {
    queue: &'a LogQueue,
    target: &'a str,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        let (queue, target) = (&self.0, "");
        Line { queue, target }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        let target = match metadata.target() == audit::TARGET {
            true => audit::TARGET,
            false => "",
        };
        let queue = &self.0;
        Line { queue, target }
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.put(self.target, line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same for the file of the audit.
struct AuditLines(LogQueue);

struct AuditLine<'a>(&'a LogQueue);

impl<'a> MakeWriter<'a> for AuditLines {
    type Writer = AuditLine<'a>;

    fn make_writer(&'a self) -> AuditLine<'a> {
        AuditLine(&self.0)
    }
}

impl io::Write for AuditLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put_audit(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn begin(
    layer: impl Layer<tracing_subscriber::Registry> + Send + Sync,
    log: Log,
    queue: LogQueue,
    has_file: bool,
) -> Result<Flush, LogError> {
    let audit = has_file.then(|| {
        fmt::layer()
            .with_writer(AuditLines(queue.clone()))
            .json()
            .flatten_event(true)
            .with_level(false)
            .with_target(false)
            .with_filter(Targets::new().with_target(audit::TARGET, Level::INFO))
    });
    tracing_subscriber::registry()
        .with(layer.with_filter(filter(log.level)))
        .with(audit)
        .try_init()?;
    Ok(Flush(queue))
}

/// The audit is written at any level. Libraries are heard only when somebody looks for a fault: a
/// client can make them say something with each of its messages.
fn filter(level: LogLevel) -> Targets {
    let (ours, others) = match level {
        LogLevel::Error => (Level::ERROR, LevelFilter::OFF),
        LogLevel::Warn => (Level::WARN, LevelFilter::OFF),
        LogLevel::Info => (Level::INFO, LevelFilter::OFF),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_is_always_heard_and_a_library_only_for_debugging() {
        for (level, ours, others) in [
            (LogLevel::Error, false, false),
            (LogLevel::Info, true, false),
            (LogLevel::Debug, true, true),
        ] {
            let filter = filter(level);
            assert!(filter.would_enable(audit::TARGET, &Level::INFO));
            assert_eq!(
                filter.would_enable("adit_server::listener", &Level::INFO),
                ours
            );
            assert_eq!(filter.would_enable("russh::server", &Level::ERROR), others);
        }
    }
}
