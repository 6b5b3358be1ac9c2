//! Looks a name up, once, by the gateway's own resolver (nsswitch: hosts file, DNS, …).
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::policy::Resolvable;
use crate::quota::{Full, Quota};

/// Addresses of one name that are judged and tried. A name with more is served by its first ones.
const MAX_ADDRESSES: usize = 16;
/// Lookups of one user at a time. A lookup cannot be cancelled and holds a thread until the
/// system's resolver gives up, so that one user's names that never answer must not take all
/// threads.
const MAX_LOOKUPS_PER_USER: usize = 32;
/// Of all users, out of the runtime's 512 threads: the rest is for files of keys.
const MAX_LOOKUPS: usize = 480;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The resolver says so, or cannot say.
    #[error("{name} cannot be resolved: {source}")]
    Lookup {
        /// The name.
        name: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// The resolver answered without an address.
    #[error("{name} has no address")]
    Empty {
        /// The name.
        name: String,
    },
    /// No answer in time.
    #[error("{name} was not resolved within {after:?}")]
    TimedOut {
        /// The name.
        name: String,
        /// The limit.
        after: Duration,
    },
    /// Too many lookups are under way.
    #[error("too many names are being looked up: {0}")]
    Busy(#[from] Full),
}

/// Looks names up in threads of their own, a bounded number for each user.
#[derive(Debug)]
pub(crate) struct Resolver {
    lookups: Arc<Quota>,
}

impl Resolver {
    pub(crate) fn new() -> Self {
        Self {
            lookups: Quota::new(MAX_LOOKUPS_PER_USER, MAX_LOOKUPS),
        }
    }

    /// The addresses of a name, in the resolver's order, each once.
    pub(crate) async fn lookup(
        &self,
        wanted: &Resolvable,
        within: Duration,
    ) -> Result<Vec<IpAddr>, ResolveError> {
        let name = wanted.name().to_owned();
        let place = self.lookups.take(wanted.user())?;
        let question = name.clone();
        let lookup = tokio::task::spawn_blocking(move || {
            // Held until the thread is free again, not only until the answer is no longer awaited.
            let _place = place;
            (question.as_str(), 0)
                .to_socket_addrs()
                .map(|found| found.map(|at| at.ip()).collect::<Vec<_>>())
        });
        let answered = timeout(within, lookup).await;
        let found = match answered {
            Err(_) => {
                return Err(ResolveError::TimedOut {
                    name,
                    after: within,
                });
            }
            Ok(Err(stopped)) => Err(std::io::Error::other(stopped)),
            Ok(Ok(found)) => found,
        };
        match found {
            Err(source) => Err(ResolveError::Lookup { name, source }),
            Ok(found) if found.is_empty() => Err(ResolveError::Empty { name }),
            Ok(found) => Ok(each_once(found)),
        }
    }
}

fn each_once(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut kept = Vec::new();
    for address in found {
        if kept.len() < MAX_ADDRESSES && !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}
