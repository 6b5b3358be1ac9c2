//! Keys that sign certificates of any user (`user_ca`): files of public keys, one a line.
use std::path::{Path, PathBuf};

use russh::keys::PublicKey;
use russh::keys::ssh_key::public::KeyData;

use crate::throttle::seldom;
use crate::trusted_file::{self, Untrusted};

/// Longest file, in bytes.
const MAX_FILE: usize = 1 << 16;

/// Why certificates are not accepted by a file, or by a line of it.
#[derive(Debug, thiserror::Error)]
pub enum BadAuthorities {
    /// None by the whole file.
    #[error("nobody's certificates are accepted by {0}")]
    Untrusted(#[from] Untrusted),
    /// None by this line.
    #[error("{}: line {line} is no public key", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
    },
}

/// Is `key` in one of these files? One that cannot be used has none.
pub(crate) fn have(files: &[PathBuf], key: &KeyData) -> bool {
    files.iter().any(|file| {
        let found = lines(file).map(|lines| {
            let mut keys = lines.into_iter().filter_map(|(_, key)| key);
            keys.any(|listed| listed.key_data() == key)
        });
        found.unwrap_or_else(|error| {
            seldom!(error, %error, "nobody's certificates are accepted by this file");
            false
        })
    })
}

/// Can all of it be used?
pub(crate) fn check(file: &Path) -> Result<(), BadAuthorities> {
    let lines = lines(file)?;
    match lines.into_iter().find(|(_, key)| key.is_none()) {
        None => Ok(()),
        Some((line, _)) => Err(BadAuthorities::Line {
            file: file.to_owned(),
            line,
        }),
    }
}

/// Numbers and keys of the lines that are neither empty nor a comment.
fn lines(file: &Path) -> Result<Vec<(usize, Option<PublicKey>)>, Untrusted> {
    let (content, _) = trusted_file::read(file, MAX_FILE)?;
    let text = String::from_utf8_lossy(&content);
    let lines = text.lines().map(str::trim).enumerate();
    let written = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    Ok(written
        .map(|(index, line)| (index + 1, PublicKey::from_openssh(line).ok()))
        .collect())
}
