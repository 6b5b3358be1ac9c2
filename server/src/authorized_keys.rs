//! A user's authorized keys: a file in the format of sshd(8), AUTHORIZED_KEYS FILE FORMAT, that nobody
//! else can change.
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use russh::keys::PublicKey;
use russh::keys::ssh_key::public::KeyData;

use crate::key_options::{BadOptions, KeyOptions};
use crate::key_strength::{self, Unusable};
use crate::trusted_file::{self, Untrusted};
use crate::user_name::UserName;

/// Longest file, in bytes: some thousand keys.
const MAX_FILE: usize = 1 << 20;

/// Where the keys of a user are: an absolute path with `%u` for the name, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysPath {
    before: String,
    after: String,
}

/// The path cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeysPath {
    /// It would depend on the directory the server is started in.
    #[error("the path of the authorized keys is not absolute")]
    Relative,
    /// All users would share one file, and so each other's keys.
    #[error("the path of the authorized keys has to contain %u once and no other %")]
    User,
}

impl std::str::FromStr for KeysPath {
    type Err = BadKeysPath;

    fn from_str(text: &str) -> Result<Self, BadKeysPath> {
        let (before, after) = text.split_once("%u").ok_or(BadKeysPath::User)?;
        if before.contains('%') || after.contains('%') {
            return Err(BadKeysPath::User);
        }
        if !before.starts_with('/') {
            return Err(BadKeysPath::Relative);
        }
        Ok(Self {
            before: before.to_owned(),
            after: after.to_owned(),
        })
    }
}

impl KeysPath {
    /// The file of `user`.
    pub fn of(&self, user: &UserName) -> PathBuf {
        PathBuf::from(format!("{}{user}{}", self.before, self.after))
    }

    /// Where the way to the files of all users parts.
    pub(crate) fn directory(&self) -> PathBuf {
        let any = PathBuf::from(format!("{}_", self.before));
        any.parent().map(PathBuf::from).unwrap_or(any)
    }
}

/// A user's file.
#[derive(Debug)]
pub struct AuthorizedKeys {
    file: PathBuf,
    text: String,
}

/// When and from where a login is tried.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// The client's address.
    pub from: IpAddr,
    /// The time.
    pub now: Timestamp,
}

impl AuthorizedKeys {
    /// Reads the file of `user`.
    ///
    /// # Errors
    /// It is not used. Not found: the user has no keys.
    pub fn read(path: &KeysPath, user: &UserName) -> Result<Self, Untrusted> {
        let file = path.of(user);
        let (content, _) = trusted_file::read(&file, MAX_FILE)?;
        // A comment in another encoding is no reason to lock its user out.
        let text = String::from_utf8_lossy(&content).into_owned();
        Ok(Self { file, text })
    }

    /// The first line that lets `key` log in, with its options. A line that has the key but cannot be
    /// used is told to `unused`, by number, and allows nothing.
    pub fn key(
        &self,
        key: &KeyData,
        attempt: Attempt,
        unused: impl FnMut(usize, BadLine),
    ) -> Option<KeyOptions> {
        self.line(key, false, attempt, unused)
    }

    /// The same for a key that signs certificates.
    pub fn authority(
        &self,
        key: &KeyData,
        attempt: Attempt,
        unused: impl FnMut(usize, BadLine),
    ) -> Option<KeyOptions> {
        self.line(key, true, attempt, unused)
    }

    /// Could there be a key that signs certificates? Says no only when it is sure.
    pub fn may_have_authorities(&self) -> bool {
        let lower = self.text.to_ascii_lowercase();
        lower.contains("cert-authority")
    }

    /// Where it is.
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }

    fn line(
        &self,
        key: &KeyData,
        cert_authority: bool,
        attempt: Attempt,
        mut unused: impl FnMut(usize, BadLine),
    ) -> Option<KeyOptions> {
        let encoded = encoded(key)?;
        let zone = TimeZone::system();
        for (number, line) in self.text.lines().enumerate() {
            // Decoding takes long, and all lines but one are other keys.
            if !line.contains(&encoded) {
                continue;
            }
            match parse_line(line, &zone) {
                Ok(Some((options, listed))) if listed.key_data() == key => {
                    if options.cert_authority != cert_authority {
                        continue;
                    }
                    match fits(&options, attempt) {
                        Ok(()) => return Some(options),
                        Err(why) => unused(number + 1, why),
                    }
                }
                Ok(_) => {}
                Err(why) => unused(number + 1, why),
            }
        }
        None
    }
}

fn fits(options: &KeyOptions, attempt: Attempt) -> Result<(), BadLine> {
    if options
        .from
        .as_ref()
        .is_some_and(|from| !from.allow(attempt.from))
    {
        return Err(BadLine::Source);
    }
    if options.expires.is_some_and(|expires| expires < attempt.now) {
        return Err(BadLine::Expired);
    }
    Ok(())
}

/// As it stands in a file.
fn encoded(key: &KeyData) -> Option<String> {
    let text = PublicKey::from(key.clone()).to_openssh().ok()?;
    text.split(' ').nth(1).map(str::to_owned)
}

/// Why a line allows nothing, now or ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Options limit what a key may do; ignoring one would give more than was meant.
    #[error(transparent)]
    Options(#[from] BadOptions),
    /// Not a key of a type that this server knows.
    #[error("it is no public key that this server can use")]
    Key,
    /// See [`key_strength`].
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// `from`.
    #[error("the client comes from elsewhere than its `from` says")]
    Source,
    /// `expiry-time`.
    #[error("its `expiry-time` is over")]
    Expired,
}

/// A line's options and key; `None` for an empty line or a comment. Times without a `Z` are in `zone`.
///
/// # Errors
/// Why it allows nothing.
pub fn parse_line(line: &str, zone: &TimeZone) -> Result<Option<(KeyOptions, PublicKey)>, BadLine> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (options, bare) = match line.split_once([' ', '\t']) {
        Some((kind, _)) if looks_like_key_type(kind) => (KeyOptions::default(), line),
        _ if looks_like_key_type(line) => return Err(BadLine::Key),
        _ => KeyOptions::parse(line, zone)?,
    };
    let mut words = bare.split_ascii_whitespace();
    let (Some(kind), Some(encoded)) = (words.next(), words.next()) else {
        return Err(BadLine::Key);
    };
    let key = PublicKey::from_openssh(&format!("{kind} {encoded}")).map_err(|_| BadLine::Key)?;
    key_strength::check(key.key_data())?;
    Ok(Some((options, key)))
}

/// No option begins so.
fn looks_like_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-", "rsa-"]
        .iter()
        .any(|prefix| word.starts_with(prefix))
}

#[cfg(test)]
mod tests;
