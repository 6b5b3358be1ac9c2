//! Relays between a channel of its own (`ssh -L`, `-D`, `-W`, `-R`) and a socket.
//!
//! russh gives a client more leave to send as soon as something arrives, and then waits, the whole
//! session with it, for room in the channel's queue. So that queue is emptied here at once, into memory
//! that is bounded for a flow and for a connection. Only when that is used up does the session wait, and
//! so every flow of it, for a destination that goes on taking; one that takes nothing is given up, soon
//! where others wait for it. (Links have none of this: their streams have credit of their own.)
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_link::ssh::Backlog;
use adit_link::{Counters, RelayEnd};
use bytes::BytesMut;
use russh::server::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::allowance::Pace;
use crate::inflow::{Inflow, Waiting};

/// How long a destination may take nothing, once its share is used up, while others wait for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// And when it is the only one: a program may pause, but new flows of the connection would wait.
const PATIENCE_ALONE: Duration = Duration::from_secs(30);
/// How long what either side said before it was gone may take to reach the other.
const DELIVERY: Duration = Duration::from_secs(300);
/// How long a destination is listened to when its client has left and all is delivered: to close while
/// it speaks would take from it what it has not read yet.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are read from a socket at once.
const READ: usize = 32 << 10;
/// Pieces written to a socket at once.
const SLICES: usize = 16;

/// How a relay ended.
#[derive(Debug)]
pub(crate) enum ForwardEnd {
    /// In one of the ways that streams of a link end.
    Relay(RelayEnd),
    /// The destination took nothing any more.
    Stuck,
    /// The client closed the channel before the destination had ended.
    Left,
}

/// How it ended, and what is left to do.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) end: ForwardEnd,
    pub(crate) channel: Remaining,
}

/// What has to become of the channel.
#[derive(Debug)]
pub(crate) enum Remaining {
    /// The client has closed it, or went.
    Nothing,
    /// The client has to be told.
    Open,
    /// Both sides have said their ends: the client may be about to close it.
    Finished(ChannelReadHalf),
}

/// How the client's direction ended.
enum Sent<'a> {
    /// With an end, which the destination has been told.
    Ended(ChannelReadHalf),
    /// With the channel: what waits is yet to be delivered.
    Closed(Outflow<'a>),
    /// The destination takes no more, but may have said something before.
    Broken(ChannelReadHalf, io::Error),
}

/// How both directions ended, as far as they go on side by side.
enum Over<'a> {
    Ended(Relayed),
    /// The client has closed the channel.
    Left {
        /// What may wait, unless the destination has been told its end.
        outflow: Option<Outflow<'a>>,
        /// Has the destination said its end?
        heard: bool,
    },
}

/// Relays until both sides have finished, or one is gone. An end of one direction stays that. SSH knows
/// no reset: a client's close is close(2), and what it sent before is delivered (RFC 4254 section 5.3).
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
    let (mut tcp_read, tcp_write) = tcp.split();
    let outflow = Outflow {
        write: tcp_write,
        waiting: Waiting::new(inflow),
        counters,
        pace,
    };
    let hearing = down(&mut tcp_read, &write, counters, backlog, pace);
    let relayed = match both(up(read, outflow, inflow), hearing).await {
        Over::Ended(relayed) => relayed,
        Over::Left { outflow, heard } => Relayed {
            end: deliver(outflow, heard, tcp_read).await,
            channel: Remaining::Nothing,
        },
    };
    if relayed.end.is_orderly() {
        let _ = SockRef::from(&tcp).set_linger(None);
    }
    relayed
}

async fn both<'a>(
    up: impl Future<Output = Result<Sent<'a>, ForwardEnd>>,
    down: impl Future<Output = Result<(), ForwardEnd>>,
) -> Over<'a> {
    tokio::pin!(up, down);
    let mut heard = false;
    let sent = loop {
        tokio::select! {
            sent = &mut up => break sent,
            ended = &mut down, if !heard => match ended {
                Ok(()) => heard = true,
                Err(end) => return Over::Ended(end.at_once()),
            },
        }
    };
    let (mut read, died) = match sent {
        Ok(Sent::Ended(read)) => (read, None),
        Ok(Sent::Broken(read, error)) => (read, Some(error)),
        Ok(Sent::Closed(outflow)) => {
            let outflow = Some(outflow);
            return Over::Left { outflow, heard };
        }
        Err(end) => return Over::Ended(end.at_once()),
    };
    if !heard {
        // What a destination said before it died is in its socket still.
        let last_words = async {
            match died {
                Some(_) => sleep(DELIVERY).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = &mut down => if let Err(end) = ended && died.is_none() {
                return Over::Ended(end.at_once());
            },
            () = last_words => {}
            by_word = closed(&mut read) => match by_word {
                true if died.is_none() => return Over::Left { outflow: None, heard },
                true => {}
                false => return Over::Ended(client_gone().at_once()),
            },
        }
    }
    Over::Ended(match died {
        Some(error) => destination_gone(error).at_once(),
        None => Relayed {
            end: ForwardEnd::Relay(RelayEnd::Finished),
            channel: Remaining::Finished(read),
        },
    })
}

