//! Whose program a connection of this host's loopback is.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use adit_capture::sock_diag::{Diag, DiagError};

/// The kernel cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot look sockets up: {0}")]
pub struct NoDiag(#[from] DiagError);

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOurs {
    /// It is another user's.
    #[error("it is of another user (uid {0})")]
    Foreign(u32),
    /// Its program has closed it already, so that nobody can say whose it was.
    #[error("its program has closed it, or another's is on its way")]
    Nobodys,
    /// The kernel gave no answer.
    #[error("the kernel does not say whose it is: {0}")]
    Unknown(#[from] DiagError),
}

/// Asks the kernel whose sockets are.
#[derive(Debug)]
pub(super) struct Whose {
    uid: u32,
    /// The kernel answers while it is being asked: some microseconds.
    diag: Mutex<Diag>,
}

impl Whose {
    pub(super) fn new() -> Result<Self, NoDiag> {
        Ok(Self {
            uid: nix::unistd::geteuid().as_raw(),
            diag: Mutex::new(Diag::open()?),
        })
    }

    /// Whether the program whose socket connects `peer` to `own` is this user's.
    pub(super) fn is_ours(&self, peer: SocketAddr, own: SocketAddr) -> Result<(), NotOurs> {
        let mut diag = self.diag.lock().unwrap_or_else(PoisonError::into_inner);
        match diag.connection(peer, own)? {
            // Beside a socket that is bound to a device another of the same addresses may be on its way here (inet_bound_dev_eq in the
            // kernel's inet_hashtables.h): it is not the one that has come.
            Some(found) if found.is_connecting => Err(NotOurs::Nobodys),
            Some(found) if found.uid == self.uid => Ok(()),
            Some(found) => Err(NotOurs::Foreign(found.uid)),
            None => Err(NotOurs::Nobodys),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_our_own_is_ours_as_long_as_it_is_held() {
        let whose = Whose::new().unwrap();
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(any).unwrap();
            let own = listener.local_addr().unwrap();
            let client = std::net::TcpStream::connect(own).unwrap();
            let (_accepted, peer) = listener.accept().unwrap();
            assert!(whose.is_ours(peer, own).is_ok());
            drop(client);
            assert!(matches!(whose.is_ours(peer, own), Err(NotOurs::Nobodys)));
        }
        let stranger = Whose {
            uid: u32::MAX,
            ..whose
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(own).unwrap();
        let peer = client.local_addr().unwrap();
        assert!(matches!(
            stranger.is_ours(peer, own),
            Err(NotOurs::Foreign(_))
        ));
    }

    #[test]
    fn one_that_is_on_its_way_is_not_the_one_that_has_come() {
        use socket2::{Domain, Socket, Type};
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).unwrap();
        // One finds room; to the next nobody answers.
        listener.listen(0).unwrap();
        let own = listener.local_addr().unwrap().as_socket().unwrap();
        let _first = std::net::TcpStream::connect(own).unwrap();
        let second = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        second.set_nonblocking(true).unwrap();
        second.connect(&own.into()).unwrap_err();
        let peer = second.local_addr().unwrap().as_socket().unwrap();
        let judged = Whose::new().unwrap().is_ours(peer, own);
        assert!(matches!(judged, Err(NotOurs::Nobodys)), "{judged:?}");
    }
}
