//! How an SSH session must be set up to carry a link well.

use std::borrow::Cow;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Limits, Preferred, cipher, client, compression, kex, mac, server};

/// What the peer may send before the session has looked at it; bytes.
///
/// It bounds what waits between a session and its link, and, while keys are exchanged, what russh
/// takes before it gives up (twice this for the whole session, which one channel can't exceed).
pub const WINDOW: u32 = 8 << 20;
/// The largest payload of a packet. russh takes no more than 65,535.
const PACKET: u32 = 65_535;
/// Packets between a session loop and its link.
const CHANNEL_BUFFER: usize = 64;
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVES: usize = 3;
/// How long russh may wait for one write, or read a session that has been told to end (it has no other
/// bound on either). Keepalives and what answers them start it anew, so it never ends an idle session;
/// longer than they take to find a dead peer.
const INACTIVITY: Duration = Duration::from_secs(90);
/// The same of a broker, whose user may be asked for 120 s while it logs in, without a word on the connection, and without keepalives,
/// which begin with the session. Gateways give as long for a login (sshd_config(5), LoginGraceTime).
const INACTIVITY_OF_A_LOGIN: Duration = Duration::from_secs(150);

/// When the session's keys are exchanged anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rekey {
    /// After this many bytes in either direction, at most 2^30 (RFC 4253, section 9).
    pub bytes: usize,
}

impl Default for Rekey {
    fn default() -> Self {
        Self { bytes: 1 << 30 }
    }
}

impl Rekey {
    fn limits(self) -> Limits {
        let bytes = self.bytes.clamp(1 << 16, 1 << 30);
        Limits::new(bytes, bytes, Duration::from_secs(3600))
    }
}

/// Algorithms in order of preference: AES-GCM first where the CPU has AES (128 bits before 256, as in
/// OpenSSH's own order: the shorter key is a fifth faster and no weaker in practice), post-quantum key
/// exchange first, nothing with SHA-1, CBC or finite-field groups. Strict key exchange stays on.
pub fn preferred() -> Preferred {
    Preferred {
        kex: Cow::Borrowed(KEX),
        key: Cow::Borrowed(KEYS),
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: Cow::Borrowed(if has_aes() { AES_FIRST } else { CHACHA_FIRST }),
        mac: Cow::Borrowed(MACS),
        compression: Cow::Borrowed(&[compression::NONE]),
    }
}

/// Sets what a broker's session needs; keys and identification stay as they are.
pub fn tune_client(config: &mut client::Config, rekey: Rekey) {
    config.preferred = preferred();
    config.limits = rekey.limits();
    config.window_size = WINDOW;
    config.maximum_packet_size = PACKET;
    config.channel_buffer_size = CHANNEL_BUFFER;
    config.keepalive_interval = Some(KEEPALIVE);
    config.keepalive_max = KEEPALIVES;
    config.inactivity_timeout = Some(INACTIVITY_OF_A_LOGIN);
    config.nodelay = true;
}

/// Sets what a gateway's session needs; keys, methods and identification stay as they are.
pub fn tune_server(config: &mut server::Config, rekey: Rekey) {
    config.preferred = preferred();
    config.limits = rekey.limits();
    config.window_size = WINDOW;
    config.maximum_packet_size = PACKET;
    config.channel_buffer_size = CHANNEL_BUFFER;
    config.keepalive_interval = Some(KEEPALIVE);
    config.keepalive_max = KEEPALIVES;
    config.inactivity_timeout = Some(INACTIVITY);
    config.nodelay = true;
}

/// No exchange over finite fields: russh computes those on the session's own task, seconds of them for
/// the large groups, and whoever connects may ask for one before saying who it is. An SSH server
/// that needs one is older than OpenSSH 6.5.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha512),
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha256),
    },
];

const AES_FIRST: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_128_CTR,
];

const CHACHA_FIRST: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::AES_256_CTR,
    cipher::AES_128_CTR,
];

const MACS: &[mac::Name] = &[
    mac::HMAC_SHA512_ETM,
    mac::HMAC_SHA256_ETM,
    mac::HMAC_SHA512,
    mac::HMAC_SHA256,
];

#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn has_aes() -> bool {
    std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_peer_can_ask_for_an_exchange_over_a_finite_field() {
        let (mut broker, mut gateway) = (client::Config::default(), server::Config::default());
        tune_client(&mut broker, Rekey::default());
        tune_server(&mut gateway, Rekey::default());
        for offered in [broker.preferred.kex, gateway.preferred.kex] {
            assert!(offered.contains(&kex::CURVE25519));
            let slow = offered
                .iter()
                .find(|name| name.as_ref().starts_with("diffie-hellman"));
            assert_eq!(slow, None);
        }
    }
}
