//! Keys that a relay on standard input and output cannot keep, because another program listens and
//! says who gets in. One that is there all the same was meant to hold somebody, so it is an error.
use super::Meaning;
use super::written::Written;
use crate::config_error::ConfigError;

impl Meaning<'_> {
    pub(super) fn for_stdio(&self, written: &Written) -> Result<(), ConfigError> {
        let not_kept = not_kept(written);
        if not_kept.is_empty() {
            return Ok(());
        }
        let words = format!("--stdio does not keep `{}`", not_kept.join("`, `"));
        let hint = "the Secure Shell server that starts it listens and says who gets in: say it there, and take it out here";
        Err(ConfigError::whole(self.file, words, Some(hint)))
    }
}

/// Taken apart by name, so that a new key has to be put on one side or the other.
fn not_kept(written: &Written) -> Vec<&'static str> {
    let Written {
        listen,
        host_keys,
        authorized_keys,
        user_ca,
        revoked_keys,
        passwords,
        totp,
        methods,
        port_forwarding,
        limits,
        max_connections,
        max_connections_per_user,
        max_unauthenticated,
        max_unauthenticated_per_source,
        penalty_exempt,
        rekey_bytes,
        threads,
        control,
        banner,
        motd,
        metrics,
        // Kept.
        version: _,
        groups: _,
        policy: _,
        max_streams_per_user: _,
        login_grace_seconds: _,
        dial_timeout_seconds: _,
        log: _,
        warning_seconds: _,
        session_timeout_seconds: _,
        idle_timeout_seconds: _,
        audit: _,
    } = written;
    let keys = [
        ("listen", !listen.is_empty()),
        ("host_keys", !host_keys.is_empty()),
        ("authorized_keys", authorized_keys.is_some()),
        ("user_ca", !user_ca.is_empty()),
        ("revoked_keys", !revoked_keys.is_empty()),
        ("passwords", passwords.is_some()),
        ("totp", totp.is_some()),
        ("methods", methods.is_some()),
        ("port_forwarding", port_forwarding.is_some()),
        // There is a process for each connection.
        (
            "limits: sessions",
            limits.iter().any(|of_some| of_some.sessions.is_some()),
        ),
        ("max_connections", max_connections.is_some()),
        (
            "max_connections_per_user",
            max_connections_per_user.is_some(),
        ),
        ("max_unauthenticated", max_unauthenticated.is_some()),
        (
            "max_unauthenticated_per_source",
            max_unauthenticated_per_source.is_some(),
        ),
        ("penalty_exempt", penalty_exempt.is_some()),
        ("rekey_bytes", rekey_bytes.is_some()),
        ("threads", threads.is_some()),
        ("control", control.is_some()),
        ("banner", banner.is_some()),
        ("motd", motd.is_some()),
        ("metrics", metrics.is_some()),
    ];
    let written = keys.into_iter().filter(|(_, is_written)| *is_written);
    written.map(|(key, _)| key).collect()
}
