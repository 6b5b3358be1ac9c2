//! How much of the gateway one user may hold at a time.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::user_name::UserName;

/// Counts what each user holds: at most so many each, and so many in all.
#[derive(Debug)]
pub(crate) struct Quota {
    each: usize,
    all: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_user: HashMap<UserName, usize>,
}

/// One of a user's places, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    quota: Arc<Quota>,
    user: UserName,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The user holds that many.
    #[error("this user has {0} already")]
    User(usize),
    /// All users together do.
    #[error("all users together have {0} already")]
    All(usize),
}

impl Quota {
    pub(crate) fn new(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self {
            each,
            all,
            held: Mutex::default(),
        })
    }

    pub(crate) fn take(self: &Arc<Self>, user: &UserName) -> Result<Place, Full> {
        self.take_within(user, None)
    }

    /// With a number of the user's own.
    pub(crate) fn take_within(
        self: &Arc<Self>,
        user: &UserName,
        own: Option<usize>,
    ) -> Result<Place, Full> {
        let each = own.unwrap_or(self.each);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = held.by_user.get(user).copied().unwrap_or(0);
        if of_user >= each {
            return Err(Full::User(each));
        }
        if held.all >= self.all {
            return Err(Full::All(self.all));
        }
        held.all += 1;
        held.by_user.insert(user.clone(), of_user + 1);
        Ok(Place {
            quota: Arc::clone(self),
            user: user.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self
            .quota
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        if let Some(count) = held.by_user.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                held.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_places_of_its_own_and_gets_them_back() {
        let quota = Quota::new(2, 3);
        let name = |text: &str| text.parse().expect("name");
        let (alice, bob, carol) = (name("alice"), name("bob"), name("carol"));
        let first = quota.take(&alice);
        let second = quota.take(&alice);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(quota.take(&alice).err(), Some(Full::User(2)));
        let third = quota.take(&bob);
        assert!(third.is_ok());
        assert_eq!(quota.take(&carol).err(), Some(Full::All(3)));
        drop(first);
        assert!(quota.take(&carol).is_ok());
        assert!(quota.take(&alice).is_ok());
        drop((second, third));
        let held = quota.held.lock().expect("lock");
        assert!(held.by_user.is_empty() && held.all == 0);
    }
}
