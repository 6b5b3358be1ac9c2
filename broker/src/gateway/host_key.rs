//! The host key of a gateway: strict. Unknown, changed or revoked ends the connection, never weakens it.

use std::path::PathBuf;

use russh::keys::{HashAlg, PublicKeyOrCertificate};

use super::known_hosts::{KnownHost, Place, Verdict};

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
    /// It showed a certificate, which was not asked for.
    #[error("{host} showed a host certificate, which is not supported")]
    Certificate {
        /// As in known_hosts.
        host: String,
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
    pub(super) host: String,
    pub(super) files: Vec<PathBuf>,
    pub(super) known: KnownHost,
}

impl russh::client::Handler for HostKeyCheck {
    type Error = SessionError;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let host = self.host.clone();
        let key = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key,
            PublicKeyOrCertificate::Certificate(_) => {
                return Err(HostKeyRejection::Certificate { host }.into());
            }
        };
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        match self.known.judge(key) {
            Verdict::Known => Ok(true),
            Verdict::Unknown => {
                let files = self.files.clone();
                Err(HostKeyRejection::Unknown {
                    host,
                    fingerprint,
                    files,
                }
                .into())
            }
            Verdict::Changed(place) => Err(HostKeyRejection::Changed {
                host,
                fingerprint,
                place,
            }
            .into()),
            Verdict::Revoked(place) => Err(HostKeyRejection::Revoked {
                host,
                fingerprint,
                place,
            }
            .into()),
        }
    }
}
