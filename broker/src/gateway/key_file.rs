//! Private keys and certificates in files. A passphrase is asked for once; then the unlocked key is kept in memory.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::ssh_key::Certificate;
use russh::keys::{PrivateKey, PublicKey, decode_secret_key};
use zeroize::Zeroizing;

use super::authentication::AuthenticationError;
use super::sealed_key::{NotOpened, SealedKey};
use super::unlocking::{About, Form, Unlocking};

/// Larger files hold no key.
const MAX_FILE: u64 = 256 << 10;
/// Wrong passphrases that are asked for again (ssh_config(5), NumberOfPasswordPrompts).
const MOST_PASSPHRASES: usize = 3;

/// A key file that was read.
pub(super) enum KeyFile {
    /// It can be used.
    Open(Arc<PrivateKey>),
    /// It needs a passphrase.
    Locked(LockedKey),
}

/// A key file that needs a passphrase.
pub(super) struct LockedKey {
    file: PathBuf,
    text: String,
    sealed: SealedKey,
}

fn unusable(file: &Path, reason: &dyn std::fmt::Display) -> AuthenticationError {
    AuthenticationError::KeyFile {
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}

/// Reads a key; one that was unlocked before is open.
pub(super) fn read(file: &Path, unlocking: &Unlocking) -> Result<KeyFile, AuthenticationError> {
    let text = read_bounded(file)?;
    if let Some(key) = unlocking.unlocked(file, &text) {
        return Ok(KeyFile::Open(key));
    }
    match SealedKey::of(&text).map_err(|error| unusable(file, &error))? {
        Some(sealed) => Ok(KeyFile::Locked(LockedKey {
            file: file.to_owned(),
            text: text.to_string(),
            sealed,
        })),
        None => match decode_secret_key(&text, None) {
            Ok(key) => Ok(KeyFile::Open(Arc::new(key))),
            Err(error) => Err(unusable(file, &error)),
        },
    }
}

impl LockedKey {
    /// Which file it is in.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Asks for the passphrase, and keeps the key that it opens.
    pub(super) async fn unlock(
        self,
        gateway: &str,
        unlocking: &Unlocking,
    ) -> Result<Arc<PrivateKey>, AuthenticationError> {
        let _turn = match unlocking.can_ask() {
            true => Some(unlocking.passphrase_turn().await),
            false => None,
        };
        if let Some(key) = unlocking.unlocked(&self.file, &self.text) {
            return Ok(key);
        }
        let file = self.file.display();
        let mut text = format!("Passphrase for the key {file}: ");
        for _ in 0..MOST_PASSPHRASES {
            let form = Form::secret(About::Passphrase, gateway, text);
            let Ok(answers) = unlocking.ask(&form).await else {
                unlocking.lock(form);
                return Err(AuthenticationError::Locked {
                    what: format!("the key {file} has a passphrase (or ssh-add it)"),
                });
            };
            let (sealed, passphrase) = (self.sealed.clone(), answers.into_iter().next());
            let opened = tokio::task::spawn_blocking(move || {
                sealed.open(passphrase.as_ref().map_or("", |it| it.reveal()))
            });
            match opened.await.map_err(|error| unusable(&self.file, &error))? {
                Ok(key) => {
                    let key = Arc::new(key);
                    unlocking.keep(&self.file, &self.text, key.clone());
                    return Ok(key);
                }
                Err(error @ NotOpened::Unusable(_)) => return Err(unusable(&self.file, &error)),
                Err(NotOpened::WrongPassphrase) => {}
            }
            text = format!("That did not open it. Passphrase for the key {file}: ");
        }
        let form = Form::secret(About::Passphrase, gateway, text);
        unlocking.lock(form);
        Err(AuthenticationError::Locked {
            what: format!("no passphrase opened the key {file}"),
        })
    }
}

/// The public half of the key that a file names: it may say it in clear, be nothing else, or have it beside itself (ssh_config(5),
/// IdentityFile).
pub(super) fn public(file: &Path) -> Option<PublicKey> {
    let own = read_bounded(file).ok().and_then(|text| {
        let public = PublicKey::from_openssh(text.trim()).ok();
        public.or_else(|| Some(PrivateKey::from_openssh(&*text).ok()?.public_key().clone()))
    });
    own.or_else(|| {
        let mut beside = file.as_os_str().to_owned();
        beside.push(".pub");
        let text = read_bounded(Path::new(&beside)).ok()?;
        PublicKey::from_openssh(text.trim()).ok()
    })
}

/// The certificate that is named, or the one beside the key, if there is one (ssh_config(5), CertificateFile).
pub(super) fn certificate(
    named: Option<&Path>,
    beside: Option<&Path>,
) -> Result<Option<Certificate>, AuthenticationError> {
    let file = match (named, beside) {
        (Some(named), _) => named.to_owned(),
        (None, Some(key)) => {
            let mut name = key.as_os_str().to_owned();
            name.push("-cert.pub");
            let file = PathBuf::from(name);
            if !file.exists() {
                return Ok(None);
            }
            file
        }
        (None, None) => return Ok(None),
    };
    let certificate = Certificate::from_openssh(read_bounded(&file)?.trim());
    let certificate = certificate.map_err(|error| unusable(&file, &error))?;
    if !certificate.cert_type().is_user() {
        return Err(unusable(&file, &"it is a host's certificate, not a user's"));
    }
    Ok(Some(certificate))
}

fn read_bounded(file: &Path) -> Result<Zeroizing<String>, AuthenticationError> {
    let opened = std::fs::File::open(file).map_err(|error| unusable(file, &error))?;
    // With room for all of it, or growing would leave copies of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE as usize + 2));
    let read = opened.take(MAX_FILE + 1).read_to_string(&mut text);
    read.map_err(|error| unusable(file, &error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(unusable(file, &"it is larger than 256 KiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::gateway::Askpass;

    /// A key made by this line, and whose program on the screen is this script.
    struct Rig {
        directory: tempfile::TempDir,
        unlocking: Unlocking,
    }

    impl Rig {
        fn new(keygen: &str, says: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let line = format!(
                "{keygen} >/dev/null
                 printf '#!/bin/sh\\necho asked >>{}/log; {says}\\n' >askpass; chmod 700 askpass",
                directory.path().display()
            );
            let mut sh = Command::new("sh");
            sh.args(["-ec", &line]).current_dir(&directory);
            assert!(sh.output().unwrap().status.success(), "{keygen}");
            let askpass = Askpass::of(|name| match name {
                "SSH_ASKPASS" => Some(directory.path().join("askpass").into()),
                _ => Some("screen".into()),
            });
            Self {
                directory,
                unlocking: Unlocking::asked_by(askpass),
            }
        }

        fn file(&self) -> PathBuf {
            self.directory.path().join("key")
        }

        async fn unlock(&self, unlocking: &Unlocking) -> Result<(), AuthenticationError> {
            match read(&self.file(), unlocking)? {
                KeyFile::Open(_) => panic!("nobody has said a word"),
                KeyFile::Locked(key) => key.unlock("gw.example", unlocking).await.map(drop),
            }
        }

        fn asked(&self) -> usize {
            let asked = std::fs::read_to_string(self.directory.path().join("log"));
            asked.unwrap_or_default().lines().count()
        }
    }

    const ED25519: &str = "ssh-keygen -q -t ed25519 -a 1 -N sesame -f key";

    /// Two links of a zone want the same key at once. Gives which got it, and how often it was asked for.
    async fn both(says: &str) -> ([bool; 2], usize) {
        let rig = Rig::new(ED25519, says);
        let (one, other) = (&rig.unlocking, rig.unlocking.beside());
        let (one, other) = tokio::join!(rig.unlock(one), rig.unlock(&other));
        ([one.is_ok(), other.is_ok()], rig.asked())
    }

    #[tokio::test]
    async fn links_that_want_the_same_key_at_once_ask_once() {
        assert_eq!(both("echo sesame").await, ([true; 2], 1));
    }

    #[tokio::test]
    async fn who_gives_no_answer_to_one_link_is_not_asked_for_another() {
        assert_eq!(both("exit 1").await, ([false; 2], 1));
    }

    #[tokio::test]
    async fn a_key_in_an_older_format_is_asked_for_too() {
        for keygen in [
            "ssh-keygen -q -t ecdsa -m PEM -N sesame -f key",
            "ssh-keygen -q -t ecdsa -m PKCS8 -N sesame -f key",
            "ssh-keygen -q -t rsa -m PEM -N sesame -f key",
        ] {
            let rig = Rig::new(keygen, "echo sesame");
            rig.unlock(&rig.unlocking).await.expect(keygen);
            assert_eq!(rig.asked(), 1, "{keygen}");
            let rig = Rig::new(keygen, "echo wrong");
            let error = rig.unlock(&rig.unlocking).await.unwrap_err();
            assert!(
                matches!(error, AuthenticationError::Locked { .. }),
                "{error}"
            );
            assert_eq!(rig.asked(), MOST_PASSPHRASES, "{keygen}");
        }
    }

    #[tokio::test]
    async fn what_no_passphrase_mends_is_told_and_not_asked_again() {
        let keygen = "openssl genpkey -algorithm x25519 -aes256 -pass pass:sesame -out key";
        let rig = Rig::new(keygen, "echo sesame");
        let error = rig.unlock(&rig.unlocking).await.unwrap_err();
        assert!(
            matches!(error, AuthenticationError::KeyFile { .. }),
            "{error}"
        );
        assert_eq!(rig.asked(), 1);
    }

    #[tokio::test]
    async fn a_key_is_forgotten_once_its_file_says_something_else() {
        let rig = Rig::new(ED25519, "echo sesame");
        let file = rig.file();
        rig.unlock(&rig.unlocking).await.unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(rig.unlocking.unlocked(&file, &text).is_some());
        std::fs::write(&file, "nothing").unwrap();
        assert!(read(&file, &rig.unlocking).is_err());
        assert!(rig.unlocking.unlocked(&file, &text).is_none());
    }
}
