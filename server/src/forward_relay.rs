//! Relays between a channel of its own (`ssh -L`, `-D`, `-W`, `-R`) and a socket.
//!
//! russh gives a client more leave to send as soon as something arrives, and then waits, the whole
//! session with it, for room in the channel's queue. So that queue is emptied here at once, into memory
//! that is bounded for a flow and for a connection. Only when that is used up does the session wait, and
//! so every flow of it, for a destination that goes on taking; one that takes nothing is given up, soon
//! where others wait for it. (Links have none of this: their streams have credit of their own.)
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adit_link::ssh::Backlog;
use adit_link::{Counters, RelayEnd};
use bytes::{Buf, Bytes, BytesMut};
use russh::server::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use crate::allowance::Pace;

/// Most that waits for one destination, in bytes.
const PER_FLOW: usize = 16 << 20;
/// And for all of one connection.
const PER_CONNECTION: usize = 64 << 20;
/// Who has less waiting than this is not made to wait for what others have.
const SMALL: usize = 64 << 10;
/// What a piece takes beside its bytes, at most.
const PIECE: usize = 128;
/// How long a destination may take nothing, once its share is used up, while others wait for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// And when it is the only one: a program may pause, but new flows of the connection would wait.
const PATIENCE_ALONE: Duration = Duration::from_secs(30);
/// Time for the client to close a channel that both sides have finished with.
const CLOSE: Duration = Duration::from_secs(10);
/// Bytes that are read from a socket at once.
const READ: usize = 32 << 10;
/// Pieces written to a socket at once.
const SLICES: usize = 16;

/// What waits for the destinations of one connection.
#[derive(Debug, Default)]
pub(crate) struct Inflow {
    held: AtomicUsize,
    flows: AtomicUsize,
}

/// How a relay ended.
#[derive(Debug)]
pub(crate) enum ForwardEnd {
    /// In one of the ways that streams of a link end.
    Relay(RelayEnd),
    /// The destination took nothing any more.
    Stuck,
}

/// What is left to do.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) end: ForwardEnd,
    /// The client has closed the channel.
    pub(crate) closed: bool,
}

/// Relays until both sides have finished, or one is gone. An end of one direction stays that; russh
/// knows no reset, so that a client's close before the end is taken for one.
///
/// Dropping the future resets the socket.
pub(crate) async fn relay(
    channel: Channel<Msg>,
    mut tcp: TcpStream,
    counters: &Counters,
    inflow: &Inflow,
    backlog: &Backlog,
    pace: &Pace,
) -> Relayed {
    // Fails on a socket that is dead.
    let _ = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
    let (read, write) = channel.split();
    let (tcp_read, tcp_write) = tcp.split();
    let relayed = both(
        up(read, tcp_write, counters, inflow, pace),
        down(tcp_read, &write, counters, backlog, pace),
    )
    .await;
    if matches!(relayed.end, ForwardEnd::Relay(RelayEnd::Finished)) {
        let _ = SockRef::from(&tcp).set_linger(None);
    }
    relayed
}

async fn both(
    up: impl Future<Output = Result<ChannelReadHalf, ForwardEnd>>,
    down: impl Future<Output = Result<(), ForwardEnd>>,
) -> Relayed {
    tokio::pin!(up, down);
    let (mut sent, mut received) = (None, false);
    while sent.is_none() || !received {
        let ended = tokio::select! {
            ended = &mut up, if sent.is_none() => ended.map(|read| sent = Some(read)),
            ended = &mut down, if !received => ended.map(|()| received = true),
            () = closed(&mut sent), if sent.is_some() => Err(client_gone()),
        };
        if let Err(end) = ended {
            let closed = matches!(end, ForwardEnd::Relay(RelayEnd::ResetThere));
            return Relayed { end, closed };
        }
    }
    Relayed {
        end: ForwardEnd::Relay(RelayEnd::Finished),
        closed: timeout(CLOSE, closed(&mut sent)).await.is_ok(),
    }
}

fn client_gone() -> ForwardEnd {
    ForwardEnd::Relay(RelayEnd::ResetThere)
}

fn destination_gone(error: io::Error) -> ForwardEnd {
    ForwardEnd::Relay(RelayEnd::ResetHere(error))
}

/// Resolves when the client has closed the channel.
async fn closed(read: &mut Option<ChannelReadHalf>) {
    let Some(read) = read else {
        return std::future::pending().await;
    };
    while let Some(message) = read.wait().await {
        if matches!(message, ChannelMsg::Close) {
            return;
        }
    }
}

