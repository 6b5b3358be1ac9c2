//! Where programs connect to on purpose: SOCKS 5 and HTTP CONNECT for what cannot be captured, and static tunnels.
//!
//! A connection that comes in here is an ordinary flow from then on: judged by the same rules, carried by the same dispatcher.

mod doorman;
mod handshake;
mod http;
pub(crate) mod reply;
mod socks5;
mod whose;

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use adit_rules::{EntryProtocol, Listen, Policy};
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::dispatch::Dispatcher;
use crate::listeners::{self, ListenError};
use doorman::Doorman;

pub use whose::NoDiag;

/// A listener that a policy wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub listen: Listen,
    /// Where to from there.
    pub leads: Leads,
}

/// Where a listener leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leads {
    /// Wherever the program asks for.
    Anywhere(EntryProtocol),
    /// Where the static tunnel of this name leads.
    Through(Arc<str>),
}

/// The listeners that are open. Dropped, all are closed; what came in through them goes on.
#[derive(Debug)]
pub struct Entrances {
    doorman: Arc<Doorman>,
    open: HashMap<SocketAddr, Open>,
}

#[derive(Debug)]
struct Open {
    leads: watch::Sender<Leads>,
    listener: Arc<TcpListener>,
    accepting: AbortHandle,
}

impl Drop for Open {
    /// Nobody is let in from now on, whoever else has the socket: a program that is just being started has all of ours.
    fn drop(&mut self) {
        self.accepting.abort();
        if let Err(error) = SockRef::from(&*self.listener).shutdown(Shutdown::Both) {
            tracing::warn!("a listener that cannot be closed: {error}");
        }
    }
}

/// All that a policy wants to be listened at.
pub fn wanted(policy: &Policy) -> Vec<Wanted> {
    let entries = policy.entries().iter().map(|entry| Wanted {
        listen: entry.listen,
        leads: Leads::Anywhere(entry.protocol),
    });
    let tunnels = policy.static_tunnels().iter().map(|tunnel| Wanted {
        listen: tunnel.listen(),
        leads: Leads::Through(tunnel.name().into()),
    });
    entries.chain(tunnels).collect()
}

impl Entrances {
    /// Listens nowhere yet. `places`: of all flows, however they come in.
    ///
    /// # Errors
    /// When the kernel cannot be asked whose a connection is.
    pub fn new(dispatcher: Arc<Dispatcher>, places: Arc<Semaphore>) -> Result<Self, NoDiag> {
        Ok(Self {
            doorman: Arc::new(Doorman::new(dispatcher, places)?),
            open: HashMap::new(),
        })
    }

