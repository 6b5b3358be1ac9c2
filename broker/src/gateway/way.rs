//! How a link came about, for people to see.

use std::borrow::Cow;

use adit_rules::Engine;

use super::connection::Target;

/// The way to a gateway that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The jump hosts that were passed.
    pub via: Vec<String>,
    /// The proxy that made the first connection.
    pub proxy: Option<String>,
    /// What speaks SSH.
    pub engine: EngineInUse,
    /// Why that.
    pub because: Cow<'static, str>,
}

/// What speaks SSH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineInUse {
    /// Ours.
    Embedded,
    /// The system's `ssh`.
    OpenSsh,
}

impl EngineInUse {
    /// As in the rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::OpenSsh => "openssh",
        }
    }

    /// What speaks it to a target that is reached `by_command`, and why.
    pub(super) fn of(engine: Engine, by_command: bool) -> (Self, &'static str) {
        match (engine, by_command) {
            (Engine::Embedded, _) => (Self::Embedded, "the rules say so"),
            (Engine::OpenSsh, _) => (Self::OpenSsh, "the rules say so"),
            (Engine::Auto, false) => (Self::Embedded, "it can do all that is asked for"),
            (Engine::Auto, true) => (Self::OpenSsh, "the configuration of ssh has a ProxyCommand"),
        }
    }
}

impl Way {
    pub(super) fn over_a_master(target: &Target) -> Self {
        let because = match target.hands_over {
            false => "the gateway has no adit-link: ssh forwards a port for each flow",
            true => {
                "the gateway has no adit-link: ssh forwards a port for each flow, and gets early connections whole"
            }
        };
        Self::of(target, EngineInUse::OpenSsh, because)
    }

    /// `without_ssh`: why the system's is not taken.
    pub(super) fn one_connection_a_flow(self, without_ssh: &str) -> Self {
        let because = format!(
            "the gateway has no adit-link: one SSH connection for each flow, as {without_ssh}"
        );
        Self {
            because: because.into(),
            ..self
        }
    }

    pub(super) fn of(target: &Target, engine: EngineInUse, because: &'static str) -> Self {
        let first = target.via.first().unwrap_or(target);
        Self {
            via: target
                .via
                .iter()
                .map(|jump| jump.gateway.to_string())
                .collect(),
            proxy: first.proxy.as_ref().map(ToString::to_string),
            engine,
            because: because.into(),
        }
    }
}