/// From the client to the socket, up to the client's end.
async fn up(
    mut read: ChannelReadHalf,
    mut write: WriteHalf<'_>,
    counters: &Counters,
    inflow: &Inflow,
    pace: &Pace,
) -> Result<ChannelReadHalf, ForwardEnd> {
    let mut waiting = Waiting::new(inflow);
    let (mut ended, mut progress) = (false, Instant::now());
    while !ended || !waiting.pieces.is_empty() {
        let full = waiting.is_full();
        let patience = match inflow.flows.load(Ordering::Relaxed) {
            0 | 1 => PATIENCE_ALONE,
            _ => PATIENCE,
        };
        // Waiting for leave to send is nobody's fault.
        let from = pace.later().map_or(progress, |leave| progress.max(leave));
        tokio::select! {
            message = read.wait(), if !full => match message {
                Some(ChannelMsg::Data { data }) if !ended => {
                    // It has not been slow with what it did not have.
                    if waiting.pieces.is_empty() {
                        progress = Instant::now();
                    }
                    waiting.push(data);
                }
                Some(ChannelMsg::Eof) => ended = true,
                Some(ChannelMsg::Close) | None => return Err(client_gone()),
                Some(_) => {}
            },
            written = write_some(&write, &waiting.pieces, pace), if !waiting.pieces.is_empty() => {
                let written = written.map_err(destination_gone)?;
                waiting.written(written);
                pace.charge(written as u64);
                counters.down.fetch_add(written as u64, Ordering::Relaxed);
                progress = Instant::now();
            }
            () = sleep_until(from + patience), if full => return Err(ForwardEnd::Stuck),
        }
    }
    write.shutdown().await.map_err(destination_gone)?;
    Ok(read)
}

/// From the socket to the client, up to the socket's end.
async fn down(
    mut read: ReadHalf<'_>,
    write: &ChannelWriteHalf<Msg>,
    counters: &Counters,
    backlog: &Backlog,
    pace: &Pace,
) -> Result<(), ForwardEnd> {
    loop {
        pace.ready().await;
        // No memory while nothing comes.
        read.readable().await.map_err(destination_gone)?;
        let mut buffer = BytesMut::with_capacity(READ);
        let got = read.read_buf(&mut buffer).await.map_err(destination_gone)?;
        if got == 0 {
            write.eof().await.map_err(|_| client_gone())?;
            return Ok(());
        }
        backlog.low().await;
        write
            .data_bytes(buffer.freeze())
            .await
            .map_err(|_| client_gone())?;
        pace.charge(got as u64);
        counters.up.fetch_add(got as u64, Ordering::Relaxed);
    }
}

async fn write_some(
    write: &WriteHalf<'_>,
    pieces: &VecDeque<Bytes>,
    pace: &Pace,
) -> io::Result<usize> {
    pace.ready().await;
    loop {
        write.writable().await?;
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = slices.iter_mut().zip(pieces);
        let count = filled
            .map(|(slice, piece)| *slice = IoSlice::new(piece))
            .count();
        match write.try_write_vectored(slices.get(..count).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// What waits for one destination.
struct Waiting<'a> {
    inflow: &'a Inflow,
    pieces: VecDeque<Bytes>,
    held: usize,
}

impl<'a> Waiting<'a> {
    fn new(inflow: &'a Inflow) -> Self {
        inflow.flows.fetch_add(1, Ordering::Relaxed);
        Self {
            inflow,
            pieces: VecDeque::new(),
            held: 0,
        }
    }

    fn is_full(&self) -> bool {
        let all = || self.inflow.held.load(Ordering::Relaxed);
        self.held >= PER_FLOW || self.held >= SMALL && all() >= PER_CONNECTION
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.hold(piece.len() + PIECE);
            self.pieces.push_back(piece);
        }
    }

    fn written(&mut self, mut bytes: usize) {
        while bytes > 0
            && let Some(first) = self.pieces.front_mut()
        {
            let of_first = bytes.min(first.len());
            first.advance(of_first);
            bytes -= of_first;
            let over = first.is_empty();
            self.release(of_first + if over { PIECE } else { 0 });
            if over {
                self.pieces.pop_front();
            }
        }
    }

    fn hold(&mut self, bytes: usize) {
        self.held += bytes;
        self.inflow.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn release(&mut self, bytes: usize) {
        self.held -= bytes;
        self.inflow.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.release(self.held);
        self.inflow.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_by_flow_and_by_connection() {
        let inflow = Inflow::default();
        let mut large = Waiting::new(&inflow);
        let piece = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..15 {
            large.push(piece.clone());
        }
        assert!(!large.is_full());
        large.push(piece.clone());
        assert!(large.is_full());
        large.written((1 << 20) + 5);
        assert_eq!(large.held, 15 * ((1 << 20) + PIECE) - 5);
        let mut others: Vec<_> = (0..4).map(|_| Waiting::new(&inflow)).collect();
        for other in &mut others {
            (0..13).for_each(|_| other.push(piece.clone()));
        }
        // All together are above their bound now: only whoever has next to nothing goes on.
        assert!(large.is_full() && others.iter().all(Waiting::is_full));
        let mut small = Waiting::new(&inflow);
        small.push(Bytes::from_static(b"?"));
        assert!(!small.is_full());
        assert_eq!(inflow.flows.load(Ordering::Relaxed), 6);
        drop((large, others, small));
        assert_eq!(inflow.held.load(Ordering::Relaxed), 0);
        assert_eq!(inflow.flows.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_small_pieces_are_counted_with_what_they_take() {
        let inflow = Inflow::default();
        let mut waiting = Waiting::new(&inflow);
        let mut count = 0;
        while !waiting.is_full() {
            waiting.push(Bytes::from_static(b"x"));
            count += 1;
        }
        assert!(count < PER_FLOW / PIECE, "{count} pieces");
    }
}
