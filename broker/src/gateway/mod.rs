//! The way to a gateway: dial, trust its host key, authenticate, open the link.

mod askpass;
mod authentication;
mod carrier;
mod connection;
mod dial;
mod host_certificate;
mod host_key;
pub mod known_hosts;
mod known_hosts_line;
mod new_host_key;
mod openssh;
mod proxy;
mod questions;
mod ssh_config;
mod way;

pub use askpass::Askpass;
pub use authentication::AuthenticationError;
pub use connection::{ConnectError, Connection, Target, connect};
pub use host_certificate::CertificateFault;
pub use host_key::HostKeyRejection;
pub use openssh::{HAND_OVER, OpenSshError, hand_over};
pub use proxy::ProxyError;
pub use questions::{NotTrusted, Questions, UnknownKey};
pub use ssh_config::{SshConfigError, Unsaid};
pub use way::{EngineInUse, Way};
