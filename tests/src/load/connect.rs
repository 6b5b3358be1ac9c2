//! How long it takes to get the first byte of a new connection, and how many connections fit in a second.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::dial::dial;
use super::round_trip::exchange;
use super::{Latencies, Numbers, numbers};

/// Connect, send a byte, get it back, close; again and again.
#[derive(Debug, Clone, Copy)]
pub struct Connect {
    /// Where the server echoes.
    pub port: u16,
    /// So many threads, each with one connection after another.
    pub at_once: usize,
    /// At most so many connections of each thread.
    pub count: usize,
    /// At most so long.
    pub limit: Duration,
}

impl Connect {
    /// Measures.
    ///
    /// # Errors
    /// When one of the connections fails.
    pub fn run(self, to: IpAddr) -> Result<Numbers> {
        self.one_after_another(to, self.count.div_ceil(20).min(5))?;
        let began = Instant::now();
        let threads: Vec<_> = (0..self.at_once)
            .map(|_| thread::spawn(move || self.one_after_another(to, self.count)))
            .collect();
        let mut latencies = OfConnections::default();
        for thread in threads {
            let own = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
            latencies.append(own?);
        }
        let took = began.elapsed().as_secs_f64();
        Ok(numbers([
            (
                "connections_per_s",
                latencies.first_byte.count() as f64 / took,
            ),
            ("connect_p50_us", latencies.connected.percentile_us(50)),
            ("p50_us", latencies.first_byte.percentile_us(50)),
            ("p99_us", latencies.first_byte.percentile_us(99)),
        ]))
    }

    fn one_after_another(self, to: IpAddr, count: usize) -> Result<OfConnections> {
        let mut latencies = OfConnections::default();
        let started = Instant::now();
        while latencies.first_byte.count() < count && started.elapsed() < self.limit {
            let (mut stream, began) = dial(to, self.port)?;
            latencies.connected.add(began.elapsed());
            exchange(&mut stream)?;
            latencies.first_byte.add(began.elapsed());
        }
        Ok(latencies)
    }
}

/// Both since `connect()` began.
#[derive(Debug, Default)]
struct OfConnections {
    /// Until it returned: for whom accepts before asking, no more than that.
    connected: Latencies,
    /// Until the first byte came back.
    first_byte: Latencies,
}

impl OfConnections {
    fn append(&mut self, other: OfConnections) {
        self.connected.append(other.connected);
        self.first_byte.append(other.first_byte);
    }
}
