//! The user's SSH agent: where it listens, and signing with what it holds (draft-ietf-sshm-ssh-agent).

use std::path::{Path, PathBuf};
use std::time::Duration;

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, HashAlg, PublicKey};
use russh::{AgentAuthError, Signer};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::agent_listing;
use super::unlocking::Unlocking;

/// How long the user may take to touch a key, or to say yes (ssh-add -c).
pub(super) const PATIENCE: Duration = Duration::from_secs(100);
/// A key that needs nobody has signed by then; one that does not is waiting for its user.
const SOON: Duration = Duration::from_secs(1);
/// How long it may take to say what it holds.
const LISTING: Duration = Duration::from_secs(5);
/// How often it is looked for a key that was missing. Hundreds of links may wait for one, and look once for all.
const AGAIN: Duration = Duration::from_secs(2);
/// Below XDG_RUNTIME_DIR, where a unit of the user finds no SSH_AUTH_SOCK: those of Debian's and Arch's ssh-agent units, of
/// gnome-keyring and of gpg-agent.
const USUAL: [&str; 3] = ["ssh-agent.socket", "keyring/ssh", "gnupg/S.gpg-agent.ssh"];

/// A connection to it.
pub(super) type Agent = AgentClient<UnixStream>;

/// The agent that the environment names; without a name, the first that answers at the usual places.
async fn open() -> Result<UnixStream, String> {
    if let Some(named) = std::env::var_os("SSH_AUTH_SOCK") {
        let named = Path::new(&named);
        let failed = |error| format!("{}: {error}", named.display());
        return UnixStream::connect(named).await.map_err(failed);
    }
    match at_usual_places().await {
        Some((_, agent)) => Ok(agent),
        None => Err("SSH_AUTH_SOCK is not set, and none answers below XDG_RUNTIME_DIR".to_owned()),
    }
}

/// A connection to it, and what it holds.
pub(super) async fn listed() -> Result<(Agent, Vec<AgentIdentity>), String> {
    let listing = async {
        let mut agent = open().await?;
        let held = agent_listing::held_by(&mut agent).await;
        let held = held.map_err(|error| error.to_string())?;
        Ok((AgentClient::connect(agent), held))
    };
    let late = |_| {
        format!(
            "it does not say within {} s what it holds",
            LISTING.as_secs()
        )
    };
    timeout(LISTING, listing).await.map_err(late)?
}

/// As it is told from others.
pub(super) fn fingerprints(held: &[AgentIdentity]) -> Vec<String> {
    let keys = held.iter().map(AgentIdentity::public_key);
    keys.map(|key| super::fingerprint(&key)).collect()
}

/// Resolves when it holds a key that is not among these.
pub(super) async fn holds_more_than(before: &[String]) {
    loop {
        sleep(AGAIN).await;
        let held = held_lately().await;
        if held.iter().any(|key| !before.contains(key)) {
            return;
        }
    }
}

/// What it holds, as it is told from others, or held a moment ago.
pub(super) async fn held_lately() -> Vec<String> {
    static LATELY: Mutex<Option<(Instant, Vec<String>)>> = Mutex::const_new(None);
    let mut lately = LATELY.lock().await;
    if let Some((at, held)) = &*lately
        && at.elapsed() < AGAIN
    {
        return held.clone();
    }
    // One that does not answer holds nothing.
    let held = listed()
        .await
        .map_or_else(|_| Vec::new(), |(_, held)| fingerprints(&held));
    *lately = Some((Instant::now(), held.clone()));
    held
}

/// Where the agent listens that [`open`] would find without a name for it in the environment; `None` where there is a name.
pub(super) async fn unnamed() -> Option<PathBuf> {
    if std::env::var_os("SSH_AUTH_SOCK").is_some() {
        return None;
    }
    at_usual_places().await.map(|(place, _)| place)
}

async fn at_usual_places() -> Option<(PathBuf, UnixStream)> {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    for place in USUAL.map(|name| runtime.join(name)) {
        if let Ok(agent) = UnixStream::connect(&place).await {
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
        // Its answer would be taken for the one to the next request.
        let late = |_| russh::keys::Error::IO(std::io::ErrorKind::TimedOut.into());
        Ok(signed.map_err(late)??)
    }
}

/// Keys on a FIDO token (PROTOCOL.u2f of OpenSSH) want to be touched.
pub(super) fn is_touched(key: &PublicKey) -> bool {
    matches!(
        key.algorithm(),
        Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256
    )
}

/// What the agent holds that goes with this key: the key, and no certificate for it.
pub(super) fn holder_of(identities: &[AgentIdentity], key: &KeyData) -> Option<AgentIdentity> {
    let holds = |identity: &&AgentIdentity| {
        identity.public_key().key_data() == key
            && matches!(identity, AgentIdentity::PublicKey { .. })
    };
    identities.iter().find(holds).cloned()
}
