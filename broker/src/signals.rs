//! The signals that end a broker, and the one that makes it read its rules anew.

use std::fs::File;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// The end.
    Ends,
    /// The rules are to be read anew; unless it tells that the terminal is gone from which it was started.
    Reloads,
}

/// The signals that a broker hears.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    meaning: Hangup,
    has_terminal: bool,
    /// Started to survive its terminal (nohup(1)).
    survives: bool,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    pub(crate) fn new(meaning: Hangup) -> std::io::Result<Self> {
        Ok(Self {
            // Before it is changed.
            survives: hangup_is_ignored(),
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            meaning,
            has_terminal: has_terminal(),
        })
    }

    /// Resolves when one comes that ends it: which. `reload` is called for each that does not.
    pub(crate) async fn end(&mut self, reload: impl Fn()) -> &'static str {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.hangup.recv() => {}
            }
            let is_end = match self.meaning {
                Hangup::Ends => true,
                Hangup::Reloads => self.has_terminal && !has_terminal(),
            };
            match is_end && !self.survives {
                true => return "SIGHUP",
                false => reload(),
            }
        }
    }
}

/// Whether there is a controlling terminal (tty(4)).
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// SigIgn of proc(5), `/proc/PID/status`: bit 0 is signal 1.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}
