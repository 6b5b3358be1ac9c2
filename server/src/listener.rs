//! Listens, accepts, and runs a Secure Shell session on each connection.
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_link::ssh::{BufferedSocket, Rekey};
use ipnet::IpNet;
use nix::errno::Errno;
use russh::keys::PrivateKey;
use russh::{Disconnect, SshId};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::authentication;
use crate::client::{Arrival, Client, ConversationError, MAX_CHANNELS};
use crate::config::Limits;
use crate::gateway::Gateway;
use crate::in_use::InUse;
use crate::login::{LoginFiles, Logins};
use crate::login_attempt::LoginAttempt;
use crate::methods::{self, Methods};
use crate::penalties::Penalties;
use crate::quota::Quota;
use crate::sessions::Ending;
use crate::throttle::{seldom, shown};
use crate::unauthenticated::{Guest, Unauthenticated, shut_down};

const BACKLOG: i32 = 1024;
/// Attempts to authenticate; offering a key that is not known counts as one.
const MAX_ATTEMPTS: usize = 6;
/// How long the answer to an offered key takes, known or not, so that its time does not tell
/// whether the user exists.
const OFFER_ANSWER: Duration = Duration::from_millis(100);
/// Pause when the system has no descriptor or memory for another connection.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// Time for the links of a session to end, all within it.
const GOODBYES: Duration = Duration::from_secs(4);
/// Time for a session to end after its goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// A listening socket; `[::]` takes IPv4 as well, whatever the system's default is.
///
/// # Errors
/// In use, not allowed, no such address.
pub fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(address).map_err(|source| ListenError { address, source })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections for one gateway.
#[derive(Clone)]
pub struct Server {
    gateway: Arc<Gateway>,
    logins: Logins,
    session: Arc<russh::server::Config>,
    connections: Arc<Quota>,
    unauthenticated: Arc<Unauthenticated>,
    penalties: Arc<Penalties>,
    /// Dropped with the last connection: see [`Drained`].
    alive: mpsc::WeakSender<()>,
}

/// Resolves when no connection is left.
pub struct Drained {
    alive: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
}

impl Drained {
    /// To be called when nothing accepts any more.
    pub async fn wait(mut self) {
        drop(self.alive);
        // Nothing is ever sent: this is the end of the last sender.
        while self.ended.recv().await.is_some() {}
    }

    /// The same, or `else_` before; then what is left to wait for.
    pub(crate) async fn over_or(self, else_: impl Future<Output = ()>) -> Option<Self> {
        // Whatever is accepted until it is dropped counts as well.
        let Self { alive, mut ended } = self;
        let weak = alive.downgrade();
        drop(alive);
        tokio::select! {
            _ = ended.recv() => None,
            () = else_ => weak.upgrade().map(|alive| Self { alive, ended }),
        }
    }
}

impl Server {
    /// A server with these host keys.
    pub fn new(
        gateway: Arc<Gateway>,
        files: LoginFiles,
        host_keys: Vec<PrivateKey>,
        penalty_exempt: Vec<IpNet>,
    ) -> (Self, Drained) {
        let limits = *gateway.limits();
        let (alive, ended) = mpsc::channel(1);
        let server = Self {
            session: Arc::new(session_config(&limits, host_keys, &files.methods)),
            connections: Quota::new(limits.max_connections_per_user, limits.max_connections),
            unauthenticated: Unauthenticated::new(
                limits.max_unauthenticated,
                limits.max_unauthenticated_per_source,
            ),
            penalties: Arc::new(Penalties::new(penalty_exempt)),
            alive: alive.downgrade(),
            logins: Logins::new(Arc::clone(&gateway), files),
            gateway,
        };
        (server, Drained { alive, ended })
    }

