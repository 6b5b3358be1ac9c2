//! The signals that end a broker.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a broker.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None`: started to survive its terminal (nohup(1)).
    hangup: Option<Signal>,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    pub(crate) fn new() -> std::io::Result<Self> {
        let hangup = (!hangup_is_ignored()).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: hangup.transpose()?,
        })
    }

    /// Resolves when one comes: which.
    pub(crate) async fn end(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = hangup => "SIGHUP",
        }
    }
}

/// SigIgn of proc(5), `/proc/PID/status`: bit 0 is signal 1.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}
