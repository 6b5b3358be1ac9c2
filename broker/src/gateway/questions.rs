//! What the gateways of a zone want to know from its user before they let anything through: whether a new host key is right.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_rules::Gateway;
use russh::keys::PublicKey;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use super::askpass::Askpass;
use super::distrust::Distrust;
use super::known_hosts::{self, Verdict};
use super::new_host_key::{self, NotNoted};
use super::pace::Pace;
use super::unlocking::Unlocking;

/// Host keys of one link that wait for a word; its gateways are fewer.
const MOST_KEYS: usize = 64;

/// A host key that no file knows, shown by a gateway of a zone with `host_keys: ask`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// Which gateway showed it, as files of known hosts name it.
    pub gateway: Gateway,
    /// The files that do not know it.
    pub files: Vec<PathBuf>,
    /// The key.
    pub key: PublicKey,
}

impl UnknownKey {
    /// The gateway as known_hosts names it.
    pub fn host(&self) -> String {
        known_hosts::lookup_name(&self.gateway.host, self.gateway.port)
    }

    /// As `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        super::fingerprint(&self.key)
    }

    /// The kind of key, as known_hosts names it.
    pub fn kind(&self) -> String {
        self.key.algorithm().as_str().to_owned()
    }
}

/// Why a host key is not trusted though someone said so.
#[derive(Debug, thiserror::Error)]
pub enum NotTrusted {
    /// No gateway of the zone showed such a key.
    #[error(
        "no gateway waits for a word on a host key with the fingerprint {0}: `adit status` shows those that do"
    )]
    NotAsked(String),
    /// The files say something of the host by now.
    #[error("known hosts have changed meanwhile: {host} is in them")]
    KnownMeanwhile {
        /// As in known_hosts.
        host: String,
    },
    /// The files can't be read or written.
    #[error(transparent)]
    Note(#[from] NotNoted),
}

/// The open questions of one link. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Questions {
    keys: Arc<Mutex<Vec<UnknownKey>>>,
    pub(super) pace: Pace,
    answered: Arc<Notify>,
    askpass: Option<Askpass>,
    /// What the user has to say before anyone is let in.
    pub unlocking: Unlocking,
    /// Whether a gateway shows a host key that nobody can be asked to trust.
    pub distrust: Distrust,
}

impl Questions {
    /// Those of a zone whose user can be asked with this.
    pub fn asked_by(askpass: Option<Askpass>) -> Self {
        Self {
            unlocking: Unlocking::asked_by(askpass.clone()),
            askpass,
            ..Self::default()
        }
    }

    /// Those of another link of the same zone.
    pub fn beside(&self) -> Self {
        Self {
            unlocking: self.unlocking.beside(),
            askpass: self.askpass.clone(),
            ..Self::default()
        }
    }

    /// The question stays until it is answered, or its gateway shows another key.
    pub(super) fn ask_about(&self, unknown: UnknownKey) {
        let mut keys = self.lock();
        if keys.contains(&unknown) {
            return;
        }
        keys.retain(|it| it.gateway != unknown.gateway);
        if keys.len() < MOST_KEYS {
            keys.push(unknown.clone());
            drop(keys);
            self.ask_on_screen(unknown);
        }
    }

    /// Once: who says no can still say `adit trust`.
    fn ask_on_screen(&self, unknown: UnknownKey) {
        let Some(askpass) = self.askpass.clone() else {
            return;
        };
        let own = self.clone();
        tokio::spawn(async move {
            let _turn = Askpass::turn().await;
            if !own.lock().contains(&unknown) {
                return;
            }
            let fingerprint = unknown.fingerprint();
            let text = format!(
                "The host key of the gateway {} is not known.\nIts {} key has the fingerprint\n{fingerprint}\n\
                 Is that what its administrator told you? (yes/no/the fingerprint) ",
                unknown.host(),
                unknown.kind()
            );
            if !askpass.confirm(&text, &fingerprint).await {
                return;
            }
            let trusting = spawn_blocking(move || own.trust(&fingerprint));
            if let Ok(Err(error)) = trusting.await {
                tracing::error!("{error}");
            }
        });
    }

    /// The host keys that wait for a word.
    pub fn unknown_keys(&self) -> Vec<UnknownKey> {
        self.lock().clone()
    }

    /// From now on nothing is asked about: the zone has other gateways.
    pub fn forget(&self) {
        self.lock().clear();
        self.pace.forget_all();
        self.distrust.settle(false);
        self.unlocking.forget();
    }

    /// Notes the key with this fingerprint, of every gateway that showed it, and lets the zone try again. It waits for the disk.
    pub fn trust(&self, fingerprint: &str) -> Result<(), NotTrusted> {
        let is_meant = |key: &mut UnknownKey| key.fingerprint() == fingerprint;
        let meant: Vec<_> = self.lock().extract_if(.., is_meant).collect();
        if meant.is_empty() {
            return Err(NotTrusted::NotAsked(fingerprint.to_owned()));
        }
        for unknown in &meant {
            unknown.trust()?;
        }
        self.try_again();
        Ok(())
    }

    /// Another link of the zone was unlocked, perhaps by what this one waits for.
    pub fn another_is_unlocked(&self) {
        if self.unlocking.locked().is_some() {
            self.unlocking.forget();
            self.try_again();
        }
    }

    /// The user wants the zone to be tried: gateways that were to be left in peace are asked.
    pub fn refused_try_again(&self) {
        if self.pace.forget_all() {
            self.answered.notify_one();
        }
    }

    /// Lets the zone try again, also where a gateway was to be left in peace.
    pub fn try_again(&self) {
        self.pace.forget_all();
        self.answered.notify_one();
    }

    /// Resolves when a question was answered since this was waited for last.
    pub async fn answered(&self) {
        self.answered.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<UnknownKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnknownKey {
    fn trust(&self) -> Result<(), NotTrusted> {
        match new_host_key::note_if_new(&self.files, &self.gateway, &self.key)? {
            Ok(file) => {
                let (host, file) = (self.host(), file.display());
                tracing::warn!(
                    "trusting the host key of {host}, noted in {file}: {}",
                    self.fingerprint()
                );
                Ok(())
            }
            Err(Verdict::Known) => Ok(()),
            Err(Verdict::Unknown | Verdict::Changed(_) | Verdict::Revoked(_)) => {
                Err(NotTrusted::KnownMeanwhile { host: self.host() })
            }
        }
    }
}
