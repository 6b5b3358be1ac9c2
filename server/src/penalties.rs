//! Sources whose connections come to nothing are not listened to for a while.
//!
//! Each such connection owes some seconds. What a source owes adds up; from [`LEAST`] on it is refused
//! until all of it is over. An honest client that mistook its key once or twice notices nothing.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::unauthenticated::Source;

/// What is owed before anything happens.
const LEAST: Duration = Duration::from_secs(15);
/// The most that is ever owed.
const MOST: Duration = Duration::from_secs(600);
/// Sources that are remembered. One more is forgiven: whoever has so many is not held by this.
const MAX_SOURCES: usize = 65_536;

/// What a connection did instead of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offence {
    /// It came and went.
    Nothing,
    /// It showed keys that are not good, or gave wrong answers.
    Refused,
    /// It sat there until its time was over, or said what is not SSH.
    Abuse,
}

impl Offence {
    fn owes(self) -> Duration {
        Duration::from_secs(match self {
            Self::Nothing => 1,
            Self::Refused => 5,
            Self::Abuse => 10,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Penalties {
    exempt: Vec<IpNet>,
    owed: Mutex<HashMap<Source, Owed>>,
}

#[derive(Debug, Clone, Copy)]
struct Owed {
    until: Instant,
    refused: bool,
}

impl Penalties {
    /// Whoever comes from these networks owes nothing.
    pub(crate) fn new(exempt: Vec<IpNet>) -> Self {
        Self {
            exempt,
            owed: Mutex::default(),
        }
    }

    pub(crate) fn add(&self, from: IpAddr, offence: Offence, now: Instant) {
        if self.exempt.iter().any(|network| network.contains(&from)) {
            return;
        }
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        if owed.len() >= MAX_SOURCES {
            owed.retain(|_, owed| owed.until > now);
        }
        let source = Source::of(from);
        let had = owed.get(&source).filter(|owed| owed.until > now).copied();
        if had.is_none() && owed.len() >= MAX_SOURCES {
            return;
        }
        let since = had.map_or(now, |owed| owed.until);
        let until = (since + offence.owes()).min(now + MOST);
        let refused = had.is_some_and(|owed| owed.refused) || until - now >= LEAST;
        owed.insert(source, Owed { until, refused });
    }

    /// Is a connection from there not listened to?
    pub(crate) fn refuse(&self, from: IpAddr, now: Instant) -> bool {
        let owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = owed.get(&Source::of(from));
        of_source.is_some_and(|owed| owed.refused && owed.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn what_is_owed_adds_up_and_passes() {
        let (penalties, start) = (Penalties::new(Vec::new()), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let from = at("192.0.2.1");
        penalties.add(from, Offence::Refused, after(0));
        penalties.add(from, Offence::Refused, after(0));
        assert!(!penalties.refuse(from, after(0)));
        penalties.add(from, Offence::Refused, after(0));
        assert!(penalties.refuse(from, after(0)) && penalties.refuse(from, after(14)));
        assert!(!penalties.refuse(from, after(15)));
        // Once it is over, it begins anew.
        penalties.add(from, Offence::Abuse, after(15));
        assert!(!penalties.refuse(from, after(15)));
        // Slowly, it never comes to anything.
        for hour in 1..100 {
            penalties.add(from, Offence::Abuse, after(hour * 3600));
            assert!(!penalties.refuse(from, after(hour * 3600)));
        }
    }

    #[test]
    fn there_is_a_most_and_a_network_of_ipv6_is_one_source() {
        let (penalties, start) = (Penalties::new(Vec::new()), Instant::now());
        for _ in 0..1000 {
            penalties.add(at("2001:db8::1"), Offence::Abuse, start);
        }
        assert!(penalties.refuse(at("2001:db8::ffff"), start + MOST - LEAST));
        assert!(!penalties.refuse(at("2001:db8:0:1::1"), start));
        assert!(!penalties.refuse(at("2001:db8::1"), start + MOST));
    }

    #[test]
    fn some_networks_owe_nothing_and_what_is_remembered_is_bounded() {
        let exempt = vec!["10.0.0.0/8".parse().expect("network")];
        let (penalties, now) = (Penalties::new(exempt), Instant::now());
        for _ in 0..10 {
            penalties.add(at("10.1.2.3"), Offence::Abuse, now);
        }
        assert!(!penalties.refuse(at("10.1.2.3"), now));
        for number in 0..MAX_SOURCES + 100 {
            let number = u32::try_from(number).expect("small");
            let from = std::net::Ipv4Addr::from(0xc000_0000 + number);
            penalties.add(from.into(), Offence::Abuse, now);
        }
        let held = penalties.owed.lock().expect("lock").len();
        assert_eq!(held, MAX_SOURCES);
    }
}
