//! Connections that have not authenticated yet: a bounded number, for a bounded time.
//!
//! One too many ends the oldest. Honest clients authenticate within a few round trips, so that it
//! takes a flood of `limit` connections within that time to keep one out, and connections that just
//! sit there never do.
use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use crate::throttle::seldom;

#[derive(Debug)]
pub(crate) struct Unauthenticated {
    limit: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// Oldest first.
    connections: VecDeque<(u64, TcpStream)>,
}

/// A connection's place among them, left when dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    among: Arc<Unauthenticated>,
    id: u64,
}

impl Unauthenticated {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            waiting: Mutex::default(),
        })
    }

    /// `socket` is a second descriptor of the connection: shutting it down ends the session that
    /// reads from the first, whatever state that is in.
    pub(crate) fn enter(self: &Arc<Self>, socket: TcpStream) -> Guest {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.connections.len() >= self.limit {
            if let Some((_, oldest)) = waiting.connections.pop_front() {
                seldom!(
                    warn,
                    limit = self.limit,
                    "too many unauthenticated connections: the oldest is closed"
                );
                shut_down(&oldest);
            }
        }
        let id = waiting.next;
        waiting.next += 1;
        waiting.connections.push_back((id, socket));
        Guest {
            among: Arc::clone(self),
            id,
        }
    }
}

impl Guest {
    /// Ends the connection, if it is still unauthenticated.
    pub(crate) fn turn_out(&self) {
        if let Some(socket) = self.leave() {
            shut_down(&socket);
        }
    }

    fn leave(&self) -> Option<TcpStream> {
        let mut waiting = self
            .among
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let index = waiting
            .connections
            .iter()
            .position(|(id, _)| *id == self.id)?;
        waiting.connections.remove(index).map(|(_, socket)| socket)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.leave();
    }
}

fn shut_down(socket: &TcpStream) {
    // An error means that the peer was faster.
    let _ = socket.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        (near, listener.accept().expect("accept").0)
    }

    #[test]
    fn one_too_many_ends_the_oldest_and_whoever_left_is_not_touched() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let (all, mut byte) = (Unauthenticated::new(2), [0]);
        let (mut gone, first) = pair(&listener);
        let (mut old, second) = pair(&listener);
        let (_new, third) = pair(&listener);
        let (_newer, fourth) = pair(&listener);
        let keep = first.try_clone().expect("clone");
        let guests = (all.enter(first), all.enter(second));
        drop(guests.0);
        let _later = (all.enter(third), all.enter(fourth));
        assert_eq!(
            old.read(&mut byte).expect("read"),
            0,
            "the oldest is closed"
        );
        gone.set_nonblocking(true).expect("nonblocking");
        assert_eq!(
            gone.read(&mut byte).expect_err("open").kind(),
            std::io::ErrorKind::WouldBlock
        );
        drop(keep);
    }
}
