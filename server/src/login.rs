//! Who may log in: a user that the policy knows, with a key of its file, or a certificate by somebody
//! whose certificates are accepted, neither of them revoked; or with answers, or with both, as the
//! methods of the gateway's file say.
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, Certificate, PublicKey};
use tokio::sync::Semaphore;
use tokio::time::{error::Elapsed, timeout};
use zeroize::Zeroizing;

use crate::answers::{self, Answered, Answers};
use crate::authorities;
use crate::authorized_keys::{Attempt, AuthorizedKeys, BadLine, KeysPath};
use crate::certificate::{self, BadCertificate};
use crate::credential::{CertificateId, Credential, fingerprint};
use crate::gateway::Gateway;
use crate::key_strength;
use crate::login_progress::Progress;
use crate::methods::{Method, Methods};
use crate::one_time_code::BadCode;
use crate::permissions::Permissions;
use crate::revocation::{Revocation, Revoked};
use crate::throttle::seldom;
use crate::trusted_file::Untrusted;
use crate::user_name::{BadUserName, UserName};

/// Files of keys that are read at a time: they can lie on a file system that does not answer.
const READERS: usize = 16;

/// Where it is written who may log in, and whether there is more than links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFiles {
    /// A user's keys.
    pub authorized_keys: Option<KeysPath>,
    /// Keys that sign certificates of any user, one a line.
    pub user_ca: Vec<PathBuf>,
    /// See [`Revocation`].
    pub revoked_keys: Vec<PathBuf>,
    /// A hash of each user's password: see [`crate::password`].
    pub passwords: Option<PathBuf>,
    /// A secret for each user's one-time codes.
    pub totp: Option<PathBuf>,
    /// What has to be shown.
    pub methods: Methods,
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
    key: Option<Shown>,
    answers: Vec<Answered>,
    methods: Vec<Method>,
    from: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    Key(KeyData),
    Certificate(Box<Certificate>),
}

impl Proof {
    fn of_key(shown: Shown, from: IpAddr) -> Self {
        Self {
            key: Some(shown),
            answers: Vec::new(),
            methods: vec![Method::PublicKey],
            from,
        }
    }

    /// The chain that was shown, for people; a certificate is told from a key.
    pub(crate) fn how(&self) -> String {
        let certified = matches!(self.key, Some(Shown::Certificate(_)));
        let name = |method: &Method| match method {
            Method::PublicKey if certified => "certificate",
            Method::PublicKey | Method::Password | Method::Totp => method.name(),
        };
        let names: Vec<_> = self.methods.iter().map(name).collect();
        names.join(",")
    }
}

