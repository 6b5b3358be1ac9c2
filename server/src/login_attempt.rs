//! What a connection did before it was logged in, or instead.
//!
//! The SSH library checks signatures by itself, and of a certificate its time and who signed it; what
//! is not good it refuses without a word to us. That much can be known: a key that was worth a
//! signature got none that was good, or a user was named and nothing shown at all.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::penalties::Offence;

/// Of one connection.
#[derive(Debug, Default)]
pub(crate) struct LoginAttempt {
    done: AtomicBool,
    refused: AtomicBool,
    late: AtomicBool,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    /// Who it says that it is, last.
    user: Option<String>,
    /// A signature is awaited.
    unsigned: Option<Unsigned>,
    /// Something was shown that we were asked about, whatever came of it.
    shown: bool,
}

/// A key that was worth a signature, and whose it was to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsigned {
    pub(crate) user: String,
    pub(crate) fingerprint: String,
}

/// What came to nothing though nothing of it was refused by us.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unheard {
    /// No good signature came for it.
    Unsigned(Unsigned),
    /// This user was named, and nothing was shown.
    Nothing(String),
}

impl LoginAttempt {
    /// Somebody asks to be this user.
    pub(crate) fn named(&self, user: &str) {
        let heard = &mut self.heard();
        if heard.user.as_deref() != Some(user) {
            heard.user = Some(user.to_owned());
        }
    }

    /// It has shown something that is told of elsewhere.
    pub(crate) fn shown(&self) {
        self.heard().shown = true;
    }

    /// A signature by this key is awaited from now on; what was awaited before, if it was by another.
    pub(crate) fn awaits(&self, unsigned: Unsigned) -> Option<Unsigned> {
        let before = self.heard().unsigned.replace(unsigned.clone());
        before.filter(|before| *before != unsigned)
    }

    /// It came, or something else in its place.
    pub(crate) fn take_unsigned(&self) -> Option<Unsigned> {
        self.heard().unsigned.take()
    }

    /// To be told at the end.
    pub(crate) fn unheard(&self) -> Option<Unheard> {
        let mut heard = self.heard();
        if self.done.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(unsigned) = heard.unsigned.take() {
            return Some(Unheard::Unsigned(unsigned));
        }
        let user = heard.user.take();
        user.filter(|_| !heard.shown).map(Unheard::Nothing)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

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

    fn unsigned(fingerprint: &str) -> Unsigned {
        let (user, fingerprint) = ("alice".to_owned(), fingerprint.to_owned());
        Unsigned { user, fingerprint }
    }

    #[test]
    fn what_was_not_heard_of_is_known_at_the_end() {
        let attempt = LoginAttempt::default();
        assert_eq!(attempt.unheard(), None);
        attempt.named("alice");
        assert_eq!(attempt.awaits(unsigned("one")), None);
        // As the library asks again before it looks at the signature.
        assert_eq!(attempt.awaits(unsigned("one")), None);
        assert_eq!(attempt.awaits(unsigned("two")), Some(unsigned("one")));
        let expected = Unheard::Unsigned(unsigned("two"));
        assert_eq!(attempt.unheard(), Some(expected));
        let nothing = Unheard::Nothing("alice".to_owned());
        assert_eq!(attempt.unheard(), Some(nothing));
        for end in [LoginAttempt::shown, LoginAttempt::done] {
            let attempt = LoginAttempt::default();
            attempt.named("alice");
            end(&attempt);
            assert_eq!(attempt.unheard(), None);
        }
    }

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
