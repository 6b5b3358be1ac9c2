//! What a client may do over Secure Shell: log in with a key and ask for links. Everything else is
//! refused.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_link::ssh::{Backlog, SUBSYSTEM};
use jiff::Timestamp;
use russh::keys::Certificate;
use russh::keys::ssh_key::public::KeyData;
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session as Ssh,
    VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::audit::Who;
use crate::authorized_keys::Attempt;
use crate::credential::fingerprint;
use crate::gateway::Gateway;
use crate::in_use::{InUse, Use};
use crate::link_channel::LinkChannel;
use crate::login::{Login, Logins, NotAuthorized};
use crate::quota::{Place, Quota};
use crate::sessions::{Ending, Present, Session};
use crate::throttle::{seldom, shown};
use crate::unauthenticated::Guest;

/// Links of one connection at a time. A broker needs one, and a second while it renews the first.
pub(crate) const MAX_CHANNELS: u32 = 4;
/// Keys that one connection may offer, whether they are known or not.
const MAX_OFFERS: u32 = 32;
/// Channels that one connection may ask for in its whole life, of every kind, whatever came of them.
///
/// russh keeps something of a channel that we close before its client does, and of each that is
/// asked for while a key exchange stands still; neither has another bound.
const MAX_OPENS: u32 = 64;
/// How long an answer to a wrong password or signature takes; a key that is merely offered is
/// answered sooner (see [`crate::listener`]), because agents offer several.
const REJECTION: Duration = Duration::from_secs(1);

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConversationError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("the client offered more than {MAX_OFFERS} keys")]
    TooManyOffers,
    #[error("the client asked for more than {MAX_OPENS} channels")]
    TooManyOpens,
}

/// What a client finds when it connects.
pub(crate) struct Arrival {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) logins: Logins,
    pub(crate) peer: SocketAddr,
    /// Its place among the unauthenticated connections.
    pub(crate) guest: Arc<Guest>,
    /// What its socket has yet to send.
    pub(crate) backlog: Backlog,
    /// Places among the authenticated connections, of all clients.
    pub(crate) connections: Arc<Quota>,
    /// Places for this client's channels, [`MAX_CHANNELS`].
    pub(crate) channels: Arc<Semaphore>,
    pub(crate) in_use: Arc<InUse>,
    /// The word that it has to end.
    pub(crate) ending: Arc<Ending>,
}

/// One connection's side of the conversation.
pub(crate) struct Client {
    gateway: Arc<Gateway>,
    logins: Logins,
    peer: SocketAddr,
    backlog: Backlog,
    connections: Arc<Quota>,
    channels: Arc<Semaphore>,
    in_use: Arc<InUse>,
    /// Until the client has authenticated.
    guest: Option<(Arc<Guest>, Use)>,
    /// From then on.
    place: Option<(Place, Present)>,
    /// And how many changes of who may log in there had been before.
    login: Option<(Login, u64)>,
    session: Option<Arc<Session>>,
    ending: Arc<Ending>,
    /// Channels on which a link was begun: a second request on the same one is refused.
    begun: Vec<ChannelId>,
    /// Keys that were offered or signed with.
    offers: u32,
    /// Channels that were asked for.
    opens: u32,
}

impl Client {
    pub(crate) fn new(arrival: Arrival) -> Self {
        let Arrival {
            gateway,
            logins,
            peer,
            guest,
            backlog,
            connections,
            channels,
            in_use,
            ending,
        } = arrival;
        Self {
            gateway,
            logins,
            peer,
            backlog,
            connections,
            channels,
            guest: Some((guest, in_use.begin())),
            in_use,
            place: None,
            login: None,
            session: None,
            ending,
            begun: Vec::new(),
            offers: 0,
            opens: 0,
        }
    }

    /// To be called for each key that is offered or signed with, before anything else.
    fn count_offer(&mut self) -> Result<Attempt, ConversationError> {
        self.offers += 1;
        if self.offers > MAX_OFFERS {
            return Err(ConversationError::TooManyOffers);
        }
        Ok(Attempt {
            from: self.peer.ip(),
            now: Timestamp::now(),
        })
    }

    fn log_unauthorized(&self, user: &str, key: &KeyData, why: &NotAuthorized) {
        let (peer, user, key) = (self.peer, shown(user), fingerprint(key));
        // As text, which is escaped.
        let why = why.to_string();
        seldom!(info, %peer, user, key, why, "login refused");
    }

    /// What becomes of a key that was signed with.
    async fn answer(
        &mut self,
        user: &str,
        key: &KeyData,
        login: Result<Login, NotAuthorized>,
        changes: u64,
    ) -> Auth {
        let login = match login {
            Ok(login) => login,
            Err(why) => {
                self.log_unauthorized(user, key, &why);
                return reject_slowly().await;
            }
        };
        self.login = Some((login, changes));
        Auth::Accept
    }

    /// To be called for each channel that is asked for, before anything else.
    fn count_open(&mut self) -> Result<(), ConversationError> {
        self.opens += 1;
        if self.opens > MAX_OPENS {
            return Err(ConversationError::TooManyOpens);
        }
        Ok(())
    }

