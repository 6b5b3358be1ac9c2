//! Asking the user by the program that OpenSSH would ask with (ssh(1), SSH_ASKPASS and SSH_ASKPASS_PROMPT).

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program to ask with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Askpass {
    program: OsString,
}

impl Askpass {
    /// The one that the environment names, when there is a screen to show it on.
    pub fn from_environment() -> Option<Self> {
        Self::of(|name| std::env::var_os(name))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        given("DISPLAY").or_else(|| given("WAYLAND_DISPLAY"))?;
        let program = given("SSH_ASKPASS")?;
        Some(Self { program })
    }

    /// Whether the user says yes. A program that cannot be run, or takes too long, is a no.
    pub(super) async fn confirm(&self, text: &str) -> bool {
        let mut command = self.command(text);
        command.env("SSH_ASKPASS_PROMPT", "confirm");
        match timeout(PATIENCE, command.stdout(Stdio::null()).status()).await {
            Ok(Ok(status)) => status.success(),
            Ok(Err(error)) => {
                tracing::warn!("cannot ask with {}: {error}", self.program.display());
                false
            }
            Err(_) => false,
        }
    }

    fn command(&self, text: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(text).stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_there_is_a_screen() {
        let check = |set: &[&str], expected: bool| {
            let found = Askpass::of(|name| set.contains(&name).then(|| "x".into()));
            assert_eq!(found.is_some(), expected, "{set:?}");
        };
        check(&["SSH_ASKPASS", "DISPLAY"], true);
        check(&["SSH_ASKPASS", "WAYLAND_DISPLAY"], true);
        check(&["SSH_ASKPASS"], false);
        check(&["DISPLAY"], false);
    }
}
