//! Lets in who may come in: programs of this user, as many as there is room for, that say in time where they want to go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_rules::{EntryProtocol, StaticTunnel};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::whose::{NoDiag, Whose};
use super::{Leads, handshake, reply};
use crate::accepted::{Accepted, Asked, Ends, Manner};
use crate::dispatch::Dispatcher;

/// Programs that have not said yet where they want to go.
pub(super) const MOST_HANDSHAKES: usize = 256;
/// How long one may take to say it.
const HANDSHAKE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Doorman {
    dispatcher: Arc<Dispatcher>,
    whose: Whose,
    places: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

impl Doorman {
    pub(super) fn new(dispatcher: Arc<Dispatcher>, places: Arc<Semaphore>) -> Result<Self, NoDiag> {
        Ok(Self {
            dispatcher,
            whose: Whose::new()?,
            places,
            handshakes: Arc::new(Semaphore::new(MOST_HANDSHAKES)),
        })
    }

    /// How many more programs may say where they want to go.
    #[cfg(test)]
    pub(super) fn free_handshakes(&self) -> usize {
        self.handshakes.available_permits()
    }

    /// Lets in what comes, one after another; whoever finds no room waits in the listener's backlog.
    pub(super) async fn accept_all(
        self: Arc<Self>,
        listener: Arc<TcpListener>,
        leads: watch::Receiver<Leads>,
    ) {
        loop {
            match listener.accept().await {
                Ok((tcp, peer)) => {
                    let leads = leads.borrow().clone();
                    self.admit(tcp, peer, leads).await;
                }
                Err(error) => {
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn admit(self: &Arc<Self>, tcp: TcpStream, peer: SocketAddr, leads: Leads) {
        let own = match tcp.local_addr() {
            Ok(own) => own,
            Err(error) => return tracing::debug!("a connection that is over: {error}"),
        };
        if let Err(error) = self.whose.is_ours(peer, own) {
            // Any user of the host can connect: no reason to fill the log, and no place is taken.
            tracing::debug!("refused {peer} at {own}: {error}");
            return adit_link::reset(tcp);
        }
        let Ok(place) = self.places.clone().acquire_owned().await else {
            return;
        };
        let doorman = self.clone();
        match leads {
            Leads::Through(name) => {
                let accepted = accepted(tcp, peer, own, Manner::Unasked);
                tokio::spawn(async move { doorman.through(accepted, &name, place).await });
            }
            Leads::Anywhere(protocol) => {
                let Ok(handshaking) = self.handshakes.clone().acquire_owned().await else {
                    return;
                };
                let ends = (peer, own);
                tokio::spawn(async move {
                    doorman.ask(tcp, ends, protocol, (place, handshaking)).await;
                });
            }
        }
    }

    async fn through(&self, accepted: Accepted, name: &Arc<str>, place: OwnedSemaphorePermit) {
        let rules = self.dispatcher.rules.now();
        let mut tunnels = rules.policy.static_tunnels().iter();
        let asked = tunnels.find(|it| it.name() == &**name).map(leading);
        drop(rules);
        if let Some(asked) = asked {
            self.dispatcher.carry(accepted, asked).await;
        }
        drop(place);
    }

    async fn ask(
        &self,
        mut tcp: TcpStream,
        (peer, own): (SocketAddr, SocketAddr),
        protocol: EntryProtocol,
        (place, handshaking): (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) {
        let asked = timeout(HANDSHAKE, handshake::shake(&mut tcp, protocol)).await;
        match asked {
            Ok(Ok(destination)) => {
                drop(handshaking);
                let accepted = accepted(tcp, peer, own, Manner::Told(protocol));
                let asked = Asked::Destination(destination);
                self.dispatcher.carry(accepted, asked).await;
            }
            Ok(Err(wrong)) => {
                tracing::debug!("{} at {own}: {wrong}", protocol.as_str());
                reply::last(tcp, &wrong.reply()).await;
            }
            Err(_) => {
                tracing::debug!("{} at {own}: nothing said in time", protocol.as_str());
                adit_link::reset(tcp);
            }
        }
        drop(place);
    }
}

fn accepted(tcp: TcpStream, peer: SocketAddr, own: SocketAddr, manner: Manner) -> Accepted {
    let ends = Ends {
        listener: own,
        source: peer,
        destination: own,
        is_redirected: false,
    };
    Accepted::new(tcp, ends, manner)
}

fn leading(tunnel: &StaticTunnel) -> Asked {
    Asked::Tunnel {
        name: tunnel.name().into(),
        to: tunnel.to().clone(),
    }
}
