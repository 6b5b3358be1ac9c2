//! How much fits through, one way or both.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::dial::dial;
use super::server::Progress;
use super::{CHUNK, Numbers, numbers, port};

/// Flows that send or receive as fast as they can.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// Flows to the server.
    pub up: usize,
    /// Flows from the server.
    pub down: usize,
    /// Not counted: windows open, buffers fill.
    pub warm_up: Duration,
    /// Counted.
    pub measured: Duration,
}

impl Bulk {
    /// Measures the sum of all flows, each on its receiver's clock.
    ///
    /// # Errors
    /// When one of the flows fails.
    pub fn run(self, to: IpAddr) -> Result<Numbers> {
        let mut threads = Vec::new();
        for _ in 0..self.up {
            let (stream, _) = dial(to, port::SINK)?;
            threads.push(thread::spawn(move || self.upload(&stream)));
        }
        for _ in 0..self.down {
            let (stream, _) = dial(to, port::SOURCE)?;
            threads.push(thread::spawn(move || self.download(stream)));
        }
        let mut sum = 0.0;
        for thread in threads {
            sum += thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(numbers([("gbit_per_s", sum)]))
    }

    fn upload(self, stream: &TcpStream) -> Result<f64> {
        let sender = stream.try_clone()?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let pushing = scope.spawn(|| push(sender, &over));
            let speed = self.speed(|| progress_told(stream));
            over.store(true, Ordering::Relaxed);
            // Ends a write that waits.
            let _ = stream.shutdown(Shutdown::Both);
            let pushed = pushing.join().map_err(|_| anyhow!("a thread panicked"))?;
            speed.and_then(|speed| pushed.map(|()| speed))
        })
    }

    fn download(self, mut stream: TcpStream) -> Result<f64> {
        let mut buffer = vec![0; CHUNK];
        let mut bytes = 0;
        let mut began = None;
        self.speed(|| {
            let read = stream.read(&mut buffer).context("receiving")?;
            ensure!(read > 0, "the flow ended");
            bytes += read as u64;
            Ok(Progress::since(
                *began.get_or_insert_with(Instant::now),
                bytes,
            ))
        })
    }

    /// Gbit/s between the end of the warming up and the end of the measure.
    fn speed(self, mut next: impl FnMut() -> Result<Progress>) -> Result<f64> {
        let mut first = next()?;
        while u128::from(first.micros) < self.warm_up.as_micros() {
            first = next()?;
        }
        let end = self.warm_up + self.measured;
        let mut last = next()?;
        while u128::from(last.micros) < end.as_micros() {
            last = next()?;
        }
        let bits = (last.bytes - first.bytes) as f64 * 8.0;
        let nanos = (last.micros - first.micros) as f64 * 1000.0;
        Ok(bits / nanos)
    }
}

/// Sends until `over`; errors after that are of our own making.
pub(crate) fn push(mut stream: TcpStream, over: &AtomicBool) -> Result<()> {
    let buffer = vec![0xa5; CHUNK];
    while !over.load(Ordering::Relaxed) {
        let sent = stream.write_all(&buffer);
        if !over.load(Ordering::Relaxed) {
            sent.context("sending")?;
        }
    }
    Ok(())
}

fn progress_told(mut stream: &TcpStream) -> Result<Progress> {
    let mut told = [0; Progress::LENGTH];
    stream
        .read_exact(&mut told)
        .context("waiting for the receiver to tell its count")?;
    Ok(Progress::from_bytes(told))
}
