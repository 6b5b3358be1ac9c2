//! Who opened a connection. A process that was found before is found again at once; looking through /proc for another takes a
//! millisecond on a bad day, so a thread of its own does it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_capture::attribution::{Attributor, Owner, Process};
use tokio::sync::{mpsc, oneshot};

use crate::original_destination::Ends;
use crate::original_sources::{NoSource, OriginalSources};

/// Questions that wait in the queue; flows, which are bounded, wait for a place in it.
const QUEUE: usize = 1024;

/// What is known of who opened a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attributed {
    /// A process of this user.
    Process {
        /// Its id.
        pid: u32,
        /// Path of its binary.
        path: PathBuf,
    },
    /// The socket or its process could not be found.
    Unknown,
    /// The kernel could not be asked.
    NotAsked {
        /// Why.
        reason: String,
    },
    /// The socket belongs to another user: not ours to carry.
    Foreign {
        /// That user.
        uid: u32,
    },
}

struct Question {
    source: SocketAddr,
    destination: SocketAddr,
    answer: Wanted,
}

/// What is wanted of a socket.
enum Wanted {
    /// Who holds it.
    Owner(oneshot::Sender<Attributed>),
    /// Whether there is none.
    Absence(oneshot::Sender<bool>),
}

/// Who opened what. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Attribution {
    uid: u32,
    /// Shared with the thread, which has it while it searches.
    attributor: Arc<Mutex<Attributor>>,
    questions: mpsc::Sender<Question>,
    sources: OriginalSources,
}

impl Attribution {
    /// Starts the thread; it ends with the last clone.
    pub fn start(sources: OriginalSources) -> std::io::Result<Self> {
        let attributor = Arc::new(Mutex::new(Attributor::new()?));
        let uid = nix::unistd::geteuid().as_raw();
        let (questions, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("attribution".to_owned())
            .spawn({
                let attributor = attributor.clone();
                move || answer_all(&attributor, uid, queue)
            })?;
        Ok(Self {
            uid,
            attributor,
            questions,
            sources,
        })
    }

    /// Who opened it, for what depends on it. The peer as seen may be another socket's address, so conntrack is always asked.
    pub async fn surely(&self, ends: Ends) -> Attributed {
        // Mostly the peer is right: both at once.
        let (own, as_seen) = tokio::join!(
            self.sources.of(ends.listener, ends.source),
            self.of(ends.source, ends.destination)
        );
        match own {
            Ok(own) if own == ends.source => as_seen,
            Ok(own) => self.of(own, ends.destination).await,
            Err(error) => Attributed::NotAsked {
                reason: error.to_string(),
            },
        }
    }

    /// Who opened it, for people to see: conntrack is asked only where the peer as seen leads to nobody of ours.
    pub async fn probably(&self, ends: Ends) -> Attributed {
        let as_seen = self.of(ends.source, ends.destination).await;
        match as_seen {
            Attributed::Process { .. } | Attributed::NotAsked { .. } => as_seen,
            Attributed::Unknown | Attributed::Foreign { .. } => {
                match self.sources.of(ends.listener, ends.source).await {
                    Ok(own) if own != ends.source => self.of(own, ends.destination).await,
                    Ok(_) | Err(_) => as_seen,
                }
            }
        }
    }

    /// The address of the client's own socket, before any redirect.
    pub async fn source(&self, ends: Ends) -> Result<SocketAddr, NoSource> {
        self.sources.of(ends.listener, ends.source).await
    }

    /// Who opened it, by the addresses that its own socket has: those of a connection that is held before any redirect.
    pub async fn exactly(&self, source: SocketAddr, destination: SocketAddr) -> Attributed {
        self.of(source, destination).await
    }

    /// Whether no program holds a socket that connects, or would connect, `source` to `destination`. Not known is no.
    pub async fn is_gone(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            source,
            destination,
            answer: Wanted::Absence(answer),
        };
        self.questions.send(question).await.is_ok() && answered.await.unwrap_or(false)
    }

    /// The same where it takes some microseconds: less than asking the thread would. `None`: the thread has to look.
    fn at_hand(&self, source: SocketAddr, destination: SocketAddr) -> Option<Attributed> {
        let mut attributor = self.attributor.try_lock().ok()?;
        match owner(&mut attributor, self.uid, source, destination) {
            Ok(owner) => attributor
                .process_at_hand(&owner)
                .map(|process| named(Some(process))),
            Err(known) => Some(known),
        }
    }

    /// Who holds the socket that connects `source` to `destination`.
    async fn of(&self, source: SocketAddr, destination: SocketAddr) -> Attributed {
        if let Some(known) = self.at_hand(source, destination) {
            return known;
        }
        let (answer, answered) = oneshot::channel();
        let question = Question {
            source,
            destination,
            answer: Wanted::Owner(answer),
        };
        let asked = self.questions.send(question).await.is_ok();
        match answered.await {
            Ok(attributed) if asked => attributed,
            Ok(_) | Err(_) => Attributed::NotAsked {
                reason: "the attribution thread is gone".to_owned(),
            },
        }
    }
}

fn answer_all(attributor: &Mutex<Attributor>, uid: u32, mut queue: mpsc::Receiver<Question>) {
    while let Some(Question {
        source,
        destination,
        answer,
    }) = queue.blocking_recv()
    {
        // The flow may have ended, or end meanwhile.
        match answer {
            Wanted::Owner(answer) if !answer.is_closed() => {
                let _ = answer.send(look_up(&mut lock(attributor), uid, source, destination));
            }
            Wanted::Absence(answer) if !answer.is_closed() => {
                let _ = answer.send(matches!(
                    lock(attributor).owner(source, destination),
                    Ok(None)
                ));
            }
            Wanted::Owner(_) | Wanted::Absence(_) => {}
        }
    }
}

fn lock(attributor: &Mutex<Attributor>) -> MutexGuard<'_, Attributor> {
    attributor.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look_up(
    attributor: &mut Attributor,
    uid: u32,
    source: SocketAddr,
    destination: SocketAddr,
) -> Attributed {
    match owner(attributor, uid, source, destination) {
        Ok(owner) => named(attributor.process(&owner)),
        Err(known) => known,
    }
}

/// Who owns the socket, when it is this user.
fn owner(
    attributor: &mut Attributor,
    uid: u32,
    source: SocketAddr,
    destination: SocketAddr,
) -> Result<Owner, Attributed> {
    match attributor.owner(source, destination) {
        // A socket that its program closed has no inode any more, and no owner to speak of.
        Ok(Some(Owner { inode: 0, .. }) | None) => Err(Attributed::Unknown),
        Ok(Some(owner)) if owner.uid != uid => Err(Attributed::Foreign { uid: owner.uid }),
        Ok(Some(owner)) => Ok(owner),
        Err(error) => {
            tracing::warn!("sock_diag failed: {error}");
            Err(Attributed::NotAsked {
                reason: error.to_string(),
            })
        }
    }
}

fn named(process: Option<Process>) -> Attributed {
    match process {
        Some(Process { pid, path, .. }) => Attributed::Process { pid, path },
        None => Attributed::Unknown,
    }
}
