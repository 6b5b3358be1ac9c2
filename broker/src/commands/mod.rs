//! One module a command.

pub(crate) mod broker;
pub(crate) mod check;
pub(crate) mod close;
pub(crate) mod down;
pub(crate) mod explain;
pub(crate) mod flows;
pub(crate) mod reload;
pub(crate) mod replay;
pub(crate) mod status;
pub(crate) mod trust;
pub(crate) mod unlock;
pub(crate) mod up;
pub(crate) mod why;

use adit_broker::control::client::{AskError, ask};
use adit_broker::control::protocol::{Answer, Request};

use crate::command_line::{Addressed, Whose};

/// A command that did not work, and the exit code that says how.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) error: anyhow::Error,
}

impl Failure {
    /// Exit code 2: wrong use, or a bad file.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: 2,
            error: error.into(),
        }
    }
}

/// Exit code 1: it did not work.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            code: 1,
            error: error.into(),
        }
    }
}

/// One runtime thread: everything that takes long enough to matter has a thread of its own, and a flow that
/// crosses no thread takes no wake-up.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Asks the broker that is meant.
pub(crate) fn ask_broker(whose: &Whose, request: &Request) -> Result<Answer, Failure> {
    let addressed = whose.addressed().map_err(Failure::usage)?;
    Ok(runtime()?.block_on(ask_addressed(&addressed, request))?)
}

/// The same, for who has found out already which it is.
pub(crate) async fn ask_addressed(
    addressed: &Addressed,
    request: &Request,
) -> Result<Answer, AskError> {
    // Root is told by the path whom it means; anyone else must not be answered by a stranger.
    let anyone = addressed.by_path && nix::unistd::geteuid().is_root();
    let user = (!anyone).then_some(addressed.user);
    ask(&addressed.path, user, request).await
}
