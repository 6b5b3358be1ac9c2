//! Where a redirected connection wanted to go: SO_ORIGINAL_DST (Linux, netfilter_ipv4.h, netfilter_ipv6/ip6_tables.h).

use std::net::SocketAddr;

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
    /// The address and port.
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl ClientAddress {
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
            tcp: Some(tcp),
            listener: own,
            source: ClientAddress(peer),
            destination: OriginalDestination(destination),
        })
    }

    /// Who spoke to whom, for those who outlive the socket.
    pub fn ends(&self) -> Ends {
        Ends {
            listener: self.listener,
            source: self.source.address(),
            destination: self.destination.address(),
        }
    }

    /// The accepted socket, for whoever relays from now on.
    pub fn into_tcp(mut self) -> TcpStream {
        self.tcp
            .take()
            .unwrap_or_else(|| unreachable!("taken only here"))
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if let Some(tcp) = self.tcp.take() {
            adit_link::reset(tcp);
        }
    }
}
