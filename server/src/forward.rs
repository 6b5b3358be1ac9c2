//! Flows of stock clients, each on a channel of its own: `ssh -L`, `-D`, `-W`, `-J`, and what comes in
//! for `-R`. They go the same way as the streams of a link.
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use adit_link::ssh::Backlog;
use adit_link::{Host, Refusal, RefusalReason};
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelReadHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::asked::Asked;
use crate::audit::Question;
use crate::forward_relay::{ForwardEnd, Remaining, closed, relay};
use crate::gateway::{Dialled, Gateway};
use crate::in_use::{InUse, Use};
use crate::inflow::Inflow;
use crate::permissions::Way;
use crate::quota::Place;
use crate::sessions::{Present, Session};

/// Time for the session to take our word. It takes none while the client lets a key exchange stand
/// still.
const TAKEN: Duration = Duration::from_secs(10);
/// Channels of one connection that we may close before its client does: russh keeps something of each.
const MAX_RESETS: u32 = 4096;
/// So many of them are closed as soon as both sides have said their ends: `ssh -W` waits for that, and
/// has but this one. Whoever has more of them closes them too.
const CLOSED_AT_ONCE: u32 = 64;
/// Time for the client to close the others.
const CLOSE: Duration = Duration::from_secs(10);

/// The longest host that is looked at, in bytes: no name is as long.
const MAX_HOST: usize = 255;

/// What a client asks for; of a host that is none for its length, the beginning.
pub(crate) struct Wanted {
    host: String,
    port: u32,
}

impl Wanted {
    pub(crate) fn new(host: &str, port: u32) -> Self {
        let mut end = host.len().min(MAX_HOST);
        while !host.is_char_boundary(end) {
            end -= 1;
        }
        let host = match host.get(..end) {
            Some(whole) if whole.len() == host.len() => whole.to_owned(),
            // Longer than any name still.
            Some(beginning) => format!("{beginning}…"),
            None => String::new(),
        };
        Self { host, port }
    }
}

/// What the flows of one connection share.
#[derive(Clone)]
pub(crate) struct Forwarding {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) session: Arc<Session>,
    pub(crate) handle: Handle,
    pub(crate) in_use: Arc<InUse>,
    /// What the connection's socket has yet to send.
    pub(crate) backlog: Backlog,
    pub(crate) shared: Arc<Shared>,
}

/// See [`Forwarding`].
pub(crate) struct Shared {
    inflow: Inflow,
    resets: AtomicU32,
    /// Held as long as anything of the connection lives: what was sent for a destination is delivered
    /// though the client has gone, and until then counts, is listed, and can be ended.
    pub(crate) place: OnceLock<(Place, Present)>,
    /// And so long a drain waits.
    _alive: mpsc::Sender<()>,
}

impl Shared {
    pub(crate) fn new(alive: mpsc::Sender<()>) -> Self {
        Self {
            inflow: Inflow::default(),
            resets: AtomicU32::new(0),
            place: OnceLock::new(),
            _alive: alive,
        }
    }
}

impl Forwarding {
    /// Serves one channel, from what was asked for to its end.
    pub(crate) async fn serve(
        self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        wanted: Wanted,
        place: OwnedSemaphorePermit,
        in_use: Use,
    ) {
        let id = channel.id();
        match self.open(wanted).await {
            Some(Ok(dialled)) => {
                reply.accept().await;
                self.taken(id, place).await;
                self.relay(channel, dialled).await;
            }
            Some(Err(refusal)) => {
                reply.reject(failure(refusal.reason)).await;
                self.taken(id, place).await;
            }
            // The session is over: dropped, it is refused.
            None => drop(reply),
        }
        drop(in_use);
    }

    /// Until the session has taken an answer, it counts: a client that lets a key exchange stand still
    /// and goes on asking would make answers pile up. What is said here is said behind the answer, and
    /// nothing to the client.
    async fn taken(&self, id: ChannelId, place: OwnedSemaphorePermit) {
        let _ = timeout(TAKEN, self.handle.channel_success(id)).await;
        drop(place);
    }

    async fn open(&self, wanted: Wanted) -> Option<Result<Dialled, Refusal>> {
        let Wanted { host, port } = wanted;
        let asked = match u16::try_from(port) {
            Ok(port) => Asked::new(&Host::Name(host.clone()), port),
            Err(_) => Err(crate::asked::NotADestination::Port),
        };
        let shown = match &asked {
            Ok(asked) => asked.to_string(),
            Err(_) => format!("{host} port {port}"),
        };
        let question = Question::new(Arc::clone(&self.session.who), shown, None);
        tokio::select! {
            biased;
            _ = self.gateway.over(&self.session) => None,
            opened = self.gateway.open(question, &self.session, Way::Forward, asked) => Some(opened),
        }
    }

    /// Relays to the end, and leaves no channel behind.
    pub(crate) async fn relay(&self, channel: Channel<Msg>, dialled: Dialled) {
        let id = channel.id();
        let Dialled {
            connected,
            open,
            entered,
            pace,
            place,
        } = dialled;
        let counters = Arc::clone(&open.counters);
        let remaining = tokio::select! {
            relayed = relay(channel, connected, &counters, &self.shared.inflow, &self.backlog, &pace) => {
                match relayed.end {
                    ForwardEnd::Relay(end) => open.ended(end),
                    ForwardEnd::Stuck => open.closed("its destination took nothing any more".into()),
                    ForwardEnd::Left => open.closed("its client left before the destination had ended".into()),
                }
                relayed.channel
            }
            // Dropping the relay resets the destination.
            why = entered.ended() => {
                open.closed(why);
                Remaining::Open
            }
            why = self.gateway.over(&self.session) => {
                open.closed(why);
                Remaining::Open
            }
        };
        drop(entered);
        match remaining {
            Remaining::Nothing => {}
            Remaining::Open => self.close(id).await,
            Remaining::Finished(read) => self.finish(id, read).await,
        }
        drop(place);
    }

    /// Closes a channel on which all is said, unless its client does.
    async fn finish(&self, id: ChannelId, mut read: ChannelReadHalf) {
        if self.shared.resets.load(Ordering::Relaxed) >= CLOSED_AT_ONCE {
            tokio::select! {
                closed = timeout(CLOSE, closed(&mut read)) => if closed.is_ok() {
                    return;
                },
                _ = self.gateway.over(&self.session) => {}
            }
        }
        self.close(id).await;
    }

    pub(crate) async fn close(&self, id: ChannelId) {
        // Fails when the connection is gone, and with it the channel.
        let _ = timeout(TAKEN, self.handle.close(id)).await;
        if self.shared.resets.fetch_add(1, Ordering::Relaxed) >= MAX_RESETS {
            self.session
                .ending
                .end("too many flows of the connection were reset");
        }
    }
}

/// As SSH says it (RFC 4254 section 5.1).
fn failure(reason: RefusalReason) -> ChannelOpenFailure {
    match reason {
        RefusalReason::Denied => ChannelOpenFailure::AdministrativelyProhibited,
        RefusalReason::Busy => ChannelOpenFailure::ResourceShortage,
        RefusalReason::Refused
        | RefusalReason::HostUnreachable
        | RefusalReason::NetworkUnreachable
        | RefusalReason::Unresolvable
        | RefusalReason::TimedOut
        | RefusalReason::Failed => ChannelOpenFailure::ConnectFailed,
    }
}
