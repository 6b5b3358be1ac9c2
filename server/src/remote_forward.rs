//! `ssh -R`: listens here for a client, where its key's `permitlisten` says so.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::audit::{self, Question};
use crate::forward::Forwarding;
use crate::listener::{ListenError, listen};
use crate::quota::{self, Full};
use crate::sessions::Subject;

/// Places at which one connection may listen.
const MAX_LISTENERS: usize = 16;
/// Connections that wait for the client to take them, for each.
const MAX_OFFERED: usize = 64;
/// Pause when the system has no descriptor or memory for another connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Why a client does not get its place to listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotListening {
    #[error("no permitlisten of the key allows it")]
    NotPermitted,
    #[error("{MAX_LISTENERS} places are listened at already, or this one is")]
    TooMany,
    #[error("not an address to listen on")]
    NoAddress,
    #[error("too many streams and places: {0}")]
    Full(#[from] Full),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Where one connection listens. Dropped, it listens nowhere any more.
#[derive(Default)]
pub(crate) struct Listeners(Vec<Listener>);

struct Listener {
    host: String,
    port: u16,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listeners {
    /// Listens, and says on which port.
    pub(crate) fn start(
        &mut self,
        forwarding: Forwarding,
        host: &str,
        port: u32,
    ) -> Result<u16, NotListening> {
        self.0.retain(|listener| !listener.task.is_finished());
        let wanted = u16::try_from(port).map_err(|_| NotListening::NoAddress)?;
        if !forwarding.session.permissions().listens(host, wanted) {
            return Err(NotListening::NotPermitted);
        }
        let known = |listener: &Listener| listener.host == host && listener.port == wanted;
        if self.0.len() >= MAX_LISTENERS || self.0.iter().any(known) {
            return Err(NotListening::TooMany);
        }
        let listeners = bind(host, wanted)?;
        let first = listeners.first().ok_or(NotListening::NoAddress)?;
        let port = first.local_addr()?.port();
        let user = &forwarding.session.who.user;
        let places = listeners.iter().map(|_| forwarding.gateway.place(user));
        let places: Vec<_> = places.collect::<Result<_, _>>()?;
        let place = Arc::new(Place {
            host: host.to_owned(),
            wanted,
            port,
            forwarding,
        });
        let task = tokio::spawn(place.serve(listeners, places));
        self.0.push(Listener {
            host: host.to_owned(),
            port,
            task: task.abort_handle(),
        });
        Ok(port)
    }

    /// Was it listened there?
    pub(crate) fn stop(&mut self, host: &str, port: u32) -> bool {
        let before = self.0.len();
        self.0
            .retain(|listener| listener.host != host || u32::from(listener.port) != port);
        self.0.len() < before
    }
}

/// `localhost` is both loopback addresses, nothing or `*` all addresses (RFC 4254 section 7.1).
fn bind(host: &str, port: u16) -> Result<Vec<TcpListener>, NotListening> {
    let at = |address: IpAddr, port| SocketAddr::new(address, port);
    match host {
        "localhost" => {
            let first = listen(at(Ipv4Addr::LOCALHOST.into(), port))?;
            let port = first.local_addr()?.port();
            // A host without IPv6 has only the one.
            let second = listen(at(Ipv6Addr::LOCALHOST.into(), port)).ok();
            Ok(std::iter::once(first).chain(second).collect())
        }
        "" | "*" => match listen(at(Ipv6Addr::UNSPECIFIED.into(), port)) {
            Ok(both) => Ok(vec![both]),
            Err(_) => Ok(vec![listen(at(Ipv4Addr::UNSPECIFIED.into(), port))?]),
        },
        other => {
            let address = other.parse().map_err(|_| NotListening::NoAddress)?;
            Ok(vec![listen(at(address, port))?])
        }
    }
}

struct Place {
    host: String,
    /// As it was asked for: 0 for any.
    wanted: u16,
    port: u16,
    forwarding: Forwarding,
}

impl Place {
    /// `places` are held as long as it listens.
    async fn serve(self: Arc<Self>, listeners: Vec<TcpListener>, places: Vec<quota::Place>) {
        let session = &self.forwarding.session;
        let _audited = audit::Listening::new(&session.who, &self.host, self.port);
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(Arc::clone(&self).accept_all(listener));
        }
        let ended = async { while accepting.join_next().await.is_some() {} };
        tokio::select! {
            () = ended => {}
            () = session.not_permitted(|held| held.listens(&self.host, self.wanted)) => {}
            _ = self.forwarding.gateway.over(session) => {}
            _ = self.forwarding.gateway.draining() => {}
        }
        // Nobody can connect any more when the audit says so.
        accepting.shutdown().await;
        drop(places);
    }

    async fn accept_all(self: Arc<Self>, listener: TcpListener) {
        let mut offered = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept(), if offered.len() < MAX_OFFERED => accepted,
                Some(_) = offered.join_next() => continue,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let place = Arc::clone(&self);
                    offered.spawn(async move { place.offer(socket, peer).await });
                }
                Err(_) => sleep(EXHAUSTED).await,
            }
        }
    }

    /// Offers a connection to the client; once that has taken it, it goes its own way.
    async fn offer(&self, socket: TcpStream, peer: SocketAddr) {
        let forwarding = self.forwarding.clone();
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let asked = format!("{}:{}", self.host, self.port);
        let question = Question::new(Arc::clone(&forwarding.session.who), asked, None);
        // Counted from now on: whoever offers many holds as many sockets.
        let socket_place = match forwarding.gateway.place(&forwarding.session.who.user) {
            Ok(place) => place,
            Err(full) => {
                forwarding.gateway.crowded(question, full);
                return adit_link::reset(socket);
            }
        };
        let grace = forwarding.gateway.limits().login_grace;
        let offer = forwarding.handle.channel_open_forwarded_tcpip(
            self.host.as_str(),
            u32::from(self.port),
            peer.ip().to_string(),
            u32::from(peer.port()),
        );
        let Ok(Ok(channel)) = timeout(grace, offer).await else {
            return adit_link::reset(socket);
        };
        let subject = Subject::Accepted {
            host: self.host.clone(),
            wanted: self.wanted,
            port: self.port,
        };
        let session = &forwarding.session;
        let accepted =
            forwarding
                .gateway
                .accepted(question, session, socket, peer, (subject, socket_place));
        let in_use = forwarding.in_use.begin();
        match accepted {
            Ok(dialled) => {
                tokio::spawn(async move {
                    forwarding.relay(channel, dialled).await;
                    drop(in_use);
                });
            }
            Err(_) => forwarding.close(channel.id()).await,
        }
    }
}
