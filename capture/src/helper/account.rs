//! Who may claim: people, and those system accounts that the administrator names.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::User;
use serde::Deserialize;

/// The first uid that is not a system account's (login.defs(5), `UID_MIN`).
const FIRST_PERSON: u32 = 1000;
/// Longest configuration file, bytes.
const MAX_CONFIG: u64 = 64 * 1024;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is longer than {MAX_CONFIG} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("{}: {source}", path.display())]
    Parse {
        path: PathBuf,
        source: Box<serde_saphyr::Error>,
    },
    #[error("there is no user {0:?}")]
    NoUser(String),
    #[error("cannot look up user {name:?}: {source}")]
    LookUp { name: String, source: nix::Error },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    capture_system_users: Vec<Account>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Account {
    Uid(u32),
    Name(String),
}

/// The system accounts that may claim nevertheless.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Allowed(Arc<BTreeSet<u32>>);

impl Allowed {
    /// From the configuration file, and from what the command line adds.
    pub(crate) fn read(config: Option<&Path>, more: &[u32]) -> Result<Allowed, AccountError> {
        let mut allowed: BTreeSet<u32> = more.iter().copied().collect();
        if let Some(path) = config {
            allowed.extend(parse(path, &text(path)?)?);
        }
        Ok(Allowed(Arc::new(allowed)))
    }

    pub(crate) fn may_claim(&self, uid: u32) -> bool {
        uid >= FIRST_PERSON || self.0.contains(&uid)
    }
}

fn text(path: &Path) -> Result<String, AccountError> {
    let read = |source| AccountError::Read {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(read)?.len() > MAX_CONFIG {
        return Err(AccountError::TooLong(path.to_owned()));
    }
    fs::read_to_string(path).map_err(read)
}

fn parse(path: &Path, text: &str) -> Result<Vec<u32>, AccountError> {
    let config: Config = serde_saphyr::from_str(text).map_err(|source| AccountError::Parse {
        path: path.to_owned(),
        source: source.into(),
    })?;
    config.capture_system_users.into_iter().map(uid).collect()
}

fn uid(account: Account) -> Result<u32, AccountError> {
    match account {
        Account::Uid(uid) => Ok(uid),
        Account::Name(name) => match User::from_name(&name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            Ok(None) => Err(AccountError::NoUser(name)),
            Err(source) => Err(AccountError::LookUp { name, source }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&[u32], &str>) {
        let found = parse(Path::new("capture.yaml"), text).map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
            (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn accounts_are_names_or_numbers() {
        check("capture_system_users: [root, 33, daemon]", Ok(&[0, 33, 1]));
        check("{}", Ok(&[]));
        check(
            "capture_system_users: [no-such-user]",
            Err("no user \"no-such-user\""),
        );
        check("capture_users: [root]", Err("capture_users"));
        check("capture_system_users: [-1]", Err("line 1 column 24"));
    }

    #[test]
    fn people_may_claim_and_system_accounts_when_named() {
        let allowed = Allowed::read(None, &[33]).unwrap();
        for (uid, expected) in [
            (0, false),
            (33, true),
            (999, false),
            (1000, true),
            (70_000, true),
        ] {
            assert_eq!(allowed.may_claim(uid), expected, "{uid}");
        }
    }
}
