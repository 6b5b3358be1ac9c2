//! Channels in the SSH connection of a `ssh` that is a master (ControlMaster of ssh_config(5)), over its control socket.
//!
//! The control socket begins with OpenSSH's PROTOCOL.mux: a greeting, and the request to be let into the connection (`MUX_C_PROXY`). From then
//! on it carries the messages of the SSH connection protocol (RFC 4254), each behind its length and a byte of padding length, as in packets
//! without encryption. The master puts the channels into its own connection. Each channel has a window of its own, so none waits for another.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_link::{ReadChunks, WriteChunks};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;

/// Of PROTOCOL.mux.
const HELLO: u32 = 1;
const VERSION: u32 = 4;
const PROXY: u32 = 0x1000_000f;
const IS_PROXY: u32 = 0x8000_000f;

/// RFC 4250, section 4.1.2.
mod message {
    pub(super) const CHANNEL_OPEN: u8 = 90;
    pub(super) const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub(super) const CHANNEL_OPEN_FAILURE: u8 = 92;
    pub(super) const CHANNEL_WINDOW_ADJUST: u8 = 93;
    pub(super) const CHANNEL_DATA: u8 = 94;
    pub(super) const CHANNEL_EXTENDED_DATA: u8 = 95;
    pub(super) const CHANNEL_EOF: u8 = 96;
    pub(super) const CHANNEL_CLOSE: u8 = 97;
    pub(super) const CHANNEL_REQUEST: u8 = 98;
    pub(super) const CHANNEL_FAILURE: u8 = 100;
}

/// SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254, section 5.1).
const PROHIBITED: u32 = 1;
/// Bytes that a destination may send ahead, as OpenSSH gives its own channels (`CHAN_TCP_WINDOW_DEFAULT`).
const WINDOW: u32 = 2 << 20;
/// Bytes of one packet's data, either way.
const PACKET: u32 = 32 << 10;
/// Bytes of a message: that, and what stands around it.
const LONGEST: u32 = 256 << 10;
/// Messages that are written at once.
const AT_ONCE: usize = 16;
/// Bytes of a piece that is put together with those around it.
const SMALL: usize = 4 << 10;
/// Bytes that wait to be taken by the master, above which who has more waits.
const BACKLOG: usize = 1 << 20;

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

/// Why a channel was not opened.
#[derive(Debug)]
pub(super) struct NotOpened {
    /// By what the server is told to, and not because it failed.
    pub(super) is_prohibited: bool,
    /// The server's words.
    pub(super) words: String,
}

/// The channels. Cheap to clone.
#[derive(Clone)]
pub(super) struct Channels {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to send.
    sending: Notify,
    /// There is room to send.
    room: Notify,
}

#[derive(Default)]
struct State {
    channels: HashMap<u32, Channel>,
    next: u32,
    out: VecDeque<Bytes>,
    waiting: usize,
    refused: usize,
    is_over: bool,
}

struct Channel {
    opening: Option<oneshot::Sender<Result<(), NotOpened>>>,
    /// The server's number for it.
    far: u32,
    /// Bytes that may be sent, and how many at once.
    leave: u64,
    most: usize,
    /// Bytes that may still come.
    window: u32,
    /// Bytes that were taken and are not told of yet.
    taken: u32,
    arrived: VecDeque<Bytes>,
    /// Small pieces that arrived after those: each by itself would cost far more than it holds.
    arrived_last: BytesMut,
    /// The server sends no more.
    has_ended: bool,
    /// The server has closed it.
    is_closed: bool,
    /// We have.
    close_is_sent: bool,
    /// Nobody has it any more.
    is_left: bool,
    readable: Arc<Notify>,
    writable: Arc<Notify>,
}

impl Channels {
    /// Enters the connection of the master behind `socket`.
    ///
    /// `runs_on` is what the master runs on, if it is a TCP connection: there is more to come of a server only when it knows that the last
    /// small piece has arrived (RFC 896), which a kernel that waits for something to send along tells 40 ms later.
    pub(super) async fn enter(
        socket: UnixStream,
        runs_on: Option<OwnedFd>,
    ) -> Result<Self, MuxError> {
        let (read, mut write) = socket.into_split();
        let mut read = BufReader::with_capacity(64 << 10, read);
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
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            sending: Notify::new(),
            room: Notify::new(),
        });
        let (ending, ended) = watch::channel(false);
        let carried = shared.clone();
        tokio::spawn(async move {
            let mut halves = JoinSet::new();
            let (reads, writes) = (carried.clone(), carried.clone());
            halves.spawn(async move { reads.read_all(read, runs_on).await });
            halves.spawn(async move { writes.write_all(write).await });
            if let Some(Ok(Err(error))) = halves.join_next().await {
                tracing::debug!("the connection of ssh: {error}");
            }
            carried.end();
            ending.send_replace(true);
        });
        Ok(Self { shared, ended })
    }

    /// Resolves when there are no more channels to have.
    pub(super) async fn ended(mut self) {
        let _ = self.ended.wait_for(|ended| *ended).await;
    }

    /// How many were refused so far: the master remembers each.
    pub(super) fn refused(&self) -> usize {
        self.shared.state().refused
    }

    /// A channel to a port of a host, which the server connects to (RFC 4254, section 7.2).
    pub(super) async fn open(&self, host: &str, port: u16) -> Result<(Reader, Writer), NotOpened> {
        let (answer, answered) = oneshot::channel();
        let held = self.shared.begin(host, port, answer);
        match answered.await {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => return Err(refused),
            Err(_) => {
                return Err(NotOpened {
                    is_prohibited: false,
                    words: "the connection to the gateway was lost".to_owned(),
                });
            }
        }
        let held = Arc::new(held);
        let (readable, writable) = held.notified();
        let reader = Reader {
            held: held.clone(),
            readable,
        };
        Ok((reader, Writer { held, writable }))
    }
}

