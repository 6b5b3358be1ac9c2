//! Whether a host's certificate is good: PROTOCOL.certkeys of OpenSSH, judged as its ssh does (sshconnect.c, `check_host_cert`).

use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::Algorithm;
use russh::keys::ssh_key::Certificate;

/// What is wrong with a certificate that a trusted authority is said to have signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// The authority did not sign it.
    #[error("its signature is wrong")]
    Signature,
    /// Signed in a way that can be forged.
    #[error("it is signed with {0}, which is not safe")]
    SignatureAlgorithm(String),
    /// It is a user's.
    #[error("it is a user's certificate, not a host's")]
    NotOfAHost,
    /// Its time has not come.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// It is another host's.
    #[error("it is for {}, not for {host}", principals.join(", "))]
    OtherHost {
        /// What the gateway is called here.
        host: String,
        /// Whom it is for.
        principals: Vec<String>,
    },
    /// It says something that must be understood and is not: no critical option is known for hosts.
    #[error("it has the critical option {0}, which is not known")]
    CriticalOption(String),
}

/// Judges a certificate that `host` showed, but for who signed it.
pub(super) fn check(
    certificate: &Certificate,
    host: &str,
    now: SystemTime,
) -> Result<(), CertificateFault> {
    // First: what is told of the rest is then the authority's word, not anyone's.
    check_signature(certificate)?;
    if !certificate.cert_type().is_host() {
        return Err(CertificateFault::NotOfAHost);
    }
    let now = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    if now < certificate.valid_after() {
        return Err(CertificateFault::NotYetValid);
    }
    if now >= certificate.valid_before() {
        return Err(CertificateFault::Expired);
    }
    check_principals(certificate.valid_principals(), host)?;
    if let Some(option) = certificate.critical_options().keys().next() {
        return Err(CertificateFault::CriticalOption(option.clone()));
    }
    Ok(())
}

/// No principal at all is any (PROTOCOL.certkeys, "valid principals").
fn check_principals(principals: &[String], host: &str) -> Result<(), CertificateFault> {
    let host = host.to_ascii_lowercase();
    if principals.is_empty() || principals.contains(&host) {
        return Ok(());
    }
    Err(CertificateFault::OtherHost {
        host,
        principals: principals.to_vec(),
    })
}

/// RSA signs with SHA-2 (ssh_config(5), CASignatureAlgorithms).
fn check_signature(certificate: &Certificate) -> Result<(), CertificateFault> {
    let algorithm = certificate.signature().algorithm();
    let is_safe = !matches!(
        algorithm,
        Algorithm::Rsa { hash: None } | Algorithm::Dsa | Algorithm::Other(_)
    );
    if !is_safe {
        let name = algorithm.as_str().to_owned();
        return Err(CertificateFault::SignatureAlgorithm(name));
    }
    let verified = certificate.verify_signature();
    verified.map_err(|_| CertificateFault::Signature)
}
