//! The listening sockets that come with a claim. The claim's ports are theirs, so nobody can claim a port of someone else.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use adit_capture::mark;
use adit_capture::sock_diag::{Diag, DiagError};
use nix::sys::stat::fstat;
use socket2::{Protocol, SockRef, Type};

use super::program::Ports;

/// A socket that is not what a claim needs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenerError {
    #[error("a claim comes with one listening socket for each family, not {0} sockets")]
    Count(usize),
    #[error("one of the descriptors is not a TCP socket that listens")]
    NotListening,
    #[error("a listening socket has to be bound to 127.0.0.1 or ::1, not to {0}")]
    Address(String),
    #[error("two listening sockets of one family")]
    Twice,
    #[error("the listening socket at {0} is not of this network namespace")]
    Elsewhere(SocketAddr),
    #[error("cannot mark the listening sockets: {0}")]
    Mark(#[source] io::Error),
    #[error("there is no mark for listening sockets of user {0}")]
    NoMark(u32),
    #[error("cannot look at a listening socket: {0}")]
    Look(#[from] io::Error),
    #[error("cannot look a listening socket up: {0}")]
    Diag(#[from] DiagError),
}

/// Listening sockets that were found to be what they have to be. As long as they are kept, nobody else can bind their ports.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) ports: Ports,
    sockets: Vec<OwnedFd>,
}

impl Listeners {
    pub(crate) fn check(
        sockets: Vec<OwnedFd>,
        diag: &mut Diag,
    ) -> Result<Listeners, ListenerError> {
        let mut ports = Ports::default();
        if sockets.is_empty() || sockets.len() > 2 {
            return Err(ListenerError::Count(sockets.len()));
        }
        for socket in &sockets {
            let address = listening(socket, diag)?;
            let slot = if address.ip() == Ipv4Addr::LOCALHOST {
                &mut ports.v4
            } else if address.ip() == Ipv6Addr::LOCALHOST {
                &mut ports.v6
            } else {
                return Err(ListenerError::Address(address.to_string()));
            };
            if slot.replace(address.port()).is_some() {
                return Err(ListenerError::Twice);
            }
        }
        Ok(Listeners { ports, sockets })
    }

    /// Marks them as this user's, so that the kernel's rules know them from whoever binds their ports later. The mark sits on
    /// the open socket that the broker shares.
    pub(crate) fn mark(&self, uid: u32) -> Result<(), ListenerError> {
        let mark = mark::of_listener(uid).ok_or(ListenerError::NoMark(uid))?;
        self.sockets
            .iter()
            .try_for_each(|socket| SockRef::from(socket).set_mark(mark))
            .map_err(ListenerError::Mark)
    }

    /// Takes the mark back from those that are not among `kept`.
    pub(crate) fn unmark(&self, kept: Option<&Listeners>) {
        let number = |socket: &OwnedFd| fstat(socket).map(|stat| stat.st_ino).ok();
        let kept: Vec<_> = kept.iter().flat_map(|kept| &kept.sockets).collect();
        for socket in &self.sockets {
            if kept.iter().any(|kept| number(kept) == number(socket)) {
                continue;
            }
            // It opens its own user's guard and no other's.
            if let Err(error) = SockRef::from(socket).set_mark(0) {
                tracing::error!(%error, "a listening socket keeps its mark");
            }
        }
    }
}

fn listening(socket: &OwnedFd, diag: &mut Diag) -> Result<SocketAddr, ListenerError> {
    let view = SockRef::from(socket);
    let listens = view.is_listener().is_ok_and(|yes| yes)
        && view.r#type().is_ok_and(|kind| kind == Type::STREAM)
        && view
            .protocol()
            .is_ok_and(|protocol| protocol == Some(Protocol::TCP));
    if !listens {
        return Err(ListenerError::NotListening);
    }
    let address = view
        .local_addr()?
        .as_socket()
        .ok_or_else(|| ListenerError::Address("no address".into()))?;
    // Someone in another network namespace can connect here too, and a port of there says nothing about a port of here.
    let inode = fstat(socket).map_err(io::Error::from)?.st_ino;
    let here = diag.listener(address)?;
    if here.is_none_or(|found| found.inode != inode) {
        return Err(ListenerError::Elsewhere(address));
    }
    Ok(address)
}
