//! The command line's end of the control socket.
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Answer, MAX_ANSWER, Request};

/// Longer than a reload takes whose files of keys do not answer.
const PATIENCE: Duration = Duration::from_secs(630);

/// Why a gateway did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there, or not for us.
    #[error("no gateway answers on {} (is it running, and are you root?)", path.display())]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the gateway hung up: {0}")]
    Broken(#[from] io::Error),
    /// What it said is no answer.
    #[error("the gateway's answer makes no sense: {0}")]
    Nonsense(#[source] serde_json::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the gateway behind `path`. An [`Answer::Error`] comes as [`AskError::Refused`].
///
/// # Errors
/// There is no answer, or it is no.
pub fn ask(path: &Path, request: &Request) -> Result<Answer, AskError> {
    let mut stream = UnixStream::connect(path).map_err(|source| AskError::Connect {
        path: path.to_owned(),
        source,
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request).map_err(AskError::Nonsense)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut text = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut text)?;
    match serde_json::from_slice(&text).map_err(AskError::Nonsense)? {
        Answer::Error(why) => Err(AskError::Refused(why)),
        answer @ (Answer::Sessions(_) | Answer::Reloaded(_) | Answer::Done) => Ok(answer),
    }
}
