//! What a login was proved by.
use std::fmt;

use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, HashAlg};

/// What a login was proved by, for the audit and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A public key of the user's file.
    Key {
        /// As `ssh-keygen -l` writes it.
        fingerprint: String,
    },
    /// A certificate, by somebody whose certificates are accepted.
    Certificate(CertificateId),
    /// No key: what the user was asked for.
    Answers,
    /// Another program authenticated.
    Elsewhere,
}

/// What tells a certificate from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateId {
    /// The certified key's fingerprint.
    pub fingerprint: String,
    /// What the authority wrote into it for people.
    pub id: String,
    /// The authority's number for it.
    pub serial: u64,
    /// The authority's fingerprint.
    pub authority: String,
}

impl Credential {
    /// The key's fingerprint, `-` where there was none, or only another program knows it.
    pub fn key(&self) -> &str {
        match self {
            Self::Key { fingerprint } => fingerprint,
            Self::Certificate(certificate) => &certificate.fingerprint,
            Self::Answers | Self::Elsewhere => "-",
        }
    }

    /// The certificate, if it was one.
    pub fn certificate(&self) -> Option<&CertificateId> {
        match self {
            Self::Certificate(certificate) => Some(certificate),
            Self::Key { .. } | Self::Answers | Self::Elsewhere => None,
        }
    }
}

impl CertificateId {
    /// Of this certificate.
    pub fn of(certificate: &Certificate) -> Self {
        Self {
            fingerprint: fingerprint(certificate.public_key()),
            id: certificate.key_id().to_owned(),
            serial: certificate.serial(),
            authority: fingerprint(certificate.signature_key()),
        }
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            serial,
            authority,
            ..
        } = self;
        write!(f, "ID {id:?} serial {serial} CA {authority}")
    }
}

/// As `ssh-keygen -l` writes it.
pub(crate) fn fingerprint(key: &KeyData) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}
