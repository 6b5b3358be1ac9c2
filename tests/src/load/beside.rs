//! What another flow's traffic, or another program's neglect, does to a flow's round trip.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::dial::dial;
use super::{Bulk, CHUNK, Numbers, RoundTrip, numbers, port};

/// A write that waits so long is stuck: nobody reads at the other end, and every buffer is full.
const STUCK: Duration = Duration::from_millis(100);
/// Long enough for a sender in the zone to fill every buffer on the way, of which nothing here can tell.
const FILL: Duration = Duration::from_millis(400);
/// Who takes more of what nobody reads has a buffer without a bound.
const SWALLOWED: usize = 64 << 20;

/// What goes on beside the flow that is measured.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// The server sends, and the program does not read.
    PausedDown,
    /// The program sends, and the server does not read.
    PausedUp,
    /// Four flows up and four down, as fast as they can.
    Bulk,
}

/// Round trips on an idle path, then beside something.
#[derive(Debug, Clone, Copy)]
pub struct Beside {
    /// Each of the two times.
    pub round_trip: RoundTrip,
    /// Beside what.
    pub load: Load,
}

impl Beside {
    /// Measures.
    ///
    /// # Errors
    /// When one of the flows fails.
    pub fn run(self, to: IpAddr) -> Result<Numbers> {
        let (mut stream, _) = dial(to, port::ECHO)?;
        self.round_trip.warm_up(&mut stream)?;
        let idle = self.round_trip.on(&mut stream)?.percentile_us(50);
        let beside = match self.load {
            Load::PausedDown => {
                let _unread = dial(to, port::SOURCE)?;
                thread::sleep(FILL);
                self.round_trip.on(&mut stream)
            }
            Load::PausedUp => {
                let stuck = Stuck::push(to)?;
                let beside = self.round_trip.on(&mut stream);
                stuck.end()?;
                beside
            }
            Load::Bulk => self.beside_bulk(to, &mut stream),
        }?;
        let p50 = beside.percentile_us(50);
        Ok(numbers([
            ("p50_us", p50),
            ("p99_us", beside.percentile_us(99)),
            ("to_idle_times", p50 / idle),
        ]))
    }

    fn beside_bulk(self, to: IpAddr, stream: &mut TcpStream) -> Result<super::Latencies> {
        let bulk = Bulk {
            up: 4,
            down: 4,
            warm_up: Duration::ZERO,
            measured: FILL + self.round_trip.limit,
        };
        let flowing = thread::spawn(move || bulk.run(to));
        thread::sleep(FILL);
        let beside = self.round_trip.on(stream)?;
        // Its numbers don't matter, but a flow of it that failed would have made the measure an easy one.
        match flowing.join() {
            Ok(outcome) => outcome.context("the bulk beside it")?,
            Err(_) => bail!("the thread of the bulk panicked"),
        };
        Ok(beside)
    }
}

/// A flow to a server that does not read, with a program that goes on pushing.
struct Stuck {
    stream: TcpStream,
    over: Arc<AtomicBool>,
    pushing: thread::JoinHandle<Result<()>>,
}

impl Stuck {
    /// Returns once a write is stuck.
    fn push(to: IpAddr) -> Result<Stuck> {
        let (stream, _) = dial(to, port::STALL)?;
        let over = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let pushing = thread::spawn({
            let (stream, over) = (stream.try_clone()?, Arc::clone(&over));
            move || push_on(stream, &over, &tell)
        });
        if told.recv().is_err() {
            return match pushing.join() {
                Ok(outcome) => outcome.and_then(|()| bail!("the paused flow ended")),
                Err(_) => bail!("the pushing thread panicked"),
            };
        }
        Ok(Stuck {
            stream,
            over,
            pushing,
        })
    }

    fn end(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        // Ends a write that waits.
        let _ = self.stream.shutdown(Shutdown::Both);
        match self.pushing.join() {
            Ok(outcome) => outcome.context("the paused flow"),
            Err(_) => bail!("the pushing thread panicked"),
        }
    }
}

fn push_on(mut stream: TcpStream, over: &AtomicBool, stuck: &mpsc::Sender<()>) -> Result<()> {
    let buffer = vec![0xa5; CHUNK];
    let mut swallowed = 0;
    stream.set_write_timeout(Some(STUCK))?;
    while !over.load(Ordering::Relaxed) {
        match stream.write(&buffer) {
            Ok(written) => swallowed += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Nobody listens any more when the measure is over.
                let _ = stuck.send(());
            }
            Err(_) if over.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error).context("pushing to a server that does not read"),
        }
        if swallowed > SWALLOWED {
            bail!("the path took {} MiB that nobody read", swallowed >> 20);
        }
    }
    Ok(())
}
