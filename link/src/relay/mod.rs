//! The relay: bytes, ends and resets between a TCP socket and a stream, or another socket.

mod chunks;
mod fault;
mod sockets;

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::core::Received;
use crate::end::{LinkEnd, StreamError};
use crate::header::Refusal;
use crate::readiness;
use crate::stream::Stream;
use fault::{Fault, Guarded};

pub use chunks::relay_chunks;
pub use sockets::relay_tcp;

/// Pieces written to a socket at once.
const SLICES: usize = 16;

/// Bytes relayed so far. `up`: read from the TCP side, `down`: written to it.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the application towards the destination.
    pub up: AtomicU64,
    /// From the destination towards the application.
    pub down: AtomicU64,
}

impl Counters {
    fn count(counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// How a relay ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both directions finished with FIN.
    Finished,
    /// The TCP side (for [`relay_tcp`]: the near one) reset, or failed with this error.
    ResetHere(io::Error),
    /// The other side reset.
    ResetThere,
    /// The gateway refused the stream.
    Refused(Refusal),
    /// The link under the stream ended.
    LinkEnded(LinkEnd),
}

impl From<StreamError> for RelayEnd {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Refused(refusal) => Self::Refused(refusal),
            StreamError::Reset => Self::ResetThere,
            StreamError::LinkEnded(end) => Self::LinkEnded(end),
        }
    }
}

/// Relays until both directions are done. FIN stays FIN, reset stays reset, both ways; back-pressure
/// end to end: the peer may send as much more as was written to the socket. A stream that is not
/// answered yet is relayed already.
///
/// Dropping the future resets both sides.
pub async fn relay(tcp: TcpStream, stream: Stream, counters: &Counters) -> RelayEnd {
    let socket = Guarded::new(tcp);
    let mut flow = Flow::new(&socket, &stream, counters);
    let end = poll_fn(|cx| flow.poll(cx)).await;
    drop(flow);
    match &end {
        RelayEnd::Finished => socket.close(),
        RelayEnd::ResetHere(_) => stream.reset_after_data(),
        RelayEnd::ResetThere | RelayEnd::Refused(_) | RelayEnd::LinkEnded(_) => {
            after_the_ready().await;
        }
    }
    end
}

/// Lets go first whatever else is ready, and what that makes ready. To reset a socket takes the kernel a while, as it tells the
/// other program then and there; whoever is about to connect waits for it, and nobody for the end of what was given up.
async fn after_the_ready() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}

/// Closes with a reset (SO_LINGER 0).
pub fn reset(tcp: TcpStream) {
    Guarded::reset(tcp);
}

struct Flow<'a> {
    tcp: &'a TcpStream,
    stream: &'a Stream,
    counters: &'a Counters,
    /// The socket's reset is noticed by reading, so without reading someone else must look.
    fault: Fault<'a>,
    batch: VecDeque<Bytes>,
    up: Direction,
    down: Direction,
    /// How the socket ended, while there may be something left to read from it.
    died: Option<io::Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// Waits for its source.
    Reading,
    /// Waits for its sink.
    Blocked,
    Done,
}

type Step = Poll<Result<(), RelayEnd>>;

