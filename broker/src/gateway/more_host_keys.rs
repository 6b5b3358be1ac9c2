//! Host keys that a gateway announces beside the one it showed (PROTOCOL of OpenSSH, section 2.5: hostkeys-00@openssh.com), so that it
//! can be given another one without a word from anyone. They are noted once the gateway has proved that it holds them.

use std::path::PathBuf;
use std::time::Duration;

use adit_rules::{Gateway, HostKeys};
use russh::client::Handle;
use russh::keys::PublicKey;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::connection::Target;
use super::fingerprint;
use super::host_key::HostKeyCheck;
use super::known_hosts::{self, KnownHost};
use super::new_host_key;

/// How long a gateway may take to prove what it announces: some flows wait for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// Keys of one gateway that are noted at once.
const MOST_KEYS: usize = 16;

/// Where a session's announcement is put: the first one, as sshd makes one.
#[derive(Debug)]
pub(super) struct Announced {
    heard: mpsc::Sender<Announcement>,
    shown: Option<PublicKey>,
}

/// Keys beside the one for which a gateway was trusted.
#[derive(Debug)]
struct Announcement {
    shown: PublicKey,
    keys: Vec<PublicKey>,
}

impl Announced {
    /// The gateway was trusted for this key. Where it was for a certificate, no plain key says who it is.
    pub(super) fn trusted_for(&mut self, key: &PublicKey) {
        self.shown = Some(key.clone());
    }

    /// These keys are announced.
    pub(super) fn hear(self, keys: Vec<PublicKey>) {
        if let Some(shown) = self.shown {
            // Nobody listens any more when the link could not be opened.
            let _ = self.heard.try_send(Announcement { shown, keys });
        }
    }
}

/// What is noted of what a gateway announces.
#[derive(Debug)]
pub(super) struct MoreHostKeys {
    announced: mpsc::Receiver<Announcement>,
    /// As files of known hosts name it.
    gateway: Gateway,
    files: Vec<PathBuf>,
}

impl MoreHostKeys {
    /// For a session with `target`; `None` where files are not written to.
    pub(super) fn of(target: &Target) -> Option<(Announced, Self)> {
        if target.host_keys == HostKeys::Strict {
            return None;
        }
        let (heard, announced) = mpsc::channel(1);
        let announcing = Announced { heard, shown: None };
        let own = Self {
            announced,
            gateway: target.as_known(),
            files: target.known_hosts.clone(),
        };
        Some((announcing, own))
    }

    /// Waits for the announcement, and notes what is new in it.
    pub(super) async fn note(mut self, session: &Handle<HostKeyCheck>) {
        if let Some(announcement) = self.announced.recv().await {
            self.note_new(announcement, session).await;
        }
    }

    /// The same where a channel was answered already: what was not announced before that is not any more.
    pub(super) async fn note_what_came(mut self, session: &Handle<HostKeyCheck>) {
        if let Ok(announcement) = self.announced.try_recv() {
            self.note_new(announcement, session).await;
        }
    }

    async fn note_new(&self, announcement: Announcement, session: &Handle<HostKeyCheck>) {
        let Some(file) = self.files.first() else {
            return;
        };
        let Gateway { host, port, .. } = &self.gateway;
        let known = match KnownHost::read_aside(&self.files, host, *port).await {
            Ok(known) => known,
            Err(error) => return tracing::warn!("{error}"),
        };
        let mut new = known.others_beside(&announcement.shown, file, announcement.keys);
        new.truncate(MOST_KEYS);
        if new.is_empty() {
            return;
        }
        match timeout(PATIENCE, session.hostkeys_prove(new.clone())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return tracing::warn!("{host} does not prove the host keys it announces: {error}");
            }
            Err(_) => return tracing::warn!("{host} does not prove the host keys it announces"),
        }
        let (files, name) = (self.files.clone(), known_hosts::lookup_name(host, *port));
        // What goes wrong there has been told there.
        let _ = spawn_blocking(move || note_proved(&files, &name, &new)).await;
    }
}

fn note_proved(files: &[PathBuf], name: &str, proved: &[PublicKey]) {
    for key in proved {
        match new_host_key::note(files, name, key) {
            Ok(file) => {
                let (file, key) = (file.display(), fingerprint(key));
                tracing::warn!("another host key of {name}, noted in {file}: {key}");
            }
            Err(error) => tracing::warn!("another host key of {name} is not noted: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::Questions;
    use crate::gateway::connection::client_config;
    use russh::server::Auth;
    use std::process::Command;
    use std::sync::Arc;

    /// A server that lets anyone in, and proves nothing: it does not know the request.
    struct Anyone;

    impl russh::server::Handler for Anyone {
        type Error = russh::Error;

        async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
            Ok(Auth::Accept)
        }
    }

    fn key(directory: &tempfile::TempDir, name: &str) -> russh::keys::PrivateKey {
        let file = directory.path().join(name);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
        assert!(keygen.arg(&file).status().unwrap().success());
        russh::keys::load_secret_key(file, None).unwrap()
    }

    #[tokio::test]
    async fn what_is_not_proved_is_not_noted() {
        let directory = tempfile::tempdir().unwrap();
        let (own, other) = (key(&directory, "own"), key(&directory, "other"));
        let file = directory.path().join("known_hosts");
        let files = vec![file.clone()];
        new_host_key::note(&files, "gw.example", own.public_key()).unwrap();
        let before = std::fs::read_to_string(&file).unwrap();
        let known_key = own.public_key().clone();
        let (near, far) = tokio::io::duplex(1 << 16);
        let config = Arc::new(russh::server::Config {
            keys: vec![own],
            ..Default::default()
        });
        tokio::spawn(async move { russh::server::run_stream(config, far, Anyone).await?.await });
        let gateway: Gateway = "gw.example".parse().unwrap();
        let known = KnownHost::read(&files, "gw.example", 22).unwrap();
        let config = Arc::new(client_config(&known));
        let check = HostKeyCheck {
            gateway: gateway.clone(),
            files: files.clone(),
            known,
            unknown_is: HostKeys::Strict,
            questions: Questions::default(),
            refusals: mpsc::channel(1).0,
            announced: None,
        };
        let connected = russh::client::connect_stream(config, near, check).await;
        let mut session = connected.unwrap();
        assert!(session.authenticate_none("eve").await.unwrap().success());
        let (heard, announced) = mpsc::channel(1);
        let announcement = Announcement {
            shown: known_key,
            keys: vec![other.public_key().clone()],
        };
        heard.send(announcement).await.unwrap();
        let more = MoreHostKeys {
            announced,
            gateway,
            files,
        };
        more.note(&session).await;
        assert!(!session.is_closed(), "it was asked and said no");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    }
}
