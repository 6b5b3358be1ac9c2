//! The host key of a gateway: strict. Unknown, changed or revoked ends the connection, never weakens it.

use std::path::PathBuf;
use std::time::SystemTime;

use russh::keys::ssh_key::Certificate;
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};

use super::host_certificate::CertificateFault;
use super::known_hosts::{Certified, KnownHost, Place, Verdict};

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
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.check_key(key)?,
            PublicKeyOrCertificate::Certificate(certificate) => {
                self.check_certificate(certificate)?;
            }
        }
        Ok(true)
    }
}

impl HostKeyCheck {
    fn check_key(&self, key: &PublicKey) -> Result<(), HostKeyRejection> {
        let host = self.host.clone();
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        match self.known.judge(key) {
            Verdict::Known => Ok(()),
            Verdict::Unknown => Err(HostKeyRejection::Unknown {
                host,
                fingerprint,
                files: self.files.clone(),
            }),
            Verdict::Changed(place) => Err(HostKeyRejection::Changed {
                host,
                fingerprint,
                place,
            }),
            Verdict::Revoked(place) => Err(HostKeyRejection::Revoked {
                host,
                fingerprint,
                place,
            }),
        }
    }

    /// A certificate that nobody here vouches for says no more than the key in it, which may be known.
    fn check_certificate(&self, certificate: &Certificate) -> Result<(), HostKeyRejection> {
        let key = PublicKey::from(certificate.public_key().clone());
        match self.known.judge_certificate(certificate, SystemTime::now()) {
            Certified::Trusted => Ok(()),
            Certified::NoAuthority => self.check_key(&key),
            Certified::Faulty(fault) => match self.known.judge(&key) {
                Verdict::Unknown => Err(HostKeyRejection::Certificate {
                    host: self.host.clone(),
                    id: certificate.key_id().to_owned(),
                    fault,
                }),
                Verdict::Known | Verdict::Changed(_) | Verdict::Revoked(_) => self.check_key(&key),
            },
            Certified::Revoked(place) => Err(HostKeyRejection::Revoked {
                host: self.host.clone(),
                fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
                place,
            }),
        }
    }
}
