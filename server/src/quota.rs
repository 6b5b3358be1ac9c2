//! How much of the gateway one user may hold at a time.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::user_name::UserName;

/// Counts what each user holds; at most `limit` each.
#[derive(Debug)]
pub(crate) struct Quota {
    limit: usize,
    held: Mutex<HashMap<UserName, usize>>,
}

/// One of a user's places, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    quota: Arc<Quota>,
    user: UserName,
}

impl Quota {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: Mutex::default(),
        })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// `None`: the user holds as many as allowed.
    pub(crate) fn take(self: &Arc<Self>, user: &UserName) -> Option<Place> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(user.clone()).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place {
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
        if let Some(count) = held.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_places_of_its_own_and_gets_them_back() {
        let quota = Quota::new(2);
        let (alice, bob) = ("alice".parse().expect("name"), "bob".parse().expect("name"));
        let first = quota.take(&alice);
        let second = quota.take(&alice);
        assert!(first.is_some() && second.is_some());
        assert!(quota.take(&alice).is_none());
        assert!(quota.take(&bob).is_some());
        drop(first);
        assert!(quota.take(&alice).is_some());
        drop(second);
        assert!(quota.held.lock().expect("lock").is_empty());
    }
}
