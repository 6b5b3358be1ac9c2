//! The relay between two sockets: what a stream would do, without a link between.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::fault::{Fault, Guarded};
use super::{Counters, Direction, RelayEnd};
use crate::readiness;

/// Bytes that a direction holds at most.
const BUFFER: usize = 64 << 10;

/// The same as [`relay`](super::relay) between two sockets: `near` is the application's, `far` the
/// destination's.
///
/// Dropping the future resets both sides.
pub async fn relay_tcp(near: TcpStream, far: TcpStream, counters: &Counters) -> RelayEnd {
    let (near, far) = (Guarded::new(near), Guarded::new(far));
    let mut pair = Pair {
        up: Half::new(&near, &far, &counters.up),
        down: Half::new(&far, &near, &counters.down),
    };
    let end = poll_fn(|cx| pair.poll(cx)).await;
    drop(pair);
    if matches!(end, RelayEnd::Finished) {
        near.close();
        far.close();
    }
    end
}

struct Pair<'a> {
    up: Half<'a>,
    down: Half<'a>,
}

impl Pair<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let up = self.up.poll(cx);
        let down = self.down.poll(cx);
        let failed = match (up, down) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(RelayEnd::Finished),
            (Poll::Ready(Err(Failed::Source(error)) | Err(Failed::Fault(error))), _)
            | (_, Poll::Ready(Err(Failed::Sink(error)))) => RelayEnd::ResetHere(error),
            (Poll::Ready(Err(Failed::Sink(_))), _)
            | (_, Poll::Ready(Err(Failed::Source(_) | Failed::Fault(_)))) => RelayEnd::ResetThere,
            (Poll::Pending, _) | (_, Poll::Pending) => return Poll::Pending,
        };
        Poll::Ready(failed)
    }
}

enum Failed {
    Source(io::Error),
    Sink(io::Error),
    /// The source's, noticed without reading.
    Fault(io::Error),
}

struct Half<'a> {
    source: &'a TcpStream,
    sink: &'a TcpStream,
    counter: &'a AtomicU64,
    fault: Fault<'a>,
    /// Empty and without memory while nothing is on its way.
    buffer: BytesMut,
    state: Direction,
}

impl<'a> Half<'a> {
    fn new(source: &'a TcpStream, sink: &'a TcpStream, counter: &'a AtomicU64) -> Self {
        let fault = Fault::new(source);
        let state = Direction::Reading;
        Self {
            source,
            sink,
            counter,
            fault,
            buffer: BytesMut::new(),
            state,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        let moved = self.poll_move(cx);
        if moved.is_pending() && self.state == Direction::Reading {
            return Poll::Pending;
        }
        if let Poll::Ready(Err(failed)) = moved {
            return Poll::Ready(Err(failed));
        }
        match self.fault.poll(cx) {
            Poll::Ready(error) => Poll::Ready(Err(Failed::Fault(error))),
            Poll::Pending => moved,
        }
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        while self.state != Direction::Done {
            if !self.buffer.is_empty() {
                self.state = Direction::Blocked;
                match self.sink.poll_write_ready(cx) {
                    Poll::Ready(ready) => ready.map_err(Failed::Sink)?,
                    Poll::Pending => return Poll::Pending,
                }
                self.write().map_err(Failed::Sink)?;
                continue;
            }
            self.state = Direction::Reading;
            self.buffer = BytesMut::new();
            match self.source.poll_read_ready(cx) {
                Poll::Ready(ready) => ready.map_err(Failed::Source)?,
                Poll::Pending => return Poll::Pending,
            }
            self.read().map_err(Failed::Source)?;
        }
        Poll::Ready(Ok(()))
    }

    fn read(&mut self) -> io::Result<()> {
        self.buffer.reserve(BUFFER);
        match readiness::read(self.source, &mut self.buffer, BUFFER) {
            Ok(0) => {
                // Fails only when the sink is dead already, which its next use tells.
                let _ = SockRef::from(self.sink).shutdown(Shutdown::Write);
                self.state = Direction::Done;
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        match readiness::write(self.sink, &[IoSlice::new(&self.buffer)]) {
            Ok(written) => {
                Counters::count(self.counter, written);
                self.buffer.advance(written);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}
