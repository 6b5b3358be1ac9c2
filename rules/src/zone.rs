//! A zone, as the administrator describes it.

use std::path::PathBuf;

use crate::gateway_pattern::GatewayPattern;
use crate::reach::Reach;

/// A secured network area, reached through its gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Its name in the rule file.
    pub name: String,
    /// In the order in which they are tried; at least one. With `%h` in one, it is in all.
    pub gateways: Vec<GatewayPattern>,
    /// The way to them.
    pub reach: Reach,
    /// How to prove who we are; `None` is the agent, then the default key files.
    pub identity: Option<Identity>,
    /// The certificate for the key, as written; `None` is the one beside the key, if there is one.
    pub certificate: Option<PathBuf>,
    /// How to log in, in the order in which it is tried; at least one.
    pub methods: Vec<Method>,
    /// The files of known host keys as written, `~` not expanded; none are the usual ones.
    pub known_hosts: Vec<PathBuf>,
    /// What becomes of a gateway whose host key no file knows.
    pub host_keys: HostKeys,
    /// What speaks SSH to the gateways.
    pub engine: Engine,
    /// Whether connections that were accepted early are handed over whole to the system's `ssh`, where it forwards a port for each.
    pub hands_over: bool,
    /// What a flow gets while no gateway answers, unless its rule says otherwise.
    pub on_down: OnDown,
    /// What a program's `connect()` gives, unless the rule says otherwise.
    pub connect: Connect,
}

/// Where the private key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// In the user's agent.
    Agent,
    /// In a file, as written: `~` not expanded.
    File(PathBuf),
}

/// A way to log in (RFC 4252, RFC 4256).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// By a key, or a certificate.
    PublicKey,
    /// By answers to what the server asks.
    KeyboardInteractive,
    /// By a password.
    Password,
}

impl Method {
    /// As in the rule file, and in the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PublicKey => "publickey",
            Self::KeyboardInteractive => "keyboard-interactive",
            Self::Password => "password",
        }
    }
}

/// What becomes of a gateway whose host key no file knows. One that has changed or is revoked is never accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeys {
    /// It is refused.
    Strict,
    /// Its key is noted, and accepted.
    AcceptNew,
    /// It is refused until the user says yes.
    Ask,
}

/// What speaks SSH for the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The broker chooses.
    Auto,
    /// Our own.
    Embedded,
    /// The system's `ssh`.
    OpenSsh,
}

/// What a flow gets while no gateway of its zone answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDown {
    /// An error at once.
    Reject,
    /// To wait for a gateway.
    Hold,
    /// A direct connection, outside the tunnel.
    Pass,
}

impl OnDown {
    /// As in the rule file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Hold => "hold",
            Self::Pass => "pass",
        }
    }
}

/// What a program's `connect()` gives for a connection that is tunnelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connect {
    /// What a direct connection would give: it waits until the far end has answered.
    Honest,
    /// Success at once: what goes wrong later is a reset.
    Early,
}

impl Connect {
    /// As in the rule file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::Early => "early",
        }
    }
}
