//! Connections that have not authenticated yet: a bounded number, for a bounded time.
//!
//! One too many ends the oldest of the source that has most of them. Honest clients authenticate
//! within a few round trips, so that connections that just sit there never keep one out, and a flood
//! does only when it comes from about `limit` sources at once.
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sessions::Ending;
use crate::throttle::seldom;

#[derive(Debug)]
pub(crate) struct Unauthenticated {
    limit: usize,
    /// Of one source.
    each: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// Oldest first.
    connections: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    source: Source,
    socket: Arc<TcpStream>,
    turned_out: Arc<Ending>,
}

impl Waiter {
    /// Its session may be waiting for something else than its socket.
    fn turn_out(&self) {
        self.turned_out.end("too many connections, or too late");
        shut_down(&self.socket);
    }
}

/// Whoever has one address has it alone, but one of IPv6 comes with the 2^64 others of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                Self(Ipv6Addr::from(network).into())
            }
        }
    }
}

impl Waiting {
    fn of(&self, source: Source) -> usize {
        let of_source = |waiter: &&Waiter| waiter.source == source;
        self.connections.iter().filter(of_source).count()
    }

    fn take_oldest(&mut self, source: Source) -> Option<Waiter> {
        let index = self.connections.iter().position(|w| w.source == source)?;
        self.connections.remove(index)
    }

    /// Takes out the oldest of the source that has most, `new` counted as one of its own.
    fn take_surplus(&mut self, new: Source) -> Option<Waiter> {
        let mut counts = HashMap::from([(new, 1_usize)]);
        for waiter in &self.connections {
            *counts.entry(waiter.source).or_default() += 1;
        }
        let of = |waiter: &Waiter| counts.get(&waiter.source).copied();
        let most = self.connections.iter().filter_map(of).max();
        let index = self.connections.iter().position(|w| of(w) == most)?;
        self.connections.remove(index)
    }
}

/// A connection's place among them, left when dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    among: Arc<Unauthenticated>,
    id: u64,
    turned_out: Arc<Ending>,
}

impl Unauthenticated {
    pub(crate) fn new(limit: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            each,
            waiting: Mutex::default(),
        })
    }

    /// `socket` is a second descriptor of the connection: shutting it down ends the session that
    /// reads from the first, whatever state that is in.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr, socket: Arc<TcpStream>) -> Guest {
        let source = Source::of(from);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.of(source) >= self.each {
            let Some(oldest) = waiting.take_oldest(source) else {
                break;
            };
            let (each, from) = (self.each, source.0);
            seldom!(warn, each, %from, "too many unauthenticated connections of one source: one is closed");
            oldest.turn_out();
        }
        while waiting.connections.len() >= self.limit {
            let Some(surplus) = waiting.take_surplus(source) else {
                break;
            };
            let (limit, from) = (self.limit, surplus.source.0);
            seldom!(warn, limit, %from, "too many unauthenticated connections: one is closed");
            surplus.turn_out();
        }
        let id = waiting.next;
        waiting.next += 1;
        let turned_out = Arc::new(Ending::new());
        waiting.connections.push_back(Waiter {
            id,
            source,
            socket,
            turned_out: Arc::clone(&turned_out),
        });
        Guest {
            among: Arc::clone(self),
            id,
            turned_out,
        }
    }
}

impl Guest {
    /// Ends the connection, if it is still unauthenticated.
    pub(crate) fn turn_out(&self) {
        if let Some(waiter) = self.leave() {
            waiter.turn_out();
        }
    }

    /// Resolves when it was, by whomever.
    pub(crate) async fn turned_out(&self) {
        self.turned_out.said().await;
    }

    fn leave(&self) -> Option<Waiter> {
        let mut waiting = self
            .among
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let index = waiting
            .connections
            .iter()
            .position(|waiter| waiter.id == self.id)?;
        waiting.connections.remove(index)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.leave();
    }
}

pub(crate) fn shut_down(socket: &TcpStream) {
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

    fn is_closed(near: &mut TcpStream) -> bool {
        near.set_nonblocking(true).expect("nonblocking");
        match near.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                false
            }
        }
    }

    /// Connections from these sources one after another, and which of them are closed then.
    fn check(limit: usize, sources: &[&str], closed: &[usize]) {
        check_each(limit, limit, sources, closed);
    }

    fn check_each(limit: usize, each: usize, sources: &[&str], closed: &[usize]) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let all = Unauthenticated::new(limit, each);
        let (mut near, mut guests) = (Vec::new(), Vec::new());
        for source in sources {
            let (connected, accepted) = pair(&listener);
            near.push(connected);
            guests.push(all.enter(source.parse().expect("address"), Arc::new(accepted)));
        }
        let found: Vec<_> = (0..near.len())
            .filter(|i| is_closed(&mut near[*i]))
            .collect();
        assert_eq!(found, closed, "{sources:?}");
    }

    #[test]
    fn one_too_many_ends_the_oldest_of_the_source_that_has_most() {
        let (a, b, c) = ("192.0.2.1", "192.0.2.2", "192.0.2.3");
        check(3, &[a, b, c], &[]);
        check(3, &[a, b, c, "192.0.2.4"], &[0]);
        check(3, &[b, a, a, c], &[1]);
        check(3, &[b, a, a, a, a, a], &[1, 2, 3]);
        check(3, &[b, a, c, a], &[1]);
        // A network of IPv6 is one source, and a mapped address is IPv4.
        let (near, other) = ("2001:db8::1", "2001:db8:0:0:ffff::2");
        check(3, &[b, near, other, "2001:db8:0:1::1"], &[1]);
        check(3, &[b, a, "::ffff:192.0.2.1", c], &[1]);
        // Of one source, though there is room.
        check_each(9, 2, &[a, b, a, b, a, c, a], &[0, 2]);
    }

    #[test]
    fn whoever_left_is_not_touched() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let all = Unauthenticated::new(2, 2);
        let from = "192.0.2.1".parse().expect("address");
        let (mut gone, accepted) = pair(&listener);
        let _session = accepted.try_clone().expect("clone");
        drop(all.enter(from, Arc::new(accepted)));
        let later: Vec<_> = (0..3).map(|_| pair(&listener)).collect();
        let (_near, accepted): (Vec<_>, Vec<_>) = later.into_iter().unzip();
        let _guests: Vec<_> = accepted
            .into_iter()
            .map(|one| all.enter(from, Arc::new(one)))
            .collect();
        assert!(!is_closed(&mut gone));
    }
}