    /// Listens where `wanted` says, and nowhere else. A listener that stays is not touched: nothing that waits in it is lost.
    ///
    /// # Errors
    /// When an address cannot be listened at; then all is as it was before.
    pub fn set(&mut self, wanted: &[Wanted]) -> Result<(), ListenError> {
        let mut leads = HashMap::new();
        let mut bound = Vec::new();
        for wanted in wanted {
            for address in wanted.listen.addresses() {
                leads.insert(address, wanted.leads.clone());
                if self.open.contains_key(&address) {
                    continue;
                }
                match listeners::listen_at(address) {
                    Ok(listener) => bound.push((address, listener)),
                    Err(error) if is_missing_family(wanted.listen, &error) => {
                        tracing::warn!("no IPv6: {error}: {}", error.source);
                        leads.remove(&address);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.open.retain(|address, open| {
            let stays = leads.get(address);
            if let Some(leads) = stays {
                open.leads.send_replace(leads.clone());
            }
            stays.is_some()
        });
        for (address, listener) in bound {
            if let Some(leads) = leads.remove(&address) {
                self.open.insert(address, self.accept_on(listener, leads));
            }
        }
        Ok(())
    }

    /// Where it listens, and where that leads.
    pub fn listening(&self) -> Vec<(SocketAddr, Leads)> {
        let open = self.open.iter();
        let mut all: Vec<_> = open
            .map(|(address, open)| (*address, open.leads.borrow().clone()))
            .collect();
        all.sort_by_key(|(address, _)| *address);
        all
    }

    fn accept_on(&self, listener: TcpListener, leads: Leads) -> Open {
        let (leads, now) = watch::channel(leads);
        let listener = Arc::new(listener);
        let accept_all = self.doorman.clone().accept_all(listener.clone(), now);
        let accepting = tokio::spawn(accept_all).abort_handle();
        Open {
            leads,
            listener,
            accepting,
        }
    }
}

/// A port alone means IPv6 too where the host has it.
fn is_missing_family(listen: Listen, error: &ListenError) -> bool {
    let unavailable = [
        nix::errno::Errno::EADDRNOTAVAIL,
        nix::errno::Errno::EAFNOSUPPORT,
    ];
    matches!(listen, Listen::Loopback(_))
        && error.address.is_ipv6()
        && unavailable.iter().any(|errno| {
            let code = error.source.raw_os_error();
            code == Some(*errno as i32)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::os::fd::AsFd as _;
    use std::path::Path;
    use std::time::Duration;

    use adit_rules::Date;
    use socket2::{Domain, Socket, Type};
    use tokio::sync::mpsc;
    use tokio::task::spawn_blocking;

    use super::doorman::MOST_HANDSHAKES;
    use crate::attribution::Attribution;
    use crate::capture_session::CaptureSession;
    use crate::chronicle::Chronicle;
    use crate::flow_table::FlowTable;
    use crate::listeners::Listeners;
    use crate::names::Names;
    use crate::rules_in_force::{InForce, RulesInForce};
    use crate::user::User;

    /// The entrances of a broker without helper and gateways, that blocks everything.
    fn entrances(places: usize) -> Entrances {
        let text = "version: 1\ndefault: block\n";
        let today = Date::new(2026, 7, 1).unwrap();
        let mut files = |_: &Path, _: usize| Err("there are none".to_owned());
        let policy = Policy::parse(Path::new("rules.yaml"), text, today, &mut files);
        let (questioning, _) = mpsc::channel(1);
        let listeners = Arc::new(Listeners::bind().unwrap());
        let session = CaptureSession::start("/nowhere".into(), listeners, questioning);
        let dispatcher = Dispatcher {
            rules: RulesInForce::new(InForce::new(policy.unwrap().policy, HashMap::new())),
            sockets: session.sockets.clone(),
            attribution: Attribution::start(session.sources.clone()).unwrap(),
            names: Names::default(),
            flows: Arc::new(FlowTable::default()),
            chronicle: Arc::new(Chronicle::new(None, User::current().unwrap())),
        };
        Entrances::new(Arc::new(dispatcher), Arc::new(Semaphore::new(places))).unwrap()
    }

    /// An address of the loopback network that nobody uses. It was never listened at: a program that was being started just then may have our socket.
    fn free() -> SocketAddr {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let any: SocketAddr = "127.83.7.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.local_addr().unwrap().as_socket().unwrap()
    }

    fn asking(protocol: EntryProtocol, address: SocketAddr) -> Wanted {
        Wanted {
            listen: Listen::At(address),
            leads: Leads::Anywhere(protocol),
        }
    }

    /// What is answered to `words`, until the end; or why there is no connection.
    async fn answer(address: SocketAddr, words: &'static [u8]) -> Result<Vec<u8>, String> {
        let asked = spawn_blocking(move || {
            let mut tcp = TcpStream::connect(address)?;
            tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
            tcp.write_all(words)?;
            let mut answer = Vec::new();
            tcp.read_to_end(&mut answer).map(|_| answer)
        });
        asked
            .await
            .unwrap()
            .map_err(|error| error.kind().to_string())
    }

    const SOCKS: &[u8] = b"\x05\x01\x00\x05\x01\x00\x03\x06a.test\x00\x50";
    const HTTP: &[u8] = b"CONNECT a.test:80 HTTP/1.1\r\n\r\n";
    const REFUSED: &str = "connection refused";

    #[tokio::test]
    async fn what_is_listened_at_can_be_changed_as_a_whole() {
        let mut entrances = entrances(8);
        let (one, other) = (free(), free());
        entrances
            .set(&[asking(EntryProtocol::Socks5, one)])
            .unwrap();
        let blocked = b"\x05\x00\x05\x02\x00\x01\0\0\0\0\0\0";
        assert_eq!(answer(one, SOCKS).await.unwrap(), blocked);
        assert_eq!(answer(other, SOCKS).await.unwrap_err(), REFUSED);
        let (http, socks) = (EntryProtocol::Http, EntryProtocol::Socks5);
        entrances
            .set(&[asking(http, one), asking(socks, other)])
            .unwrap();
        let said = answer(one, HTTP).await.unwrap();
        assert!(said.starts_with(b"HTTP/1.1 403 Forbidden\r\n"), "{said:?}");
        assert_eq!(answer(other, SOCKS).await.unwrap(), blocked);
        // As a program has it between its fork and its execve.
        let inherited = entrances.open[&one].listener.as_fd().try_clone_to_owned();
        entrances.set(&[]).unwrap();
        assert_eq!(answer(one, HTTP).await.unwrap_err(), REFUSED);
        entrances.set(&[asking(socks, one)]).unwrap();
        assert_eq!(answer(one, SOCKS).await.unwrap(), blocked);
        drop(inherited);
    }

    #[tokio::test]
    async fn who_says_nothing_takes_no_more_than_his_share() {
        let mut entrances = entrances(MOST_HANDSHAKES + 2);
        let one = free();
        entrances.set(&[asking(EntryProtocol::Http, one)]).unwrap();
        let silent = spawn_blocking(move || {
            let connect = |_| TcpStream::connect(one).unwrap();
            (0..MOST_HANDSHAKES).map(connect).collect::<Vec<_>>()
        });
        let mut silent = silent.await.unwrap();
        while entrances.doorman.free_handshakes() > 0 {
            tokio::task::yield_now().await;
        }
        let waits = tokio::spawn(answer(one, HTTP));
        drop(silent.pop());
        let said = waits.await.unwrap().unwrap();
        assert!(said.starts_with(b"HTTP/1.1 403 Forbidden\r\n"), "{said:?}");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_changes_nothing() {
        let mut entrances = entrances(8);
        let (one, other) = (free(), free());
        entrances.set(&[asking(EntryProtocol::Http, one)]).unwrap();
        let taken = std::net::TcpListener::bind("127.83.7.1:0").unwrap();
        let wanted = [
            asking(EntryProtocol::Socks5, one),
            asking(EntryProtocol::Socks5, other),
            asking(EntryProtocol::Socks5, taken.local_addr().unwrap()),
        ];
        let error = entrances.set(&wanted).unwrap_err();
        assert_eq!(error.address, taken.local_addr().unwrap());
        assert_eq!(answer(other, SOCKS).await.unwrap_err(), REFUSED);
        let said = answer(one, HTTP).await.unwrap();
        assert!(said.starts_with(b"HTTP/1.1 403 Forbidden\r\n"), "{said:?}");
        let listening = entrances.listening();
        assert_eq!(listening, [(one, Leads::Anywhere(EntryProtocol::Http))]);
    }
}