impl<'a> Flow<'a> {
    fn new(tcp: &'a TcpStream, stream: &'a Stream, counters: &'a Counters) -> Self {
        let (up, down) = (Direction::Reading, Direction::Reading);
        let fault = Fault::new(tcp);
        Self {
            tcp,
            stream,
            counters,
            fault,
            batch: VecDeque::new(),
            up,
            down,
            died: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        if self.died.is_none() {
            match self.poll_alive(cx) {
                Poll::Ready(RelayEnd::ResetHere(error)) => self.died = Some(error),
                other @ (Poll::Ready(_) | Poll::Pending) => return other,
            }
        }
        self.poll_last_words(cx)
    }

    fn poll_alive(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        if let Poll::Ready(Err(end)) = self.poll_down(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(Err(end)) = self.poll_up(cx) {
            return Poll::Ready(end);
        }
        if self.up == Direction::Done && self.down == Direction::Done {
            return Poll::Ready(RelayEnd::Finished);
        }
        // After `poll_down`: what came before a reset has been written, as far as that was
        // possible without waiting.
        if let Poll::Ready(error) = self.stream.poll_broken(cx) {
            return Poll::Ready(error.into());
        }
        if self.up != Direction::Reading {
            return self.fault.poll(cx).map(RelayEnd::ResetHere);
        }
        Poll::Pending
    }

    /// The application is gone; what it sent before that still counts. Only the link's own queue is
    /// waited for: the peer's credit bounds this, so that a reset never waits for a reader.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let queue_full = self.poll_up(cx).is_pending()
            && self.up == Direction::Blocked
            && self.stream.has_credit();
        if queue_full {
            return self.stream.poll_broken(cx).map(RelayEnd::from);
        }
        let error = self.died.take();
        Poll::Ready(RelayEnd::ResetHere(
            error.unwrap_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)),
        ))
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Step {
        while self.up != Direction::Done {
            self.up = Direction::Blocked;
            let Poll::Ready(room) = self.stream.poll_room(cx) else {
                return Poll::Pending;
            };
            let room = room?;
            self.up = Direction::Reading;
            match self.tcp.poll_read_ready(cx) {
                Poll::Ready(ready) => ready.map_err(RelayEnd::ResetHere)?,
                Poll::Pending => return Poll::Pending,
            }
            let headroom = self.stream.headroom();
            match read_frame(self.tcp, headroom, room) {
                Ok(frame) if frame.len() > headroom => {
                    Counters::count(&self.counters.up, frame.len() - headroom);
                    self.stream.send(frame);
                }
                Ok(_) => {
                    // A socket whose error was told already reads as if it had ended.
                    if self.died.is_none() {
                        self.stream.finish();
                    }
                    self.up = Direction::Done;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(RelayEnd::ResetHere(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Step {
        while self.down != Direction::Done {
            if self.batch.is_empty() {
                self.down = Direction::Reading;
                match self.stream.poll_receive(cx, &mut self.batch) {
                    Poll::Ready(Ok(Received::Data)) => {}
                    Poll::Ready(Ok(Received::Fin)) => {
                        // Fails only when the socket is dead already, which its next read tells.
                        let _ = SockRef::from(self.tcp).shutdown(Shutdown::Write);
                        self.down = Direction::Done;
                        break;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => return Poll::Pending,
                }
            }
            self.down = Direction::Blocked;
            match self.tcp.poll_write_ready(cx) {
                Poll::Ready(ready) => ready.map_err(RelayEnd::ResetHere)?,
                Poll::Pending => return Poll::Pending,
            }
            self.write_batch().map_err(RelayEnd::ResetHere)?;
        }
        Poll::Ready(Ok(()))
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.batch) {
            *slot = IoSlice::new(piece);
            used += 1;
        }
        let written = match readiness::write(self.tcp, &slices[..used]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        Counters::count(&self.counters.down, written);
        let mut left = written;
        while let Some(piece) = self.batch.front_mut() {
            if piece.len() > left {
                piece.advance(left);
                break;
            }
            left -= piece.len();
            self.batch.pop_front();
        }
        self.stream.consumed(written);
        Ok(())
    }
}

thread_local! {
    /// Read into before it is known how much there is, so that an idle flow holds no buffer.
    static SCRATCH: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// Reads up to `room` bytes behind so much headroom; nothing but the headroom at the end.
fn read_frame(tcp: &TcpStream, headroom: usize, room: usize) -> io::Result<BytesMut> {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    scratch.reserve(headroom + room);
    scratch.put_bytes(0, headroom);
    let read = readiness::read(tcp, &mut scratch, room);
    let frame = read.map(|_| {
        // Short reads are copied, so that they don't keep a buffer many times their size.
        if scratch.len() < scratch.capacity() / 2 {
            BytesMut::from(&scratch[..])
        } else {
            scratch.split()
        }
    });
    SCRATCH.set(scratch);
    frame
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncWriteExt, Interest, duplex, split};
    use tokio::net::TcpListener;

    use super::*;
    use crate::header::{Host, OpenHeader};
    use crate::limits::Limits;
    use crate::{accept, initiate, pipe};

    /// More than a stream's queue, less than its window and what a socket takes in unread.
    const WORDS: usize = 160 << 10;

    /// A stream's both ends, on a link that runs.
    async fn stream() -> (Stream, Stream) {
        let [pair] = streams().await;
        pair
    }

    /// Both ends of some streams of one link.
    async fn streams<const N: usize>() -> [(Stream, Stream); N] {
        let (near, far) = duplex(1 << 16);
        let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
        let (near_read, near_write) = pipe::split(near_read, near_write);
        let (far_read, far_write) = pipe::split(far_read, far_write);
        let (broker, gateway) = tokio::join!(
            initiate(near_read, near_write, Limits::default()),
            accept(far_read, far_write, Limits::default())
        );
        let ((link, driver), (mut incoming, other)) = (broker.unwrap(), gateway.unwrap());
        tokio::spawn(driver.run());
        tokio::spawn(other.run());
        let header = OpenHeader {
            host: Host::Address(Ipv4Addr::LOCALHOST.into()),
            port: 1,
            application: None,
        };
        let mut opened = Vec::new();
        for _ in 0..N {
            let mut near = link.open(&header).unwrap();
            let far = incoming.next().await.unwrap().accept();
            near.opened().await.unwrap();
            opened.push((near, far));
        }
        opened
            .try_into()
            .unwrap_or_else(|_| unreachable!("N of them"))
    }

    /// A socket whose program sent its words and closed with a reset.
    async fn dead_socket() -> TcpStream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // More than the system allows gives what it allows.
        SockRef::from(&listener)
            .set_recv_buffer_size(4 << 20)
            .unwrap();
        let program = TcpStream::connect(listener.local_addr().unwrap());
        let (program, accepted) = tokio::join!(program, listener.accept());
        let (mut program, (tcp, _)) = (program.unwrap(), accepted.unwrap());
        program.write_all(&vec![1; WORDS]).await.unwrap();
        let mut seen = vec![0; WORDS];
        while tcp.peek(&mut seen).await.unwrap() < WORDS {}
        reset(program);
        tcp.ready(Interest::ERROR).await.unwrap();
        tcp
    }

    /// Two flows hear of their ends at once. Whoever answers to the second one is done before the kernel resets the first one's socket.
    #[tokio::test]
    async fn a_reset_keeps_nobody_waiting() {
        let [given_up, other] = streams().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let program = TcpStream::connect(listener.local_addr().unwrap());
        let (program, accepted) = tokio::join!(program, listener.accept());
        let (program, (tcp, _)) = (program.unwrap(), accepted.unwrap());
        let relaying = tokio::spawn(async move {
            let counters = Counters::default();
            relay(tcp, given_up.0, &counters).await
        });
        let (told, heard) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let end = poll_fn(|cx| other.0.poll_broken(cx)).await;
            told.send(end).unwrap();
        });
        let witness = tokio::spawn(async move {
            assert_eq!(heard.await.unwrap(), StreamError::Reset);
            SockRef::from(&program).take_error().unwrap()
        });
        // Both wait for what their streams bring.
        tokio::task::yield_now().await;
        drop((given_up.1, other.1));
        assert!(witness.await.unwrap().is_none());
        assert!(matches!(relaying.await.unwrap(), RelayEnd::ResetThere));
    }

    #[tokio::test]
    async fn the_last_words_of_a_program_that_died_arrive() {
        let (near, far) = stream().await;
        let tcp = dead_socket().await;
        let relaying = tokio::spawn(async move { relay(tcp, near, &Counters::default()).await });
        let (mut total, mut pieces) = (0, VecDeque::new());
        let end = loop {
            match poll_fn(|cx| far.poll_receive(cx, &mut pieces)).await {
                Ok(Received::Data) => {
                    total += pieces.drain(..).map(|piece| piece.len()).sum::<usize>()
                }
                Ok(Received::Fin) => break None,
                Err(error) => break Some(error),
            }
        };
        assert_eq!((total, end), (WORDS, Some(StreamError::Reset)));
        assert!(matches!(relaying.await.unwrap(), RelayEnd::ResetHere(_)));
    }
}
