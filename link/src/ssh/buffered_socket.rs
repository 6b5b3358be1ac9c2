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

/// Bytes read from the socket at once while much comes.
const READ_BUFFER: usize = 256 << 10;
/// Bytes read at once after a read that found less than this.
const SMALL_READ: usize = 16 << 10;
/// Above this much waiting, a paced channel takes nothing more. With what goes beside it (key exchange,
/// keepalives, window adjustments, all small) that is what bounds the buffer in practice.
const HIGH: usize = 256 << 10;
/// The most that waits to be sent, beyond which the session does wait: channels that are not paced
/// may each have their peer's window under way.
pub(super) const WRITE_BUFFER: usize = WINDOW as usize + (2 << 20);
/// Memory is given back when the buffer has run empty after it held more than this.
const KEEP: usize = 1 << 20;
/// What the kernel may hold that was not sent yet (TCP_NOTSENT_LOWAT, tcp(7)): enough to keep the
/// network busy, and little enough that what is decided to go next goes soon.
const NOT_SENT: u32 = 256 << 10;

/// A TCP connection for `russh::client::connect_stream` and `russh::server::run_stream`.
pub struct BufferedSocket {
    tcp: TcpStream,
    input: BytesMut,
    /// What the last read found.
    last_read: usize,
    output: BytesMut,
    /// The most that was in `output` since it was last empty; its own capacity tells only of the
    /// part behind what was sent.
    output_peak: usize,
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
    pub async fn low(&self) {
        while self.bytes() > HIGH {
            let low = self.shared.low.notified();
            if self.bytes() > HIGH {
                low.await;
            }
        }
    }

    pub(super) fn set(&self, bytes: usize) {
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
            last_read: 0,
            output: BytesMut::new(),
            output_peak: 0,
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
        if std::mem::take(&mut self.output_peak) > KEEP {
            self.output = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.tcp.poll_read_ready(cx)?.is_pending() {
                // While much comes, the next read needs the memory again at once.
                if self.last_read < SMALL_READ {
                    self.input = BytesMut::new();
                }
                return Poll::Pending;
            }
            let most = if self.last_read < SMALL_READ {
                SMALL_READ
            } else {
                READ_BUFFER
            };
            self.input.clear();
            self.input.reserve(most);
            match readiness::read(&self.tcp, &mut self.input, most) {
                Ok(read) => {
                    self.last_read = read;
                    return Poll::Ready(Ok(()));
                }
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
        self.output_peak = self.output_peak.max(self.output.len());
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (BufferedSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        (BufferedSocket::new(near.unwrap()), far.unwrap().0)
    }

    async fn nothing_to_read(socket: &mut BufferedSocket) {
        let mut buffer = [0; 10];
        let mut buffer = ReadBuf::new(&mut buffer);
        let read = std::future::poll_fn(|cx| {
            Poll::Ready(Pin::new(&mut *socket).poll_read(cx, &mut buffer))
        });
        assert!(read.await.is_pending());
    }

    #[tokio::test]
    async fn an_idle_socket_holds_no_memory_to_read_into() {
        let (mut near, mut far) = connected().await;
        nothing_to_read(&mut near).await;
        assert!(!near.input.try_reclaim(1));
        far.write_all(&vec![1; 1 << 20]).await.unwrap();
        near.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
        far.write_all(b"?").await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
        nothing_to_read(&mut near).await;
        assert!(!near.input.try_reclaim(1));
    }

    #[tokio::test]
    async fn a_backlog_that_was_sent_holds_no_memory() {
        let (mut near, mut far) = connected().await;
        let much = vec![1; WRITE_BUFFER];
        near.write_all(&much).await.unwrap();
        assert!(near.backlog().bytes() > KEEP);
        let reading = tokio::spawn(async move {
            far.read_exact(&mut vec![0; WRITE_BUFFER]).await.unwrap();
            far
        });
        std::future::poll_fn(|cx| near.flush_some(cx))
            .await
            .unwrap();
        reading.await.unwrap();
        assert_eq!(near.backlog().bytes(), 0);
        assert!(!near.output.try_reclaim(1));
    }
}
