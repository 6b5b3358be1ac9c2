//! The host key of a gateway. Changed or revoked ends the connection, always; unknown does, unless the zone says otherwise.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use adit_rules::{Gateway, HostKeys};
use russh::client::{ChannelOpenHandle, Msg, Session};
use russh::keys::ssh_key::Certificate;
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, ChannelOpenFailure};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::host_certificate::CertificateFault;
use super::known_hosts::{self, Certified, KnownHost, Place, Verdict};
use super::more_host_keys::Announced;
use super::new_host_key::{self, NotNoted};
use super::questions::{Questions, UnknownKey};
use super::refusal::brief;

/// Why a gateway's host key was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostKeyRejection {
    /// No file knows the host.
    #[error(
        "host key of {host} is not known: {fingerprint}; compare it with the gateway's administrator, \
         then add it to {} (ssh-keyscan prints its line)",
        files.first().map_or_else(|| "known_hosts".into(), |file| file.display().to_string())
    )]
    Unknown {
        /// As in known_hosts.
        host: String,
        /// SHA256 fingerprint of the key shown.
        fingerprint: String,
        /// The files looked at.
        files: Vec<PathBuf>,
    },
    /// No file knows the host, and its user is asked.
    #[error(
        "host key of {host} is not known: {fingerprint}; compare it with the gateway's administrator, then run `adit trust`"
    )]
    Asked {
        /// As in known_hosts.
        host: String,
        /// SHA256 fingerprint of the key shown.
        fingerprint: String,
    },
    /// No file knows the host, and its key could not be noted.
    #[error("host key of {host} is new, and cannot be noted: {source}")]
    NotNoted {
        /// As in known_hosts.
        host: String,
        /// Why.
        source: Arc<NotNoted>,
    },
    /// The files know other keys of this host.
    #[error(
        "HOST KEY OF {host} HAS CHANGED: it showed {fingerprint}, {place} holds another; someone may be in between"
    )]
    Changed {
        /// As in known_hosts.
        host: String,
        /// SHA256 fingerprint of the key shown.
        fingerprint: String,
        /// The line with the known key.
        place: Place,
    },
    /// The key is marked @revoked.
    #[error("HOST KEY OF {host} IS REVOKED: {fingerprint}, by {place}")]
    Revoked {
        /// As in known_hosts.
        host: String,
        /// SHA256 fingerprint of the key shown.
        fingerprint: String,
        /// The line that revokes it.
        place: Place,
    },
    /// A trusted authority signed its certificate, and that is not good.
    #[error("the host certificate {id:?} of {host} is not good: {fault}")]
    Certificate {
        /// As in known_hosts.
        host: String,
        /// What the authority calls it.
        id: String,
        /// What is wrong.
        fault: CertificateFault,
    },
}

/// What goes wrong inside an SSH session: the library's own errors, or our rejection of the key.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error(transparent)]
    HostKey(#[from] HostKeyRejection),
}

/// The callbacks of one SSH connection.
#[derive(Debug)]
pub(super) struct HostKeyCheck {
    /// As files of known hosts name it.
    pub(super) gateway: Gateway,
    pub(super) files: Vec<PathBuf>,
    pub(super) known: KnownHost,
    /// What becomes of a key that no file knows.
    pub(super) unknown_is: HostKeys,
    /// Where the user is asked.
    pub(super) questions: Questions,
    /// Where more host keys are announced, if anyone wants to hear of them.
    pub(super) announced: Option<Announced>,
    /// Where the words go with which the server refuses a channel; what nobody waits for is left out.
    pub(super) refusals: mpsc::Sender<String>,
}

