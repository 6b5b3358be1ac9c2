//! The helper at work: accepts brokers, bounded for each user and in all, until it is told to stop or has nothing left to do.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

use super::account::Allowed;
use super::desk::Desk;
use super::keeper::SessionId;
use super::log::Sparing;
use super::session::{Session, turn_away};
use super::turn::Turns;

const SESSIONS_OF_A_USER: usize = 8;
const SESSIONS: usize = 256;
static TOO_MANY: Sparing = Sparing::new();
static CANNOT_ACCEPT: Sparing = Sparing::new();
/// How long a helper that ends when it is idle waits for its first session.
const FIRST_SESSION: Duration = Duration::from_secs(60);
/// accept fails at once again while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many sessions each user has, and how many there are in all.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    open: Arc<Mutex<HashMap<u32, OfUser>>>,
    turns: Turns,
    count: Arc<watch::Sender<Count>>,
}

#[derive(Debug)]
struct OfUser {
    sessions: usize,
    turns: Turns,
}

/// Sessions that are open, and whether one that said hello has ever ended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    open: usize,
    ever: bool,
}

impl Sessions {
    pub(crate) fn new() -> Sessions {
        Sessions {
            open: Arc::default(),
            turns: Turns::new(),
            count: Arc::new(watch::Sender::default()),
        }
    }

    fn enter(&self, uid: u32) -> Option<Entered> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().map(|user| user.sessions).sum();
        let of_user = open.get(&uid).map_or(0, |user| user.sessions);
        if all >= SESSIONS || of_user >= SESSIONS_OF_A_USER {
            return None;
        }
        let user = open.entry(uid).or_insert_with(|| OfUser {
            sessions: 0,
            turns: self.turns.of_user(),
        });
        user.sessions += 1;
        let turns = user.turns.clone();
        self.count.send_modify(|count| count.open = all + 1);
        Some(Entered {
            sessions: self.clone(),
            uid,
            turns,
            greeted: false,
        })
    }

    fn leave(&self, uid: u32, greeted: bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = open.get_mut(&uid) {
            user.sessions -= 1;
            if user.sessions == 0 {
                open.remove(&uid);
            }
        }
        self.count.send_modify(|count| {
            count.open = open.values().map(|user| user.sessions).sum();
            count.ever |= greeted;
        });
    }

    /// Resolves once there was a session (or nobody came for long enough), and there is none and no user in the
    /// kernel. Whoever only looked whether somebody listens was no session.
    pub(crate) async fn idle(&self, mut users: watch::Receiver<usize>) {
        let mut count = self.count.subscribe();
        let mut nobody_came = std::pin::pin!(sleep(FIRST_SESSION));
        let mut waited = false;
        loop {
            let Count { open, ever } = *count.borrow_and_update();
            if (ever || waited) && open == 0 && *users.borrow_and_update() == 0 {
                return;
            }
            tokio::select! {
                () = &mut nobody_came, if !waited => waited = true,
                changed = count.changed() => if changed.is_err() { return },
                changed = users.changed() => if changed.is_err() { return },
            }
        }
    }
}

struct Entered {
    sessions: Sessions,
    uid: u32,
    turns: Turns,
    greeted: bool,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.sessions.leave(self.uid, self.greeted);
    }
}

/// Accepts for ever.
pub(crate) async fn accept(
    listener: UnixListener,
    desk: Desk,
    allowed: Allowed,
    sessions: Sessions,
) {
    let mut next = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                next += 1;
                admit(stream, SessionId(next), &desk, &allowed, &sessions);
            }
            Err(error) => {
                if let Some(unsaid) = CANNOT_ACCEPT.admit(Instant::now()) {
                    tracing::warn!(%error, unsaid, "cannot accept");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(stream: UnixStream, id: SessionId, desk: &Desk, allowed: &Allowed, sessions: &Sessions) {
    let peer = match stream.peer_cred() {
        Ok(peer) => peer,
        Err(error) => return tracing::warn!(%error, "someone without credentials"),
    };
    let uid = peer.uid();
    match sessions.enter(uid) {
        Some(mut entered) => {
            tracing::debug!(uid, pid = peer.pid(), session = id.0, "session");
            let turns = entered.turns.clone();
            let session = Session::new(stream, (id, uid), desk.clone(), allowed.clone(), turns);
            tokio::spawn(async move {
                entered.greeted = session.run().await;
                drop(entered);
            });
        }
        None => {
            if let Some(unsaid) = TOO_MANY.admit(Instant::now()) {
                tracing::warn!(uid, pid = peer.pid(), unsaid, "too many sessions");
            }
            // Bounded by what a socket buffer takes at once: whoever does not read gets nothing.
            tokio::spawn(async move {
                let text = format!(
                    "{SESSIONS_OF_A_USER} sessions of a user are the most, {SESSIONS} in all"
                );
                turn_away(stream, &text).await;
            });
        }
    }
}

/// The signals by which the service manager, or someone at the keyboard, asks for the end.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    pub(crate) fn hear() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Resolves when one comes, or came.
    pub(crate) async fn told_to_stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
