//! Keys and certificates that are not accepted any more, whoever lists or signed them.
//!
//! A file of plain public keys, one a line, or OpenSSH's key revocation list ([`crate::krl`]). A file
//! that is configured and cannot be read, or not be understood, revokes everything.
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, PublicKey};

use crate::krl::{self, BadKrl, Krl};
use crate::trusted_file::{self, Stamp, Untrusted};

/// Longest file, in bytes.
const MAX_FILE: usize = 16 << 20;
/// A file that was changed this short a time ago, in seconds, may be changed again without a trace:
/// the clock of file systems is coarse.
const SETTLED: i64 = 2;

/// Why a key or a certificate is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Revoked {
    /// The key itself.
    #[error("the key is revoked")]
    Key,
    /// The key that signed the certificate.
    #[error("the key that signed the certificate is revoked")]
    Authority,
    /// By its serial number or its id.
    #[error("the certificate is revoked")]
    Certificate,
    /// Nobody gets in.
    #[error("what is revoked cannot be read, so nobody gets in: {0}")]
    Unreadable(#[from] Untrusted),
    /// Nobody gets in.
    #[error("what is revoked cannot be understood, so nobody gets in: {}: {why}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: BadList,
    },
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadList {
    /// Of the binary form.
    #[error(transparent)]
    Krl(#[from] BadKrl),
    /// Of the plain form.
    #[error("line {0} is no public key")]
    Line(usize),
}

/// The files, as they were last read.
#[derive(Debug)]
pub struct Revocation {
    files: Vec<RevokedFile>,
}

#[derive(Debug)]
struct RevokedFile {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Arc<List>)>>,
}

#[derive(Debug)]
enum List {
    Keys(HashSet<Vec<u8>>),
    Krl(Krl),
}

impl Revocation {
    /// Without files, nothing is revoked.
    pub fn new(files: &[PathBuf]) -> Self {
        let unread = |path: &PathBuf| RevokedFile {
            path: path.clone(),
            read: Mutex::default(),
        };
        Self {
            files: files.iter().map(unread).collect(),
        }
    }

    /// Is this key good, as far as revocation goes? Reads the files that changed, so it may take long.
    ///
    /// # Errors
    /// Why not.
    pub fn check_key(&self, key: &KeyData) -> Result<(), Revoked> {
        let key = wire(key);
        for list in self.lists()? {
            if list.has_key(&key) {
                return Err(Revoked::Key);
            }
        }
        Ok(())
    }

    /// The same for a certificate: its key, who signed it, its serial and its id.
    ///
    /// # Errors
    /// Why not.
    pub fn check_certificate(&self, certificate: &Certificate) -> Result<(), Revoked> {
        self.check_key(certificate.public_key())?;
        let authority = wire(certificate.signature_key());
        let (serial, id) = (certificate.serial(), certificate.key_id());
        for list in self.lists()? {
            if list.has_key(&authority) {
                return Err(Revoked::Authority);
            }
            match &*list {
                List::Krl(krl) if krl.revokes_certificate(&authority, serial, id) => {
                    return Err(Revoked::Certificate);
                }
                List::Krl(_) | List::Keys(_) => {}
            }
        }
        Ok(())
    }

    /// Can all lists be read and understood? Otherwise nobody gets in, with a key or without.
    ///
    /// # Errors
    /// The first one that cannot.
    pub fn check_lists(&self) -> Result<(), Revoked> {
        self.lists().map(drop)
    }

    /// Each that cannot.
    pub fn faults(&self) -> Vec<Revoked> {
        let lists = self.files.iter().map(RevokedFile::list);
        lists.filter_map(Result::err).collect()
    }

    fn lists(&self) -> Result<Vec<Arc<List>>, Revoked> {
        self.files.iter().map(RevokedFile::list).collect()
    }
}

impl RevokedFile {
    fn list(&self) -> Result<Arc<List>, Revoked> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.path).ok();
        if let Some((of, list)) = &*read
            && stamp == Some(*of)
        {
            return Ok(Arc::clone(list));
        }
        *read = None;
        let (content, of) = trusted_file::read(&self.path, MAX_FILE)?;
        let list = Arc::new(List::parse(&self.path, &content)?);
        if of.changed() + SETTLED < Timestamp::now().as_second() {
            *read = Some((of, Arc::clone(&list)));
        }
        Ok(list)
    }
}

