//! Private keys that a passphrase seals, told by what their file says of itself: OpenSSH's own (PROTOCOL.key), PKCS#8 (RFC 5958), and PEM
//! with `Proc-Type: 4,ENCRYPTED` (RFC 1421, section 4.6.1.1), which `ssh-keygen -m PEM` writes.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey,
    UnboundCipherKey,
};
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};
use russh::keys::{PrivateKey, decode_secret_key, ssh_key};
use zeroize::Zeroizing;

/// Bytes that a key of PEM is stretched by: the first of its initialization vector (OpenSSL, `PEM_do_header`).
const SALT: usize = 8;

/// A key that needs a passphrase.
#[derive(Debug, Clone)]
pub(super) enum SealedKey {
    OpenSsh(String),
    Pkcs8(Vec<u8>),
    Pem(SealedPem),
}

/// In an older format of OpenSSL's.
#[derive(Debug, Clone)]
pub(super) struct SealedPem {
    label: String,
    cipher: &'static Algorithm,
    key_length: usize,
    start: [u8; 16],
    sealed: Vec<u8>,
}

/// Why a key is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotOpened {
    #[error("the passphrase does not open it")]
    WrongPassphrase,
    #[error("{0}")]
    Unusable(String),
}

impl SealedKey {
    /// The key that `text` seals; `None` where it needs no passphrase, or is no key.
    pub(super) fn of(text: &str) -> Result<Option<Self>, NotOpened> {
        let Some(written) = Written::of(text) else {
            return Ok(None);
        };
        match written.label {
            "OPENSSH PRIVATE KEY" => {
                let key = decode_secret_key(text, None);
                let is_sealed = matches!(key, Err(russh::keys::Error::KeyIsEncrypted));
                Ok(is_sealed.then(|| Self::OpenSsh(text.to_owned())))
            }
            "ENCRYPTED PRIVATE KEY" => {
                let sealed = written.bytes()?;
                EncryptedPrivateKeyInfoRef::try_from(&*sealed).map_err(unusable)?;
                Ok(Some(Self::Pkcs8(sealed)))
            }
            _ if written.is_encrypted() => Ok(Some(Self::Pem(SealedPem::of(&written)?))),
            _ => Ok(None),
        }
    }

    /// Slow on purpose, whoever made the file.
    pub(super) fn open(&self, passphrase: &str) -> Result<PrivateKey, NotOpened> {
        match self {
            Self::OpenSsh(text) => decode_secret_key(text, Some(passphrase)).map_err(|error| {
                let is_wrong = matches!(error, russh::keys::Error::SshKey(ssh_key::Error::Crypto));
                unless(is_wrong, error)
            }),
            Self::Pkcs8(sealed) => {
                let info = EncryptedPrivateKeyInfoRef::try_from(&**sealed).map_err(unusable)?;
                let opened = info.decrypt(passphrase).map_err(|error| {
                    let is_wrong = matches!(
                        error,
                        pkcs8::Error::Asn1(_)
                            | pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::DecryptFailed)
                    );
                    unless(is_wrong, error)
                })?;
                decode("PRIVATE KEY", &opened)
            }
            Self::Pem(pem) => decode(&pem.label, &pem.open(passphrase)?),
        }
    }
}

impl SealedPem {
    fn of(written: &Written<'_>) -> Result<Self, NotOpened> {
        let how = written.header("DEK-Info").unwrap_or_default();
        let (name, start) = how.split_once(',').unwrap_or((how, ""));
        let (cipher, key_length) = match name.trim() {
            "AES-128-CBC" => (&AES_128, 16),
            "AES-192-CBC" => (&AES_192, 24),
            "AES-256-CBC" => (&AES_256, 32),
            other => {
                return Err(NotOpened::Unusable(format!(
                    "it is sealed with {other:?}, which is not supported: `ssh-keygen -p` writes it anew"
                )));
            }
        };
        let start = HEXLOWER_PERMISSIVE.decode(start.trim().as_bytes());
        let start = start.map_err(unusable)?;
        Ok(Self {
            label: written.label.to_owned(),
            cipher,
            key_length,
            start: start
                .try_into()
                .map_err(|_| unusable("its DEK-Info is cut short"))?,
            sealed: written.bytes()?,
        })
    }

    fn open(&self, passphrase: &str) -> Result<SecretDocument, NotOpened> {
        let wrong = |_| NotOpened::WrongPassphrase;
        let key = self.key(passphrase);
        let key = UnboundCipherKey::new(self.cipher, &key);
        let key = key.and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
        let key = key.map_err(|_| unusable("its cipher cannot be used"))?;
        let start = DecryptionContext::Iv128((&self.start).into());
        let mut bytes = Zeroizing::new(self.sealed.clone());
        let opened = key.decrypt(&mut bytes, start).map_err(wrong)?;
        // Of 256 wrong passphrases one leaves what looks like an end; a key looks like one as a whole.
        SecretDocument::try_from(&*opened).map_err(|_| NotOpened::WrongPassphrase)
    }

