//! Who may log in: a user that the policy knows, with a key of its file, or a certificate by somebody
//! whose certificates are accepted; neither of them revoked.
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, Certificate, PublicKey};
use tokio::sync::Semaphore;
use tokio::time::{error::Elapsed, timeout};

use crate::authorized_keys::{Attempt, AuthorizedKeys, BadLine, KeysPath};
use crate::certificate::{self, BadCertificate};
use crate::credential::{CertificateId, Credential, fingerprint};
use crate::gateway::Gateway;
use crate::key_strength;
use crate::permissions::Permissions;
use crate::revocation::{Revocation, Revoked};
use crate::throttle::seldom;
use crate::trusted_file::{self, Untrusted};
use crate::user_name::{BadUserName, UserName};

/// Files of keys that are read at a time: they can lie on a file system that does not answer.
const READERS: usize = 16;
/// Longest file of an authority's keys, in bytes.
const MAX_AUTHORITIES: usize = 1 << 16;

/// Where it is written who may log in, and whether there is more than links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFiles {
    /// A user's keys.
    pub authorized_keys: Option<KeysPath>,
    /// Keys that sign certificates of any user, one a line.
    pub user_ca: Vec<PathBuf>,
    /// See [`Revocation`].
    pub revoked_keys: Vec<PathBuf>,
    /// Ports may be forwarded, as far as the key or certificate permits it.
    pub port_forwarding: bool,
}

/// A login that was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: UserName,
    pub(crate) credential: Credential,
    pub(crate) permissions: Permissions,
    pub(crate) proof: Proof,
}

/// What a login can be judged by again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    shown: Shown,
    from: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Key(KeyData),
    Certificate(Box<Certificate>),
}