/// A channel that someone has. Dropped, it is closed.
struct Held {
    shared: Arc<Shared>,
    id: u32,
}

impl Held {
    fn notified(&self) -> (Arc<Notify>, Arc<Notify>) {
        let state = self.shared.state();
        let channel = state.channels.get(&self.id);
        channel.map_or_else(Default::default, |channel| {
            (channel.readable.clone(), channel.writable.clone())
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

/// What comes from the destination.
pub(super) struct Reader {
    held: Arc<Held>,
    readable: Arc<Notify>,
}

impl ReadChunks for Reader {
    async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(chunk) = self.held.shared.take(self.held.id)? {
                return Ok((!chunk.is_empty()).then_some(chunk));
            }
            self.readable.notified().await;
        }
    }
}

/// What goes there.
pub(super) struct Writer {
    held: Arc<Held>,
    writable: Arc<Notify>,
}

impl WriteChunks for Writer {
    async fn write_chunk(&mut self, mut chunk: Bytes) -> io::Result<()> {
        let shared = &self.held.shared;
        while !chunk.is_empty() {
            shared.until_there_is_room().await;
            if !shared.put(self.held.id, &mut chunk)? {
                self.writable.notified().await;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.held.shared.finish(self.held.id);
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(
        self: &Arc<Self>,
        host: &str,
        port: u16,
        answer: oneshot::Sender<Result<(), NotOpened>>,
    ) -> Held {
        let mut state = self.state();
        while state.channels.contains_key(&state.next) {
            state.next = state.next.wrapping_add(1);
        }
        let id = state.next;
        state.next = id.wrapping_add(1);
        if !state.is_over {
            state.channels.insert(id, Channel::opening(answer));
            let mut payload = BytesMut::new();
            put_string(&mut payload, b"direct-tcpip");
            payload.put_u32(id);
            payload.put_u32(WINDOW);
            payload.put_u32(PACKET);
            put_string(&mut payload, host.as_bytes());
            payload.put_u32(u32::from(port));
            // Where the connection comes from is nobody's business.
            put_string(&mut payload, b"127.0.0.1");
            payload.put_u32(0);
            self.send(&mut state, message::CHANNEL_OPEN, &payload);
        }
        drop(state);
        Held {
            shared: self.clone(),
            id,
        }
    }

    fn send(&self, state: &mut State, kind: u8, payload: &[u8]) {
        self.send_with(state, kind, payload, &[]);
    }

    /// The same, with this behind it.
    fn send_with(&self, state: &mut State, kind: u8, payload: &[u8], data: &[u8]) {
        let length = 2 + payload.len() + data.len();
        let mut packet = BytesMut::with_capacity(4 + length);
        packet.put_u32(u32::try_from(length).unwrap_or(LONGEST));
        packet.put_u8(0);
        packet.put_u8(kind);
        packet.put_slice(payload);
        packet.put_slice(data);
        state.waiting += packet.len();
        state.out.push_back(packet.freeze());
        self.sending.notify_one();
    }

    /// `None`: nothing has come yet; nothing in it: nothing comes any more.
    fn take(&self, id: u32) -> io::Result<Option<Bytes>> {
        let mut state = self.state();
        let is_over = state.is_over;
        let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
        let channel = state.channels.get_mut(&id).ok_or_else(gone)?;
        if let Some(chunk) = channel.next_arrived() {
            channel.taken += u32::try_from(chunk.len()).unwrap_or(0);
            if channel.taken >= WINDOW / 2 && !channel.close_is_sent {
                let (far, taken) = (channel.far, std::mem::take(&mut channel.taken));
                channel.window += taken;
                let payload = words(&[far, taken]);
                self.send(&mut state, message::CHANNEL_WINDOW_ADJUST, &payload);
            }
            return Ok(Some(chunk));
        }
        match (channel.has_ended, channel.is_closed || is_over) {
            (true, _) => Ok(Some(Bytes::new())),
            // What was cut off is not taken for whole.
            (false, true) => Err(gone()),
            (false, false) => Ok(None),
        }
    }

    /// Whether any of `chunk` was taken.
    fn put(&self, id: u32, chunk: &mut Bytes) -> io::Result<bool> {
        let mut state = self.state();
        let is_over = state.is_over;
        let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
        let channel = state.channels.get_mut(&id).ok_or_else(gone)?;
        if channel.is_closed || is_over {
            return Err(gone());
        }
        let leave = usize::try_from(channel.leave).unwrap_or(usize::MAX);
        let length = chunk.len().min(channel.most).min(leave);
        if length == 0 {
            return Ok(false);
        }
        channel.leave -= length as u64;
        let payload = words(&[channel.far, u32::try_from(length).unwrap_or(PACKET)]);
        let data = chunk.split_to(length);
        self.send_with(&mut state, message::CHANNEL_DATA, &payload, &data);
        Ok(true)
    }

    async fn until_there_is_room(&self) {
        loop {
            let room = self.room.notified();
            if self.state().waiting < BACKLOG {
                return;
            }
            room.await;
        }
    }

    fn finish(&self, id: u32) {
        let mut state = self.state();
        let Some(channel) = state.channels.get(&id) else {
            return;
        };
        if !channel.close_is_sent {
            let payload = words(&[channel.far]);
            self.send(&mut state, message::CHANNEL_EOF, &payload);
        }
    }

    /// One that is not answered yet can't be closed: that is done when it is.
    fn leave(&self, id: u32) {
        let mut state = self.state();
        let Some(channel) = state.channels.get_mut(&id) else {
            return;
        };
        channel.is_left = true;
        channel.arrived.clear();
        channel.arrived_last = BytesMut::new();
        if channel.opening.is_none() {
            self.close(&mut state, id);
        }
    }

    /// Says so, unless it has been said. What both sides have closed is forgotten once nobody has it.
    fn close(&self, state: &mut State, id: u32) {
        let Some(channel) = state.channels.get_mut(&id) else {
            return;
        };
        let is_done = channel.is_closed && channel.is_left;
        if !std::mem::replace(&mut channel.close_is_sent, true) {
            let payload = words(&[channel.far]);
            self.send(state, message::CHANNEL_CLOSE, &payload);
        }
        if is_done {
            state.channels.remove(&id);
        }
    }

    fn end(&self) {
        let mut state = self.state();
        state.is_over = true;
        state.channels.retain(|_, channel| {
            channel.readable.notify_one();
            channel.writable.notify_one();
            // Whoever waits for an answer gets none.
            channel.opening.is_none() && !channel.is_left
        });
        drop(state);
        self.room.notify_waiters();
    }

    async fn write_all(&self, mut write: OwnedWriteHalf) -> Result<(), MuxError> {
        loop {
            let mut packets = {
                let mut state = self.state();
                let count = state.out.len().min(AT_ONCE);
                state.out.drain(..count).collect::<VecDeque<_>>()
            };
            if packets.is_empty() {
                self.sending.notified().await;
            }
            while !packets.is_empty() {
                let slices: Vec<_> = packets.iter().map(|it| IoSlice::new(it)).collect();
                let written = write.write_vectored(&slices).await?;
                if written == 0 {
                    return Err(io::Error::from(io::ErrorKind::WriteZero).into());
                }
                advance(&mut packets, written);
                let mut state = self.state();
                state.waiting -= written;
                if state.waiting < BACKLOG {
                    self.room.notify_waiters();
                }
            }
        }
    }

    async fn read_all(
        &self,
        mut read: BufReader<OwnedReadHalf>,
        runs_on: Option<OwnedFd>,
    ) -> Result<(), MuxError> {
        loop {
            let message = next_message(&mut read).await?;
            self.hear(message).ok_or(MuxError::Nonsense)?;
            if read.buffer().is_empty()
                && let Some(tcp) = &runs_on
            {
                // It only makes things faster.
                let _ = SockRef::from(tcp).set_tcp_quickack(true);
            }
        }
    }

    /// `None`: it makes no sense.
    fn hear(&self, mut message: Bytes) -> Option<()> {
        let _padding = message.try_get_u8().ok()?;
        let kind = message.try_get_u8().ok()?;
        if !(message::CHANNEL_OPEN..=message::CHANNEL_FAILURE).contains(&kind) {
            // About the connection, which is the master's.
            return Some(());
        }
        if kind == message::CHANNEL_OPEN {
            // The server opens nothing to us: nothing was asked for that it could open channels for.
            return None;
        }
        let id = message.try_get_u32().ok()?;
        let mut state = self.state();
        let channel = state.channels.get_mut(&id)?;
        match kind {
            message::CHANNEL_OPEN_CONFIRMATION => {
                let answer = channel.opening.take()?;
                channel.far = message.try_get_u32().ok()?;
                channel.leave = message.try_get_u32().ok()?.into();
                let most = message.try_get_u32().ok()?.clamp(1, PACKET);
                channel.most = usize::try_from(most).ok()?;
                if answer.send(Ok(())).is_err() || channel.is_left {
                    channel.is_left = true;
                    self.close(&mut state, id);
                }
            }
            message::CHANNEL_OPEN_FAILURE => {
                let answer = channel.opening.take()?;
                let reason = message.try_get_u32().ok()?;
                let words = take_string(&mut message)?;
                let _ = answer.send(Err(NotOpened {
                    is_prohibited: reason == PROHIBITED,
                    words: String::from_utf8_lossy(&words).into_owned(),
                }));
                state.channels.remove(&id);
                state.refused += 1;
            }
            message::CHANNEL_WINDOW_ADJUST => {
                channel.leave += u64::from(message.try_get_u32().ok()?);
                channel.writable.notify_one();
            }
            message::CHANNEL_DATA => {
                let data = take_string(&mut message)?;
                let length = u32::try_from(data.len()).ok()?;
                channel.window = channel.window.checked_sub(length)?;
                if !channel.is_left && !data.is_empty() {
                    channel.arrive(data);
                    channel.readable.notify_one();
                }
            }
            message::CHANNEL_EXTENDED_DATA => {
                // Nothing of the kind was asked for; it counts all the same (RFC 4254, section 5.2).
                let _kind = message.try_get_u32().ok()?;
                let length = u32::try_from(take_string(&mut message)?.len()).ok()?;
                channel.window = channel.window.checked_sub(length)?;
            }
            message::CHANNEL_EOF => {
                channel.has_ended = true;
                channel.readable.notify_one();
            }
            message::CHANNEL_CLOSE => {
                channel.is_closed = true;
                channel.readable.notify_one();
                channel.writable.notify_one();
                self.close(&mut state, id);
            }
            message::CHANNEL_REQUEST => {
                // None is understood, which is what is to be said to who wants an answer.
                let _name = take_string(&mut message)?;
                if message.try_get_u8().ok()? != 0 {
                    let payload = words(&[channel.far]);
                    self.send(&mut state, message::CHANNEL_FAILURE, &payload);
                }
            }
            _ => {}
        }
        Some(())
    }
}

impl Channel {
    fn opening(answer: oneshot::Sender<Result<(), NotOpened>>) -> Self {
        Self {
            opening: Some(answer),
            far: 0,
            leave: 0,
            most: 0,
            window: WINDOW,
            taken: 0,
            arrived: VecDeque::new(),
            arrived_last: BytesMut::new(),
            has_ended: false,
            is_closed: false,
            close_is_sent: false,
            is_left: false,
            readable: Arc::default(),
            writable: Arc::default(),
        }
    }

    fn arrive(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.arrived_last.extend_from_slice(&data);
        }
        if !self.arrived_last.is_empty()
            && (data.len() >= SMALL || self.arrived_last.len() >= SMALL)
        {
            self.arrived.push_back(self.arrived_last.split().freeze());
        }
        if data.len() >= SMALL {
            self.arrived.push_back(data);
        }
    }

    fn next_arrived(&mut self) -> Option<Bytes> {
        let last = |last: &mut BytesMut| (!last.is_empty()).then(|| last.split().freeze());
        self.arrived
            .pop_front()
            .or_else(|| last(&mut self.arrived_last))
    }
}

async fn next_message(read: &mut BufReader<OwnedReadHalf>) -> Result<Bytes, MuxError> {
    let length = read.read_u32().await?;
    if length > LONGEST {
        return Err(MuxError::Nonsense);
    }
    let mut message = vec![0; usize::try_from(length).unwrap_or(0)];
    read.read_exact(&mut message).await?;
    Ok(message.into())
}

/// Past what was written.
fn advance(packets: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = packets.front_mut() {
        if written < first.len() {
            return first.advance(written);
        }
        written -= first.len();
        packets.pop_front();
    }
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|it| it.to_be_bytes()).collect()
}

/// A message of PROTOCOL.mux.
fn framed(numbers: &[u32]) -> Vec<u8> {
    let length = u32::try_from(4 * numbers.len()).unwrap_or(0);
    [words(&[length]), words(numbers)].concat()
}

fn put_string(to: &mut BytesMut, text: &[u8]) {
    to.put_u32(u32::try_from(text.len()).unwrap_or(0));
    to.put_slice(text);
}

fn take_string(message: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(message.try_get_u32().ok()?).ok()?;
    (length <= message.len()).then(|| message.split_to(length))
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
