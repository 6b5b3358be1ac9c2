//! What an SSH session runs on: a TCP connection, or a channel of the session with a jump host.

use std::os::fd::OwnedFd;

use adit_link::ssh::{Backlog, BufferedSocket, ChannelSocket};
use russh::ChannelOpenFailure;
use russh::client::Handle;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::{ConnectError, HANDSHAKE_TIMEOUT, Target};
use super::host_key::HostKeyCheck;

pub(super) enum Carrier {
    Tcp(BufferedSocket),
    Channel(ChannelSocket),
}

impl Carrier {
    pub(super) fn of(tcp: TcpStream) -> Self {
        Self::Tcp(BufferedSocket::new(tcp))
    }

    /// A connection from the jump host to `next`, whose name it resolves.
    pub(super) async fn onwards(
        jump: &Handle<HostKeyCheck>,
        backlog: Backlog,
        next: &Target,
    ) -> Result<Self, ConnectError> {
        let gateway = &next.gateway;
        // Where the connection comes from is asked for (RFC 4254, section 7.2), and ours is nobody's business.
        let opened = jump.channel_open_direct_tcpip(
            gateway.host.clone(),
            u32::from(gateway.port),
            "127.0.0.1",
            0,
        );
        let timed_out = |_| ConnectError::TimedOut {
            step: "asking for a connection onwards",
            after: HANDSHAKE_TIMEOUT,
        };
        let opened = timeout(HANDSHAKE_TIMEOUT, opened)
            .await
            .map_err(timed_out)?;
        let channel = opened.map_err(|error| {
            let russh::Error::ChannelOpenFailure(reason) = error else {
                return error.into();
            };
            ConnectError::Onwards {
                to: gateway.to_string(),
                denied: matches!(reason, ChannelOpenFailure::AdministrativelyProhibited),
            }
        })?;
        let (reader, writer) = adit_link::ssh::split(channel);
        Ok(Self::Channel(ChannelSocket::new(
            reader,
            writer.paced_by(backlog),
        )))
    }

    /// The near end of it, for another process.
    pub(super) fn into_descriptor(self) -> std::io::Result<OwnedFd> {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        far.set_nonblocking(true)?;
        let mut far = tokio::net::UnixStream::from_std(far)?;
        tokio::spawn(async move {
            // Its ends are seen at both of its ends.
            let _ = match self {
                Self::Tcp(mut socket) => copy_bidirectional(&mut socket, &mut far).await,
                Self::Channel(mut socket) => copy_bidirectional(&mut socket, &mut far).await,
            };
        });
        Ok(near.into())
    }

    /// How much has yet to be sent.
    pub(super) fn backlog(&self) -> Backlog {
        match self {
            Self::Tcp(socket) => socket.backlog(),
            Self::Channel(socket) => socket.backlog(),
        }
    }
}
