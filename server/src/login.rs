//! Who may log in: a user that the policy knows, with a key of its file.
use std::sync::Arc;

use russh::keys::{Algorithm, PublicKey};
use tokio::sync::Semaphore;
use tokio::time::{error::Elapsed, timeout};

use crate::authorized_keys::{self, KeysError, KeysPath};
use crate::gateway::Gateway;
use crate::user_name::{BadUserName, UserName};

/// Files of keys that are read at a time: they can lie on a file system that does not answer.
const READERS: usize = 16;

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
    #[error("no usable authorized keys: {0}")]
    Keys(#[from] KeysError),
    #[error("the authorized keys could not be read in time")]
    Late(#[from] Elapsed),
    #[error("the authorized keys could not be read")]
    Broken,
}

/// Looks keys up, off the threads that serve connections.
#[derive(Debug, Clone)]
pub(crate) struct Logins {
    gateway: Arc<Gateway>,
    path: KeysPath,
    readers: Arc<Semaphore>,
}

impl Logins {
    pub(crate) fn new(gateway: Arc<Gateway>, path: KeysPath) -> Self {
        Self {
            gateway,
            path,
            readers: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// May whoever has `key` log in as `user`?
    pub(crate) async fn authorize(
        &self,
        user: &str,
        key: &PublicKey,
        algorithm: &Algorithm,
    ) -> Result<UserName, NotAuthorized> {
        let user: UserName = user.parse()?;
        if !self.gateway.knows(&user) {
            return Err(NotAuthorized::Unknown);
        }
        // SHA-1 (RFC 8332 section 1) and keys that are too weak are nobody's.
        let sha1 = matches!(algorithm, Algorithm::Rsa { hash: None });
        if sha1 || !authorized_keys::is_strong(key.key_data()) {
            return Err(NotAuthorized::Weak);
        }
        let patience = self.gateway.limits().login_grace;
        match timeout(patience, self.is_listed(user.clone(), key.clone())).await?? {
            true => Ok(user),
            false => Err(NotAuthorized::OtherKey),
        }
    }

    async fn is_listed(&self, user: UserName, key: PublicKey) -> Result<bool, NotAuthorized> {
        let reader = Arc::clone(&self.readers).acquire_owned().await;
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || {
            // Held until the file is read, also when nobody waits for it any more.
            let _reader = reader;
            authorized_keys::is_authorized(&path, &user, &key)
        });
        Ok(read.await.map_err(|_| NotAuthorized::Broken)??)
    }
}
