//! `adit down`: end the broker; or, when it was killed, what it left in the kernel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_broker::control::client::{AskError, ask};
use adit_broker::control::protocol::Request;
use adit_broker::session_note::SessionNote;
use adit_capture::Client;
use anyhow::{Context, anyhow, bail};
use nix::unistd::{Uid, geteuid, seteuid};

use super::{Failure, runtime};
use crate::command_line::Down;
use crate::default_paths::sudo_uid;
use crate::output;

const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) fn run(options: Down) -> Result<(), Failure> {
    let control = options.control.path();
    let runtime = runtime()?;
    let what = match runtime.block_on(ask(&control, &Request::Down {})) {
        Ok(_) => {
            runtime.block_on(ended(&control))?;
            "the broker has ended"
        }
        Err(AskError::NoBroker(_)) => {
            let noted = SessionNote::read(&control);
            let capture = options.capture.or(noted);
            clean_up(&runtime, capture)?;
            SessionNote::forget(&control);
            "no broker was running; nothing of one is left"
        }
        Err(other) => return Err(other.into()),
    };
    if options.form.json {
        output::json(&serde_json::json!({ "down": true, "text": what }))?;
    } else {
        output::line(format_args!("{what}"));
    }
    Ok(())
}

/// Waits until the broker's socket is gone: it is the last thing that a broker gives up.
async fn ended(control: &Path) -> anyhow::Result<()> {
    let gone = async {
        while tokio::net::UnixStream::connect(control).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .context("the broker is still ending")
}

/// Undoes what a killed broker left: through the helper if it runs, else, as root, with its own clean-up.
fn clean_up(runtime: &tokio::runtime::Runtime, capture: Option<PathBuf>) -> anyhow::Result<()> {
    let capture = capture.unwrap_or_else(|| adit_capture::DEFAULT_SOCKET.into());
    let user = if geteuid().is_root() {
        sudo_uid().unwrap_or(geteuid())
    } else {
        geteuid()
    };
    if std::os::unix::net::UnixStream::connect(&capture).is_ok() {
        return release(runtime, &capture, user);
    }
    if !geteuid().is_root() {
        bail!(
            "no broker runs, and no capture helper answers on {}: \
             if connections are still blocked, `sudo adit down` clears them",
            capture.display()
        );
    }
    clear_without_helper(user)
}

/// The helper takes a release from the user it concerns only.
fn release(runtime: &tokio::runtime::Runtime, capture: &Path, user: Uid) -> anyhow::Result<()> {
    let own = geteuid();
    seteuid(user).with_context(|| format!("cannot speak as uid {user}"))?;
    let released = runtime.block_on(async { Client::connect(capture).await?.release().await });
    seteuid(own).context("cannot come back from another uid")?;
    released.with_context(|| format!("the capture helper on {}", capture.display()))
}

fn clear_without_helper(user: Uid) -> anyhow::Result<()> {
    let helper = super::up::helper_binary();
    let mut command = Command::new(&helper);
    command.arg("--clean");
    if !user.is_root() {
        command.arg("--uid").arg(user.to_string());
    }
    let done = command
        .status()
        .with_context(|| format!("cannot run {}", helper.display()))?;
    if done.success() {
        Ok(())
    } else {
        Err(anyhow!("{} --clean: {done}", helper.display()))
    }
}
