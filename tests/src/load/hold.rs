//! Many flows at the same time.

use std::fmt;
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};

use super::dial::dial;
use super::round_trip::{exchange, receive, send};
use super::{Numbers, numbers};

/// Opens flows, a byte there and back on each, and keeps them all; at last every one must still answer.
#[derive(Debug, Clone, Copy)]
pub struct Hold {
    /// Where the server echoes.
    pub port: u16,
    /// How many.
    pub flows: usize,
    /// Opened by so many threads.
    pub at_once: usize,
    /// All open within.
    pub limit: Duration,
}

/// Not opened, because another one could not be.
#[derive(Debug)]
struct GivenUp;

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another flow failed")
    }
}

fn first_cause(one: Option<Error>, other: Option<Error>) -> Option<Error> {
    match one {
        Some(one) if !one.is::<GivenUp>() => Some(one),
        one => other.or(one),
    }
}

static GIVEN_UP: AtomicBool = AtomicBool::new(false);

impl Hold {
    /// Measures.
    ///
    /// # Errors
    /// When one of the flows can't be opened, or not in time, or is not there any more at the end.
    pub fn run(self, to: IpAddr) -> Result<Numbers> {
        let began = Instant::now();
        let threads: Vec<_> = (0..self.at_once)
            .map(|thread| {
                let share =
                    self.flows / self.at_once + usize::from(thread < self.flows % self.at_once);
                thread::spawn(move || self.open(to, share, began))
            })
            .collect();
        let mut held = Vec::new();
        let mut failed = None;
        for thread in threads {
            let (streams, outcome) = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
            held.extend(streams);
            failed = first_cause(failed, outcome.err());
        }
        let opened = began.elapsed();
        if let Some(error) = failed {
            let count = held.len();
            return Err(error.context(format!("after {count} of {} flows", self.flows)));
        }
        let again = Instant::now();
        for stream in &mut held {
            send(stream).context("a flow was opened but not held")?;
        }
        for stream in &mut held {
            receive(stream).context("a flow was opened but not held")?;
        }
        Ok(numbers([
            ("open_s", opened.as_secs_f64()),
            ("ask_all_again_s", again.elapsed().as_secs_f64()),
        ]))
    }

    fn open(self, to: IpAddr, share: usize, began: Instant) -> (Vec<TcpStream>, Result<()>) {
        let mut streams = Vec::with_capacity(share);
        while streams.len() < share {
            match self.open_one(to, began) {
                Ok(stream) => streams.push(stream),
                Err(error) => {
                    GIVEN_UP.store(true, Ordering::Relaxed);
                    return (streams, Err(error));
                }
            }
        }
        (streams, Ok(()))
    }

    fn open_one(self, to: IpAddr, began: Instant) -> Result<TcpStream> {
        if GIVEN_UP.load(Ordering::Relaxed) {
            bail!(GivenUp);
        }
        if began.elapsed() > self.limit {
            bail!("not open within {} s", self.limit.as_secs());
        }
        let (mut stream, _) = dial(to, self.port)?;
        exchange(&mut stream)?;
        Ok(stream)
    }
}
