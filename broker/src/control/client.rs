//! The command line's end of the control socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::protocol::{Answer, MAX_ANSWER, MAX_REQUEST, Request};

const PATIENCE: Duration = Duration::from_secs(10);
/// Reading very many rules takes a while, and the kernel may take one, too.
const RELOAD_PATIENCE: Duration = Duration::from_secs(120);

/// Why a broker did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("no broker answers on {}: start one with `sudo adit up …` or `adit broker --rules FILE`; what a killed one left, `adit down` clears", .0.display())]
    NoBroker(PathBuf),
    /// There may be one, but it is not for us.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Someone else listens there.
    #[error("{} is served by another user (uid {peer})", path.display())]
    Impostor {
        /// The control socket.
        path: PathBuf,
        /// Who it is.
        peer: u32,
    },
    /// The conversation broke off.
    #[error("the broker hung up")]
    Broken(#[source] std::io::Error),
    /// It took too long.
    #[error("the broker did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// What it said is not an answer.
    #[error("the broker's answer makes no sense")]
    Nonsense(#[source] serde_json::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the broker behind `path`, which must be run by `user` or root (`None`: by whoever it is).
/// An [`Answer::Error`] comes as [`AskError::Refused`].
pub async fn ask(path: &Path, user: Option<Uid>, request: &Request) -> Result<Answer, AskError> {
    let stream = UnixStream::connect(path).await.map_err(|source| {
        let path = path.to_owned();
        if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&source.kind()) {
            AskError::NoBroker(path)
        } else {
            AskError::Connect { path, source }
        }
    })?;
    let peer = stream.peer_cred().map_err(AskError::Broken)?.uid();
    if user.is_some_and(|user| peer != user.as_raw() && peer != 0) {
        return Err(AskError::Impostor {
            path: path.to_owned(),
            peer,
        });
    }
    let patience = match request {
        Request::Reload { .. } => RELOAD_PATIENCE,
        Request::Unlock { .. } => crate::unlock::PATIENCE + PATIENCE,
        Request::Status {}
        | Request::Flows {}
        | Request::Close { .. }
        | Request::Down {}
        | Request::Trust { .. }
        | Request::Why { .. }
        | Request::Explain { .. } => PATIENCE,
    };
    let text = timeout(patience, exchange(stream, request)).await;
    let text = text
        .map_err(|_| AskError::TimedOut(patience))?
        .map_err(AskError::Broken)?;
    match serde_json::from_slice(&text).map_err(AskError::Nonsense)? {
        Answer::Error(why) => Err(AskError::Refused(why)),
        answer @ (Answer::Status(_)
        | Answer::Flows(_)
        | Answer::Why(_)
        | Answer::Explained(_)
        | Answer::Reloaded(_)
        | Answer::BadRules(_)
        | Answer::Form(_)
        | Answer::Done) => Ok(answer),
    }
}

async fn exchange(mut stream: UnixStream, request: &Request) -> std::io::Result<Vec<u8>> {
    // With room for all of it, or growing would leave copies of a secret behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_REQUEST + 1));
    serde_json::to_writer(&mut *line, request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut text = Vec::new();
    stream
        .take(MAX_ANSWER as u64)
        .read_to_end(&mut text)
        .await?;
    Ok(text)
}
