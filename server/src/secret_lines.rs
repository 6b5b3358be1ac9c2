//! A file with a secret for each user, one a line: `user:secret`. Empty lines and those that begin with
//! `#` say nothing. Of two lines for one user neither counts, since one of them is out of date.
use std::collections::HashSet;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::throttle::seldom;
use crate::trusted_file::{self, Untrusted};

/// Longest file, in bytes: some thousand users.
const MAX_FILE: usize = 1 << 20;

/// The file as it was read.
#[derive(Debug)]
pub(crate) struct SecretLines(Zeroizing<Vec<u8>>);

/// Why a line lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// What it is cannot be told.
    #[error("line {0} is not user:secret")]
    Form(usize),
    /// As is left behind where a password was not typed the same twice.
    #[error("line {line}: nothing stands behind {user:?}, who does not get in by it")]
    Empty {
        /// Its number, from 1.
        line: usize,
        /// Whose it is.
        user: String,
    },
    /// Which one counts cannot be told.
    #[error(
        "line {line} is a second one for {user:?}, who does not get in by either: take the old one out"
    )]
    Second {
        /// Its number.
        line: usize,
        /// Whose it is.
        user: String,
    },
    /// The secret is no use.
    #[error("line {line}, of {user:?}: {why}")]
    Secret {
        /// Its number.
        line: usize,
        /// Whose it is.
        user: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Tells whether a user's secret is still the same, without being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark([u8; 32]);

impl Mark {
    pub(crate) fn of(secret: &str) -> Self {
        let mut mark = [0; 32];
        mark.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
        Self(mark)
    }
}

impl SecretLines {
    pub(crate) fn read(file: &Path) -> Result<Self, Untrusted> {
        trusted_file::read_secret(file, MAX_FILE).map(Self)
    }

    /// Of this user, if there is one that is no mistake; the log has what is one.
    pub(crate) fn of(&self, user: &str) -> Option<&str> {
        self.one_of(user).unwrap_or_else(|why| {
            seldom!(warn, user, %why, "a user has no secret");
            None
        })
    }

    fn one_of(&self, user: &str) -> Result<Option<&str>, BadLine> {
        let mut own = self.lines().filter(|(_, whose, _)| *whose == user);
        let first = own.next();
        let user = || user.to_owned();
        match (first, own.next()) {
            (_, Some((line, ..))) => Err(BadLine::Second { line, user: user() }),
            (Some((line, _, "")), None) => Err(BadLine::Empty { line, user: user() }),
            (Some((_, _, secret)), None) => Ok(Some(secret)),
            (None, None) => Ok(None),
        }
    }

    /// Of all users.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.lines().map(|(.., secret)| secret)
    }

    /// Every line that lets nobody in; `usable` says why a secret does not.
    pub(crate) fn faults(&self, usable: impl Fn(&str) -> Result<(), String>) -> Vec<BadLine> {
        let mut seen = HashSet::new();
        let judged = self.all_lines().map(|(line, text)| {
            let (whose, secret) = text.and_then(parse).ok_or(BadLine::Form(line))?;
            let user = whose.to_owned();
            if !seen.insert(whose) {
                return Err(BadLine::Second { line, user });
            }
            if secret.is_empty() {
                return Err(BadLine::Empty { line, user });
            }
            usable(secret).map_err(|why| BadLine::Secret { line, user, why })
        });
        judged.filter_map(Result::err).collect()
    }

    /// Number, user and secret.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        let lines = self.all_lines();
        let parsed = lines.filter_map(|(line, text)| Some((line, text.and_then(parse)?)));
        parsed.map(|(line, (user, secret))| (line, user, secret))
    }

    /// With their numbers, those that say something; `None` for what is no text.
    fn all_lines(&self) -> impl Iterator<Item = (usize, Option<&str>)> {
        let lines = self.0.split(|byte| *byte == b'\n').enumerate();
        let texts = lines.map(|(index, line)| (index + 1, std::str::from_utf8(line).ok()));
        texts
            .map(|(line, text)| (line, text.map(str::trim)))
            .filter(|(_, text)| text.is_none_or(|text| !text.is_empty() && !text.starts_with('#')))
    }
}

fn parse(line: &str) -> Option<(&str, &str)> {
    let (user, secret) = line.split_once(':')?;
    Some((user.trim(), secret.trim()))
}

#[cfg(test)]
impl From<&str> for SecretLines {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_users() {
        let lines = SecretLines::from("# alice:no\n\nalice: one \nbob:a:b\r\n\nnone\n");
        assert_eq!(lines.of("alice"), Some("one"));
        assert_eq!(lines.of("bob"), Some("a:b"));
        for nobody in ["none", "carol", "", "# alice", "lice"] {
            assert_eq!(lines.of(nobody), None, "{nobody:?}");
        }
        assert_eq!(lines.secrets().count(), 2);
        let not_text = SecretLines(Zeroizing::new(b"a:\xff\nb:x".to_vec()));
        assert_eq!((not_text.of("a"), not_text.of("b")), (None, Some("x")));
    }

    #[test]
    fn what_lets_nobody_in_is_named_and_counts_for_nobody() {
        let text = "alice:one\nbob:\ncarol:bad\nalice:two\nnobody\n";
        let lines = SecretLines::from(text);
        for user in ["alice", "bob"] {
            assert_eq!(lines.of(user), None, "{user}");
        }
        let usable = |text: &str| match text {
            "bad" => Err("it is bad".to_owned()),
            _ => Ok(()),
        };
        let faults: Vec<_> = lines
            .faults(usable)
            .iter()
            .map(BadLine::to_string)
            .collect();
        assert_eq!(
            faults,
            [
                "line 2: nothing stands behind \"bob\", who does not get in by it",
                "line 3, of \"carol\": it is bad",
                "line 4 is a second one for \"alice\", who does not get in by either: take the old one out",
                "line 5 is not user:secret",
            ]
        );
        assert!(SecretLines::from("# none\n\n").faults(usable).is_empty());
        // With another one behind it, which may be meant as the right one.
        let corrected = SecretLines::from("bob:\nbob:two\n");
        assert_eq!(corrected.of("bob"), None);
    }

    #[test]
    fn marks_differ_as_secrets_do() {
        assert_eq!(Mark::of("x"), Mark::of("x"));
        assert_ne!(Mark::of("x"), Mark::of("y"));
    }
}
