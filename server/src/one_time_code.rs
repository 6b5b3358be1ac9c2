//! One-time codes: RFC 6238 with the values that authenticator programs have by default, which are
//! HMAC-SHA-1, steps of 30 seconds and 6 digits. A code is accepted a step early or late, and once.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::hmac;
use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

/// RFC 6238 section 5.2, in seconds.
const STEP: u64 = 30;
/// Steps that a clock may be wrong by, each way.
const DRIFT: u64 = 1;
const DIGITS: usize = 6;
/// RFC 4226 section 4, R6: at least 128 bits.
const LEAST_SECRET: usize = 16;
/// As long as the block of SHA-1; more is hashed down.
const MOST_SECRET: usize = 64;
/// RFC 4226 section 7.3 wants guesses to be bounded: so many wrong ones of a user …
const MOST_WRONG: u32 = 10;
/// … in so many steps; then no code of the user's is accepted until those are over.
const WRONG_STEPS: u64 = 10;

/// What a code is made from.
#[derive(Debug)]
pub(crate) struct Secret(hmac::Key);

/// A line's secret is no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSecret {
    #[error("not base32 (RFC 4648)")]
    Form,
    #[error(
        "a secret has from {LEAST_SECRET} to {MOST_SECRET} bytes before it is written as base32"
    )]
    Length,
}

/// Why a code is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadCode {
    #[error("a wrong code")]
    Wrong,
    #[error("a code that was used before")]
    Used,
    #[error("too many wrong codes of this user: none is accepted for some minutes")]
    TooMany,
}

impl std::str::FromStr for Secret {
    type Err = BadSecret;

    /// Capitals or not, with or without what fills the last group up.
    fn from_str(text: &str) -> Result<Self, BadSecret> {
        let text = Zeroizing::new(text.trim_end_matches('=').to_ascii_uppercase());
        let secret = BASE32_NOPAD.decode(text.as_bytes());
        let secret = Zeroizing::new(secret.map_err(|_| BadSecret::Form)?);
        match secret.len() {
            LEAST_SECRET..=MOST_SECRET => {
                let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &secret);
                Ok(Self(key))
            }
            _ => Err(BadSecret::Length),
        }
    }
}

impl Secret {
    /// RFC 4226 section 5.3.
    fn code(&self, step: u64) -> u32 {
        let tag = hmac::sign(&self.0, &step.to_be_bytes());
        let tag = tag.as_ref();
        let offset = usize::from(tag.last().map_or(0, |last| last & 0xf));
        let mut four = [0; 4];
        four.copy_from_slice(tag.get(offset..offset + 4).unwrap_or(&[0; 4]));
        (u32::from_be_bytes(four) & 0x7fff_ffff) % 1_000_000
    }

    /// The latest step around `now` with this code.
    fn step_of(&self, code: u32, now: u64) -> Option<u64> {
        let steps = now.saturating_sub(DRIFT)..=now + DRIFT;
        steps.rev().find(|step| self.code(*step) == code)
    }
}

/// The code that a text is, if it is one.
pub(crate) fn read(text: &str) -> Option<u32> {
    let digits = text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Of each user what was used, and how often it was guessed.
#[derive(Debug, Default)]
pub(crate) struct Codes(Mutex<HashMap<String, Seen>>);

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    /// The step of the latest code that was accepted.
    used: Option<u64>,
    wrong: u32,
    /// The step of the first of those.
    wrong_since: u64,
}

