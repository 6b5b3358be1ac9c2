//! What a client may do over Secure Shell: log in with a key and ask for links. Everything else is
//! refused.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_link::ssh::{Backlog, SUBSYSTEM};
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelMsg, ChannelOpenFailure, Disconnect, Pty};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::audit::Who;
use crate::authorized_keys::{self, KeysPath};
use crate::gateway::Gateway;
use crate::link_session;
use crate::unauthenticated::Guest;
use crate::user_name::UserName;

/// Links of one connection at a time. A broker needs one, and a second while it renews the first.
pub(crate) const MAX_CHANNELS: u32 = 4;
/// How long an answer to a wrong password or signature takes; a key that is merely offered is
/// answered sooner (see [`crate::listener`]), because agents offer several.
const REJECTION: Duration = Duration::from_secs(1);

/// What a client finds when it connects.
pub(crate) struct Arrival {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) keys: KeysPath,
    pub(crate) peer: SocketAddr,
    /// Its place among the unauthenticated connections.
    pub(crate) guest: Arc<Guest>,
    /// What its socket has yet to send.
    pub(crate) backlog: Backlog,
    /// Places among the authenticated connections, of all clients.
    pub(crate) connections: Arc<Semaphore>,
    /// Places for this client's channels, [`MAX_CHANNELS`].
    pub(crate) channels: Arc<Semaphore>,
}

/// One connection's side of the conversation.
pub(crate) struct Client {
    gateway: Arc<Gateway>,
    keys: KeysPath,
    peer: SocketAddr,
    backlog: Backlog,
    connections: Arc<Semaphore>,
    channels: Arc<Semaphore>,
    /// Until the client has authenticated.
    guest: Option<Arc<Guest>>,
    /// From then on.
    place: Option<OwnedSemaphorePermit>,
    who: Option<Arc<Who>>,
    /// Channels on which a link was begun: a second request on the same one is refused.
    begun: Vec<ChannelId>,
}

impl Client {
    pub(crate) fn new(arrival: Arrival) -> Self {
        let Arrival {
            gateway,
            keys,
            peer,
            guest,
            backlog,
            connections,
            channels,
        } = arrival;
        let (guest, place, who, begun) = (Some(guest), None, None, Vec::new());
        Self {
            gateway,
            keys,
            peer,
            backlog,
            connections,
            channels,
            guest,
            place,
            who,
            begun,
        }
    }

    fn is_authorized(&self, user: &str, key: &PublicKey, algorithm: &Algorithm) -> bool {
        let peer = self.peer;
        let Ok(name) = user.parse::<UserName>() else {
            tracing::info!(%peer, user, "refused: not a user name");
            return false;
        };
        // SHA-1 (RFC 8332 section 1) and keys that are too weak are nobody's.
        let sha1 = matches!(algorithm, Algorithm::Rsa { hash: None });
        if sha1 || !authorized_keys::is_strong(key.key_data()) {
            tracing::info!(%peer, user, "refused: a signature of SHA-1 or a weak key");
            return false;
        }
        let fingerprint = fingerprint(key);
        match authorized_keys::is_authorized(&self.keys, &name, key) {
            Ok(true) => true,
            Ok(false) => {
                tracing::info!(%peer, user, key = fingerprint, "refused: not a key of this user");
                false
            }
            Err(error) => {
                let key = fingerprint;
                tracing::info!(%peer, user, key, %error, "refused: no usable authorized keys");
                false
            }
        }
    }

    fn refuse(
        &self,
        channel: ChannelId,
        what: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.log_refused(what);
        session.channel_failure(channel)
    }

