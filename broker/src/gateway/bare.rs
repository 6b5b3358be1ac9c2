//! A gateway that knows of no link: any sshd that forwards ports. Each flow goes in an SSH connection of its own.
//!
//! In one connection for all, a program that stops reading would stop the others: the SSH library gives leave to send when data arrives,
//! and then waits for room with the whole session. So there is a pool of connections, one of them always ready, and each carries one
//! flow at a time. The rest of the broker sees a link as any other: its far end is here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_link::ssh::ChannelReader;
use adit_link::{
    Counters, Driver, HandshakeError, Host, Incoming, Limits, Link, Refusal, RefusalReason,
    Request, relay_chunks,
};
use russh::client::Msg;
use russh::{Channel, ChannelOpenFailure};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::connection::{ConnectError, Target};
use super::questions::Questions;
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
/// Bytes between the two ends of the link.
const PIPE: usize = 256 << 10;

/// What serves the far end of a link. It ends with this.
pub(super) struct Bare(JoinHandle<()>);

impl Drop for Bare {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A link over `lead`, a session with `target`, and others like it. It ends when that does.
pub(super) async fn open(
    target: &Target,
    lead: Session,
    sockets: &MarkedSockets,
    questions: &Questions,
) -> Result<(Link, Driver, Bare), HandshakeError> {
    let (near, far) = duplex(PIPE);
    let pool = Arc::new(Pool {
        target: target.clone(),
        sockets: sockets.clone(),
        questions: questions.clone(),
        ready: Mutex::new(Vec::new()),
        turns: Semaphore::new(MOST),
        logins: Semaphore::new(MOST_LOGINS),
    });
    let bare = Bare(tokio::spawn(serve(pool, lead, far)));
    let (read, write) = halves(near);
    let (link, driver) = adit_link::initiate(read, write, Limits::default()).await?;
    Ok((link, driver, bare))
}

type Reader = adit_link::pipe::PipeReader<ReadHalf<DuplexStream>>;
type Writer = adit_link::pipe::PipeWriter<WriteHalf<DuplexStream>>;

fn halves(stream: DuplexStream) -> (Reader, Writer) {
    let (read, write) = split(stream);
    adit_link::pipe::split(read, write)
}

/// Takes streams until there are no more, or the gateway is gone; then all flows are.
async fn serve(pool: Arc<Pool>, lead: Session, far: DuplexStream) {
    let (read, write) = halves(far);
    let Ok((mut incoming, driver)) = adit_link::accept(read, write, Limits::default()).await else {
        return;
    };
    let mut driver = tokio::spawn(driver.run());
    let mut flows = JoinSet::new();
    flows.spawn(pool.clone().warm());
    tokio::select! {
        () = take_streams(&pool, &mut incoming, &mut flows) => {
            // What streams that have ended still had to send.
            let _ = timeout(WORDS_PATIENCE, &mut driver).await;
        }
        () = lead.ended() => {}
    }
    driver.abort();
}

async fn take_streams(pool: &Arc<Pool>, incoming: &mut Incoming, flows: &mut JoinSet<()>) {
    loop {
        tokio::select! {
            request = incoming.next() => match request {
                Some(request) => {
                    flows.spawn(flow(pool.clone(), request));
                }
                None => break,
            },
            // Only collects what has finished.
            Some(()) = async { flows.join_next().await.map(drop) } => {}
        }
    }
    // The link ends with its last stream.
    while flows.join_next().await.is_some() {}
}

/// One stream, from its header to its end.
async fn flow(pool: Arc<Pool>, request: Request) {
    let opened = async {
        let turn = pool.turn().await?;
        let (session, channel) = open_flow(&pool, &request).await?;
        Ok((turn, session, channel))
    };
    let opened = tokio::select! {
        biased;
        () = request.cancelled() => return,
        opened = opened => opened,
    };
    let (_turn, session, channel) = match opened {
        Ok(opened) => opened,
        Err(refusal) => return request.refuse(refusal),
    };
    let (read, write) = split_flow(channel, &session);
    let stream = request.accept();
    let end = relay_chunks(read, write, stream, &Counters::default()).await;
    tracing::debug!(?end, "a flow through a bare gateway ended");
    if matches!(end, adit_link::RelayEnd::Finished) {
        pool.give_back(session);
    }
}

fn split_flow(
    channel: Channel<Msg>,
    session: &Session,
) -> (ChannelReader, adit_link::ssh::ChannelWriter<Msg>) {
    let (read, write) = adit_link::ssh::split(channel);
    (
        read.saying_its_end(),
        write.paced_by(session.backlog.clone()).half_closing(),
    )
}

/// A channel to where the stream wants to go, in a connection that has no other.
async fn open_flow(
    pool: &Arc<Pool>,
    request: &Request,
) -> Result<(Session, Channel<Msg>), Refusal> {
    let header = request.header();
    let host = match &header.host {
        Host::Address(address) => address.to_string(),
        Host::Name(name) => name.clone(),
    };
    // One that was ready may have been lost without anybody's noticing: then a new one is worth a try.
    for attempt in 0..2 {
        let mut session = pool.lend(attempt == 0).await?;
        let port = u32::from(header.port);
        let opening = session
            .ssh
            .channel_open_direct_tcpip(host.clone(), port, "127.0.0.1", 0);
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
                return Err(refusal(&reason, &words));
            }
            Ok(Err(error)) => tracing::debug!(%error, "a connection to a bare gateway was lost"),
        }
    }
    Err(refused(
        RefusalReason::Failed,
        "the connection to the gateway was lost",
    ))
}