impl List {
    fn parse(file: &Path, content: &[u8]) -> Result<Self, Revoked> {
        let unusable = |why| Revoked::Unusable {
            file: file.to_owned(),
            why,
        };
        if content.starts_with(krl::MAGIC) {
            let krl = Krl::parse(content).map_err(|why| unusable(why.into()))?;
            return Ok(Self::Krl(krl));
        }
        let text = String::from_utf8_lossy(content);
        let mut keys = HashSet::new();
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = PublicKey::from_openssh(line);
            let key = key.map_err(|_| unusable(BadList::Line(number + 1)))?;
            keys.insert(wire(key.key_data()));
        }
        Ok(Self::Keys(keys))
    }

    fn has_key(&self, key: &[u8]) -> bool {
        match self {
            Self::Keys(keys) => keys.contains(key),
            Self::Krl(krl) => krl.revokes_key(key),
        }
    }
}

/// As it goes over the wire, which is what fingerprints are of.
fn wire(key: &KeyData) -> Vec<u8> {
    // Writing to memory does not fail, and what is empty is in no list.
    PublicKey::from(key.clone()).to_bytes().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    fn keygen(directory: &Path, arguments: &[&str]) -> bool {
        let mut command = Command::new("ssh-keygen");
        let output = command
            .arg("-q")
            .args(arguments)
            .current_dir(directory)
            .output();
        output.expect("ssh-keygen runs").status.success()
    }

    fn key(directory: &Path, name: &str) -> KeyData {
        let text = fs::read_to_string(directory.join(format!("{name}.pub"))).expect("read");
        PublicKey::from_openssh(&text)
            .expect("key")
            .key_data()
            .clone()
    }

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("directory");
        for name in ["alice", "bob"] {
            assert!(keygen(
                directory.path(),
                &["-t", "ed25519", "-N", "", "-f", name]
            ));
        }
        directory
    }

    #[test]
    fn a_list_of_plain_keys_revokes_them_and_no_others() {
        let directory = directory();
        let file = directory.path().join("revoked");
        let alice = fs::read_to_string(directory.path().join("alice.pub")).expect("read");
        fs::write(&file, format!("# stolen in March\n\n{alice}")).expect("write");
        let revocation = Revocation::new(&[file]);
        let check = |name| revocation.check_key(&key(directory.path(), name));
        assert!(matches!(check("alice"), Err(Revoked::Key)));
        assert!(check("bob").is_ok());
    }

    #[test]
    fn what_cannot_be_read_or_understood_revokes_everything() {
        let directory = directory();
        let file = directory.path().join("revoked");
        let revocation = Revocation::new(std::slice::from_ref(&file));
        let check = || revocation.check_key(&key(directory.path(), "bob"));
        assert!(matches!(check(), Err(Revoked::Unreadable(_))), "absent");
        fs::write(&file, "").expect("write");
        assert!(check().is_ok(), "an empty list revokes nothing");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("chmod");
        assert!(matches!(check(), Err(Revoked::Unreadable(_))), "anyone's");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("chmod");
        for bad in [
            &b"alice\n"[..],
            b"SSHKRL\n\0",
            b"SSHKRL\n\0\0\0\0\x02",
            b"\xff\xfe",
        ] {
            fs::write(&file, bad).expect("write");
            assert!(matches!(check(), Err(Revoked::Unusable { .. })), "{bad:?}");
        }
        fs::remove_file(&file).expect("remove");
        assert!(check().is_err(), "gone again");
    }

    /// As docs/gateways.md has it, word for word.
    #[test]
    fn a_list_with_nothing_in_it_is_made_and_added_to_by_ssh_keygen() {
        let directory = directory();
        let file = directory.path().join("revoked");
        let revocation = Revocation::new(std::slice::from_ref(&file));
        let check = |name| revocation.check_key(&key(directory.path(), name));
        let run = |arguments| assert!(keygen(directory.path(), arguments), "{arguments:?}");
        run(&["-k", "-f", "revoked", "/dev/null"]);
        assert!(check("alice").is_ok() && check("bob").is_ok());
        fs::write(directory.path().join("what"), "serial: 7\nid: laptop 7\n").expect("write");
        run(&["-k", "-u", "-f", "revoked", "-s", "bob.pub", "what"]);
        run(&["-k", "-u", "-f", "revoked", "alice.pub"]);
        assert!(matches!(check("alice"), Err(Revoked::Key)));
        assert!(check("bob").is_ok());
    }

    #[test]
    fn a_list_is_read_again_when_it_changed() {
        let directory = directory();
        let file = directory.path().join("revoked");
        let alice = fs::read_to_string(directory.path().join("alice.pub")).expect("read");
        let bob = fs::read_to_string(directory.path().join("bob.pub")).expect("read");
        let revocation = Revocation::new(std::slice::from_ref(&file));
        // Of the same size, one right after the other.
        for _ in 0..20 {
            for (line, alice_is_good) in [(&alice, false), (&bob, true)] {
                fs::write(&file, &line[..80]).expect("write");
                let checked = revocation.check_key(&key(directory.path(), "alice"));
                assert_eq!(checked.is_ok(), alice_is_good);
            }
        }
    }
}