/// Why a key does not log a user in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAuthorized {
    #[error("not a user name")]
    Name(#[from] BadUserName),
    #[error("a user that no entry or group of the policy names")]
    Unknown,
    #[error("a signature of SHA-1 or a weak key")]
    Weak,
    #[error("not a key of this user")]
    OtherKey,
    #[error("nobody whose certificates are accepted signed this one")]
    OtherAuthority,
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
    #[error(transparent)]
    Revoked(#[from] Revoked),
    #[error("no usable authorized keys: {0}")]
    Keys(#[from] Untrusted),
    #[error("the authorized keys could not be read in time")]
    Late(#[from] Elapsed),
    #[error("the authorized keys could not be read")]
    Broken,
}

/// Looks keys up, off the threads that serve connections.
#[derive(Debug, Clone)]
pub(crate) struct Logins {
    gateway: Arc<Gateway>,
    readers: Arc<Semaphore>,
    shared: Arc<RwLock<Arc<Shared>>>,
}

#[derive(Debug)]
struct Shared {
    files: LoginFiles,
    revocation: Revocation,
}

impl Logins {
    pub(crate) fn new(gateway: Arc<Gateway>, files: LoginFiles) -> Self {
        Self {
            gateway,
            readers: Arc::new(Semaphore::new(READERS)),
            shared: Arc::new(RwLock::new(Shared::new(files))),
        }
    }

    /// Looks into other files from now on.
    pub(crate) fn replace_files(&self, files: LoginFiles) {
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) = Shared::new(files);
    }

    /// Would it be accepted now as well?
    pub(crate) async fn again(
        &self,
        user: &UserName,
        proof: &Proof,
    ) -> Result<Login, NotAuthorized> {
        let user = match &proof.shown {
            Shown::Key(_) => self.known(user.clone())?,
            Shown::Certificate(certificate) => self.certified(user.clone(), certificate)?,
        };
        let attempt = Attempt {
            from: proof.from,
            now: Timestamp::now(),
        };
        let shown = proof.shown.clone();
        self.read(move |shared| match shown {
            Shown::Key(key) => shared.key(user, &key, attempt),
            Shown::Certificate(certificate) => shared.certificate(user, &certificate, attempt),
        })
        .await
    }

    /// Is it worth a signature? Of a certificate that is offered, russh shows nothing but its key, so
    /// where there can be certificates every key may be one's.
    pub(crate) async fn offer(
        &self,
        user: &str,
        key: &PublicKey,
        algorithm: &Algorithm,
        attempt: Attempt,
    ) -> Result<(), NotAuthorized> {
        let user: UserName = user.parse()?;
        let policy = self.gateway.policy();
        if !policy.knows(&user) && !policy.has_principals() {
            return Err(NotAuthorized::Unknown);
        }
        strong(key.key_data(), Some(algorithm))?;
        let key = key.key_data().clone();
        self.read(move |shared| shared.offer(&user, &key, attempt))
            .await
    }

    /// May whoever has `key` log in as `user`?
    pub(crate) async fn key(
        &self,
        user: &str,
        key: &PublicKey,
        algorithm: &Algorithm,
        attempt: Attempt,
    ) -> Result<Login, NotAuthorized> {
        let user = self.known(user.parse()?)?;
        strong(key.key_data(), Some(algorithm))?;
        let key = key.key_data().clone();
        self.read(move |shared| shared.key(user, &key, attempt))
            .await
    }

    /// May whoever has the certificate's key log in as `user`? The algorithm of its signature has been
    /// looked at when the key was offered.
    pub(crate) async fn certificate(
        &self,
        user: &str,
        certificate: &Certificate,
        attempt: Attempt,
    ) -> Result<Login, NotAuthorized> {
        let user = self.certified(user.parse()?, certificate)?;
        let certificate = certificate.clone();
        self.read(move |shared| shared.certificate(user, &certificate, attempt))
            .await
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn known(&self, user: UserName) -> Result<UserName, NotAuthorized> {
        match self.gateway.policy().knows(&user) {
            true => Ok(user),
            false => Err(NotAuthorized::Unknown),
        }
    }

    /// Whether the certificate is any good is looked at later.
    fn certified(
        &self,
        user: UserName,
        certificate: &Certificate,
    ) -> Result<UserName, NotAuthorized> {
        let policy = self.gateway.policy();
        let mut principals = certificate.valid_principals().iter();
        match principals.any(|principal| policy.knows_principal(principal)) {
            true => Ok(user),
            false => self.known(user),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, NotAuthorized> + Send + 'static,
    ) -> Result<T, NotAuthorized> {
        let patience = self.gateway.limits().login_grace;
        let reading = async {
            let reader = Arc::clone(&self.readers).acquire_owned().await;
            let shared = self.shared();
            let read = tokio::task::spawn_blocking(move || {
                // Held until the file is read, also when nobody waits for it any more.
                let _reader = reader;
                read(&shared)
            });
            read.await.map_err(|_| NotAuthorized::Broken)?
        };
        timeout(patience, reading).await?
    }
}

/// SHA-1 (RFC 8332 section 1) and keys that are too weak are nobody's.
fn strong(key: &KeyData, algorithm: Option<&Algorithm>) -> Result<(), NotAuthorized> {
    let sha1 = matches!(algorithm, Some(Algorithm::Rsa { hash: None }));
    if sha1 || key_strength::check(key).is_err() {
        return Err(NotAuthorized::Weak);
    }
    Ok(())
}

impl Shared {
    fn new(files: LoginFiles) -> Arc<Self> {
        let revocation = Revocation::new(&files.revoked_keys);
        Arc::new(Self { files, revocation })
    }

    fn offer(&self, user: &UserName, key: &KeyData, attempt: Attempt) -> Result<(), NotAuthorized> {
        self.revocation.check_key(key)?;
        if !self.files.user_ca.is_empty() {
            return Ok(());
        }
        let keys = self.keys_of(user)?;
        let listed = || keys.key(key, attempt, |line, why| unused(&keys, line, &why));
        match keys.may_have_authorities() || listed().is_some() {
            true => Ok(()),
            false => Err(NotAuthorized::OtherKey),
        }
    }

    fn key(&self, user: UserName, key: &KeyData, attempt: Attempt) -> Result<Login, NotAuthorized> {
        self.revocation.check_key(key)?;
        let keys = self.keys_of(&user)?;
        let listed = keys.key(key, attempt, |line, why| unused(&keys, line, &why));
        let options = listed.ok_or(NotAuthorized::OtherKey)?;
        Ok(Login {
            user,
            credential: Credential::Key {
                fingerprint: fingerprint(key),
            },
            permissions: self.limited(options.permissions),
            proof: Proof {
                shown: Shown::Key(key.clone()),
                from: attempt.from,
            },
        })
    }

    /// An authority of the user's own file gives what its line says; one of the server's gives the
    /// certificate to the user whose name is in it.
    fn certificate(
        &self,
        user: UserName,
        certificate: &Certificate,
        attempt: Attempt,
    ) -> Result<Login, NotAuthorized> {
        self.revocation.check_certificate(certificate)?;
        let permissions = match self.is_authority(certificate.signature_key()) {
            true => certificate::judge(certificate, &[user.as_str()], attempt)?,
            false => self.by_authority_of(&user, certificate, attempt)?,
        };
        Ok(Login {
            user,
            credential: Credential::Certificate(CertificateId::of(certificate)),
            permissions: self.limited(permissions),
            proof: Proof {
                shown: Shown::Certificate(Box::new(certificate.clone())),
                from: attempt.from,
            },
        })
    }

    fn limited(&self, permissions: Permissions) -> Permissions {
        Permissions {
            forwarding: permissions.forwarding && self.files.port_forwarding,
            ..permissions
        }
    }

    fn by_authority_of(
        &self,
        user: &UserName,
        certificate: &Certificate,
        attempt: Attempt,
    ) -> Result<Permissions, NotAuthorized> {
        let keys = self.keys_of(user)?;
        let authority = certificate.signature_key();
        let listed = keys.authority(authority, attempt, |line, why| unused(&keys, line, &why));
        let options = listed.ok_or(NotAuthorized::OtherAuthority)?;
        let principals = match &options.principals {
            Some(principals) => principals.iter().map(String::as_str).collect(),
            None => vec![user.as_str()],
        };
        let left = certificate::judge(certificate, &principals, attempt)?;
        Ok(Permissions {
            forwarding: left.forwarding && options.permissions.forwarding,
            ..options.permissions
        })
    }

    fn is_authority(&self, key: &KeyData) -> bool {
        self.files.user_ca.iter().any(|file| {
            let found = trusted_file::read(file, MAX_AUTHORITIES).map(|(content, _)| {
                let text = String::from_utf8_lossy(&content);
                text.lines()
                    .filter_map(|line| PublicKey::from_openssh(line.trim()).ok())
                    .any(|listed| listed.key_data() == key)
            });
            found.unwrap_or_else(|error| {
                seldom!(error, %error, "nobody's certificates are accepted by this file");
                false
            })
        })
    }

    fn keys_of(&self, user: &UserName) -> Result<AuthorizedKeys, NotAuthorized> {
        let path = self.files.authorized_keys.as_ref();
        Ok(AuthorizedKeys::read(
            path.ok_or(NotAuthorized::OtherKey)?,
            user,
        )?)
    }
}

fn unused(keys: &AuthorizedKeys, line: usize, why: &BadLine) {
    seldom!(warn, file = %keys.file().display(), line, %why, "authorized key not used");
}
