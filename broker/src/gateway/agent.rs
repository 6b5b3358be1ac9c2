//! The user's SSH agent: where it listens, and signing with what it holds (draft-ietf-sshm-ssh-agent).

use std::path::PathBuf;
use std::time::Duration;

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::Certificate;
use russh::keys::{Algorithm, HashAlg, PublicKey};
use russh::{AgentAuthError, Signer};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::unlocking::Unlocking;

/// How long the user may take to touch a key, or to say yes (ssh-add -c).
pub(super) const PATIENCE: Duration = Duration::from_secs(100);
/// A key that needs nobody has signed by then; one that does not is waiting for its user.
const SOON: Duration = Duration::from_secs(1);
/// Below XDG_RUNTIME_DIR, where a unit of the user finds no SSH_AUTH_SOCK: those of Debian's and Arch's ssh-agent units, of
/// gnome-keyring and of gpg-agent.
const USUAL: [&str; 3] = ["ssh-agent.socket", "keyring/ssh", "gnupg/S.gpg-agent.ssh"];

/// A connection to it.
pub(super) type Agent = AgentClient<UnixStream>;

/// The agent that the environment names; without a name, the first that answers at the usual places.
pub(super) async fn open() -> Result<Agent, String> {
    if std::env::var_os("SSH_AUTH_SOCK").is_some() {
        let named = AgentClient::connect_env().await;
        return named.map_err(|error| error.to_string());
    }
    match at_usual_places().await {
        Some((_, agent)) => Ok(agent),
        None => Err("SSH_AUTH_SOCK is not set, and none answers below XDG_RUNTIME_DIR".to_owned()),
    }
}

/// Where the agent listens that [`open`] would find without a name for it in the environment; `None` where there is a name.
pub(super) async fn unnamed() -> Option<PathBuf> {
    if std::env::var_os("SSH_AUTH_SOCK").is_some() {
        return None;
    }
    at_usual_places().await.map(|(place, _)| place)
}

async fn at_usual_places() -> Option<(PathBuf, Agent)> {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    for place in USUAL.map(|name| runtime.join(name)) {
        if let Ok(agent) = AgentClient::connect_uds(&place).await {
            return Some((place, agent));
        }
    }
    None
}

/// Signs with a key of the agent, and says so when it is to be touched.
pub(super) struct AgentSigner<'a> {
    pub(super) agent: &'a mut Agent,
    pub(super) unlocking: &'a Unlocking,
    /// The key by which the agent knows what it signs with.
    pub(super) identity: AgentIdentity,
}

impl Signer for AgentSigner<'_> {
    type Error = AgentAuthError;

    async fn auth_sign(
        &mut self,
        _key: &AgentIdentity,
        hash: Option<HashAlg>,
        to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        let key = self.identity.public_key();
        let shown = self.unlocking.clone();
        let what = format!("{} {}", super::fingerprint(&key), self.identity.comment());
        let at_once = is_touched(&key);
        let signing = self.agent.sign_request(&self.identity, hash, to_sign);
        let showing = async {
            if !at_once {
                sleep(SOON).await;
            }
            let _touching = shown.touching(what);
            std::future::pending::<()>().await;
        };
        let signed = tokio::select! {
            signed = timeout(PATIENCE, signing) => signed,
            () = showing => return Err(russh::keys::Error::AgentFailure.into()),
        };
        let signed = signed.map_err(|_| russh::keys::Error::AgentFailure)?;
        Ok(signed?)
    }
}

/// Keys on a FIDO token (PROTOCOL.u2f of OpenSSH) want to be touched.
fn is_touched(key: &PublicKey) -> bool {
    matches!(
        key.algorithm(),
        Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256
    )
}

/// What the agent holds that goes with the certificate: the certificate itself, or its key.
pub(super) fn holder_of(
    identities: &[AgentIdentity],
    certificate: &Certificate,
) -> Option<AgentIdentity> {
    let holds = |identity: &&AgentIdentity| {
        identity.public_key().key_data() == certificate.public_key()
            && matches!(identity, AgentIdentity::PublicKey { .. })
    };
    identities.iter().find(holds).cloned()
}
