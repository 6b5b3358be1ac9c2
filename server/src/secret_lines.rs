//! A file with a secret for each user, one a line: `user:secret`. Empty lines and those that begin with
//! `#` say nothing.
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::trusted_file::{self, Untrusted};

/// Longest file, in bytes: some thousand users.
const MAX_FILE: usize = 1 << 20;

/// The file as it was read.
#[derive(Debug)]
pub(crate) struct SecretLines(Zeroizing<Vec<u8>>);

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

    /// Of this user; the first one counts.
    pub(crate) fn of(&self, user: &str) -> Option<&str> {
        self.lines()
            .find(|(whose, _)| *whose == user)
            .map(|(_, secret)| secret)
    }

    /// Of all users.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.lines().map(|(_, secret)| secret)
    }

    fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.0.split(|byte| *byte == b'\n');
        let texts = lines.filter_map(|line| std::str::from_utf8(line).ok());
        texts
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(':'))
            .map(|(user, secret)| (user.trim(), secret.trim()))
    }
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
        let lines = SecretLines::from("# alice:no\n\nalice: one \nalice:two\nbob:a:b\r\n\nnone\n");
        assert_eq!(lines.of("alice"), Some("one"));
        assert_eq!(lines.of("bob"), Some("a:b"));
        for nobody in ["none", "carol", "", "# alice", "lice"] {
            assert_eq!(lines.of(nobody), None, "{nobody:?}");
        }
        assert_eq!(lines.secrets().count(), 3);
        let not_text = SecretLines(Zeroizing::new(b"a:\xff\nb:x".to_vec()));
        assert_eq!((not_text.of("a"), not_text.of("b")), (None, Some("x")));
    }

    #[test]
    fn marks_differ_as_secrets_do() {
        assert_eq!(Mark::of("x"), Mark::of("x"));
        assert_ne!(Mark::of("x"), Mark::of("y"));
    }
}