/// Why somebody is not logged in.
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
    #[error("a wrong answer")]
    Answer,
    #[error(transparent)]
    Code(#[from] BadCode),
    #[error("no usable passwords or codes: {0}")]
    Secrets(Untrusted),
    #[error("another password or secret than the one that was shown, or none")]
    OtherAnswer,
    #[error("what was shown is no whole chain of the gateway's methods")]
    Methods,
    #[error("the key was worth a signature, and no good one came")]
    Unsigned,
    #[error(
        "nothing was shown that could be judged: nothing at all, or a certificate that is not valid now or has a wrong signature"
    )]
    Nothing,
    #[error("not a method that comes next for this user")]
    NotNext,
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
    answers: Answers,
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
            answers: Answers::new(),
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
        let (user, proof) = (user.clone(), proof.clone());
        let login = self.read(move |shared| shared.again(user, proof)).await?;
        self.of_ours(login)
    }

    /// What has to be shown.
    pub(crate) fn methods(&self) -> Methods {
        self.shared().files.methods.clone()
    }

    /// Which of `asked` is it that `user` shows by this answer? Nobody but a user is anybody at the end
    /// of the way, see [`Logins::complete`]; until then all are asked and judged alike.
    pub(crate) async fn answer(
        &self,
        user: &str,
        asked: Vec<Method>,
        answer: Zeroizing<String>,
    ) -> Result<Answered, NotAuthorized> {
        let (answers, user) = (self.answers.clone(), user.to_owned());
        let places = Arc::clone(&answers.places);
        self.off_thread(places, move |shared| {
            answers.judge(&shared.files, &user, &asked, &answer)
        })
        .await
    }

    /// The login of a user who has shown a whole chain.
    pub(crate) async fn complete(
        &self,
        user: &str,
        progress: Progress,
        from: IpAddr,
    ) -> Result<Login, NotAuthorized> {
        let shared = self.shared();
        if !shared.files.methods.admit(&progress.methods) {
            return Err(NotAuthorized::Methods);
        }
        let login = match progress.key {
            Some(login) => *login,
            None => {
                let user = self.known(user.parse()?)?;
                self.read(move |shared| shared.without_key(user, from))
                    .await?
            }
        };
        let proof = Proof {
            answers: progress.answers,
            methods: progress.methods,
            ..login.proof
        };
        Ok(Login { proof, ..login })
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
        // Nothing is read for whom no authority could make a user.
        let user = self.known_by(user.parse()?, certificate.valid_principals())?;
        let certificate = certificate.clone();
        let login = self
            .read(move |shared| shared.certificate(user, &certificate, attempt))
            .await?;
        self.of_ours(login)
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn known(&self, user: UserName) -> Result<UserName, NotAuthorized> {
        self.known_by(user, &[])
    }

    /// By the name, or by one of these principals.
    fn known_by(&self, user: UserName, principals: &[String]) -> Result<UserName, NotAuthorized> {
        let policy = self.gateway.policy();
        let mut principals = principals.iter();
        let named = principals.any(|principal| policy.knows_principal(principal));
        match named || policy.knows(&user) {
            true => Ok(user),
            false => Err(NotAuthorized::Unknown),
        }
    }

    /// What was proved makes a user of the policy, too.
    fn of_ours(&self, login: Login) -> Result<Login, NotAuthorized> {
        let principals = &login.permissions.principals;
        self.known_by(login.user.clone(), principals)?;
        Ok(login)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, NotAuthorized> + Send + 'static,
    ) -> Result<T, NotAuthorized> {
        self.off_thread(Arc::clone(&self.readers), read).await
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        places: Arc<Semaphore>,
        work: impl FnOnce(&Shared) -> Result<T, NotAuthorized> + Send + 'static,
    ) -> Result<T, NotAuthorized> {
        let patience = self.gateway.limits().login_grace;
        let working = async {
            let place = places.acquire_owned().await;
            let shared = self.shared();
            let worked = tokio::task::spawn_blocking(move || {
                // Held until it is done, also when nobody waits for it any more.
                let _place = place;
                work(&shared)
            });
            worked.await.map_err(|_| NotAuthorized::Broken)?
        };
        timeout(patience, working).await?
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

    fn again(&self, user: UserName, proof: Proof) -> Result<Login, NotAuthorized> {
        if !self.files.methods.admit(&proof.methods) {
            return Err(NotAuthorized::Methods);
        }
        let stands = |answered| answers::stands(&self.files, user.as_str(), answered);
        if !proof.answers.iter().all(stands) {
            return Err(NotAuthorized::OtherAnswer);
        }
        let attempt = Attempt {
            from: proof.from,
            now: Timestamp::now(),
        };
        let login = match &proof.key {
            Some(Shown::Key(key)) => self.key(user, key, attempt)?,
            Some(Shown::Certificate(certificate)) => {
                self.certificate(user, certificate, attempt)?
            }
            None => self.without_key(user, proof.from)?,
        };
        Ok(Login { proof, ..login })
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
            proof: Proof::of_key(Shown::Key(key.clone()), attempt.from),
        })
    }

    /// An authority of the user's own file gives what its line says; one of the server's gives the
    /// certificate to the user whose name is in it, and its principals.
    fn certificate(
        &self,
        user: UserName,
        certificate: &Certificate,
        attempt: Attempt,
    ) -> Result<Login, NotAuthorized> {
        self.revocation.check_certificate(certificate)?;
        let permissions = match authorities::have(&self.files.user_ca, certificate.signature_key())
        {
            true => Permissions {
                principals: certificate.valid_principals().to_vec(),
                ..certificate::judge(certificate, &[user.as_str()], attempt)?
            },
            false => self.by_authority_of(&user, certificate, attempt)?,
        };
        Ok(Login {
            user,
            credential: Credential::Certificate(CertificateId::of(certificate)),
            permissions: self.limited(permissions),
            proof: Proof::of_key(
                Shown::Certificate(Box::new(certificate.clone())),
                attempt.from,
            ),
        })
    }

    /// No key, so no options of one, and none that could be revoked; but whoever cannot tell what is
    /// lets nobody in.
    fn without_key(&self, user: UserName, from: IpAddr) -> Result<Login, NotAuthorized> {
        self.revocation.check_lists()?;
        Ok(Login {
            user,
            credential: Credential::Answers,
            permissions: self.limited(Permissions::all()),
            proof: Proof {
                key: None,
                answers: Vec::new(),
                methods: Vec::new(),
                from,
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
