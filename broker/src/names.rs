//! The addresses of names that a rule lets pass: looked up by the system's resolver, off the thread that carries flows.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A lookup cannot be cancelled, and holds a thread until the system's resolver gives up.
const MOST_LOOKUPS: usize = 32;
/// The resolver's own patience with two name servers, twice (resolv.conf(5): `timeout`, `attempts`).
const PATIENCE: Duration = Duration::from_secs(20);
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 16;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// The resolver says so, or cannot say.
    #[error("{name} cannot be resolved: {reason}")]
    Unresolvable {
        /// The name.
        name: String,
        /// In words.
        reason: String,
    },
    /// No answer in time.
    #[error("{name} was not resolved within {} s", PATIENCE.as_secs())]
    TimedOut {
        /// The name.
        name: String,
    },
    /// Too many are being looked up.
    #[error("too many names are being looked up")]
    Busy,
}

/// Looks names up. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Names {
    places: Arc<Semaphore>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST_LOOKUPS)),
        }
    }
}

impl Names {
    /// The addresses of a name in the resolver's order, each once, at least one.
    ///
    /// # Errors
    /// When there is none, or no answer in time.
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| NameError::Busy)?;
        let question = name.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            // Held until the thread is free again, also when nobody waits for it any more.
            let _place = place;
            (question.as_str(), 0)
                .to_socket_addrs()
                .map(|found| each_once(found.map(|at| at.ip())))
        });
        let name = name.to_owned();
        let reason = match timeout(PATIENCE, lookup).await {
            Err(_) => return Err(NameError::TimedOut { name }),
            Ok(Ok(Ok(found))) if !found.is_empty() => return Ok(found),
            Ok(Ok(Ok(_))) => "it has no address".to_owned(),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(stopped)) => stopped.to_string(),
        };
        Err(NameError::Unresolvable { name, reason })
    }
}

fn each_once(found: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut kept = Vec::new();
    for address in found {
        if kept.len() < MOST_ADDRESSES && !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_have_addresses_or_a_reason() {
        let names = Names::default();
        let found = names.lookup("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        // RFC 2606: no such name exists. A label that is too long is refused by the resolver itself, without asking anybody.
        let long = format!("{}.invalid", "x".repeat(64));
        let error = names.lookup(&long).await.unwrap_err();
        assert!(matches!(error, NameError::Unresolvable { .. }), "{error}");
    }

    #[tokio::test]
    async fn lookups_are_bounded() {
        let names = Names::default();
        let all = MOST_LOOKUPS.try_into().unwrap();
        let taken = names.places.clone().acquire_many_owned(all).await.unwrap();
        assert!(matches!(
            names.lookup("localhost").await,
            Err(NameError::Busy)
        ));
        drop(taken);
        assert!(names.lookup("localhost").await.is_ok());
    }

    #[test]
    fn addresses_are_tried_once_and_not_without_end() {
        let many = (0..20_u8).map(|last| IpAddr::from([192, 0, 2, last / 2]));
        assert_eq!(each_once(many).len(), 10);
        let more = (0..20_u8).map(|last| IpAddr::from([192, 0, 2, last]));
        assert_eq!(each_once(more).len(), MOST_ADDRESSES);
    }
}
