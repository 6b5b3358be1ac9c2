//! What a connection did before it was logged in, or instead.
use std::sync::atomic::{AtomicBool, Ordering};

use crate::penalties::Offence;

/// Of one connection.
#[derive(Debug, Default)]
pub(crate) struct LoginAttempt {
    done: AtomicBool,
    refused: AtomicBool,
    late: AtomicBool,
}

impl LoginAttempt {
    /// It is logged in.
    pub(crate) fn done(&self) {
        self.done.store(true, Ordering::Relaxed);
    }

    /// It showed a key that is not good, or gave a wrong answer.
    pub(crate) fn refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Its time was over.
    pub(crate) fn late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    /// What it owes at its end; `violation` when it said what is no SSH.
    pub(crate) fn offence(&self, violation: bool) -> Option<Offence> {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if is(&self.done) {
            None
        } else if is(&self.late) {
            Some(Offence::Abuse)
        } else if is(&self.refused) {
            Some(Offence::Refused)
        } else if violation {
            Some(Offence::Abuse)
        } else {
            Some(Offence::Nothing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_owes_by_what_it_did() {
        let owes = |act: fn(&LoginAttempt), violation| {
            let attempt = LoginAttempt::default();
            act(&attempt);
            attempt.offence(violation)
        };
        assert_eq!(owes(|_| {}, false), Some(Offence::Nothing));
        assert_eq!(owes(|_| {}, true), Some(Offence::Abuse));
        assert_eq!(owes(LoginAttempt::late, false), Some(Offence::Abuse));
        // Closed by the client once its keys were used up.
        assert_eq!(owes(LoginAttempt::refused, true), Some(Offence::Refused));
        assert_eq!(owes(LoginAttempt::done, true), None);
    }
}
