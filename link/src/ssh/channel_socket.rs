//! A byte stream in chunks as the socket under an SSH session: a channel of another one, on the way over a jump host.
//!
//! As with [`BufferedSocket`](super::BufferedSocket), a write never makes the session wait, or both sessions could stop for ever:
//! the inner one writes and does not read, so the outer one can't hand over what it has received, and never learns that its peer
//! takes more. Here two tasks move the bytes: the outer channel's window and pace hold up only them.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};

use super::buffered_socket::{Backlog, WRITE_BUFFER};
use crate::chunks::{ReadChunks, WriteChunks};

/// Chunks that wait to be read. The session reads whenever it can.
const INCOMING: usize = 8;
/// Bytes handed on at once: a packet of OpenSSH's (`CHAN_TCP_PACKET_DEFAULT` in its channels.h).
const CHUNK: usize = 32 << 10;

/// A pair of chunk halves for `russh::client::connect_stream`. Must be made inside a tokio runtime.
pub struct ChannelSocket {
    incoming: mpsc::Receiver<io::Result<Bytes>>,
    input: Bytes,
    outgoing: Arc<Outgoing>,
}

#[derive(Default)]
struct Outgoing {
    queue: Mutex<Queue>,
    /// There is something to send, or an end to come to.
    changed: Notify,
    backlog: Backlog,
}

#[derive(Default)]
struct Queue {
    bytes: BytesMut,
    is_finished: bool,
    is_broken: bool,
    waiting: Option<Waker>,
}

impl Outgoing {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self) {
        self.lock().is_finished = true;
        self.changed.notify_one();
    }

    /// The next chunk; `None` when there will be none.
    async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut queue = self.lock();
                if !queue.bytes.is_empty() {
                    let most = queue.bytes.len().min(CHUNK);
                    let chunk = queue.bytes.split_to(most).freeze();
                    self.backlog.set(queue.bytes.len());
                    if let Some(waiting) = queue.waiting.take() {
                        waiting.wake();
                    }
                    return Some(chunk);
                }
                // Memory is not kept for the next burst.
                queue.bytes = BytesMut::new();
                if queue.is_finished {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    fn broke(&self) {
        let mut queue = self.lock();
        queue.is_broken = true;
        queue.bytes = BytesMut::new();
        self.backlog.set(0);
        if let Some(waiting) = queue.waiting.take() {
            waiting.wake();
        }
    }
}

impl ChannelSocket {
    /// Takes over both halves. They are finished and dropped with it.
    pub fn new<R: ReadChunks, W: WriteChunks>(read: R, write: W) -> Self {
        let (sender, incoming) = mpsc::channel(INCOMING);
        tokio::spawn(receive(read, sender));
        let outgoing = Arc::new(Outgoing::default());
        tokio::spawn(send(write, outgoing.clone()));
        Self {
            incoming,
            input: Bytes::new(),
            outgoing,
        }
    }

    /// What the session's channel is paced by.
    pub fn backlog(&self) -> Backlog {
        self.outgoing.backlog.clone()
    }
}

async fn receive<R: ReadChunks>(mut read: R, sender: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let chunk = tokio::select! {
            chunk = read.read_chunk() => chunk,
            () = sender.closed() => return,
        };
        let is_last = chunk.is_err();
        let Some(chunk) = chunk.transpose() else {
            return;
        };
        if sender.send(chunk).await.is_err() || is_last {
            return;
        }
    }
}

async fn send<W: WriteChunks>(mut write: W, outgoing: Arc<Outgoing>) {
    while let Some(chunk) = outgoing.next().await {
        if let Err(error) = write.write_chunk(chunk).await {
            tracing::debug!(%error, "the connection underneath is gone");
            return outgoing.broke();
        }
    }
    // It may be gone already.
    let _ = write.finish().await;
}

impl AsyncRead for ChannelSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.input.is_empty() {
            match ready!(self.incoming.poll_recv(cx)) {
                Some(chunk) => self.input = chunk?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.input.len().min(out.remaining());
        out.put_slice(&self.input[..taken]);
        self.input.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ChannelSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.outgoing.lock();
        if queue.is_broken || queue.is_finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let kept = data
            .len()
            .min(WRITE_BUFFER.saturating_sub(queue.bytes.len()));
        if kept == 0 && !data.is_empty() {
            queue.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        queue.bytes.extend_from_slice(&data[..kept]);
        self.outgoing.backlog.set(queue.bytes.len());
        drop(queue);
        self.outgoing.changed.notify_one();
        Poll::Ready(Ok(kept))
    }

    /// What was written is on its way. A session flushes after each write and must not wait for it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for ChannelSocket {
    fn drop(&mut self) {
        self.outgoing.finish();
        // Whoever waits for room learns from its channel that there is no session any more.
        self.outgoing.backlog.set(0);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};

    use super::*;
    use crate::pipe;

    fn connected(room: usize) -> (ChannelSocket, DuplexStream) {
        let (near, far) = duplex(room);
        let (read, write) = split(near);
        let (read, write) = pipe::split(read, write);
        (ChannelSocket::new(read, write), far)
    }

    #[tokio::test]
    async fn both_ends_get_all_and_their_ends() {
        let (mut near, mut far) = connected(1000);
        let sent: Vec<u8> = (0..100_000_u32).map(|it| it.to_le_bytes()[1]).collect();
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert!(got == sent);
        let writer = tokio::spawn(async move { far.write_all(&sent).await.map(|()| sent) });
        let mut got = Vec::new();
        near.read_to_end(&mut got).await.unwrap();
        assert!(got == writer.await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn a_write_waits_for_no_peer_until_the_buffer_is_full() {
        let (mut near, mut far) = connected(10);
        let sent = vec![7; WRITE_BUFFER];
        near.write_all(&sent).await.unwrap();
        assert!(near.backlog().bytes() > WRITE_BUFFER - 100);
        let more = tokio::spawn(async move { near.write_all(&[8; CHUNK]).await.map(|()| near) });
        let mut got = vec![0; WRITE_BUFFER + CHUNK];
        far.read_exact(&mut got).await.unwrap();
        let near = more.await.unwrap().unwrap();
        assert!(got[..WRITE_BUFFER] == sent && got[WRITE_BUFFER..] == [8; CHUNK]);
        assert_eq!(near.backlog().bytes(), 0);
    }

    #[tokio::test]
    async fn what_is_gone_underneath_is_told() {
        let (mut near, far) = connected(10);
        drop(far);
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        while near.write_all(b"12345").await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
