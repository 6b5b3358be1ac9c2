//! Where a redirected connection wanted to go: SO_ORIGINAL_DST (Linux, netfilter_ipv4.h, netfilter_ipv6/ip6_tables.h).

use std::net::SocketAddr;

use adit_capture::questions::Question;
use adit_capture::saved_syn;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::accepted::{Accepted, Ends, Manner};

/// The address that the application asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginalDestination(SocketAddr);

/// The application's end of the connection as the listener saw it; the redirect may have changed its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(SocketAddr);

/// A connection that the kernel redirected to us.
#[derive(Debug)]
pub struct Captured {
    accepted: Accepted,
    sequence: Option<u32>,
    /// The application's end.
    pub source: ClientAddress,
    /// Where it wanted to go.
    pub destination: OriginalDestination,
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

    /// Of a connection that came to us on purpose.
    pub fn seen(peer: SocketAddr) -> Self {
        Self(peer)
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
        Ok(Self::of((tcp, own), peer, destination))
    }

    /// Its initial sequence number, where the kernel kept it.
    pub fn sequence(&self) -> Option<u32> {
        self.sequence
    }

    /// One as if it had been redirected.
    #[cfg(test)]
    pub(crate) fn accepted(
        at: (TcpStream, SocketAddr),
        peer: SocketAddr,
        destination: SocketAddr,
    ) -> Self {
        Self::of(at, peer, destination)
    }

    /// Who spoke to whom.
    pub fn ends(&self) -> Ends {
        self.accepted.ends()
    }

    /// The accepted socket, for whoever relays from now on.
    pub fn into_tcp(self) -> TcpStream {
        self.accepted.into_tcp()
    }

    fn of((tcp, listener): (TcpStream, SocketAddr), peer: SocketAddr, to: SocketAddr) -> Self {
        let ends = Ends {
            listener,
            source: peer,
            destination: to,
            is_redirected: true,
        };
        Self {
            sequence: sequence(&tcp),
            accepted: Accepted::new(tcp, ends, Manner::Unasked),
            source: ClientAddress(peer),
            destination: OriginalDestination(to),
        }
    }
}

impl From<Captured> for Accepted {
    fn from(captured: Captured) -> Self {
        captured.accepted
    }
}

fn sequence(tcp: &TcpStream) -> Option<u32> {
    saved_syn::sequence(tcp)
        .inspect_err(|error| tracing::debug!("no word on a connection's SYN: {error}"))
        .ok()
        .flatten()
}
