//! Reading and writing sockets without asking twice.
//!
//! The kernel tells of a socket once, when it becomes ready (epoll(7), edge-triggered). A transfer that
//! is shorter than asked for has emptied or filled it, so the next would only be told to wait. Tokio's
//! own `poll_read` knows that, the `try_` methods do not. The readiness that is cleared is the one from
//! before the transfer: what happens to the socket meanwhile sets it anew.

use std::io::{self, IoSlice};

use bytes::{BufMut, BytesMut};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Appends up to `most` bytes to `buffer`, which has room for as many. 0 is the end.
pub(crate) fn read(tcp: &TcpStream, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
    transfer(tcp, Interest::READABLE, most, || {
        tcp.try_read_buf(&mut (&mut *buffer).limit(most))
    })
}

/// Writes some of `slices`.
pub(crate) fn write(tcp: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let most = slices.iter().map(|slice| slice.len()).sum();
    transfer(tcp, Interest::WRITABLE, most, || match slices {
        [only] => tcp.try_write(only),
        several => tcp.try_write_vectored(several),
    })
}

fn transfer(
    tcp: &TcpStream,
    interest: Interest,
    most: usize,
    mut act: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut short = None;
    let outcome = tcp.try_io(interest, || match act()? {
        moved if moved > 0 && moved < most => {
            short = Some(moved);
            Err(io::ErrorKind::WouldBlock.into())
        }
        moved => Ok(moved),
    });
    short.map_or(outcome, Ok)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    async fn is_readable(tcp: &TcpStream) -> bool {
        poll_fn(|cx| Poll::Ready(tcp.poll_read_ready(cx).is_ready())).await
    }

    async fn is_writable(tcp: &TcpStream) -> bool {
        poll_fn(|cx| Poll::Ready(tcp.poll_write_ready(cx).is_ready())).await
    }

    #[tokio::test]
    async fn a_short_read_leaves_nothing_to_ask_for() {
        let (near, mut far) = connected().await;
        let mut buffer = BytesMut::with_capacity(100);
        far.write_all(b"12345").await.unwrap();
        near.readable().await.unwrap();
        assert_eq!(read(&near, &mut buffer, 3).unwrap(), 3);
        assert!(is_readable(&near).await, "there is more");
        assert_eq!(read(&near, &mut buffer, 3).unwrap(), 2);
        assert!(!is_readable(&near).await, "there is no more");
        far.write_all(b"6").await.unwrap();
        near.readable().await.unwrap();
        assert_eq!(read(&near, &mut buffer, 3).unwrap(), 1);
        drop(far);
        near.readable().await.unwrap();
        assert_eq!(read(&near, &mut buffer, 3).unwrap(), 0);
        assert_eq!(&buffer[..], b"123456");
    }

    #[tokio::test]
    async fn a_short_write_leaves_nothing_to_ask_for() {
        let (near, mut far) = connected().await;
        near.writable().await.unwrap();
        let piece = vec![0; 1 << 20];
        let slices = [IoSlice::new(&piece), IoSlice::new(&piece)];
        let mut total = 0;
        while is_writable(&near).await {
            total += write(&near, &slices).unwrap();
        }
        assert!(total % (2 << 20) > 0, "the last was short, not refused");
        far.read_exact(&mut vec![0; total]).await.unwrap();
        near.writable().await.unwrap();
        assert_eq!(write(&near, &[IoSlice::new(b"?")]).unwrap(), 1);
    }
}