    async fn refuse_open(
        &mut self,
        what: &str,
        reply: ChannelOpenHandle,
    ) -> Result<(), ConversationError> {
        self.count_open()?;
        self.log_refused(what);
        reply
            .reject(ChannelOpenFailure::AdministrativelyProhibited)
            .await;
        Ok(())
    }

    fn refuse(
        &self,
        channel: ChannelId,
        what: &str,
        ssh: &mut Ssh,
    ) -> Result<(), ConversationError> {
        self.log_refused(what);
        Ok(ssh.channel_failure(channel)?)
    }

    fn log_refused(&self, what: &str) {
        let session = self.session.as_ref();
        let user = session
            .map(|session| session.who.user.as_str())
            .unwrap_or_default();
        seldom!(info, peer = %self.peer, user, what = shown(what), "refused: only links are served");
    }
}

async fn reject_slowly() -> Auth {
    sleep(REJECTION).await;
    Auth::reject()
}

impl Handler for Client {
    type Error = ConversationError;

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
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        let attempt = self.count_offer()?;
        let changes = self.gateway.changes();
        let login = self.logins.certificate(user, certificate, attempt).await;
        let key = certificate.public_key();
        Ok(self.answer(user, key, login, changes).await)
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let attempt = self.count_offer()?;
        let (key, algorithm) = (offer.public_key, offer.algorithm);
        match self.logins.offer(user, key, algorithm, attempt).await {
            Ok(()) => Ok(Auth::Accept),
            Err(why) => {
                self.log_unauthorized(user, key.key_data(), &why);
                Ok(Auth::reject())
            }
        }
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        // Asked again, not remembered: the file may have changed, or the offer been of another
        // user.
        let attempt = self.count_offer()?;
        let (key, algorithm) = (key.public_key, key.algorithm);
        let changes = self.gateway.changes();
        let login = self.logins.key(user, key, algorithm, attempt).await;
        Ok(self.answer(user, key.key_data(), login, changes).await)
    }

    async fn auth_succeeded(&mut self, ssh: &mut Ssh) -> Result<(), Self::Error> {
        let Some((login, changes)) = self.login.take() else {
            return Err(russh::Error::NotAuthenticated.into());
        };
        if self.gateway.is_draining() {
            let words = "the gateway takes no new connections";
            return Ok(ssh.disconnect(Disconnect::ByApplication, words, "")?);
        }
        let user = login.user.clone();
        let place = match self.connections.take(&user) {
            Ok(place) => place,
            Err(full) => {
                let (user, why) = (user.as_str(), full.to_string());
                seldom!(warn, peer = %self.peer, user, why, "refused: too many connections");
                let words = format!("too many connections: {why}");
                return Ok(ssh.disconnect(Disconnect::TooManyConnections, &words, "")?);
            }
        };
        self.guest = None;
        let who = Who {
            user,
            from: self.peer.to_string(),
            credential: login.credential,
        };
        let ending = Arc::clone(&self.ending);
        let session = Session::new(who, login.permissions, Some(login.proof), ending);
        let who = &session.who;
        tracing::info!(
            session = session.id,
            peer = %self.peer,
            user = who.user.as_str(),
            key = who.credential.key(),
            certificate = who.certificate(),
            "logged in"
        );
        self.place = Some((place, self.gateway.sessions().enter(&session)));
        self.session = Some(session);
        // What was judged again in between did not know of this one.
        if self.gateway.changes() != changes {
            self.ending.end("who may log in has just changed");
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.count_open()?;
        let channel_place = Arc::clone(&self.channels).try_acquire_owned();
        let (Some(session), Ok(place)) = (&self.session, channel_place) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let link = LinkChannel {
            gateway: Arc::clone(&self.gateway),
            session: Arc::clone(session),
            handle: ssh.handle(),
            backlog: self.backlog.clone(),
            _place: place,
            _use: self.in_use.begin(),
        };
        reply.accept().await;
        self.begun.retain(|begun| *begun != channel.id());
        tokio::spawn(link.serve(channel));
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        if name != SUBSYSTEM || self.begun.contains(&channel) {
            return self.refuse(channel, &format!("subsystem {name}"), ssh);
        }
        self.begun.push(channel);
        Ok(ssh.channel_success(channel)?)
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.begun.retain(|begun| *begun != channel);
        Ok(())
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "shell", ssh)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _command: &[u8],
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "exec", ssh)
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
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "pty", ssh)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse(channel, "x11", ssh)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        // Clients send their locale with every session: refused without a word.
        Ok(ssh.channel_failure(channel)?)
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse_open("direct-tcpip", reply).await
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _path: &str,
        reply: ChannelOpenHandle,
        _ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse_open("direct-streamlocal", reply).await
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse_open("forwarded-tcpip", reply).await
    }

    async fn channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.refuse_open("x11", reply).await
    }

    async fn tcpip_forward(
        &mut self,
        _address: &str,
        _port: &mut u32,
        _ssh: &mut Ssh,
    ) -> Result<bool, Self::Error> {
        self.log_refused("tcpip-forward");
        Ok(false)
    }
}
