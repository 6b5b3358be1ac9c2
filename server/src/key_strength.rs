//! Which kinds of keys are good enough to be believed.
use russh::keys::ssh_key::public::KeyData;

/// Shorter RSA keys can be factored or soon will be (NIST SP 800-131A: 2048 is the least).
const MIN_RSA_BITS: u32 = 2048;

/// Why a key is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A security key signs whether or not somebody touched it, and says which (OpenSSH,
    /// PROTOCOL.u2f); what checks signatures here does not look.
    #[error("its key is a security key (sk-), whose touch this server cannot ask for")]
    SecurityKey,
    /// DSA, or RSA of less than 2048 bits.
    #[error("its key is of a kind that is too weak")]
    Weak,
}

/// Is it good enough?
///
/// # Errors
/// Why not.
#[expect(clippy::wildcard_enum_match_arm, reason = "only these kinds are not")]
pub fn check(key: &KeyData) -> Result<(), Unusable> {
    match key {
        KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => Err(Unusable::SecurityKey),
        KeyData::Dsa(_) => Err(Unusable::Weak),
        KeyData::Rsa(rsa) if rsa.key_size() < MIN_RSA_BITS => Err(Unusable::Weak),
        _ => Ok(()),
    }
}
