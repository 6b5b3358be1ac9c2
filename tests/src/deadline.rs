//! Waiting for what others do, never longer than a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long something that has no event to await may go unnoticed.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until `holds` is true. `what` completes the sentence "waited … for".
///
/// # Errors
/// When `within` is over, or `holds` fails.
pub fn until(what: &str, within: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    until_some(what, within, || Ok(holds()?.then_some(())))
}

/// Waits until `look` finds a value. `what` completes the sentence "waited … for".
///
/// # Errors
/// When `within` is over, or `look` fails.
pub fn until_some<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if started.elapsed() > within {
            bail!("waited {:.1} s in vain for {what}", within.as_secs_f64());
        }
        thread::sleep(LOOK_AGAIN);
    }
}
