//! One module a command.

pub(crate) mod broker;
pub(crate) mod check;
pub(crate) mod close;
pub(crate) mod down;
pub(crate) mod explain;
pub(crate) mod flows;
pub(crate) mod status;
pub(crate) mod up;

use adit_broker::control::client::ask;
use adit_broker::control::protocol::{Answer, Request};

use crate::command_line::Control;

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

/// Asks the user's broker.
pub(crate) fn ask_broker(control: &Control, request: &Request) -> Result<Answer, Failure> {
    Ok(runtime()?.block_on(ask(&control.path(), request))?)
}
