//! Asking the user by the program that OpenSSH would ask with (ssh(1), SSH_ASKPASS).

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::secret::Secret;

/// How long an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of what is typed; ssh reads as many (readpass.c).
const LONGEST_ANSWER: u64 = 1024;

/// How often a question is put that is answered by neither yes nor no.
const MOST_QUESTIONS: usize = 3;

/// A zone may have hundreds of links that all want to know something.
static TURN: Mutex<()> = Mutex::const_new(());

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

    pub(super) fn of(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        given("DISPLAY").or_else(|| given("WAYLAND_DISPLAY"))?;
        let program = given("SSH_ASKPASS")?;
        Some(Self { program })
    }

    /// To be had before anything is asked, or the screen would fill with windows of which nobody could tell which is which.
    pub(super) async fn turn() -> MutexGuard<'static, ()> {
        TURN.lock().await
    }

    /// Whether the user says yes to what is in `text`, or says `also`. As ssh asks about a host key (sshconnect.c, `confirm`): what is
    /// answered counts, not that something is, since a program may answer by itself what it takes for a passphrase's prompt.
    pub(super) async fn confirm(&self, text: &str, also: &str) -> bool {
        let mut asked = text.to_owned();
        for _ in 0..MOST_QUESTIONS {
            let Some(answer) = self.ask(&asked).await else {
                return false;
            };
            let answer = answer.reveal().trim();
            if answer.eq_ignore_ascii_case("yes") || answer == also {
                return true;
            }
            if answer.is_empty() || answer.eq_ignore_ascii_case("no") {
                return false;
            }
            asked = format!("{text}\nPlease type yes, no or {also}: ");
        }
        false
    }

    /// What the user types; `None` when there is no answer.
    pub(super) async fn ask(&self, text: &str) -> Option<Secret> {
        let mut command = self.command(text);
        command.env_remove("SSH_ASKPASS_PROMPT");
        let mut child = match command.stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!("cannot ask with {}: {error}", self.program.display());
                return None;
            }
        };
        let said = child.stdout.take()?.take(LONGEST_ANSWER);
        let mut line = Zeroizing::new(Vec::with_capacity(LONGEST_ANSWER as usize));
        let answering = async {
            tokio::io::BufReader::with_capacity(1, said)
                .read_until(b'\n', &mut line)
                .await?;
            child.wait().await
        };
        let ended = timeout(PATIENCE, answering).await;
        if !matches!(ended, Ok(Ok(status)) if status.success()) {
            return None;
        }
        let text = std::str::from_utf8(&line).ok()?;
        let text = text.trim_end_matches(['\r', '\n']);
        Some(Secret::from(text.to_owned()))
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

    /// What becomes of a question when this is the program's script.
    async fn said(script: &str) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("askpass");
        // By a process of its own, or another test's child may hold the file open for writing.
        let mut sh = std::process::Command::new("sh");
        let line = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\"; chmod 700 \"$0\"";
        let made = sh.args(["-ec", line]).arg(&program).arg(script).status();
        assert!(made.unwrap().success());
        let askpass = Askpass {
            program: program.into(),
        };
        askpass.confirm("Is it?", "SHA256:it").await
    }

    #[tokio::test]
    async fn only_who_says_yes_has_said_yes() {
        for yes in ["echo yes", "echo ' YES '", "printf yes", "echo SHA256:it"] {
            assert!(said(yes).await, "{yes}");
        }
        for no in [
            "exit 0",
            "echo",
            "echo no",
            "echo secret",
            "echo yes indeed",
            "echo y",
            "echo yes; exit 1",
            "echo SHA256:IT",
            "test \"$SSH_ASKPASS_PROMPT\" = confirm && echo yes",
        ] {
            assert!(!said(no).await, "{no}");
        }
    }

    #[tokio::test]
    async fn whoever_says_neither_is_asked_again() {
        let script =
            "if [ -e \"$0.again\" ]; then echo yes; else touch \"$0.again\"; echo perhaps; fi";
        assert!(said(script).await);
    }

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
