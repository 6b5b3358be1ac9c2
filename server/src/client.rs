//! One connection's side of the conversation: what is known of its client, and what it may still do.
use std::net::SocketAddr;
use std::sync::Arc;

use adit_link::ssh::Backlog;
use jiff::Timestamp;
use russh::server::{ChannelOpenHandle, Handle, Session as Ssh};
use russh::{ChannelId, ChannelOpenFailure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::authorized_keys::Attempt;
use crate::forward::{Forwarding, Shared};
use crate::gateway::Gateway;
use crate::in_use::{InUse, Use};
use crate::login::{Login, Logins};
use crate::login_attempt::LoginAttempt;
use crate::login_progress::Progress;
use crate::methods::Method;
use crate::quota::Quota;
use crate::remote_forward::Listeners;
use crate::sessions::{Ending, Session};
use crate::throttle::{seldom, shown};
use crate::time_outs::TimeOuts;
use crate::unauthenticated::Guest;

/// Links of one connection at a time. A broker needs one, and a second while it renews the first.
pub(crate) const MAX_CHANNELS: u32 = 4;
/// Keys that one connection may offer, whether they are known or not, and times that it may be asked.
const MAX_OFFERS: u32 = 32;
/// Channels that one connection may ask for in its whole life, of every kind but forwarded ports,
/// whatever came of them.
///
/// russh keeps something of a channel that we close before its client does, and of each that is
/// asked for while a key exchange stands still; neither has another bound.
const MAX_OPENS: u32 = 64;
/// Forwarded ports that one connection may ask for at a time, until they are answered.
const MAX_OPENINGS: usize = 1024;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConversationError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("the client offered more than {MAX_OFFERS} keys or answers")]
    TooManyOffers,
    #[error("the client answered one question with none, several or a very long one")]
    NotOneAnswer,
    #[error("turned out before it had logged in")]
    TurnedOut,
    #[error("the client asked for more than {MAX_OPENS} channels")]
    TooManyOpens,
    #[error("the client asked for more than {MAX_OPENINGS} forwarded ports at a time")]
    TooManyOpenings,
}

impl ConversationError {
    /// Did the client say what is no SSH? One that only went, even within the key exchange, may have
    /// good reason: it does not know our host key.
    pub(crate) fn is_violation(&self) -> bool {
        let error = match self {
            Self::Ssh(error) => error,
            Self::TurnedOut => return false,
            Self::TooManyOffers
            | Self::NotOneAnswer
            | Self::TooManyOpens
            | Self::TooManyOpenings => return true,
        };
        !matches!(
            error,
            russh::Error::IO(_)
                | russh::Error::HUP
                | russh::Error::Disconnect
                // As `ssh-keyscan` asks for each kind of key in a connection of its own.
                | russh::Error::NoCommonAlgo { .. }
                | russh::Error::ConnectionTimeout
                | russh::Error::InactivityTimeout
                | russh::Error::KeepaliveTimeout
        )
    }
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
    /// For who has to know how the login went.
    pub(crate) attempt: Arc<LoginAttempt>,
    /// A drain waits as long as there is one.
    pub(crate) alive: mpsc::Sender<()>,
}

/// One connection's side of the conversation.
pub(crate) struct Client {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) logins: Logins,
    pub(crate) peer: SocketAddr,
    pub(crate) backlog: Backlog,
    pub(crate) connections: Arc<Quota>,
    pub(crate) channels: Arc<Semaphore>,
    pub(crate) in_use: Arc<InUse>,
    /// Until the client has authenticated.
    pub(crate) guest: Option<(Arc<Guest>, Use)>,
    /// What was shown so far, by whom.
    pub(crate) progress: Option<Progress>,
    /// What was asked last, and of whom.
    pub(crate) asked: Option<(String, Vec<Method>)>,
    /// And how many changes of who may log in there had been before.
    pub(crate) login: Option<(Login, u64)>,
    pub(crate) session: Option<Arc<Session>>,
    pub(crate) ending: Arc<Ending>,
    pub(crate) time_outs: Option<TimeOuts>,
    pub(crate) attempt: Arc<LoginAttempt>,
    /// Channels on which a link was begun or a shell asked for: a second request on the same one is
    /// refused (RFC 4254 section 6.5).
    pub(crate) begun: Vec<ChannelId>,
    /// Places for forwarded ports that are not answered yet.
    pub(crate) openings: Arc<Semaphore>,
    /// Of the forwarded ports.
    pub(crate) shared: Arc<Shared>,
    /// For `ssh -R`.
    pub(crate) listeners: Listeners,
    /// Keys that were offered or signed with.
    pub(crate) offers: u32,
    /// Channels that were asked for.
    pub(crate) opens: u32,
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
            attempt,
            alive,
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
            progress: None,
            asked: None,
            login: None,
            session: None,
            ending,
            time_outs: None,
            attempt,
            begun: Vec::new(),
            openings: Arc::new(Semaphore::new(MAX_OPENINGS)),
            shared: Arc::new(Shared::new(alive)),
            listeners: Listeners::default(),
            offers: 0,
            opens: 0,
        }
    }

    /// To be called for each key that is offered or signed with and for each question, before anything
    /// else.
    pub(crate) fn count_offer(&mut self) -> Result<Attempt, ConversationError> {
        self.offers += 1;
        if self.offers > MAX_OFFERS {
            return Err(ConversationError::TooManyOffers);
        }
        Ok(Attempt {
            from: self.peer.ip(),
            now: Timestamp::now(),
        })
    }

    /// What is to be found out about a client, as long as that can still hear of it: whoever was turned
    /// out stands in nobody's way.
    pub(crate) async fn awaited<T>(
        &self,
        finding: impl Future<Output = T>,
    ) -> Result<T, ConversationError> {
        let Some((guest, _)) = &self.guest else {
            return Ok(finding.await);
        };
        tokio::select! {
            biased;
            () = guest.turned_out() => Err(ConversationError::TurnedOut),
            found = finding => Ok(found),
        }
    }

    /// To be called for each channel that is asked for, before anything else.
    pub(crate) fn count_open(&mut self) -> Result<(), ConversationError> {
        self.opens += 1;
        if self.opens > MAX_OPENS {
            return Err(ConversationError::TooManyOpens);
        }
        Ok(())
    }

    /// A place for a forwarded port that is asked for.
    pub(crate) fn opening(&self) -> Result<OwnedSemaphorePermit, ConversationError> {
        Arc::clone(&self.openings)
            .try_acquire_owned()
            .map_err(|_| ConversationError::TooManyOpenings)
    }

    /// What forwarded ports need; nothing before the login.
    pub(crate) fn forwarding(&self, handle: Handle) -> Option<Forwarding> {
        Some(Forwarding {
            gateway: Arc::clone(&self.gateway),
            session: Arc::clone(self.session.as_ref()?),
            handle,
            in_use: Arc::clone(&self.in_use),
            backlog: self.backlog.clone(),
            shared: Arc::clone(&self.shared),
        })
    }

    pub(crate) async fn refuse_open(
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

    pub(crate) fn refuse(
        &self,
        channel: ChannelId,
        what: &str,
        ssh: &mut Ssh,
    ) -> Result<(), ConversationError> {
        self.log_refused(what);
        Ok(ssh.channel_failure(channel)?)
    }

    pub(crate) fn log_refused(&self, what: &str) {
        let session = self.session.as_ref();
        let user = session
            .map(|session| session.who.user.as_str())
            .unwrap_or_default();
        seldom!(info, peer = %self.peer, user, what = shown(what), "refused: not served here");
    }
}
