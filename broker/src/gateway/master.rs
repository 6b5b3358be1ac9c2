//! When a gateway that knows of no link is reached by the system's `ssh`.

use adit_rules::{HostKeys, Method};

use super::connection::Target;

/// Whether `ssh` gets in without anything that only the broker can ask its user for.
pub(super) fn asks_nothing(target: &Target) -> bool {
    let by_key = |method: &Method| matches!(method, Method::PublicKey);
    target.methods.iter().all(by_key) && !matches!(target.host_keys, HostKeys::Ask)
}