/// The words are the system's, as OpenSSH passes them on (`channel_post_connecting` in its channels.c).
fn refusal(reason: &ChannelOpenFailure, words: &str) -> Refusal {
    if matches!(reason, ChannelOpenFailure::AdministrativelyProhibited) {
        let advice =
            "its sshd does not allow it (AllowTcpForwarding, PermitOpen, the key's options)";
        return refused(RefusalReason::Denied, advice);
    }
    let known = [
        ("Connection refused", RefusalReason::Refused),
        ("No route to host", RefusalReason::HostUnreachable),
        ("Network is unreachable", RefusalReason::NetworkUnreachable),
        ("Connection timed out", RefusalReason::TimedOut),
        ("Name or service not known", RefusalReason::Unresolvable),
        ("name resolution", RefusalReason::Unresolvable),
        ("No address associated", RefusalReason::Unresolvable),
    ];
    let known = known.iter().find(|(text, _)| words.contains(text));
    refused(
        known.map_or(RefusalReason::Failed, |(_, reason)| *reason),
        words,
    )
}

fn refused(reason: RefusalReason, detail: &str) -> Refusal {
    Refusal {
        reason,
        detail: detail.to_owned(),
    }
}

/// Sessions with one gateway.
struct Pool {
    target: Target,
    sockets: MarkedSockets,
    questions: Questions,
    /// Without a flow.
    ready: Mutex<Vec<Session>>,
    turns: Semaphore,
    logins: Semaphore,
}

impl Pool {
    /// Leave to have a session.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        match timeout(TURN_PATIENCE, self.turns.acquire()).await {
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
        session.map_err(|error: ConnectError| refused(RefusalReason::Failed, &error.to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sshd_says_is_what_programs_are_told() {
        let check = |reason, words: &str, expected| {
            assert_eq!(refusal(&reason, words).reason, expected, "{words}");
        };
        let failed = || ChannelOpenFailure::ConnectFailed;
        check(failed(), "Connection refused", RefusalReason::Refused);
        check(failed(), "No route to host", RefusalReason::HostUnreachable);
        check(
            failed(),
            "Name or service not known",
            RefusalReason::Unresolvable,
        );
        check(
            failed(),
            "unknown host (Temporary failure in name resolution)",
            RefusalReason::Unresolvable,
        );
        check(failed(), "", RefusalReason::Failed);
        check(
            ChannelOpenFailure::AdministrativelyProhibited,
            "open failed",
            RefusalReason::Denied,
        );
    }
}
