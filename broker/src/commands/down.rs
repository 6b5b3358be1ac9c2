//! `adit down`: end the broker; or, when it was killed, what it left in the kernel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_broker::control::client::AskError;
use adit_broker::control::place;
use adit_broker::control::protocol::Request;
use adit_broker::session_note::SessionNote;
use adit_capture::Client;
use anyhow::{Context, anyhow, bail};
use nix::unistd::{Uid, geteuid, seteuid};

use super::{Failure, ask_addressed, runtime};
use crate::command_line::{Addressed, Down};
use crate::output;

/// Longer than a broker takes at the most (see `daemon`).
const PATIENCE: Duration = Duration::from_secs(30);
const NO_BROKER: &str = "no broker was running; nothing of one is left";

pub(crate) fn run(options: Down) -> Result<(), Failure> {
    let addressed = options.whose.addressed().map_err(Failure::usage)?;
    let runtime = runtime()?;
    let what = match runtime.block_on(ask_addressed(&addressed, &Request::Down {})) {
        Ok(_) => {
            runtime.block_on(ended(&addressed.path))?;
            "the broker has ended"
        }
        Err(AskError::NoBroker(_)) => NO_BROKER,
        // It was killed a moment ago, and took the question along.
        Err(broken @ AskError::Broken(_)) => match runtime.block_on(ended(&addressed.path)) {
            Ok(()) => NO_BROKER,
            Err(_) => return Err(broken.into()),
        },
        Err(other) => return Err(other.into()),
    };
    // A note that is still there tells of a claim that nobody took back.
    let note = left_behind(&addressed);
    let ended_well = note.is_none() && what == "the broker has ended";
    if !ended_well {
        let noted = note.as_ref().map(|(_, capture)| capture.clone());
        clean_up(&runtime, addressed.user, options.capture.or(noted))?;
    }
    if let Some((note, _)) = note {
        note.forget();
    }
    if options.form.json {
        output::json(&serde_json::json!({ "down": true, "text": what }))?;
    } else {
        output::line(format_args!("{what}"));
    }
    Ok(())
}

/// The note of a broker that was killed, or could not say goodbye: from a place that only its user can write to.
fn left_behind(addressed: &Addressed) -> Option<(SessionNote, PathBuf)> {
    place::check(&addressed.path, addressed.user).ok()?;
    SessionNote::read(&addressed.path)
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
fn clean_up(
    runtime: &tokio::runtime::Runtime,
    user: Uid,
    capture: Option<PathBuf>,
) -> anyhow::Result<()> {
    let capture = capture.unwrap_or_else(|| adit_capture::DEFAULT_SOCKET.into());
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
    let mut command = super::up::helper_command()?;
    command.arg("--clean").arg("--uid").arg(user.to_string());
    let done = command.status().context("cannot run adit-capture")?;
    if done.success() {
        Ok(())
    } else {
        Err(anyhow!("adit-capture --clean: {done}"))
    }
}