impl russh::client::Handler for HostKeyCheck {
    type Error = SessionError;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                self.check_key(key).await?;
                self.trusted_for(key);
            }
            PublicKeyOrCertificate::Certificate(certificate) => {
                if !self.check_certificate(certificate).await? {
                    self.trusted_for(&PublicKey::from(certificate.public_key().clone()));
                }
            }
        }
        Ok(true)
    }

    async fn openssh_ext_host_keys_announced(
        &mut self,
        keys: Vec<PublicKey>,
        _session: &mut russh::client::Session,
    ) -> Result<(), Self::Error> {
        if let Some(announced) = self.announced.take() {
            announced.hear(keys);
        }
        Ok(())
    }

    async fn channel_open_failure(
        &mut self,
        _: ChannelId,
        _: ChannelOpenFailure,
        description: &str,
        _: &str,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let _ = self.refusals.try_send(brief(description));
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    /// Or the library would answer one of an unknown kind twice.
    async fn should_accept_unknown_server_channel(&mut self, _: ChannelId, _: &str) -> bool {
        true
    }

    async fn server_channel_open_unknown(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }
}

/// Of a channel that the gateway opens: nothing was asked for that it could open one for.
async fn refuse(reply: ChannelOpenHandle) -> Result<(), SessionError> {
    reply
        .reject(ChannelOpenFailure::AdministrativelyProhibited)
        .await;
    Ok(())
}

impl HostKeyCheck {
    fn trusted_for(&mut self, key: &PublicKey) {
        if let Some(announced) = &mut self.announced {
            announced.trusted_for(key);
        }
    }

    async fn check_key(&self, key: &PublicKey) -> Result<(), HostKeyRejection> {
        match self.unless_unknown(self.known.judge(key), key) {
            Some(judged) => judged,
            None => self.check_unknown(key).await,
        }
    }

    /// What the verdict on it means, unless no file knows the host.
    fn unless_unknown(
        &self,
        verdict: Verdict,
        key: &PublicKey,
    ) -> Option<Result<(), HostKeyRejection>> {
        let host = self.host();
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        match verdict {
            Verdict::Known => Some(Ok(())),
            Verdict::Unknown => None,
            Verdict::Changed(place) => Some(Err(HostKeyRejection::Changed {
                host,
                fingerprint,
                place,
            })),
            Verdict::Revoked(place) => Some(Err(HostKeyRejection::Revoked {
                host,
                fingerprint,
                place,
            })),
        }
    }

    async fn check_unknown(&self, key: &PublicKey) -> Result<(), HostKeyRejection> {
        match self.unknown_is {
            HostKeys::Strict => Err(self.unknown(key)),
            HostKeys::AcceptNew => self.accept_new(key).await,
            HostKeys::Ask => {
                self.questions.ask_about(UnknownKey {
                    gateway: self.gateway.clone(),
                    files: self.files.clone(),
                    key: key.clone(),
                });
                let (host, fingerprint) = (self.host(), super::fingerprint(key));
                Err(HostKeyRejection::Asked { host, fingerprint })
            }
        }
    }

    fn unknown(&self, key: &PublicKey) -> HostKeyRejection {
        HostKeyRejection::Unknown {
            host: self.host(),
            fingerprint: super::fingerprint(key),
            files: self.files.clone(),
        }
    }

    /// Another connection may have noted another key of this host since the files were read: whoever comes second is not new.
    async fn accept_new(&self, key: &PublicKey) -> Result<(), HostKeyRejection> {
        let host = self.host();
        let not_noted = |error: NotNoted| HostKeyRejection::NotNoted {
            host: host.clone(),
            source: Arc::new(error),
        };
        let (files, gateway, new) = (self.files.clone(), self.gateway.clone(), key.clone());
        let noting = spawn_blocking(move || new_host_key::note_if_new(&files, &gateway, &new));
        let noted = noting.await.unwrap_or_else(|error| Err(error.into()));
        let file = match noted.map_err(not_noted)? {
            Ok(file) => file,
            Err(verdict) => {
                let judged = self.unless_unknown(verdict, key);
                return judged.unwrap_or_else(|| Err(self.unknown(key)));
            }
        };
        let (file, fingerprint) = (file.display(), super::fingerprint(key));
        tracing::warn!("new host key of {host}, noted in {file}: {fingerprint}");
        Ok(())
    }

    fn host(&self) -> String {
        known_hosts::lookup_name(&self.gateway.host, self.gateway.port)
    }