    /// Accepts until the gateway stops. An error of accept(2) never ends this.
    pub async fn accept_all(self, listener: TcpListener) {
        let (stopped, draining) = (self.gateway.stopped(), self.gateway.draining());
        tokio::pin!(stopped, draining);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stopped => return,
                _ = &mut draining => return,
            };
            match accepted {
                Ok((socket, peer)) => self.welcome(socket, peer),
                Err(error) if is_exhaustion(&error) => {
                    seldom!(error, %error, "no connection can be accepted for now");
                    sleep(EXHAUSTED).await;
                }
                // A connection that ended before it was accepted, or another matter of that one
                // connection: accept(2), ERRORS.
                Err(error) => seldom!(debug, %error, "accept"),
            }
        }
    }

    fn welcome(&self, socket: TcpStream, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if self.penalties.refuse(peer.ip(), Instant::now()) {
            seldom!(warn, %peer, "not listened to: too much from there came to nothing");
            return;
        }
        // Without it the server is being dropped already.
        let Some(alive) = self.alive.upgrade() else {
            return;
        };
        let server = self.clone();
        tokio::spawn(async move {
            let attempt = Arc::new(LoginAttempt::default());
            let ended = server.converse(socket, peer, &attempt, &alive).await;
            authentication::tell_unheard(&server.gateway, &attempt, peer);
            if let Some(offence) =
                attempt.offence(ended.as_ref().is_err_and(|error| error.is_violation()))
            {
                server.penalties.add(peer.ip(), offence, Instant::now());
            }
            if let Err(error) = ended {
                // As text, which is escaped: it can hold words of the peer's.
                let error = error.to_string();
                seldom!(info, %peer, error = shown(&error), "connection ended");
            }
            drop(alive);
        });
    }

    async fn converse(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        attempt: &Arc<LoginAttempt>,
        alive: &mpsc::Sender<()>,
    ) -> Result<(), ConversationError> {
        let second = socket2::SockRef::from(&socket)
            .try_clone()
            .map_err(russh::Error::from)?;
        let second: Arc<std::net::TcpStream> = Arc::new(second.into());
        let socket = BufferedSocket::new(socket);
        let guest = Arc::new(self.unauthenticated.enter(peer.ip(), Arc::clone(&second)));
        let patience = self.patience(&guest, attempt, peer);
        let arrival = Arrival {
            gateway: Arc::clone(&self.gateway),
            logins: self.logins.clone(),
            peer,
            guest,
            backlog: socket.backlog(),
            connections: Arc::clone(&self.connections),
            channels: Arc::new(Semaphore::new(MAX_CHANNELS as usize)),
            in_use: InUse::new(),
            ending: Arc::new(Ending::new()),
            attempt: Arc::clone(attempt),
            alive: alive.clone(),
        };
        let conversation = self.session_of(socket, arrival);
        tokio::pin!(patience, conversation);
        let ended = tokio::select! {
            ended = &mut conversation => ended,
            () = &mut patience => conversation.await,
        };
        // A session that took no goodbye goes on by itself, until its socket is gone.
        shut_down(&second);
        ended
    }

    /// Resolves when nothing new is taken and the connection has nothing open.
    async fn drained(&self, in_use: &InUse) {
        self.gateway.draining().await;
        in_use.idle_for(Duration::ZERO).await;
    }

    /// The files that say who may log in.
    pub(crate) fn logins(&self) -> &Logins {
        &self.logins
    }

    /// Turns a connection out that has not authenticated in time.
    fn patience(
        &self,
        guest: &Arc<Guest>,
        attempt: &Arc<LoginAttempt>,
        peer: SocketAddr,
    ) -> impl Future<Output = ()> + use<> {
        let grace = self.gateway.limits().login_grace;
        let (guest, attempt) = (Arc::downgrade(guest), Arc::clone(attempt));
        async move {
            sleep(grace).await;
            if let Some(guest) = guest.upgrade() {
                seldom!(info, %peer, "closed: did not log in in time");
                attempt.late();
                guest.turn_out();
            }
        }
    }

    async fn session_of(
        &self,
        socket: BufferedSocket,
        arrival: Arrival,
    ) -> Result<(), ConversationError> {
        let (peer, channels) = (arrival.peer, Arc::clone(&arrival.channels));
        let (in_use, ending) = (Arc::clone(&arrival.in_use), Arc::clone(&arrival.ending));
        let client = Client::new(arrival);
        let running = russh::server::run_stream(Arc::clone(&self.session), socket, client);
        let mut session = tokio::select! {
            running = running => running?,
            () = self.gateway.stopped() => return Ok(()),
        };
        let words: Arc<str> = tokio::select! {
            ended = &mut session => return ended,
            () = in_use.unused_for(self.gateway.limits().login_grace) => {
                tracing::info!(%peer, "closed: no link on it");
                "no link was begun in time".into()
            }
            () = self.drained(&in_use) => "the gateway takes nothing new".into(),
            why = ending.said() => why,
            () = self.gateway.stopped() => "the gateway is stopping".into(),
        };
        // First the links say their goodbye, each within its own limit; what waits for a client
        // that takes nothing has to be left.
        let _all = timeout(GOODBYES, channels.acquire_many(MAX_CHANNELS)).await;
        let handle = session.handle();
        let farewell = async {
            let reason = Disconnect::ByApplication;
            handle
                .disconnect(reason, words.to_string(), String::new())
                .await
                .ok();
            session.await
        };
        timeout(FAREWELL, farewell).await.unwrap_or(Ok(()))
    }
}

fn session_config(
    limits: &Limits,
    host_keys: Vec<PrivateKey>,
    methods: &Methods,
) -> russh::server::Config {
    let mut config = russh::server::Config {
        server_id: SshId::Standard(concat!("SSH-2.0-adit_", env!("CARGO_PKG_VERSION")).into()),
        methods: methods::kinds(&methods.next(&[])),
        auth_rejection_time: OFFER_ANSWER,
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: MAX_ATTEMPTS,
        keys: host_keys,
        ..russh::server::Config::default()
    };
    adit_link::ssh::tune_server(
        &mut config,
        Rekey {
            bytes: limits.rekey_bytes,
        },
    );
    config
}

fn is_exhaustion(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_resources_makes_the_accept_loop_pause() {
        // Numbers of Linux's errno(3).
        for (errno, pauses) in [
            (24, true),
            (23, true),
            (105, true),
            (12, true),
            (103, false),
            (110, false),
            (1, false),
        ] {
            assert_eq!(
                is_exhaustion(&io::Error::from_raw_os_error(errno)),
                pauses,
                "{errno}"
            );
        }
    }
}
