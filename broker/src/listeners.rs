//! Where redirected connections arrive: one listener on each loopback address.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_capture::saved_syn;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// As many as the kernel lets wait (net.core.somaxconn bounds it).
const BACKLOG: i32 = 4096;

/// The listening sockets, IPv4 and, where the host has it, IPv6.
#[derive(Debug)]
pub struct Listeners {
    v4: TcpListener,
    v6: Option<TcpListener>,
}

/// Why a listener could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    /// The loopback address.
    pub address: SocketAddr,
    /// The system's error.
    pub source: std::io::Error,
}

impl Listeners {
    /// Binds both on ports of the kernel's choice. A host without IPv6 gets the first only.
    pub fn bind() -> Result<Self, ListenError> {
        let v4 = listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let v6 = match listen((Ipv6Addr::LOCALHOST, 0).into()) {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::warn!("no IPv6: {error}: {}", error.source);
                None
            }
        };
        Ok(Self { v4, v6 })
    }

    /// The sockets, for the claim.
    pub fn sockets(&self) -> impl Iterator<Item = &TcpListener> {
        std::iter::once(&self.v4).chain(&self.v6)
    }

    /// The next connection, its peer, and the listener's own address.
    pub async fn accept(&self) -> std::io::Result<(TcpStream, SocketAddr, SocketAddr)> {
        let v6 = async {
            match &self.v6 {
                Some(listener) => accept_on(listener).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accept_on(&self.v4) => accepted,
            accepted = v6 => accepted,
        }
    }
}

async fn accept_on(listener: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    let own = listener.local_addr()?;
    let (tcp, peer) = listener.accept().await?;
    Ok((tcp, peer, own))
}

/// Listens at an address that others know: one whose connections of before are still being forgotten by the kernel is free.
pub(crate) fn listen_at(address: SocketAddr) -> Result<TcpListener, ListenError> {
    listen_with(address, |socket| socket.set_reuse_address(true))
}

fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    listen_with(address, |socket| saved_syn::keep(socket))
}

fn listen_with(
    address: SocketAddr,
    prepare: impl FnOnce(&Socket) -> std::io::Result<()>,
) -> Result<TcpListener, ListenError> {
    let bound = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        keep_alive(&socket)?;
        prepare(&socket)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bound().map_err(|source| ListenError { address, source })
}

/// Accepted sockets inherit it: an idle flow's conntrack entry, which holds the redirection, never expires
/// while the flow lives.
fn keep_alive(socket: &Socket) -> std::io::Result<()> {
    let every = std::time::Duration::from_secs(60);
    let keepalive = TcpKeepalive::new().with_time(every).with_interval(every);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}
