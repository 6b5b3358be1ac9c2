//! Where a redirected connection wanted to go: SO_ORIGINAL_DST (Linux, netfilter_ipv4.h, netfilter_ipv6/ip6_tables.h).

use std::net::SocketAddr;

use adit_capture::questions::Question;
use adit_capture::saved_syn;
use socket2::SockRef;
use tokio::net::TcpStream;

/// The address that the application asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginalDestination(SocketAddr);

/// The application's end of the connection as the listener saw it; the redirect may have changed its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(SocketAddr);

/// A connection that the kernel redirected to us. Dropped, it is reset: its program must not take an end that
/// nobody meant for the end of an answer.
#[derive(Debug)]
pub struct Captured {
    tcp: Option<TcpStream>,
    listener: SocketAddr,
    sequence: Option<u32>,
    /// The application's end.
    pub source: ClientAddress,
    /// Where it wanted to go.
    pub destination: OriginalDestination,
}

/// The addresses of a captured connection.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The listener that accepted it.
    pub listener: SocketAddr,
    /// The peer that it saw.
    pub source: SocketAddr,
    /// Where the application wanted to go.
    pub destination: SocketAddr,
}

/// Why an accepted connection is not a captured one. It is closed, never guessed at.
#[derive(Debug, thiserror::Error)]
pub enum NotCaptured {
    /// Someone connected to the listener itself.
    #[error("{0} connected to the listener itself")]
    Direct(SocketAddr),
    /// The kernel does not know.
    #[error("the kernel knows no original destination for {peer}")]
    Unknown {
        /// The peer.
        peer: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
}

impl OriginalDestination {
    /// Of a connection that is held before any redirect.
    pub fn of(question: &Question) -> Self {
        Self(question.destination)
    }

    /// The address and port.
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl ClientAddress {
    /// Of a connection that is held before any redirect.
    pub fn of(question: &Question) -> Self {
        Self(question.source)
    }

    /// The address and port.
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl Captured {
    /// Asks the kernel. `own` is the address of the listener that accepted.
    pub fn identify(
        tcp: TcpStream,
        peer: SocketAddr,
        own: SocketAddr,
    ) -> Result<Self, NotCaptured> {
        let unknown = |source| NotCaptured::Unknown { peer, source };
        let socket = SockRef::from(&tcp);
        let asked = if own.is_ipv4() {
            socket.original_dst_v4()
        } else {
            socket.original_dst_v6()
        };
        let destination = asked.map_err(unknown)?.as_socket().ok_or_else(|| {
            unknown(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "not an IP address",
            ))
        })?;
        if destination == own {
            return Err(NotCaptured::Direct(peer));
        }
        Ok(Self {
            sequence: sequence(&tcp),
            tcp: Some(tcp),
            listener: own,
            source: ClientAddress(peer),
            destination: OriginalDestination(destination),
        })
    }

    /// Its initial sequence number, where the kernel kept it.
    pub fn sequence(&self) -> Option<u32> {
        self.sequence
    }

    /// One as if it had been redirected.
    #[cfg(test)]
    pub(crate) fn accepted(
        (tcp, listener): (TcpStream, SocketAddr),
        peer: SocketAddr,
        destination: SocketAddr,
    ) -> Self {
        Self {
            sequence: sequence(&tcp),
            tcp: Some(tcp),
            listener,
            source: ClientAddress(peer),
            destination: OriginalDestination(destination),
        }
    }

    /// Who spoke to whom, for those who outlive the socket.
    pub fn ends(&self) -> Ends {
        Ends {
            listener: self.listener,
            source: self.source.address(),
            destination: self.destination.address(),
        }
    }

    /// Whether the client has reset it: its address may be another socket's by now. While this is not so, the kernel gives
    /// the four-tuple to nobody else.
    pub fn is_reset(&self) -> bool {
        self.tcp
            .as_ref()
            .is_none_or(|tcp| !matches!(tcp.take_error(), Ok(None)))
    }

    /// The accepted socket, for whoever relays from now on.
    pub fn into_tcp(mut self) -> TcpStream {
        self.tcp
            .take()
            .unwrap_or_else(|| unreachable!("taken only here"))
    }
}

fn sequence(tcp: &TcpStream) -> Option<u32> {
    saved_syn::sequence(tcp)
        .inspect_err(|error| tracing::debug!("no word on a connection's SYN: {error}"))
        .ok()
        .flatten()
}

impl Drop for Captured {
    fn drop(&mut self) {
        if let Some(tcp) = self.tcp.take() {
            adit_link::reset(tcp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    /// What a client does to its end, and whether that is a reset.
    async fn check(act: impl FnOnce(std::net::TcpStream), expected: bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(own).unwrap();
        let (tcp, peer) = listener.accept().await.unwrap();
        let mut captured = Captured::accepted((tcp, own), peer, own);
        assert!(!captured.is_reset());
        act(client);
        captured.tcp.as_ref().unwrap().readable().await.unwrap();
        assert_eq!(captured.is_reset(), expected);
        if !expected {
            let read = captured.tcp.as_mut().unwrap().read(&mut [0]).await;
            assert_eq!(read.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn a_reset_is_told_from_an_end() {
        check(drop, false).await;
        let reset = |client: std::net::TcpStream| {
            SockRef::from(&client)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        };
        check(reset, true).await;
    }
}
