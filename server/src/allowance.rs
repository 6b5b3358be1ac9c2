//! How much a user may have: sessions and flows at a time, openings and bytes a second.
use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use adit_link::Counters;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::user_name::UserName;

/// What a user has left unused for so long may be used at once.
const BURST: Duration = Duration::from_secs(1);

/// What one user may have. What is not said is what all users may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Sessions at a time.
    pub sessions: Option<usize>,
    /// Flows at a time.
    pub flows: Option<usize>,
    /// Flows that are asked for in a second.
    pub opens_per_second: Option<u64>,
    /// Bytes in a second, both directions of all flows together.
    pub bytes_per_second: Option<u64>,
}

/// Whose they are; the first that names a user counts.
#[derive(Debug, Clone, Default)]
pub struct Allowances(pub Vec<(HashSet<UserName>, Allowance)>);

impl Allowances {
    /// Those of this user.
    pub fn of(&self, user: &UserName) -> Allowance {
        let mut naming = self.0.iter().filter(|(users, _)| users.contains(user));
        naming.next().map(|(_, own)| *own).unwrap_or_default()
    }
}

/// What users have used of what they may have in a second.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// Only of users that have such an allowance, which are named in the file.
    by_user: Mutex<HashMap<UserName, Arc<UserRates>>>,
}

#[derive(Debug, Default)]
struct UserRates {
    opens: Bucket,
    bytes: Bucket,
}

/// When what was used has been earned.
#[derive(Debug, Default)]
struct Bucket(Mutex<Option<Instant>>);

impl Bucket {
    /// Uses so much, and says when it will have been earned.
    fn charge(&self, amount: u64, per_second: u64, now: Instant) -> Instant {
        let mut earned = lock(&self.0);
        let since = earned.map_or(now, |earned| {
            earned.max(now.checked_sub(BURST).unwrap_or(now))
        });
        let takes = Duration::from_secs_f64(amount as f64 / per_second.max(1) as f64);
        let at = since + takes;
        *earned = Some(at);
        at
    }

    /// The same unless more than a burst is owed already.
    fn admit(&self, per_second: u64, now: Instant) -> bool {
        let owed = lock(&self.0).is_some_and(|earned| earned > now);
        if !owed {
            self.charge(1, per_second, now);
        }
        !owed
    }

    fn earned(&self) -> Option<Instant> {
        *lock(&self.0)
    }
}

impl Rates {
    /// May this user open one more flow now?
    pub(crate) fn admit_open(&self, user: &UserName, allowance: Allowance) -> bool {
        allowance
            .opens_per_second
            .is_none_or(|limit| self.of(user).opens.admit(limit, Instant::now()))
    }

    /// What a flow of this user goes by.
    pub(crate) fn pace(&self, user: &UserName, allowance: Allowance) -> Pace {
        let limited = |per_second| (self.of(user), per_second);
        Pace(allowance.bytes_per_second.map(limited))
    }

    fn of(&self, user: &UserName) -> Arc<UserRates> {
        Arc::clone(lock(&self.by_user).entry(user.clone()).or_default())
    }
}

/// How fast a flow may be, together with the others of its user.
#[derive(Debug, Clone)]
pub(crate) struct Pace(Option<(Arc<UserRates>, u64)>);

impl Pace {
    /// To be called with what was relayed.
    pub(crate) fn charge(&self, bytes: u64) {
        if let Some((rates, per_second)) = &self.0 {
            rates.bytes.charge(bytes, *per_second, Instant::now());
        }
    }

    /// When more may be relayed, if that is later than now.
    pub(crate) fn later(&self) -> Option<Instant> {
        let (rates, _) = self.0.as_ref()?;
        rates.bytes.earned().filter(|at| *at > Instant::now())
    }

    /// Resolves when more may be relayed.
    pub(crate) async fn ready(&self) {
        while let Some(at) = self.later() {
            sleep_until(at).await;
        }
    }

    /// Runs a relay that counts into `counters`, and does not look at it while it has been too fast:
    /// what it does not take is not given back as credit, and not read.
    pub(crate) async fn run<T>(&self, relay: impl Future<Output = T>, counters: &Counters) -> T {
        let mut relay = pin!(relay);
        if self.0.is_none() {
            return relay.await;
        }
        let mut pause: Option<std::pin::Pin<Box<Sleep>>> = None;
        let mut counted = 0;
        std::future::poll_fn(|cx| {
            loop {
                if let Some(until) = &mut pause {
                    std::task::ready!(until.as_mut().poll(cx));
                }
                pause = self.later().map(|at| Box::pin(sleep_until(at)));
                if pause.is_some() {
                    continue;
                }
                let polled = relay.as_mut().poll(cx);
                let total =
                    counters.up.load(Ordering::Relaxed) + counters.down.load(Ordering::Relaxed);
                self.charge(total - counted);
                counted = total;
                match polled {
                    // Asks to be woken for the time as well, once there is one.
                    Poll::Pending if self.later().is_some() => {}
                    other @ (Poll::Ready(_) | Poll::Pending) => return other,
                }
            }
        })
        .await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_that_names_a_user_counts() {
        let name = |text: &str| -> UserName { text.parse().expect("name") };
        let of = |sessions| Allowance {
            sessions: Some(sessions),
            ..Allowance::default()
        };
        let allowances = Allowances(vec![
            (HashSet::from([name("alice")]), of(1)),
            (HashSet::from([name("alice"), name("bob")]), of(2)),
        ]);
        assert_eq!(allowances.of(&name("alice")), of(1));
        assert_eq!(allowances.of(&name("bob")), of(2));
        assert_eq!(allowances.of(&name("carol")), Allowance::default());
    }

    proptest! {
        /// Over any time, no more than the rate and one burst.
        #[test]
        fn no_more_is_admitted_than_the_rate_and_a_burst(
            per_second in 1_u64..50, gaps in prop::collection::vec(0_u64..400, 1..300),
        ) {
            let (bucket, start) = (Bucket::default(), Instant::now() + BURST * 2);
            let (mut now, mut admitted) = (start, 0);
            for gap in gaps {
                now += Duration::from_millis(gap);
                admitted += u64::from(bucket.admit(per_second, now));
            }
            let seconds = (now - start + BURST).as_secs_f64();
            prop_assert!(admitted as f64 <= seconds * per_second as f64 + 1.0, "{admitted} in {seconds}");
        }
    }

    #[test]
    fn an_idle_user_may_have_a_bursts_worth_at_once() {
        let (bucket, start) = (Bucket::default(), Instant::now() + BURST * 2);
        assert!(bucket.admit(10, start));
        let later = start + Duration::from_secs(60);
        let admitted = (0..50).filter(|_| bucket.admit(10, later)).count();
        assert_eq!(admitted, 11);
        assert!(!bucket.admit(10, later + Duration::from_millis(50)));
        assert!(bucket.admit(10, later + Duration::from_millis(101)));
    }

    #[tokio::test]
    async fn a_relay_goes_at_its_pace() {
        let rates = Rates::default();
        let user = "alice".parse().expect("name");
        let allowance = Allowance {
            bytes_per_second: Some(100_000),
            ..Allowance::default()
        };
        let counters = Counters::default();
        let relay = async {
            for _ in 0..10 {
                counters.down.fetch_add(10_000, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        };
        let since = Instant::now();
        rates.pace(&user, allowance).run(relay, &counters).await;
        // All but the last are waited for, and a burst is for who was idle before.
        let took = since.elapsed().as_secs_f64();
        assert!(took >= 0.89, "{took} s for 100,000 bytes");
        assert!(rates.pace(&user, Allowance::default()).later().is_none());
    }
}
