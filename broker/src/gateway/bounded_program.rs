//! A program that is run for what it prints, and for so long: when its time is over, or nobody waits for it any more, it ends, and with it
//! all that it has started.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Bytes that are read of each of its outputs; what `ssh -G` prints has about 6 KiB.
const LONGEST: u64 = 64 << 10;

/// What it has printed.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) succeeded: bool,
}

/// Why there is nothing to be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTold {
    #[error("cannot be run: {0}")]
    NotRun(#[from] std::io::Error),
    #[error("took more than {} s", .0.as_secs())]
    TooLate(Duration),
}

/// Runs it without anything to read.
pub(super) async fn told_by(mut command: Command, patience: Duration) -> Result<Told, NotTold> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut group = Group::led_by(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let told = async {
        let (stdout, stderr) = tokio::join!(text_of(stdout), text_of(stderr));
        let ended = child.wait().await;
        group.is_over();
        Told {
            stdout,
            stderr,
            succeeded: ended.is_ok_and(|status| status.success()),
        }
    };
    let told = timeout(patience, told).await;
    told.map_err(|_| NotTold::TooLate(patience))
}

async fn text_of(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What could not be read is missing, which is seen.
        let _ = from.take(LONGEST).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A program and all that it has started. Dropping it ends them.
struct Group(Option<Pid>);

impl Group {
    fn led_by(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    /// Its number may be another's from now on.
    fn is_over(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // What is gone already needs no end.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    #[tokio::test]
    async fn what_it_prints_is_told() {
        let told = told_by(sh("echo a; echo b >&2; exit 1"), Duration::from_secs(60));
        let told = told.await.unwrap();
        assert_eq!(
            (&*told.stdout, &*told.stderr, told.succeeded),
            ("a\n", "b\n", false)
        );
    }

    #[tokio::test]
    async fn what_it_has_started_ends_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        // Its reader sees the end once nobody has it open for writing.
        let line = format!("(exec sleep 60) >'{}'; true", fifo.display());
        let reading = tokio::task::spawn_blocking(move || std::fs::read(fifo));
        let told = told_by(sh(&line), Duration::from_millis(500)).await;
        assert!(matches!(told, Err(NotTold::TooLate(_))), "{told:?}");
        let read = timeout(Duration::from_secs(20), reading).await;
        assert!(read.expect("it ends").unwrap().unwrap().is_empty());
    }
}
