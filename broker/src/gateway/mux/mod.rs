//! Channels in the SSH connection of a `ssh` that is a master (ControlMaster of ssh_config(5)), over its control socket, as streams of a link.
//!
//! The control socket begins with OpenSSH's PROTOCOL.mux: a greeting, and the request to be let into the connection (`MUX_C_PROXY`). From then
//! on it carries the messages of the SSH connection protocol (RFC 4254), each behind its length and a byte of padding length, as in packets
//! without encryption. The master puts the channels into its own connection. Each channel has a window of its own, so none waits for another.

mod channel;
mod drive;
mod handing;
mod state;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use adit_link::{
    Driver, Link, LinkEnd, Multiplexer, Notice, OpenError, OpenHeader, Received, StreamError,
};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Notify;

pub(super) use handing::{ControlSocket, Place};
pub use handing::{Handed, Handing, NotHanded};
use state::State;
use wire::{HELLO, IS_PROXY, PROXY, VERSION, framed, next_message};

/// Bytes that a destination may send ahead, as OpenSSH gives its own channels (`CHAN_TCP_WINDOW_DEFAULT`).
const WINDOW: u32 = 2 << 20;
/// Bytes of one message's payload that may come.
const PACKET: u32 = 32 << 10;
/// Bytes of one message's payload that is sent: with what stands before it, what ssh reads in two turns (`CHAN_RBUF` in its channels.c).
const SENT: usize = (32 << 10) - 10;
/// Bytes that are read ahead: of a large message the most by far is read to where it stays.
const AHEAD: usize = 4 << 10;

/// Why the connection can't be used any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum MuxError {
    /// The master is gone.
    #[error("its control socket: {0}")]
    Io(#[from] io::Error),
    /// It does not let anybody in, or speaks another protocol.
    #[error("ssh does not share its connection (OpenSSH 7.8 or newer does)")]
    NotShared,
    /// It said what it may not.
    #[error("a message that makes no sense")]
    Nonsense,
}

/// Enters the connection of the master behind `socket`.
///
/// `runs_on` is what the master runs on, if it is a TCP connection: there is more to come of a server only when it knows that the last
/// small piece has arrived (RFC 896), which a kernel that waits for something to send along tells 40 ms later.
/// Connections can be handed over to the `master` if its control socket is there for more than this one.
pub(super) async fn enter(
    socket: UnixStream,
    runs_on: Option<OwnedFd>,
    master: Option<ControlSocket>,
) -> Result<(Link, Driver, Option<Handing>), MuxError> {
    let (channels, driver) = channels(socket, runs_on).await?;
    let handing = master.map(|master| Handing::new(channels.clone(), master));
    Ok((Link::over(channels), driver, handing))
}

async fn channels(
    socket: UnixStream,
    runs_on: Option<OwnedFd>,
) -> Result<(Arc<Channels>, Driver), MuxError> {
    let (read, mut write) = socket.into_split();
    let mut read = BufReader::with_capacity(AHEAD, read);
    let mut greeting = framed(&[HELLO, VERSION]);
    greeting.extend(framed(&[PROXY, 0]));
    write.write_all(&greeting).await?;
    let mut hello = next_message(&mut read).await?;
    if (hello.try_get_u32(), hello.try_get_u32()) != (Ok(HELLO), Ok(VERSION)) {
        return Err(MuxError::NotShared);
    }
    if next_message(&mut read).await?.try_get_u32() != Ok(IS_PROXY) {
        return Err(MuxError::NotShared);
    }
    let channels = Arc::new(Channels::default());
    let driver = Driver::new(drive::run(
        Abandoned(channels.clone()),
        read,
        write,
        runs_on,
    ));
    Ok((channels, driver))
}

/// The state behind its lock, which is never held over an await, nor while waking.
#[derive(Default)]
struct Channels {
    state: Mutex<State>,
    /// There is something to send, or no more.
    news: Notify,
    /// There is someone to be answered in time.
    opened: Notify,
}

/// Who drops the driver leaves all channels.
struct Abandoned(Arc<Channels>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.with(|state| state.finish_all(LinkEnd::Abandoned));
    }
}

impl Channels {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the state, then wakes whom that concerns.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let (result, woken, has_news) = {
            let mut state = self.lock();
            let result = act(&mut state);
            (result, state.take_woken(), state.has_news())
        };
        woken.into_iter().for_each(Waker::wake);
        if has_news {
            self.news.notify_one();
        }
        result
    }
}

impl Multiplexer for Channels {
    fn open(&self, header: &OpenHeader) -> Result<u32, OpenError> {
        let opened = self.with(|state| state.open(header));
        self.opened.notify_one();
        opened
    }

    fn poll_opened(&self, stream: u32, waker: &Waker) -> Poll<Result<(), StreamError>> {
        self.with(|state| state.poll_opened(stream, waker))
    }

    fn poll_broken(&self, stream: u32, waker: &Waker) -> Poll<StreamError> {
        self.with(|state| state.poll_broken(stream, waker))
    }

    fn poll_room(&self, stream: u32, waker: &Waker) -> Poll<Result<usize, StreamError>> {
        self.with(|state| state.poll_room(stream, waker))
    }

    fn has_credit(&self, stream: u32) -> bool {
        self.with(|state| state.has_credit(stream))
    }

    fn headroom(&self) -> usize {
        wire::DATA_HEADER
    }

    fn send(&self, stream: u32, frame: BytesMut) {
        self.with(|state| state.send(stream, frame));
    }

    fn finish(&self, stream: u32) {
        self.with(|state| state.finish(stream));
    }

    fn poll_receive(
        &self,
        stream: u32,
        out: &mut VecDeque<Bytes>,
        waker: &Waker,
    ) -> Poll<Result<Received, StreamError>> {
        self.with(|state| state.poll_receive(stream, out, waker))
    }

    fn consumed(&self, stream: u32, bytes: usize) {
        self.with(|state| state.consumed(stream, bytes));
    }

    /// What was sent goes before the close, as the channel is closed by a message behind it.
    fn release(&self, stream: u32, _ordered: bool) {
        self.with(|state| state.release(stream));
    }

    fn streams(&self) -> usize {
        self.with(|state| state.streams())
    }

    fn end(&self) -> Option<LinkEnd> {
        self.with(|state| state.end().cloned())
    }

    fn poll_end(&self, waker: &Waker) -> Poll<LinkEnd> {
        self.with(|state| state.poll_end(waker))
    }

    fn is_closing(&self) -> bool {
        self.with(|state| state.is_closing())
    }

    /// A server without a link has nothing to say.
    fn poll_notice(&self, _after: u64, _waker: &Waker) -> Poll<Notice> {
        Poll::Pending
    }

    fn close(&self, _words: &str) {
        self.with(|state| state.finish_all(LinkEnd::Closed));
    }

    fn drain(&self, _words: &str) {
        self.with(State::drain);
    }
}
