//! Far more connections than anyone needs, opened as fast as the kernel takes them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::attempt::Failure;
use super::attempt::{begin, failure, outcome, socket};
use super::microseconds;

/// So many connections, one after another, none of them waited for longer than until its place is needed.
#[derive(Debug, Clone, Copy)]
pub struct Flood {
    /// Where to.
    pub to: SocketAddr,
    /// How many in all.
    pub count: usize,
    /// How many at most at once; the oldest gives up for the next.
    pub at_once: usize,
    /// How long the last ones are waited for.
    pub within: Duration,
}

/// What became of a flood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flooded {
    /// How often each outcome came.
    pub outcomes: BTreeMap<String, usize>,
    /// Microseconds that all of it took.
    pub us: u64,
}

impl Flood {
    /// Opens them all.
    ///
    /// # Errors
    /// When this machine can't: no socket, no port.
    pub fn run(self) -> io::Result<Flooded> {
        let started = Instant::now();
        let mut outcomes = BTreeMap::new();
        let mut open: VecDeque<Socket> = VecDeque::new();
        for _ in 0..self.count {
            let socket = socket(self.to, 0)?;
            // Closed without a word: neither end keeps it in TIME-WAIT.
            socket.set_linger(Some(Duration::ZERO))?;
            match begin(&socket, self.to)? {
                Ok(()) => open.push_back(socket),
                Err(failure) => count(&mut outcomes, Err(failure)),
            }
            if open.len() > self.at_once
                && let Some(oldest) = open.pop_front()
            {
                count(&mut outcomes, came(&oldest, Duration::ZERO)?);
            }
        }
        let last = Instant::now();
        for socket in open {
            let left = self.within.saturating_sub(last.elapsed());
            count(&mut outcomes, came(&socket, left)?);
        }
        Ok(Flooded {
            outcomes,
            us: microseconds(started.elapsed()),
        })
    }
}

fn count(outcomes: &mut BTreeMap<String, usize>, came: Result<(), Failure>) {
    *outcomes.entry(outcome(came)).or_default() += 1;
}

fn came(socket: &Socket, within: Duration) -> io::Result<Result<(), Failure>> {
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let within = PollTimeout::try_from(within).map_err(io::Error::other)?;
    if poll(&mut polled, within)? == 0 {
        return Ok(Err(Failure::GaveUp));
    }
    let error = socket.take_error()?;
    Ok(error.map_or(Ok(()), |error| Err(failure(&error))))
}