    fn log_refused(&self, what: &str) {
        let user = self
            .who
            .as_ref()
            .map(|who| who.user.as_str())
            .unwrap_or_default();
        tracing::info!(peer = %self.peer, user, what, "refused: only links are served");
    }
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

async fn reject_slowly() -> Auth {
    sleep(REJECTION).await;
    Auth::reject()
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_password(&mut self, _user: &str, _password: &str) -> Result<Auth, Self::Error> {
        Ok(reject_slowly().await)
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        _response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        Ok(reject_slowly().await)
    }

    async fn auth_openssh_certificate(
        &mut self,
        _user: &str,
        _certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        Ok(reject_slowly().await)
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        match self.is_authorized(user, offer.public_key, offer.algorithm) {
            true => Ok(Auth::Accept),
            false => Ok(Auth::reject()),
        }
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        // Asked again, not remembered: the file may have changed, or the offer been of another
        // user.
        if !self.is_authorized(user, key.public_key, key.algorithm) {
            return Ok(reject_slowly().await);
        }
        let Ok(user) = user.parse() else {
            return Ok(reject_slowly().await);
        };
        let key = fingerprint(key.public_key);
        self.who = Some(Arc::new(Who {
            user,
            from: self.peer.to_string(),
            key,
        }));
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        self.place = Arc::clone(&self.connections).try_acquire_owned().ok();
        if self.place.is_none() {
            tracing::warn!(peer = %self.peer, "refused: too many connections");
            return session.disconnect(
                Disconnect::TooManyConnections,
                "the gateway has too many connections",
                "",
            );
        }
        self.guest = None;
        if let Some(who) = &self.who {
            let (user, key) = (who.user.as_str(), who.key.as_str());
            tracing::info!(peer = %self.peer, user, key, "logged in");
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let channel_place = Arc::clone(&self.channels).try_acquire_owned();
        let (Some(who), Some(_), Ok(place)) = (&self.who, &self.place, channel_place) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let backlog = self.backlog.clone();
        let place = ChannelPlace {
            id: channel.id(),
            handle: session.handle(),
            backlog,
            _permit: place,
        };
        reply.accept().await;
        self.begun.retain(|begun| *begun != channel.id());
        tokio::spawn(serve_channel(
            Arc::clone(&self.gateway),
            Arc::clone(who),
            channel,
            place,
        ));
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if name != SUBSYSTEM || self.begun.contains(&channel) {
            return self.refuse(channel, &format!("subsystem {name}"), session);
        }
        self.begun.push(channel);
        session.channel_success(channel)
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.begun.retain(|begun| *begun != channel);
        Ok(())
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "shell", session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "exec", session)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "pty", session)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "x11", session)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        // Clients send their locale with every session: refused without a word.
        session.channel_failure(channel)
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.log_refused("direct-tcpip");
        reply
            .reject(ChannelOpenFailure::AdministrativelyProhibited)
            .await;
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        _address: &str,
        _port: &mut u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        self.log_refused("tcpip-forward");
        Ok(false)
    }
}

/// One of a connection's channels.
struct ChannelPlace {
    id: ChannelId,
    handle: russh::server::Handle,
    backlog: Backlog,
    _permit: OwnedSemaphorePermit,
}

/// Waits for the client to ask for a link and serves it.
async fn serve_channel(
    gateway: Arc<Gateway>,
    who: Arc<Who>,
    mut channel: Channel<Msg>,
    place: ChannelPlace,
) {
    let asked = tokio::select! {
        asked = timeout(gateway.limits().login_grace, asks_for_link(&mut channel)) => asked,
        () = gateway.stopped() => Ok(false),
    };
    if matches!(asked, Ok(true)) {
        let (user, from) = (who.user.as_str(), who.from.as_str());
        tracing::info!(user, from, "link begins");
        let (read, write) = adit_link::ssh::split(channel);
        let write = write.paced_by(place.backlog.clone());
        match link_session::serve(&gateway, &who, read, write).await {
            // As text, which is escaped: both can hold words of the peer's.
            Ok(end) => tracing::info!(user, from, end = end.to_string(), "link ended"),
            Err(error) => tracing::warn!(user, from, error = error.to_string(), "no link"),
        }
    }
    // Fails when the connection is gone, and with it the channel.
    let _ = place.handle.close(place.id).await;
}

/// The session's handler answers each request; here they are only read, so that none of them fills
/// the channel's queue.
async fn asks_for_link(channel: &mut Channel<Msg>) -> bool {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::RequestSubsystem { name, .. }) if name == SUBSYSTEM => return true,
            None | Some(ChannelMsg::Close | ChannelMsg::Eof) => return false,
            Some(_) => {}
        }
    }
}
