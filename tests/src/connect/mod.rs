//! Connecting in the ways that programs do it, and what the kernel told them.
//!
//! `adit-connect` does it on a host of the lab; a test compares what it told there with what it told where nothing
//! is in between.

mod attempt;
mod flood;
mod listen;
mod targets;
mod uring;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use attempt::{Attempt, Repeat};
pub use flood::{Flood, Flooded};
pub use listen::listen;
pub use targets::{
    Family, MANY, REFUSING, REFUSING6, SILENT, SILENT6, Target, Targets, gateway, honestly,
    send_few_syns,
};

/// The outcome of a `connect()` that worked.
pub const CONNECTED: &str = "connected";
/// The outcome of one that had none within the program's own time-out.
pub const GAVE_UP: &str = "gave up";

/// How a program waits for its `connect()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Sits in `connect()`; its own time-out is `SO_SNDTIMEO` (socket(7)).
    Blocking,
    /// Non-blocking, then `poll()` and `SO_ERROR` (connect(2), EINPROGRESS).
    Poll,
    /// Non-blocking, then an edge-triggered `epoll_wait()` and `SO_ERROR`.
    Epoll,
    /// `IORING_OP_CONNECT` (`io_uring_enter(2)`).
    Uring,
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 4] = [Way::Blocking, Way::Poll, Way::Epoll, Way::Uring];

    /// As the command line says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Way::Blocking => "blocking",
            Way::Poll => "poll",
            Way::Epoll => "epoll",
            Way::Uring => "uring",
        }
    }
}

/// What became of one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The address.
    pub to: SocketAddr,
    /// [`CONNECTED`], [`GAVE_UP`], or the name of an errno.
    pub outcome: String,
    /// Microseconds from the first attempt to the last one's outcome.
    pub us: u64,
    /// Outcomes of the attempts before the last.
    pub before: Vec<String>,
    /// What `poll()` or `epoll_wait()` reported, for the ways that use them.
    pub events: Option<String>,
    /// What was to be had from a connection within five seconds, when that was asked for: `data`, `end`, `silence`, or the
    /// name of an errno.
    pub then: Option<String>,
}

impl Told {
    /// Milliseconds from the first attempt to the last one's outcome.
    #[must_use]
    pub fn ms(&self) -> u64 {
        self.us / 1000
    }

    /// All that does not depend on how long things take, nor on how they were waited for.
    #[must_use]
    pub fn story(&self) -> String {
        let mut before = self.before.clone();
        before.dedup();
        let then = self.then.as_deref().unwrap_or("-");
        let (to, outcome) = (self.to, &self.outcome);
        format!("{to}: {outcome} after {before:?}, then {then}")
    }
}

/// What `adit-connect` told, a line for each connection.
///
/// # Errors
/// When a line is not what it writes.
pub fn told(text: &str) -> Result<Vec<Told>> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

/// How often each outcome is among them.
#[must_use]
pub fn outcomes(told: &[Told]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for one in told {
        *counts.entry(one.outcome.as_str()).or_default() += 1;
    }
    counts
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
