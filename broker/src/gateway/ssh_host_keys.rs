//! What the system's `ssh` is told of host keys, so that it judges them as the rules say, whatever else its own configuration believes.

use std::time::Duration;

use adit_rules::HostKeys;
use tokio::process::Command;

use super::bounded_program::told_by;
use super::connection::{ConnectError, Target};
use super::new_host_key::{self, NotNoted};
use super::openssh::OpenSshError;

/// No program of the configuration's is run.
const PATIENCE: Duration = Duration::from_secs(5);
/// Asks a program what host keys are (ssh_config(5)). OpenSSH has it since 8.4.
const BY_COMMAND: &str = "KnownHostsCommand=none";

/// How `ssh` is to judge host keys.
pub(super) struct Trust {
    /// Words of ssh_config(5), to be given on its command line, where they go before any other.
    pub(super) options: Vec<String>,
    /// Why a new key is not accepted though the rules would have it: ssh itself accepts one that it can't note.
    not_noted: Option<NotNoted>,
}

impl Trust {
    /// In `target`, as it was `asked_for`.
    pub(super) async fn of(target: &Target, asked_for: &Target) -> Self {
        let not_noted = match target.host_keys {
            HostKeys::AcceptNew => new_host_key::prepare(&target.known_hosts).err(),
            HostKeys::Strict | HostKeys::Ask => None,
        };
        let strict = match target.host_keys {
            HostKeys::AcceptNew if not_noted.is_none() => "accept-new",
            HostKeys::AcceptNew | HostKeys::Strict | HostKeys::Ask => "yes",
        };
        let mut options = vec![
            format!("StrictHostKeyChecking={strict}"),
            "UpdateHostKeys=no".to_owned(),
            "NoHostAuthenticationForLocalhost=no".to_owned(),
        ];
        if !asked_for.unsaid.is_some_and(|unsaid| unsaid.known_hosts) {
            options.extend(these_files_alone(target));
            if asked_for.unsaid.is_some() && has_commands().await {
                options.push(BY_COMMAND.to_owned());
            }
        }
        Self { options, not_noted }
    }

    /// The same error, with what is to be known of a key that was not trusted.
    pub(super) fn explain(&self, error: ConnectError) -> ConnectError {
        match (error, &self.not_noted) {
            (ConnectError::OpenSsh(OpenSshError::Untrusted(reason)), Some(why)) => {
                let reason = format!("{reason}; a new one cannot be noted: {why}");
                OpenSshError::Untrusted(reason).into()
            }
            (error, _) => error,
        }
    }
}

/// The files of the rules, and no other word on host keys.
fn these_files_alone(target: &Target) -> [String; 3] {
    let files = target.known_hosts.iter();
    let files: Vec<String> = files
        .map(|file| format!("\"{}\"", file.display()))
        .collect();
    [
        format!("UserKnownHostsFile={}", files.join(" ")),
        "GlobalKnownHostsFile=none".to_owned(),
        "VerifyHostKeyDNS=no".to_owned(),
    ]
}

/// Whether this `ssh` knows of commands for host keys: an older one takes the word for a mistake. In doubt it does.
async fn has_commands() -> bool {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-G", "-o", BY_COMMAND, "--", "host"]);
    match told_by(ssh, PATIENCE).await {
        Ok(told) if !told.succeeded => !told.stderr.contains("Bad configuration option"),
        Ok(_) | Err(_) => true,
    }
}