    /// What OpenSSL makes of a passphrase (`EVP_BytesToKey` with MD5, once).
    fn key(&self, passphrase: &str) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(Vec::with_capacity(48));
        let mut last = Zeroizing::new(Vec::new());
        while key.len() < self.key_length {
            let mut context = md5::Context::new();
            context.consume(&*last);
            context.consume(passphrase);
            context.consume(&self.start[..SALT]);
            *last = context.finalize().to_vec();
            key.extend_from_slice(&last);
        }
        key.truncate(self.key_length);
        key
    }
}

/// The first private key in a text (RFC 7468), taken apart.
struct Written<'t> {
    label: &'t str,
    headers: Vec<(&'t str, &'t str)>,
    body: String,
}

impl<'t> Written<'t> {
    fn of(text: &'t str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim_end);
        let label = lines.find_map(|line| {
            let label = line.strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
            label.ends_with("PRIVATE KEY").then_some(label)
        })?;
        let mut headers = Vec::new();
        let mut body = String::new();
        for line in lines.take_while(|line| !line.starts_with("-----END ")) {
            match line.split_once(':') {
                Some((name, value)) => headers.push((name.trim(), value.trim())),
                None => body.push_str(line),
            }
        }
        Some(Self {
            label,
            headers,
            body,
        })
    }

    fn header(&self, wanted: &str) -> Option<&'t str> {
        let found = self.headers.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| *value)
    }

    fn is_encrypted(&self) -> bool {
        self.header("Proc-Type")
            .is_some_and(|value| value.contains("ENCRYPTED"))
    }

    fn bytes(&self) -> Result<Vec<u8>, NotOpened> {
        BASE64.decode(self.body.as_bytes()).map_err(unusable)
    }
}

fn decode(label: &str, key: &SecretDocument) -> Result<PrivateKey, NotOpened> {
    let body = Zeroizing::new(BASE64.encode(key.as_bytes()));
    let text = Zeroizing::new(format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        &*body
    ));
    decode_secret_key(&text, None).map_err(unusable)
}

fn unusable(reason: impl std::fmt::Display) -> NotOpened {
    NotOpened::Unusable(reason.to_string())
}

fn unless(is_wrong: bool, error: impl std::fmt::Display) -> NotOpened {
    match is_wrong {
        true => NotOpened::WrongPassphrase,
        false => unusable(error),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What a command leaves in `key`, run where there is none.
    fn made_by(line: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let mut sh = Command::new("sh");
        sh.args(["-ec", line]).current_dir(&directory);
        let output = sh.output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        std::fs::read_to_string(directory.path().join("key")).unwrap()
    }

    #[test]
    fn each_format_of_openssh_and_openssl_is_opened_by_its_passphrase_alone() {
        let mut lines = Vec::new();
        for kind in ["rsa", "ecdsa"] {
            for format in ["RFC4716", "PKCS8", "PEM"] {
                lines.push(format!(
                    "ssh-keygen -q -t {kind} -m {format} -a 1 -N sesame -f key"
                ));
            }
        }
        lines.push("ssh-keygen -q -t ed25519 -a 1 -N sesame -f key".to_owned());
        lines.push(
            "ssh-keygen -q -t ed25519 -Z aes256-gcm@openssh.com -a 1 -N sesame -f key".to_owned(),
        );
        lines.push(
            "openssl genpkey -algorithm ed25519 -aes-192-cbc -pass pass:sesame -out key".to_owned(),
        );
        for cipher in ["aes192", "aes256"] {
            lines.push(format!(
                "openssl ecparam -genkey -name prime256v1 | openssl ec -{cipher} -passout pass:sesame -out key"
            ));
        }
        for line in &lines {
            let sealed = SealedKey::of(&made_by(line)).unwrap().expect(line);
            sealed.open("sesame").expect(line);
            for wrong in ["", "Sesame"] {
                let error = sealed.open(wrong).unwrap_err();
                assert_eq!(error, NotOpened::WrongPassphrase, "{line}");
            }
        }
    }

    #[test]
    fn what_no_passphrase_can_mend_is_told_as_what_it_is() {
        let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,0011223344556677\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
        let error = SealedKey::of(old).unwrap_err().to_string();
        assert!(
            error.contains("DES-EDE3-CBC") && error.contains("ssh-keygen -p"),
            "{error}"
        );
        for broken in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\n%\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ] {
            let error = SealedKey::of(broken).unwrap_err();
            assert!(matches!(error, NotOpened::Unusable(_)), "{broken}");
        }
        let other = "openssl genpkey -algorithm x25519 -aes256 -pass pass:sesame -out key";
        let sealed = SealedKey::of(&made_by(other)).unwrap().unwrap();
        let error = sealed.open("sesame").unwrap_err();
        assert!(matches!(error, NotOpened::Unusable(_)), "{error}");
    }

    #[test]
    fn what_needs_no_passphrase_is_not_sealed() {
        for line in [
            "ssh-keygen -q -t ed25519 -N '' -f key",
            "ssh-keygen -q -t ecdsa -m PEM -N '' -f key",
            "ssh-keygen -q -t ecdsa -m PKCS8 -N '' -f key",
            "echo nothing >key",
        ] {
            assert!(SealedKey::of(&made_by(line)).unwrap().is_none(), "{line}");
        }
    }
}
