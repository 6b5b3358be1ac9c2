//! The way to a gateway: dial, trust its host key, authenticate, open the link.

mod agent;
mod agent_listing;
mod askpass;
mod authentication;
mod bare;
mod bounded_program;
mod carrier;
mod connection;
mod descriptor;
mod dial;
mod distrust;
mod far_end;
mod host_certificate;
mod host_key;
mod interactive;
mod key_file;
pub mod known_hosts;
mod known_hosts_line;
mod master;
mod more_host_keys;
mod mux;
mod new_host_key;
mod openssh;
mod pace;
#[cfg(test)]
mod plain_target;
mod proxy;
mod public_key;
mod questions;
mod refusal;
mod sealed_key;
mod secret;
mod session;
mod ssh_config;
mod ssh_host_keys;
mod unlocking;
mod way;

pub use askpass::Askpass;
pub use authentication::AuthenticationError;
pub use connection::{ConnectError, Connection, Target};
pub use distrust::Distrust;
pub use host_certificate::CertificateFault;
pub use host_key::HostKeyRejection;
pub use mux::{Handed, Handing, NotHanded};
pub use openssh::{HAND_OVER, NO_LONGER, OpenSshError, hand_over, no_longer_than_the_broker};
pub use pace::connect;
pub use proxy::ProxyError;
pub use questions::{NotTrusted, Questions, UnknownKey};
pub use secret::Secret;
pub use ssh_config::{SshConfigError, Unsaid};
pub use unlocking::{About, Form, NotTaken, Prompt, Unlocking};
pub use way::{EngineInUse, Way};

/// As `ssh-keygen -l` shows it.
fn fingerprint(key: &russh::keys::PublicKey) -> String {
    key.fingerprint(russh::keys::HashAlg::Sha256).to_string()
}
