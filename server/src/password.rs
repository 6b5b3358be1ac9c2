//! Passwords: hashes of Argon2id (RFC 9106), written as PHC strings
//! (<https://github.com/P-H-C/phc-string-format>).
use argon2::password_hash::phc::PasswordHash;
use argon2::{ARGON2ID_IDENT, Argon2, Params, PasswordHasher, PasswordVerifier};

use crate::secret_lines::{Mark, SecretLines};
use crate::throttle::seldom;

/// Longest password, in bytes.
pub const MAX_PASSWORD: usize = 1024;
/// The most memory that a hash may cost, in KiB.
const MAX_MEMORY: u32 = 256 << 10;
/// And the most passes over it.
const MAX_PASSES: u32 = 16;
/// What whoever has no hash is compared with when nobody has one: of nothing, at the usual cost.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5J3Mgc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const SALT: usize = 16;

/// A password cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub enum NotHashed {
    /// Everybody knows it.
    #[error("the password is empty")]
    Empty,
    /// It would be refused at every login.
    #[error("the password is longer than {MAX_PASSWORD} bytes")]
    Long,
    /// The system gives no randomness.
    #[error("no random salt: {0}")]
    Salt(#[from] aws_lc_rs::error::Unspecified),
    /// What the hash says.
    #[error(transparent)]
    Argon2(#[from] argon2::password_hash::Error),
}

/// Why a line is no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHash {
    /// Not made by us or another of its kind.
    #[error("no PHC string of Argon2id: make one with `adit-server hash-password`")]
    Form,
    /// Anybody could keep the server busy by it.
    #[error("it costs more than {MAX_MEMORY} KiB of memory or {MAX_PASSES} passes")]
    Cost,
}

/// The hash of a password, with a salt of its own, as a file of passwords has it after the user's name.
///
/// # Errors
/// See [`NotHashed`].
pub fn hash(password: &str) -> Result<String, NotHashed> {
    match password.len() {
        0 => return Err(NotHashed::Empty),
        1..=MAX_PASSWORD => {}
        _ => return Err(NotHashed::Long),
    }
    let mut salt = [0; SALT];
    aws_lc_rs::rand::fill(&mut salt)?;
    let hash = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt)?;
    Ok(hash.to_string())
}

/// Is this the user's password? For whoever has none it takes as long as for the first one of the file.
pub(crate) fn check(lines: Option<&SecretLines>, user: &str, password: &str) -> Option<Mark> {
    let own = lines.and_then(|lines| lines.of(user));
    let usable = own.and_then(|text| {
        let unusable = |why| seldom!(warn, user, %why, "password not used");
        parse(text).map_err(unusable).ok()
    });
    let hash = match &usable {
        Some(hash) => hash,
        None => &first(lines)?,
    };
    let fits = password.len() <= MAX_PASSWORD
        && Argon2::default()
            .verify_password(password.as_bytes(), hash)
            .is_ok();
    own.filter(|_| fits && usable.is_some()).map(Mark::of)
}

/// Is a line's hash any use?
pub(crate) fn usable(text: &str) -> Result<(), BadHash> {
    parse(text).map(drop)
}

fn first(lines: Option<&SecretLines>) -> Option<PasswordHash> {
    let first = lines.and_then(|lines| lines.secrets().find_map(|text| parse(text).ok()));
    first.or_else(|| parse(NOBODYS).ok())
}

fn parse(text: &str) -> Result<PasswordHash, BadHash> {
    let hash = PasswordHash::new(text).map_err(|_| BadHash::Form)?;
    let complete = hash.salt.is_some() && hash.hash.is_some();
    if hash.algorithm != ARGON2ID_IDENT || !complete {
        return Err(BadHash::Form);
    }
    let params = Params::try_from(&hash).map_err(|_| BadHash::Form)?;
    match params.m_cost() <= MAX_MEMORY && params.t_cost() <= MAX_PASSES {
        true => Ok(hash),
        false => Err(BadHash::Cost),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike as _;

    use super::*;

    /// Of `password` with `somesalt`, 2 passes over 2^16 KiB in 1 lane: from `src/test.c` of the
    /// reference implementation, P-H-C/phc-winner-argon2.
    const REFERENCE: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    #[test]
    fn hashes_of_the_reference_implementation_are_understood() {
        let lines = SecretLines::from(format!("alice:{REFERENCE}\n").as_str());
        let check = |user, password| check(Some(&lines), user, password).is_some();
        assert!(check("alice", "password"));
        assert!(!check("alice", "passworD"));
        assert!(!check("alice", ""));
        assert!(!check("bob", "password"));
        assert!(super::check(None, "alice", "password").is_none());
    }

    #[test]
    fn what_is_hashed_here_fits_and_no_two_hashes_are_alike() {
        let hashes = [hash("pä ss").expect("hash"), hash("pä ss").expect("hash")];
        assert_ne!(hashes[0], hashes[1]);
        for hash in &hashes {
            assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
            let lines = SecretLines::from(format!("alice:{hash}").as_str());
            assert_eq!(check(Some(&lines), "alice", "pä ss"), Some(Mark::of(hash)));
        }
        assert!(matches!(hash(""), Err(NotHashed::Empty)));
        assert!(matches!(hash(&"x".repeat(1025)), Err(NotHashed::Long)));
    }

    #[test]
    fn what_is_no_hash_or_costs_too_much_is_not_used() {
        let dearer = |memory, passes| {
            REFERENCE
                .replace("m=65536", &format!("m={memory}"))
                .replace("t=2", &format!("t={passes}"))
        };
        for (text, bad) in [
            ("", BadHash::Form),
            ("password", BadHash::Form),
            ("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ", BadHash::Form),
            (&REFERENCE.replace("argon2id", "argon2i"), BadHash::Form),
            (&REFERENCE.replace("argon2id", "scrypt"), BadHash::Form),
            (&dearer(262_145, 1), BadHash::Cost),
            (&dearer(4_294_967_295_u32, 1), BadHash::Cost),
            (&dearer(65_536, 17), BadHash::Cost),
        ] {
            assert_eq!(parse(text).err(), Some(bad), "{text}");
        }
        assert!(parse(&dearer(262_144, 16)).is_ok());
        assert!(parse(NOBODYS).is_ok());
    }

    #[test]
    fn whoever_has_no_password_takes_as_long_as_who_has() {
        let lines = SecretLines::from(format!("alice:{REFERENCE}\nbad:hash\n").as_str());
        // Of this thread's processor time the least of several: what else the machine does is no part of it.
        let used = || {
            let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("usage");
            let [user, system] = [usage.user_time(), usage.system_time()];
            Duration::from_micros((user + system).num_microseconds().cast_unsigned())
        };
        let quickest = |user| {
            let took = |_| {
                let before = used();
                assert!(check(Some(&lines), user, "wrong").is_none());
                used() - before
            };
            (0..5).map(took).min().expect("several")
        };
        let known = quickest("alice");
        assert!(known > Duration::from_millis(5), "{known:?}");
        for user in ["nobody", "bad", "../alice"] {
            let unknown = quickest(user);
            assert!(unknown * 2 > known, "{user}: {unknown:?}, alice {known:?}");
        }
    }
}
