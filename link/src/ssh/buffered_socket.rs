//! The socket under an SSH session whose writes never make the session wait.
//!
//! A russh session is one loop that awaits each of its writes and does not read meanwhile: two such
//! sessions that both have much to send stop for ever once both socket buffers are full. So a write
//! here is taken at once: by the socket, as far as it goes without waiting, the rest by a buffer.
//! The buffer is flushed when the session next reads or writes, which it does as soon as the socket
//! takes more, since the session's task is woken for that too. No task of its own, no copy as long
//! as the socket keeps up.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::tuning::WINDOW;
use crate::readiness;

/// Bytes read from the socket at once.
const READ_BUFFER: usize = 256 << 10;
/// The most that waits to be sent. A session can't have more under way than its peer's window, and
/// what goes beside it (key exchange, keepalives, window adjustments) is small.
const WRITE_BUFFER: usize = WINDOW as usize + (2 << 20);
/// Above this much waiting, a paced channel takes nothing more.
const HIGH: usize = 256 << 10;
/// Memory beyond this is given back when the buffer has run empty.
const KEEP: usize = 1 << 20;
/// What the kernel may hold that was not sent yet (TCP_NOTSENT_LOWAT, tcp(7)): enough to keep the
/// network busy, and little enough that what is decided to go next goes soon.
const NOT_SENT: u32 = 256 << 10;

/// A TCP connection for `russh::client::connect_stream` and `russh::server::run_stream`.
pub struct BufferedSocket {
    tcp: TcpStream,
    input: BytesMut,
    output: BytesMut,
    backlog: Backlog,
}

/// How much an SSH session's socket has yet to send. See `ChannelWriter::paced_by`.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    shared: Arc<Level>,
}

#[derive(Debug, Default)]
struct Level {
    bytes: AtomicUsize,
    low: Notify,
}

impl Backlog {
    /// Bytes that wait in user space.
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Waits until there are few.
    pub(crate) async fn low(&self) {
        while self.bytes() > HIGH {
            let low = self.shared.low.notified();
            if self.bytes() > HIGH {
                low.await;
            }
        }
    }

    fn set(&self, bytes: usize) {
        let before = self.shared.bytes.swap(bytes, Ordering::Relaxed);
        if before > HIGH && bytes <= HIGH {
            self.shared.low.notify_waiters();
        }
    }
}

impl BufferedSocket {
    /// Takes over a connected socket.
    pub fn new(tcp: TcpStream) -> Self {
        // Both are about speed only, and fail only on a socket that is dead.
        let _ = tcp.set_nodelay(true);
        let _ = SockRef::from(&tcp).set_tcp_notsent_lowat(NOT_SENT);
        let backlog = Backlog::default();
        Self {
            tcp,
            input: BytesMut::new(),
            output: BytesMut::new(),
            backlog,
        }
    }

    /// What the session's channel is paced by.
    pub fn backlog(&self) -> Backlog {
        self.backlog.clone()
    }

    /// Sends what waits, as far as the socket goes.
    fn flush_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            ready!(self.tcp.poll_write_ready(cx))?;
            match readiness::write(&self.tcp, &[IoSlice::new(&self.output)]) {
                Ok(written) => {
                    self.output.advance(written);
                    self.backlog.set(self.output.len());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.output.capacity() > KEEP {
            self.output = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.clear();
        self.input.reserve(READ_BUFFER);
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            match readiness::read(&self.tcp, &mut self.input, READ_BUFFER) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for BufferedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.flush_some(cx) {
            return Poll::Ready(Err(error));
        }
        if self.input.is_empty() {
            ready!(self.fill(cx))?;
        }
        let taken = self.input.len().min(out.remaining());
        out.put_slice(&self.input[..taken]);
        self.input.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BufferedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let flushed = self.flush_some(cx)?;
        let mut written = 0;
        if flushed.is_ready() {
            written = match readiness::write(&self.tcp, &[IoSlice::new(data)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                other => other?,
            };
        }
        let room = WRITE_BUFFER.saturating_sub(self.output.len());
        let rest = &data[written..];
        let kept = rest.len().min(room);
        self.output.extend_from_slice(&rest[..kept]);
        self.backlog.set(self.output.len());
        // Also asks to be woken when the socket takes more.
        let _ = self.flush_some(cx)?;
        match written + kept {
            0 if !data.is_empty() => Poll::Pending,
            taken => Poll::Ready(Ok(taken)),
        }
    }

    /// Starts what can be started. A session flushes after each write and must not wait for it.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = self.flush_some(cx)?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.flush_some(cx))?;
        match SockRef::from(&self.tcp).shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            Ok(()) | Err(_) => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for BufferedSocket {
    fn drop(&mut self) {
        // Whoever waits for room learns from its channel that there is no session any more.
        self.backlog.set(0);
    }
}
