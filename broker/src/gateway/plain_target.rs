//! A gateway of which the rules say nothing but its name, for tests.

use adit_rules::{Engine, HostKeys};

use super::connection::Target;
use crate::behind::Behind;

/// Of a zone of Alice's.
pub(super) fn plain_target(gateway: &str) -> Target {
    Target {
        gateway: gateway.parse().unwrap(),
        via: Vec::new(),
        proxy: None,
        login: "alice".to_owned(),
        identity: None,
        certificate: None,
        methods: Vec::new(),
        known_hosts: Vec::new(),
        host_keys: HostKeys::Strict,
        home: "/home/alice".into(),
        engine: Engine::Embedded,
        hands_over: false,
        unsaid: None,
        host_key_alias: None,
        behind: Behind::Zone,
    }
}
