//! What one user may cause in the audit, so that the lines of others have room whatever it does.
use std::collections::{HashMap, VecDeque};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::log_queue::{put_so_far, written_so_far};
use crate::throttle::Throttle;
use crate::user_name::UserName;

/// Lines of one user's that may wait to be written, about a third of what closes the gate for all.
const SHARE: usize = 768;
/// Users of whom something is kept though nothing of theirs waits.
const REMEMBERED: usize = 1024;

static ACCOUNTS: LazyLock<Mutex<Accounts>> = LazyLock::new(Mutex::default);

type Accounts = HashMap<UserName, Account>;

#[derive(Debug, Default)]
struct Account {
    /// How many lines of all had been put when each of this user's was.
    waiting: VecDeque<u64>,
    /// Refusals for asking too often or having too much.
    surplus: Throttle,
}

impl Account {
    fn settle(&mut self, written: u64) {
        while self.waiting.front().is_some_and(|put| *put <= written) {
            self.waiting.pop_front();
        }
    }
}

/// Can one more line of this user's be written? To be asked before a stream of its is opened.
pub(crate) fn has_room(user: &UserName) -> bool {
    let mut accounts = lock();
    let Some(account) = accounts.get_mut(user) else {
        return true;
    };
    account.settle(written_so_far());
    account.waiting.len() < SHARE
}

/// To be called behind each line that a user's stream has caused.
pub(crate) fn noted(user: &UserName) {
    let mut accounts = lock();
    let (put, written) = (put_so_far(), written_so_far());
    let account = of(&mut accounts, user, written);
    account.settle(written);
    account.waiting.push_back(put);
}

/// `None`: a line about this surplus of the user's is left out. Otherwise how many were since the last
/// one.
pub(crate) fn admit_surplus(user: &UserName) -> Option<u64> {
    let mut accounts = lock();
    let account = of(&mut accounts, user, written_so_far());
    account.surplus.admit(Instant::now())
}

fn of<'a>(accounts: &'a mut Accounts, user: &UserName, written: u64) -> &'a mut Account {
    if accounts.len() >= REMEMBERED && !accounts.contains_key(user) {
        accounts.retain(|_, account| {
            account.settle(written);
            !account.waiting.is_empty()
        });
    }
    accounts.entry(user.clone()).or_default()
}

fn lock() -> MutexGuard<'static, Accounts> {
    ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_waits_no_more() {
        let mut account = Account::default();
        account.waiting.extend([3, 5, 5, 9]);
        account.settle(4);
        assert_eq!(account.waiting, [5, 5, 9]);
        account.settle(9);
        assert!(account.waiting.is_empty());
    }

    #[test]
    fn whoever_has_nothing_waiting_is_forgotten_for_others() {
        let mut accounts = Accounts::new();
        let name = |number: usize| format!("user{number}").parse::<UserName>().expect("name");
        of(&mut accounts, &name(0), 0).waiting.push_back(7);
        for number in 0..REMEMBERED {
            of(&mut accounts, &name(number), 0);
        }
        assert_eq!(accounts.len(), REMEMBERED);
        of(&mut accounts, &name(REMEMBERED), 6);
        assert_eq!(accounts.len(), 2);
        assert_eq!(accounts[&name(0)].waiting, [7]);
    }
}
