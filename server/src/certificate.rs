//! Is an OpenSSH user certificate good, for this user, from there, now? No file or clock here: who
//! signed it, and whether that is anybody to us, is looked up elsewhere.
use russh::keys::Algorithm;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Certificate, HashAlg};

use crate::authorized_keys::Attempt;
use crate::key_strength::{self, Unusable};
use crate::permissions::Permissions;
use crate::source_patterns::{BadSource, SourcePatterns};

/// Most principals that are looked at; `ssh-keygen` makes no more (sshkey.c).
const MAX_PRINCIPALS: usize = 256;

/// Why a certificate is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// A host's.
    #[error("a host certificate")]
    Host,
    /// See [`key_strength`].
    #[error("the certificate: {0}")]
    Unusable(#[from] Unusable),
    /// The same for who signed it.
    #[error("who signed the certificate: {0}")]
    Authority(Unusable),
    /// SHA-1 (RFC 8332 section 1).
    #[error("the certificate was signed with SHA-1")]
    Sha1,
    /// The time is not within its own, or the signature is another's.
    #[error("the certificate is not valid now, or its signature is wrong")]
    Invalid,
    /// It names nobody, which OpenSSH once took for everybody, or too many.
    #[error("the certificate names no principal, or more than {MAX_PRINCIPALS}")]
    Principals,
    /// It names others.
    #[error("the certificate does not name {0:?}")]
    OtherPrincipal(String),
    /// Nobody runs commands here, and it is good for one command only.
    #[error("the certificate is for a command only")]
    Command,
    /// A critical option that is not known must not be ignored (PROTOCOL.certkeys).
    #[error(
        "the certificate has the critical option {0:?}, which this server does not know how to keep"
    )]
    Critical(String),
    /// `source-address` is not written as it has to be.
    #[error("source-address of the certificate: {0}")]
    BadSource(#[from] BadSource),
    /// `source-address`.
    #[error("the client comes from elsewhere than the certificate says")]
    Source,
}

/// Is it good, and what does it leave? One of `principals` has to be named in it.
///
/// # Errors
/// Why not.
pub fn judge(
    certificate: &Certificate,
    principals: &[&str],
    attempt: Attempt,
) -> Result<Permissions, BadCertificate> {
    if certificate.cert_type() != CertType::User {
        return Err(BadCertificate::Host);
    }
    key_strength::check(certificate.public_key())?;
    key_strength::check(certificate.signature_key()).map_err(BadCertificate::Authority)?;
    let signed_with = certificate.signature().algorithm();
    if matches!(signed_with, Algorithm::Rsa { hash: None } | Algorithm::Dsa) {
        return Err(BadCertificate::Sha1);
    }
    named(certificate, principals)?;
    critical(certificate, attempt)?;
    // Last, because it takes longest.
    let authority = certificate.signature_key().fingerprint(HashAlg::Sha256);
    let now = u64::try_from(attempt.now.as_second()).map_err(|_| BadCertificate::Invalid)?;
    certificate
        .validate_at(now, [&authority])
        .map_err(|_| BadCertificate::Invalid)?;
    Ok(Permissions {
        forwarding: certificate
            .extensions()
            .contains_key("permit-port-forwarding"),
        ..Permissions::all()
    })
}

fn named(certificate: &Certificate, principals: &[&str]) -> Result<(), BadCertificate> {
    let names = certificate.valid_principals();
    if names.is_empty() || names.len() > MAX_PRINCIPALS {
        return Err(BadCertificate::Principals);
    }
    match names.iter().any(|name| principals.contains(&name.as_str())) {
        true => Ok(()),
        false => Err(BadCertificate::OtherPrincipal(principals.join(","))),
    }
}

fn critical(certificate: &Certificate, attempt: Attempt) -> Result<(), BadCertificate> {
    for (name, value) in certificate.critical_options().iter() {
        match name.as_str() {
            "source-address" if SourcePatterns::networks(value)?.allow(attempt.from) => {}
            "source-address" => return Err(BadCertificate::Source),
            "force-command" => return Err(BadCertificate::Command),
            other => return Err(BadCertificate::Critical(other.chars().take(64).collect())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
