//! One byte there and back, again and again.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, ensure};

use super::dial::{PATIENCE, dial};
use super::{Latencies, Numbers, numbers, port};

/// Round trips of one byte on an open flow.
#[derive(Debug, Clone, Copy)]
pub struct RoundTrip {
    /// At most so many.
    pub count: usize,
    /// At most so long.
    pub limit: Duration,
}

impl RoundTrip {
    /// Measures on a flow of its own.
    ///
    /// # Errors
    /// When the flow fails.
    pub fn run(self, to: IpAddr) -> Result<Numbers> {
        let (mut stream, _) = dial(to, port::ECHO)?;
        self.warm_up(&mut stream)?;
        let latencies = self.on(&mut stream)?;
        Ok(numbers([
            ("p50_us", latencies.percentile_us(50)),
            ("p99_us", latencies.percentile_us(99)),
        ]))
    }

    pub(crate) fn warm_up(self, stream: &mut TcpStream) -> Result<()> {
        let few = RoundTrip {
            count: self.count.div_ceil(20),
            limit: self.limit,
        };
        few.on(stream).map(|_| ())
    }

    pub(crate) fn on(self, stream: &mut TcpStream) -> Result<Latencies> {
        let mut latencies = Latencies::default();
        let began = Instant::now();
        while latencies.count() < self.count && began.elapsed() < self.limit {
            let sent = Instant::now();
            exchange(stream)?;
            latencies.add(sent.elapsed());
        }
        Ok(latencies)
    }
}

fn waited(error: io::Error) -> Error {
    if error.kind() == ErrorKind::WouldBlock {
        return anyhow!("a byte did not come back within {PATIENCE:?}");
    }
    Error::new(error).context("waiting for a byte to come back")
}

/// Sends one byte and waits for it to come back.
pub(crate) fn exchange(stream: &mut TcpStream) -> Result<()> {
    send(stream)?;
    receive(stream)
}

pub(crate) fn send(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"?").context("sending a byte")
}

pub(crate) fn receive(stream: &mut TcpStream) -> Result<()> {
    let mut back = [0];
    stream.read_exact(&mut back).map_err(waited)?;
    ensure!(back == *b"?", "another byte came back");
    Ok(())
}
