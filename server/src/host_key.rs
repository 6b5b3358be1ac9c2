//! The keys by which clients know this gateway.
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use russh::keys::PrivateKey;

use crate::{bounded_file, key_strength};

/// Longest file, in bytes; a 16384-bit RSA key has 12 KiB.
const MAX_FILE: u64 = 64 * 1024;

/// Why a host key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// It is not there.
    #[error("there is no host key {path}; make one:\n  ssh-keygen -t ed25519 -N '' -C '' -f {path}", path = .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("host key {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read it, so that it proves nothing.
    #[error("host key {path} can be read by others (mode {1:o}): chmod 600 {path}, or a new key if anyone did", path = .0.display())]
    Exposed(PathBuf, u32),
    /// Not an OpenSSH private key.
    #[error("host key {}: {source}", file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// What the decoder said.
        source: russh::keys::ssh_key::Error,
    },
    /// It has a passphrase, which nobody is there to type.
    #[error("host key {path} has a passphrase; remove it:\n  ssh-keygen -p -N '' -f {path}", path = .0.display())]
    Encrypted(PathBuf),
    /// DSA, or RSA of less than 2048 bits.
    #[error("host key {path} is of a kind that is too weak; make another:\n  ssh-keygen -t ed25519 -N '' -C '' -f {path}", path = .0.display())]
    Weak(PathBuf),
}

/// Reads one OpenSSH private key file.
///
/// # Errors
/// Why it cannot be used, and what to do.
pub fn load(path: &Path) -> Result<PrivateKey, HostKeyError> {
    let read_failed = |source: io::Error| {
        if source.kind() == io::ErrorKind::NotFound {
            return HostKeyError::Missing(path.to_owned());
        }
        HostKeyError::Read {
            file: path.to_owned(),
            source,
        }
    };
    let file = bounded_file::open(path).map_err(read_failed)?;
    let metadata = file.metadata().map_err(read_failed)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(HostKeyError::Exposed(
            path.to_owned(),
            metadata.mode() & 0o7777,
        ));
    }
    let key = PrivateKey::read_openssh(&mut file.take(MAX_FILE)).map_err(|source| {
        HostKeyError::Parse {
            file: path.to_owned(),
            source,
        }
    })?;
    if key.is_encrypted() {
        return Err(HostKeyError::Encrypted(path.to_owned()));
    }
    if key_strength::check(key.public_key().key_data()).is_err() {
        return Err(HostKeyError::Weak(path.to_owned()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    fn made(kind: &str, passphrase: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("key");
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args(["-q", "-t", kind, "-N", passphrase, "-C", "", "-f"])
            .arg(&file);
        assert!(keygen.status().expect("ssh-keygen runs").success());
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
        (directory, file)
    }

    #[test]
    fn keys_of_ssh_keygen_are_read() {
        for kind in ["ed25519", "ecdsa", "rsa"] {
            let (_directory, file) = made(kind, "", 0o600);
            let public = fs::read_to_string(file.with_extension("pub")).expect("public key");
            let expected = russh::keys::PublicKey::from_openssh(&public).expect("public key");
            assert_eq!(
                load(&file).expect("loaded").public_key().key_data(),
                expected.key_data(),
                "{kind}"
            );
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o644, 0o620] {
            let (_directory, file) = made("ed25519", "", mode);
            assert!(
                matches!(load(&file), Err(HostKeyError::Exposed(_, found)) if found == mode),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn what_is_missing_or_unusable_says_what_to_do() {
        let error = load(Path::new("/nonexistent/host_ed25519")).expect_err("missing");
        assert!(
            error.to_string().contains("ssh-keygen -t ed25519"),
            "{error}"
        );
        let (_directory, file) = made("ed25519", "secret", 0o600);
        assert!(matches!(load(&file), Err(HostKeyError::Encrypted(_))));
        fs::write(&file, "no key").expect("write");
        assert!(matches!(load(&file), Err(HostKeyError::Parse { .. })));
    }
}
