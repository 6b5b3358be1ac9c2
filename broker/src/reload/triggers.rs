//! What makes a broker read its rules anew by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_rules::Date;
use tokio::sync::{Notify, watch};

use super::{Cause, Reloader};
use crate::capture_session::CaptureState;
use crate::file_watch::FileWatch;
use crate::today;

/// When what has to be done cannot be done, it is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Reads the rules anew whenever there is a reason to, for ever.
pub async fn heed(
    reloader: Arc<Reloader>,
    hangups: Arc<Notify>,
    mut helper: watch::Receiver<CaptureState>,
) {
    let mut could_not = false;
    loop {
        // Watched from before it is looked whether something has changed since the reading: nothing falls between the two.
        let mut files = watch_files(&reloader);
        let cause = if reloader.is_outdated() {
            Cause::Files
        } else {
            tokio::select! {
                () = changed(&mut files) => Cause::Files,
                () = hangups.notified() => Cause::Hangup,
                () = expired(reloader.last_day(), could_not) => Cause::NewDay,
                () = is_back(&mut helper), if reloader.waits_for_helper() => Cause::Helper,
                // Others may be there to be watched now.
                () = reloader.was_asked() => continue,
            }
        };
        // What came of it is noted there.
        could_not = reloader.reload(cause).await.is_err();
    }
}

fn watch_files(reloader: &Reloader) -> Option<FileWatch> {
    let sources = reloader.sources()?;
    let mut places = sources.places();
    places.extend(reloader.seen().into_iter().map(|seen| seen.path));
    match FileWatch::of(places.iter().map(PathBuf::as_path)) {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!(
                "rule files are not watched, so `adit reload` has to say when they change: {error}"
            );
            None
        }
    }
}

async fn changed(files: &mut Option<FileWatch>) {
    match files {
        Some(files) => files.changed().await,
        None => std::future::pending().await,
    }
}

async fn expired(last_day: Option<Date>, could_not: bool) {
    let Some(last_day) = last_day else {
        return std::future::pending().await;
    };
    if could_not {
        tokio::time::sleep(AGAIN).await;
    }
    today::after(last_day).await;
}

async fn is_back(helper: &mut watch::Receiver<CaptureState>) {
    let back = helper.wait_for(|state| *state == CaptureState::Capturing);
    if back.await.is_err() {
        std::future::pending().await
    }
}