impl Codes {
    /// Accepts a code of `user`, who has `secret`, `seconds` after 1970. It is not accepted again, and
    /// none that came before it (RFC 6238 section 5.2).
    pub(crate) fn accept(
        &self,
        user: &str,
        secret: &Secret,
        code: u32,
        seconds: u64,
    ) -> Result<(), BadCode> {
        let now = seconds / STEP;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.entry(user.to_owned()).or_default();
        if now.saturating_sub(seen.wrong_since) >= WRONG_STEPS {
            seen.wrong = 0;
        }
        if seen.wrong >= MOST_WRONG {
            return Err(BadCode::TooMany);
        }
        match secret.step_of(code, now) {
            Some(step) if seen.used.is_none_or(|used| used < step) => {
                (seen.used, seen.wrong) = (Some(step), 0);
                Ok(())
            }
            Some(_) => Err(BadCode::Used),
            None => {
                if seen.wrong == 0 {
                    seen.wrong_since = now;
                }
                seen.wrong += 1;
                Err(BadCode::Wrong)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base32 of `12345678901234567890`, the secret of both RFCs.
    const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    fn secret() -> Secret {
        SECRET.parse().expect("secret")
    }

    #[test]
    fn codes_are_those_of_the_rfcs() {
        // RFC 4226 appendix D.
        for (step, code) in [755_224, 287_082, 359_152, 969_429, 338_314]
            .iter()
            .enumerate()
        {
            assert_eq!(secret().code(step as u64), *code);
        }
        // RFC 6238 appendix B, SHA1: the last 6 of its 8 digits.
        for (seconds, code) in [
            (59, 287_082),
            (1_111_111_109, 81_804),
            (1_111_111_111, 50_471),
            (1_234_567_890, 5_924),
            (2_000_000_000, 279_037),
            (20_000_000_000, 353_130),
        ] {
            assert_eq!(secret().code(seconds / STEP), code, "{seconds}");
        }
    }

    #[test]
    fn a_code_is_accepted_a_step_early_or_late() {
        let at = 1_111_111_111;
        let code = 50_471;
        for (seconds, accepted) in [
            (at - 2 * STEP, false),
            (at - STEP, true),
            (at, true),
            (at + STEP, true),
            (at + 2 * STEP, false),
        ] {
            let accept = Codes::default().accept("alice", &secret(), code, seconds);
            assert_eq!(accept.is_ok(), accepted, "{seconds}");
        }
    }

    #[test]
    fn a_code_is_accepted_once_and_none_before_it() {
        let (codes, secret) = (Codes::default(), secret());
        let at = 1_111_111_111;
        let of = |steps: i64| secret.code((at / STEP).saturating_add_signed(steps));
        let accept = |user, steps| codes.accept(user, &secret, of(steps), at);
        assert_eq!(accept("alice", 0), Ok(()));
        assert_eq!(accept("alice", 0), Err(BadCode::Used));
        assert_eq!(accept("alice", -1), Err(BadCode::Used));
        assert_eq!(accept("bob", 0), Ok(()));
        assert_eq!(accept("alice", 1), Ok(()));
        assert_eq!(accept("alice", 1), Err(BadCode::Used));
    }

    #[test]
    fn guesses_are_bounded_for_each_user_and_a_right_code_forgets_them() {
        let (codes, secret) = (Codes::default(), secret());
        let wrong = |user, at| codes.accept(user, &secret, 999_999, at);
        let right = |user, at: u64| codes.accept(user, &secret, secret.code(at / STEP), at);
        let start = 1_111_111_111;
        for _ in 0..9 {
            assert_eq!(wrong("alice", start), Err(BadCode::Wrong));
        }
        assert_eq!(right("alice", start), Ok(()));
        for _ in 0..10 {
            assert_eq!(wrong("alice", start), Err(BadCode::Wrong));
        }
        let later = start + 9 * STEP;
        assert_eq!(right("alice", later), Err(BadCode::TooMany));
        assert_eq!(right("bob", later), Ok(()));
        assert_eq!(right("alice", start + 10 * STEP), Ok(()));
    }

    #[test]
    fn a_secret_is_base32_and_long_enough() {
        let lower = SECRET.to_lowercase();
        for good in [SECRET, &lower, "GEZDGNBVGY3TQOJQGEZDGNBVGY======"] {
            assert!(good.parse::<Secret>().is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", BadSecret::Length),
            ("GEZDGNBVGY3TQOJQ", BadSecret::Length),
            ("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJ0", BadSecret::Form),
            ("GEZDGNBVGY3TQOJQ GEZDGNBVGY3TQOJQ", BadSecret::Form),
            (&SECRET.repeat(4), BadSecret::Length),
        ] {
            assert_eq!(bad.parse::<Secret>().err(), Some(why), "{bad}");
        }
    }

    #[test]
    fn a_code_is_six_digits() {
        assert_eq!(
            (read("012345"), read("999999")),
            (Some(12_345), Some(999_999))
        );
        for no in ["", "12345", "1234567", "12345a", "+12345", " 12345", "１２"] {
            assert_eq!(read(no), None, "{no:?}");
        }
    }
}
