//! Noticing a dead socket without reading from it, and closing one with a reset.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use std::time::Duration;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

/// A socket that is closed with a reset unless it is closed properly.
pub(super) struct Guarded(Option<TcpStream>);

impl Guarded {
    /// Small writes go out at once from here on, whoever connected or accepted the socket; the peer
    /// of a relay waits for them.
    pub(super) fn new(tcp: TcpStream) -> Self {
        // Fails only on a socket that is dead, which its first use tells.
        let _ = tcp.set_nodelay(true);
        Self(Some(tcp))
    }

    /// Closes with a reset.
    pub(super) fn reset(tcp: TcpStream) {
        drop(Self(Some(tcp)));
    }

    /// Closes after both directions have ended.
    pub(super) fn close(mut self) {
        self.0.take();
    }
}

impl Deref for Guarded {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        self.0
            .as_ref()
            .unwrap_or_else(|| unreachable!("taken only when closed"))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(tcp) = &self.0 {
            // tcp(7), socket(7): with a linger time of zero, close sends RST and drops what is queued.
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Waits for a socket's pending error (EPOLLERR).
pub(super) struct Fault<'a> {
    tcp: &'a TcpStream,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<Ready>> + Send + 'a>>>,
}

impl<'a> Fault<'a> {
    pub(super) fn new(tcp: &'a TcpStream) -> Self {
        Self { tcp, waiting: None }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let tcp = self.tcp;
        loop {
            let waiting = self
                .waiting
                .get_or_insert_with(|| Box::pin(tcp.ready(Interest::ERROR)));
            let outcome = ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
            match outcome.and_then(|_| tcp.take_error()) {
                Ok(Some(error)) | Err(error) => return Poll::Ready(error),
                Ok(None) => clear_error_readiness(tcp),
            }
        }
    }
}

/// The readiness stays set until an operation would block.
fn clear_error_readiness(tcp: &TcpStream) {
    let would_block = || Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
    let _ = tcp.try_io(Interest::ERROR, would_block);
}