impl ForwardEnd {
    /// For an end that nobody has to wait for.
    fn at_once(self) -> Relayed {
        let channel = match self {
            Self::Relay(RelayEnd::ResetThere) | Self::Left => Remaining::Nothing,
            Self::Relay(_) | Self::Stuck => Remaining::Open,
        };
        Relayed { end: self, channel }
    }

    /// Is the destination told an end, and no reset?
    fn is_orderly(&self) -> bool {
        matches!(self, Self::Relay(RelayEnd::Finished) | Self::Left)
    }
}

fn client_gone() -> ForwardEnd {
    ForwardEnd::Relay(RelayEnd::ResetThere)
}

fn destination_gone(error: io::Error) -> ForwardEnd {
    ForwardEnd::Relay(RelayEnd::ResetHere(error))
}

/// Resolves when the channel is closed: by the client's word, or because its connection is gone?
pub(crate) async fn closed(read: &mut ChannelReadHalf) -> bool {
    while let Some(message) = read.wait().await {
        if matches!(message, ChannelMsg::Close) {
            return true;
        }
    }
    false
}

/// The client has left: what it sent before still goes to the destination, and what that says goes nowhere.
async fn deliver(outflow: Option<Outflow<'_>>, heard: bool, mut read: ReadHalf<'_>) -> ForwardEnd {
    let mut heard = heard;
    let delivering = timeout(DELIVERY, async {
        match outflow {
            Some(outflow) => outflow.finish().await,
            None => Ok(()),
        }
    });
    let hearing = discard(&mut read);
    tokio::pin!(delivering, hearing);
    loop {
        tokio::select! {
            delivered = &mut delivering => match delivered {
                Ok(Ok(())) => break,
                Ok(Err(end)) => return end,
                Err(_) => return ForwardEnd::Stuck,
            },
            end = &mut hearing, if !heard => match end {
                Ok(()) => heard = true,
                Err(error) => return destination_gone(error),
            },
        }
    }
    if !heard {
        match timeout(LINGER, hearing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return destination_gone(error),
            Err(_) => return ForwardEnd::Left,
        }
    }
    ForwardEnd::Relay(RelayEnd::Finished)
}

/// Reads to the end.
async fn discard(read: &mut ReadHalf<'_>) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ);
    while read.read_buf(&mut buffer).await? > 0 {
        buffer.clear();
    }
    Ok(())
}

/// From the client to the socket, up to the client's end.
async fn up<'a>(
    mut read: ChannelReadHalf,
    mut outflow: Outflow<'a>,
    inflow: &Inflow,
) -> Result<Sent<'a>, ForwardEnd> {
    let (mut ended, mut progress) = (false, Instant::now());
    while !ended || outflow.has_waiting() {
        let full = outflow.waiting.is_full();
        let patience = match inflow.is_alone() {
            true => PATIENCE_ALONE,
            false => PATIENCE,
        };
        // Waiting for leave to send is nobody's fault.
        let from = outflow.pace.later();
        let from = from.map_or(progress, |leave| progress.max(leave));
        tokio::select! {
            message = read.wait(), if !full => match message {
                Some(ChannelMsg::Data { data }) if !ended => {
                    // It has not been slow with what it did not have.
                    if !outflow.has_waiting() {
                        progress = Instant::now();
                    }
                    outflow.waiting.push(data);
                }
                Some(ChannelMsg::Eof) => ended = true,
                Some(ChannelMsg::Close) => return Ok(Sent::Closed(outflow)),
                None => return Err(client_gone()),
                Some(_) => {}
            },
            written = outflow.write_some(), if outflow.has_waiting() => match written {
                Ok(written) => {
                    outflow.written(written);
                    progress = Instant::now();
                }
                Err(error) => return Ok(Sent::Broken(read, error)),
            },
            () = sleep_until(from + patience), if full => return Err(ForwardEnd::Stuck),
        }
    }
    Ok(match outflow.write.shutdown().await {
        Ok(()) => Sent::Ended(read),
        Err(error) => Sent::Broken(read, error),
    })
}

/// From the socket to the client, up to the socket's end.
async fn down(
    read: &mut ReadHalf<'_>,
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

/// The way to the destination, and what waits for it.
struct Outflow<'a> {
    write: WriteHalf<'a>,
    waiting: Waiting<'a>,
    counters: &'a Counters,
    pace: &'a Pace,
}

impl Outflow<'_> {
    fn has_waiting(&self) -> bool {
        !self.waiting.pieces.is_empty()
    }

    async fn write_some(&self) -> io::Result<usize> {
        self.pace.ready().await;
        loop {
            self.write.writable().await?;
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = slices.iter_mut().zip(&self.waiting.pieces);
            let count = filled
                .map(|(slice, piece)| *slice = IoSlice::new(piece))
                .count();
            let slices = slices.get(..count).unwrap_or_default();
            match self.write.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    fn written(&mut self, bytes: usize) {
        self.waiting.written(bytes);
        self.pace.charge(bytes as u64);
        self.counters
            .down
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Writes all that waits, and the end.
    async fn finish(mut self) -> Result<(), ForwardEnd> {
        while self.has_waiting() {
            self.pace.ready().await;
            let written = timeout(PATIENCE_ALONE, self.write_some()).await;
            let written = written.map_err(|_| ForwardEnd::Stuck)?;
            self.written(written.map_err(destination_gone)?);
        }
        self.write.shutdown().await.map_err(destination_gone)
    }
}
