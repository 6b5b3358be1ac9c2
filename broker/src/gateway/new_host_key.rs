//! Noting the key of a host that no file knows, as ssh does it (ssh_config(5), StrictHostKeyChecking): at the end of the first
//! file of known hosts.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use adit_rules::Gateway;
use russh::keys::PublicKey;

use super::known_hosts::{self, KnownHost, KnownHostsError, Verdict};

/// Of two that find a host unknown at once, the second is to see what the first has noted.
static NOTING: Mutex<()> = Mutex::new(());

/// Why a key was not noted.
#[derive(Debug, thiserror::Error)]
pub enum NotNoted {
    /// There is no file to note it in.
    #[error("the zone has no file of known hosts")]
    NoFile,
    /// The file can't be written.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// Which file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// What is known by now can't be read.
    #[error(transparent)]
    Read(#[from] KnownHostsError),
    /// The thread that was to note it has ended.
    #[error("it was not written: {0}")]
    Aside(#[from] tokio::task::JoinError),
    /// The key has no text.
    #[error("the key cannot be written: {0}")]
    Key(#[from] russh::keys::ssh_key::Error),
}

/// Adds a line for `gateway` to the first of `files`, and says which that is; or what they say of the key by now.
pub(super) fn note_if_new(
    files: &[PathBuf],
    gateway: &Gateway,
    key: &PublicKey,
) -> Result<Result<PathBuf, Verdict>, NotNoted> {
    let Gateway { host, port, .. } = gateway;
    let _alone = NOTING.lock().unwrap_or_else(PoisonError::into_inner);
    match KnownHost::read(files, host, *port)?.judge(key) {
        Verdict::Unknown => note(files, &known_hosts::lookup_name(host, *port), key).map(Ok),
        verdict @ (Verdict::Known | Verdict::Changed(_) | Verdict::Revoked(_)) => Ok(Err(verdict)),
    }
}

/// Adds a line for `host`, named as in known_hosts, to the first of `files`, and says which that is.
pub(super) fn note(files: &[PathBuf], host: &str, key: &PublicKey) -> Result<PathBuf, NotNoted> {
    let file = files.first().ok_or(NotNoted::NoFile)?;
    let mut key = key.clone();
    key.set_comment("");
    let line = format!("{host} {}", key.to_openssh()?.trim_end());
    append(file, &line).map_err(|source| NotNoted::Write {
        file: file.clone(),
        source,
    })?;
    Ok(file.clone())
}

/// Sees to it that a line can be added to the first of `files`, which is there then.
pub(super) fn prepare(files: &[PathBuf]) -> Result<(), NotNoted> {
    let file = files.first().ok_or(NotNoted::NoFile)?;
    opened(file).map(drop).map_err(|source| NotNoted::Write {
        file: file.clone(),
        source,
    })
}

/// One write, so that another's line never lands in the middle of this one.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = opened(path)?;
    let between = if ends_a_line(&mut file)? { "" } else { "\n" };
    file.write_all(format!("{between}{line}\n").as_bytes())?;
    file.sync_all()
}

/// Made with its directory, for its user alone, where it is missing.
fn opened(path: &Path) -> std::io::Result<File> {
    if let Some(directory) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory)?;
    }
    let mut options = OpenOptions::new();
    let options = options.read(true).append(true).create(true).mode(0o600);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        let words = "nothing that is written there stays";
        return Err(std::io::Error::new(ErrorKind::InvalidInput, words));
    }
    Ok(file)
}

fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    // Made by ssh-keygen -t ed25519.
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn key() -> PublicKey {
        PublicKey::from_openssh(&format!("{KEY} someone@somewhere")).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_missing_file_is_made_for_its_user_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".ssh/known_hosts");
        let other = home.path().join("other");
        let noted = note(&[file.clone(), other.clone()], "[gw.example]:443", &key());
        assert_eq!(noted.unwrap(), file);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("[gw.example]:443 {KEY}\n"));
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        assert!(!other.exists());
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("known_hosts");
        for before in ["# mine\n", "# mine", "\n"] {
            std::fs::write(&file, before).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
            note(std::slice::from_ref(&file), "gw.example", &key()).unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            let expected = format!("{}\ngw.example {KEY}\n", before.trim_end_matches('\n'));
            assert_eq!(text, expected, "{before:?}");
            assert_eq!(mode(&file), 0o644);
        }
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_noted() {
        let home = tempfile::tempdir().unwrap();
        let noted = note(&[home.path().to_owned()], "gw.example", &key());
        assert!(matches!(noted, Err(NotNoted::Write { .. })), "{noted:?}");
        for files in [&["/dev/null".into()][..], &[home.path().to_owned()]] {
            assert!(matches!(prepare(files), Err(NotNoted::Write { .. })));
        }
        assert!(matches!(prepare(&[]), Err(NotNoted::NoFile)));
        assert!(matches!(
            note(&[], "gw.example", &key()),
            Err(NotNoted::NoFile)
        ));
    }
}
