//! Proving to a gateway who the user is: keys in files, keys in the agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adit_rules::Identity;
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKey};

use super::host_key::HostKeyCheck;

/// sshd's default MaxAuthTries is 6 (sshd_config(5)): one key more would end the connection.
const MAX_KEYS: usize = 6;

/// Why the gateway did not let the user in.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// A key file can't be used.
    #[error("cannot use the key {}: {reason}", file.display())]
    KeyFile {
        /// Which file.
        file: PathBuf,
        /// Why, in words.
        reason: String,
    },
    /// No agent where one was asked for.
    #[error("no SSH agent: {0}")]
    NoAgent(String),
    /// There was nothing to offer.
    #[error("no key to offer: no agent holds one and {} has none", directory.display())]
    NoKeys {
        /// Where key files were looked for.
        directory: PathBuf,
    },
    /// Every key was refused.
    #[error("the gateway refused user {user}; keys offered: {}", offered.join(", "))]
    Refused {
        /// The user name.
        user: String,
        /// What was offered.
        offered: Vec<String>,
    },
    /// The connection failed meanwhile.
    #[error("the connection ended during authentication")]
    Ssh(#[from] russh::Error),
}

type Session = Handle<HostKeyCheck>;

/// Authenticates `user` with `identity`; without one: the agent's keys, then the usual files of `home`/.ssh.
pub(super) async fn authenticate(
    session: &mut Session,
    user: &str,
    identity: Option<&Identity>,
    home: &Path,
) -> Result<(), AuthenticationError> {
    let mut attempt = Attempt {
        session,
        user,
        offered: Vec::new(),
    };
    let accepted = match identity {
        Some(Identity::File(file)) => attempt.file(file).await?,
        Some(Identity::Agent) => {
            let agent = open_agent().await.map_err(AuthenticationError::NoAgent)?;
            attempt.agent(agent).await?
        }
        None => attempt.anything(home).await?,
    };
    if accepted {
        return Ok(());
    }
    if attempt.offered.is_empty() {
        return Err(AuthenticationError::NoKeys {
            directory: home.join(".ssh"),
        });
    }
    Err(AuthenticationError::Refused {
        user: user.to_owned(),
        offered: attempt.offered,
    })
}

type Agent = AgentClient<tokio::net::UnixStream>;

async fn open_agent() -> Result<Agent, String> {
    AgentClient::connect_env()
        .await
        .map_err(|error| error.to_string())
}

struct Attempt<'s> {
    session: &'s mut Session,
    user: &'s str,
    offered: Vec<String>,
}

impl Attempt<'_> {
    async fn anything(&mut self, home: &Path) -> Result<bool, AuthenticationError> {
        if let Ok(agent) = open_agent().await
            && self.agent(agent).await?
        {
            return Ok(true);
        }
        for name in ["id_ed25519", "id_ecdsa", "id_rsa"] {
            let file = home.join(".ssh").join(name);
            if !file.exists() || self.offered.len() >= MAX_KEYS {
                continue;
            }
            match self.file(&file).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(AuthenticationError::KeyFile { file, reason }) => {
                    tracing::warn!("passing over the key {}: {reason}", file.display());
                }
                Err(other) => return Err(other),
            }
        }
        Ok(false)
    }

    async fn file(&mut self, file: &Path) -> Result<bool, AuthenticationError> {
        let unusable = |reason: String| AuthenticationError::KeyFile {
            file: file.into(),
            reason,
        };
        let key = russh::keys::load_secret_key(file, None).map_err(|error| {
            let locked = matches!(error, russh::keys::Error::KeyIsEncrypted);
            let advice = "it has a passphrase: ssh-add it, and let the agent offer it (`identity: agent`, or no --identity)";
            unusable(if locked {
                advice.to_owned()
            } else {
                error.to_string()
            })
        })?;
        let hash = self.hash_for(key.public_key()).await?;
        self.offered.push(format!(
            "{} ({})",
            file.display(),
            describe(key.public_key())
        ));
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let answer = self.session.authenticate_publickey(self.user, key).await?;
        Ok(succeeded(&answer))
    }

    async fn agent(&mut self, mut agent: Agent) -> Result<bool, AuthenticationError> {
        let no_agent =
            |error: &dyn std::fmt::Display| AuthenticationError::NoAgent(error.to_string());
        let identities = agent
            .request_identities()
            .await
            .map_err(|error| no_agent(&error))?;
        for identity in identities.into_iter().take(MAX_KEYS) {
            let key = match identity {
                AgentIdentity::PublicKey { key, .. } => key,
                AgentIdentity::Certificate { .. } => continue,
            };
            let hash = self.hash_for(&key).await?;
            self.offered.push(format!("agent ({})", describe(&key)));
            let answer = self
                .session
                .authenticate_publickey_with(self.user, key, hash, &mut agent)
                .await
                .map_err(|error| no_agent(&error))?;
            if succeeded(&answer) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// RSA keys sign with SHA-2 or not at all (RFC 8332).
    async fn hash_for(&self, key: &PublicKey) -> Result<Option<HashAlg>, AuthenticationError> {
        if !key.algorithm().is_rsa() {
            return Ok(None);
        }
        let supported = self.session.best_supported_rsa_hash().await?.flatten();
        Ok(Some(supported.unwrap_or(HashAlg::Sha256)))
    }
}

fn describe(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn succeeded(answer: &AuthResult) -> bool {
    matches!(answer, AuthResult::Success)
}
