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
    #[error("its program has closed it")]
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
}
