//! Who opened a connection. A process that was found before is found again at once; looking through /proc for another takes a
//! millisecond on a bad day, so a thread of its own does it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_capture::attribution::{Attributor, Hashes, Owner, Process, Unknowable};
use adit_rules::{Ancestors, Fact, Facts, Learned};

use crate::accepted::Ends;
use crate::original_sources::{NoSource, OriginalSources};
use crate::worker::Worker;

/// What is known of who opened a connection.
#[derive(Debug, Clone)]
pub enum Attributed {
    /// A process of this user.
    Process(Process),
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

/// Who opened what. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Attribution {
    uid: u32,
    /// Shared with the thread, which has it while it searches.
    attributor: Arc<Mutex<Attributor>>,
    searching: Worker,
    /// Apart, as it has to read the whole of a large binary once.
    hashing: Worker,
    hashes: Arc<Mutex<Hashes>>,
    sources: OriginalSources,
}

impl Attribution {
    /// Starts the threads; they end with the last clone.
    pub fn start(sources: OriginalSources) -> std::io::Result<Self> {
        Ok(Self {
            uid: nix::unistd::geteuid().as_raw(),
            attributor: Arc::new(Mutex::new(Attributor::new()?)),
            searching: Worker::start("attribution")?,
            hashing: Worker::start("hashing")?,
            hashes: Arc::default(),
            sources,
        })
    }

    /// Who opened it, for what depends on it. The peer as seen may be another socket's address, so conntrack is always asked.
    pub async fn surely(&self, ends: Ends) -> Attributed {
        if !ends.is_redirected {
            return self.exactly(ends.source, ends.destination).await;
        }
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
        if !ends.is_redirected {
            return self.exactly(ends.source, ends.destination).await;
        }
        let as_seen = self.of(ends.source, ends.destination).await;
        match as_seen {
            Attributed::Process(_) | Attributed::NotAsked { .. } => as_seen,
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

    /// The same for people to see. `None`: whoever decides by it goes first, and there are many of these.
    pub async fn at_leisure(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<Attributed> {
        if let Some(known) = self.at_hand(source, destination) {
            return Some(known);
        }
        let (attributor, uid) = (self.attributor.clone(), self.uid);
        self.searching
            .does_at_leisure(move || look_up(&mut lock(&attributor), uid, source, destination))
            .await
    }

    /// Whether no program holds a socket that connects, or would connect, `source` to `destination`. Not known is no.
    pub async fn is_gone(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        let attributor = self.attributor.clone();
        let asked = self
            .searching
            .does(move || matches!(lock(&attributor).owner(source, destination), Ok(None)));
        asked.await.unwrap_or(false)
    }

    /// Whether a connection may use one network device only, so that it can't be brought here. Not known is no.
    pub async fn is_bound_to_device(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        let attributor = self.attributor.clone();
        let asked = self.searching.does(move || {
            let bound = lock(&attributor).is_bound_to_device(source, destination);
            bound.unwrap_or(false)
        });
        asked.await.unwrap_or(false)
    }

    /// Finds out one more fact of a process that opened something. What cannot be found out is given up, so that no fact is
    /// asked for twice.
    pub async fn learn(&self, process: &Process, fact: Fact, facts: &mut Facts) {
        match fact {
            Fact::Path => {}
            // The kernel's own word, and as quick as asking a thread for it.
            Fact::Cgroup => facts.cgroup = learned(process.cgroup()),
            Fact::Script => {
                let script = self.beside(process, Process::script).await;
                facts.script = learned(script.unwrap_or(Err(Unknowable)));
            }
            Fact::Ancestors => {
                if let Some(found) = self.beside(process, Process::ancestors).await {
                    facts.ancestors = Learned::Is(Ancestors {
                        binaries: found.binaries,
                        complete: found.complete,
                    });
                }
            }
            Fact::Sha256 => facts.sha256 = learned(self.hash(process).await),
        }
        facts.give_up(fact);
    }

    async fn beside<T: Send + 'static>(
        &self,
        process: &Process,
        find_out: impl FnOnce(&Process) -> T + Send + 'static,
    ) -> Option<T> {
        let process = process.clone();
        self.searching.does(move || find_out(&process)).await
    }

    async fn hash(&self, process: &Process) -> Result<[u8; 32], Unknowable> {
        let at_hand = self.hashes.try_lock().ok();
        if let Some(hash) = at_hand.and_then(|hashes| hashes.at_hand(process)) {
            return Ok(hash);
        }
        let (hashes, process) = (self.hashes.clone(), process.clone());
        let hash = self.hashing.does(move || lock(&hashes).of(&process)).await;
        hash.unwrap_or(Err(Unknowable))
    }

    /// The same where it takes some microseconds: less than asking the thread would. `None`: the thread has to look.
    fn at_hand(&self, source: SocketAddr, destination: SocketAddr) -> Option<Attributed> {
        let mut attributor = self.attributor.try_lock().ok()?;
        match owner(&mut attributor, self.uid, source, destination) {
            Ok(owner) => attributor.process_at_hand(&owner).map(Attributed::Process),
            Err(known) => Some(known),
        }
    }

    /// Who holds the socket that connects `source` to `destination`.
    async fn of(&self, source: SocketAddr, destination: SocketAddr) -> Attributed {
        if let Some(known) = self.at_hand(source, destination) {
            return known;
        }
        let (attributor, uid) = (self.attributor.clone(), self.uid);
        let found = self
            .searching
            .does(move || look_up(&mut lock(&attributor), uid, source, destination));
        found.await.unwrap_or_else(|| Attributed::NotAsked {
            reason: "the attribution thread is gone".to_owned(),
        })
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look_up(
    attributor: &mut Attributor,
    uid: u32,
    source: SocketAddr,
    destination: SocketAddr,
) -> Attributed {
    match owner(attributor, uid, source, destination) {
        Ok(owner) => match attributor.process(&owner) {
            Some(process) => Attributed::Process(process),
            None => Attributed::Unknown,
        },
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
        Ok(None) => Err(Attributed::Unknown),
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

fn learned<T>(fact: Result<T, Unknowable>) -> Learned<T> {
    match fact {
        Ok(fact) => Learned::Is(fact),
        Err(Unknowable) => Learned::Unknowable,
    }
}