    /// Whether it is trusted for itself. A certificate that nobody here vouches for says no more than the key in it, which may be known.
    async fn check_certificate(&self, certificate: &Certificate) -> Result<bool, HostKeyRejection> {
        let key = PublicKey::from(certificate.public_key().clone());
        match self.known.judge_certificate(certificate, SystemTime::now()) {
            Certified::Trusted => Ok(true),
            Certified::NoAuthority => self.check_key(&key).await.map(|()| false),
            Certified::Faulty(fault) => match self.known.judge(&key) {
                Verdict::Unknown => Err(HostKeyRejection::Certificate {
                    host: self.host(),
                    id: certificate.key_id().to_owned(),
                    fault,
                }),
                Verdict::Known | Verdict::Changed(_) | Verdict::Revoked(_) => {
                    self.check_key(&key).await.map(|()| false)
                }
            },
            Certified::Revoked(place) => Err(HostKeyRejection::Revoked {
                host: self.host(),
                fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
                place,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by ssh-keygen -t ed25519.
    const KEYS: [&str; 2] = [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIESYndH1+Vaj6IOjA88Ld+RvW+3a9meoK9G7tavZ82/b",
    ];

    fn check(file: &std::path::Path) -> HostKeyCheck {
        let files = vec![file.to_owned()];
        HostKeyCheck {
            gateway: "gw.example".parse().unwrap(),
            known: KnownHost::read(&files, "gw.example", 22).unwrap(),
            files,
            unknown_is: HostKeys::AcceptNew,
            questions: Questions::default(),
            announced: None,
            refusals: mpsc::channel(1).0,
        }
    }

    /// A server that lets anyone in.
    struct Anyone;

    impl russh::server::Handler for Anyone {
        type Error = russh::Error;

        async fn auth_none(&mut self, _user: &str) -> Result<russh::server::Auth, Self::Error> {
            Ok(russh::server::Auth::Accept)
        }
    }

    #[tokio::test]
    async fn a_gateway_opens_no_channel_of_any_kind() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("host");
        let mut keygen = std::process::Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
        assert!(keygen.arg(&file).status().unwrap().success());
        let config = Arc::new(russh::server::Config {
            keys: vec![russh::keys::load_secret_key(file, None).unwrap()],
            ..Default::default()
        });
        let check = check(&directory.path().join("known_hosts"));
        let own = Arc::new(crate::gateway::connection::client_config(&check.known));
        let (near, far) = tokio::io::duplex(1 << 16);
        let (running, connected) = tokio::join!(
            russh::server::run_stream(config, far, Anyone),
            russh::client::connect_stream(own, near, check)
        );
        let (running, mut session) = (running.unwrap(), connected.unwrap());
        let gateway = running.handle();
        tokio::spawn(running);
        assert!(session.authenticate_none("eve").await.unwrap().success());
        let opened = [
            gateway.channel_open_session().await,
            gateway.channel_open_direct_tcpip("a", 1, "b", 2).await,
            gateway.channel_open_direct_streamlocal("/a").await,
            gateway.channel_open_forwarded_tcpip("a", 1, "b", 2).await,
            gateway.channel_open_forwarded_streamlocal("/a").await,
            gateway.channel_open_x11("a", 1).await,
            gateway.channel_open_agent().await,
        ];
        for (kind, opened) in opened.into_iter().enumerate() {
            let prohibited = ChannelOpenFailure::AdministrativelyProhibited;
            assert!(
                matches!(opened, Err(russh::Error::ChannelOpenFailure(why)) if why == prohibited),
                "kind {kind}"
            );
        }
        assert!(!session.is_closed());
    }

    #[tokio::test]
    async fn of_two_first_connections_at_once_one_is_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let [own, other] = KEYS.map(|key| PublicKey::from_openssh(key).unwrap());
        let (first, second) = (check(&file), check(&file));
        let (one, two) = tokio::join!(first.check_key(&own), second.check_key(&other));
        let (noted, rejected) = match (one, two) {
            (Ok(()), Err(rejected)) => (KEYS[0], rejected),
            (Err(rejected), Ok(())) => (KEYS[1], rejected),
            both => panic!("{both:?}"),
        };
        assert!(
            matches!(rejected, HostKeyRejection::Changed { .. }),
            "{rejected}"
        );
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("gw.example {noted}\n"));
    }
}
