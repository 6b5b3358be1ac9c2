//! A gateway that knows of no link, and no system's `ssh` here: each flow goes in an SSH connection of its own.
//!
//! In one connection for all, a program that stops reading would stop the others: the SSH library gives leave to send when data arrives,
//! and then waits for room with the whole session. So there is a pool of connections, one of them always ready, and each carries one
//! flow at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_link::ssh::{ChannelReader, ChannelWriter};
use adit_link::{Driver, HandshakeError, Link, Refusal, RefusalReason};
use russh::client::Msg;
use russh::{Channel, ChannelOpenFailure};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::connection::{ConnectError, Target};
use super::far_end::{FarEnd, link_over};
use super::questions::Questions;
use super::refusal::{refusal, refused};
use super::session::Session;
use crate::capture_session::MarkedSockets;

/// Flows at once; others wait for their turn.
const MOST: usize = 128;
/// How long they do.
const TURN_PATIENCE: Duration = Duration::from_secs(30);
/// Logins at once: sshd begins to turn strangers away at ten (sshd_config(5), MaxStartups).
const MOST_LOGINS: usize = 4;
/// Connections without a flow that are kept.
const MOST_READY: usize = 8;
/// As long as sshd itself may try.
const DIAL_PATIENCE: Duration = Duration::from_secs(30);
/// Between the refusal of a channel and the words for it, which are part of the same message.
const WORDS_PATIENCE: Duration = Duration::from_secs(1);

/// A link over `lead`, a session with `target`, and others like it. It ends when that does, or when another is shown a host key that is
/// not to be trusted.
pub(super) async fn open(
    target: &Target,
    lead: Session,
    sockets: &MarkedSockets,
    questions: &Questions,
) -> Result<(Link, Driver, FarEnd), HandshakeError> {
    let pool = Arc::new(Pool {
        target: target.clone(),
        sockets: sockets.clone(),
        questions: questions.clone(),
        ready: Mutex::new(Vec::new()),
        turns: Arc::new(Semaphore::new(MOST)),
        logins: Semaphore::new(MOST_LOGINS),
        untrusted: Notify::new(),
    });
    tokio::spawn(pool.clone().warm());
    let seen = pool.clone();
    let gone = async move {
        tokio::select! {
            () = lead.ended() => {}
            () = seen.untrusted.notified() => {}
        }
    };
    link_over(pool, gone).await
}

/// A session that carries a flow, and its turn.
pub(super) struct Lent {
    session: Session,
    _turn: OwnedSemaphorePermit,
}

impl Lent {
    /// Both directions of a channel in it.
    pub(super) fn halves(&self, channel: Channel<Msg>) -> (ChannelReader, ChannelWriter<Msg>) {
        let (read, write) = adit_link::ssh::split(channel);
        let write = write.paced_by(self.session.backlog.clone());
        (read.saying_its_end(), write.half_closing())
    }
}

/// A channel to where the flow wants to go, in a connection that has no other.
async fn open_flow(
    pool: &Arc<Pool>,
    host: &str,
    port: u16,
) -> Result<(Session, Channel<Msg>), Refusal> {
    // One that was ready may have been lost without anybody's noticing: then a new one is worth a try.
    for attempt in 0..2 {
        let mut session = pool.lend(attempt == 0).await?;
        let opening =
            session
                .ssh
                .channel_open_direct_tcpip(host.to_owned(), u32::from(port), "127.0.0.1", 0);
        match timeout(DIAL_PATIENCE, opening).await {
            Err(_) => {
                return Err(refused(
                    RefusalReason::TimedOut,
                    "the gateway did not answer",
                ));
            }
            Ok(Ok(channel)) => return Ok((session, channel)),
            Ok(Err(russh::Error::ChannelOpenFailure(reason))) => {
                let words = timeout(WORDS_PATIENCE, session.refusals.recv()).await;
                let words = words.ok().flatten().unwrap_or_default();
                pool.give_back(session);
                let is_prohibited =
                    matches!(reason, ChannelOpenFailure::AdministrativelyProhibited);
                return Err(refusal(is_prohibited, &words));
            }
            Ok(Err(error)) => tracing::debug!(%error, "a connection to a bare gateway was lost"),
        }
    }
    Err(refused(
        RefusalReason::Failed,
        "the connection to the gateway was lost",
    ))
}

/// Sessions with one gateway.
pub(super) struct Pool {
    target: Target,
    sockets: MarkedSockets,
    questions: Questions,
    /// Without a flow.
    ready: Mutex<Vec<Session>>,
    turns: Arc<Semaphore>,
    logins: Semaphore,
    /// A host key was shown that is not to be trusted.
    untrusted: Notify,
}

impl Pool {
    /// A flow to a port of a host, whose name the gateway resolves.
    pub(super) async fn open(
        self: &Arc<Self>,
        host: &str,
        port: u16,
    ) -> Result<(Lent, Channel<Msg>), Refusal> {
        let turn = self.turn().await?;
        let (session, channel) = open_flow(self, host, port).await?;
        let lent = Lent {
            session,
            _turn: turn,
        };
        Ok((lent, channel))
    }

    /// A flow has ended as both of its sides wanted.
    pub(super) fn finished(&self, lent: Lent) {
        self.give_back(lent.session);
    }

    /// Leave to have a session.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        match timeout(TURN_PATIENCE, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => {
                let words =
                    format!("{MOST} flows are open through this gateway, which has no adit-link");
                Err(refused(RefusalReason::Busy, &words))
            }
        }
    }

    /// A session without a flow; one that was used before only if it `may_be_ready`.
    async fn lend(self: &Arc<Self>, may_be_ready: bool) -> Result<Session, Refusal> {
        let ready = || may_be_ready.then(|| self.take_ready()).flatten();
        let session = match ready() {
            Some(session) => session,
            None => {
                let _login = self.logins.acquire().await;
                // One may have been given back meanwhile.
                match ready() {
                    Some(session) => session,
                    None => self.make().await?,
                }
            }
        };
        tokio::spawn(self.clone().warm());
        Ok(session)
    }

    fn take_ready(&self) -> Option<Session> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.retain(|session| !session.ssh.is_closed());
        ready.pop()
    }

    fn give_back(&self, session: Session) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.len() < MOST_READY && !session.ssh.is_closed() {
            ready.push(session);
        }
    }

    /// Wants a place among the `logins`.
    async fn make(&self) -> Result<Session, Refusal> {
        let session = Session::open(&self.target, &self.sockets, &self.questions, None).await;
        session.map_err(|error: ConnectError| {
            if error.is_untrusted() {
                self.give_up(&error);
            }
            refused(RefusalReason::Failed, &error.to_string())
        })
    }

    /// Someone may have come in between: from now on nothing goes there, nor around it.
    fn give_up(&self, error: &ConnectError) {
        tracing::error!(gateway = %self.target.gateway, "{error}");
        self.questions.distrust.arise();
        self.untrusted.notify_one();
    }

    /// Sees to it that one is ready.
    async fn warm(self: Arc<Self>) {
        let is_warm = || {
            let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            !ready.is_empty()
        };
        // Who waits for a login has need of it now.
        let Ok(_login) = self.logins.try_acquire() else {
            return;
        };
        if is_warm() {
            return;
        }
        match self.make().await {
            Ok(session) if !is_warm() => self.give_back(session),
            Ok(_) => {}
            Err(refusal) => tracing::debug!(refusal.detail, "no connection is kept ready"),
        }
    }
}
