//! The name a client gives for itself.
use std::fmt;

/// Longest name, in bytes; Linux's own limit for login names is 32.
const MAX: usize = 64;

/// A user name that is safe in a path and in a log line: ASCII letters, digits and `._@+-`,
/// beginning with none of `.@+-`.
///
/// It is put into the path of the authorized keys in place of `%u`, so it can hold no separator and
/// can't be `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(String);

/// The text is no user name that we accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a user name has 1 to {MAX} of the characters A-Z a-z 0-9 _ . @ + - and begins with a letter, a digit or _"
)]
pub struct BadUserName;

impl UserName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for UserName {
    type Err = BadUserName;

    fn from_str(text: &str) -> Result<Self, BadUserName> {
        let first = text.bytes().next().ok_or(BadUserName)?;
        let first_fits = first.is_ascii_alphanumeric() || first == b'_';
        let fits =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'@' | b'+' | b'-');
        if text.len() > MAX || !first_fits || !text.bytes().all(fits) {
            return Err(BadUserName);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, accepted: bool) {
        assert_eq!(text.parse::<UserName>().is_ok(), accepted, "{text:?}");
    }

    #[test]
    fn names_with_path_characters_are_refused() {
        for good in [
            "alice",
            "alice.smith",
            "svc-backup",
            "alice@corp.example",
            "_apt",
            "7of9",
        ] {
            check(good, true);
        }
        for bad in [
            "",
            ".",
            "..",
            "../etc/passwd",
            "a/b",
            ".hidden",
            "-rf",
            "@finance",
            "a\0",
            "a b",
            "a\n",
            "al%u",
            "älice",
        ] {
            check(bad, false);
        }
        check(&"a".repeat(64), true);
        check(&"a".repeat(65), false);
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_one_ordinary_path_component(text in "[ -~]{0,70}") {
            if let Ok(name) = text.parse::<UserName>() {
                let parts: Vec<_> = Path::new(name.as_str()).components().collect();
                prop_assert!(matches!(parts.as_slice(), [Component::Normal(_)]));
            }
        }
    }
}
