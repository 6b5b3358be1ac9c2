//! A broker's answers to the questions of its queue, as they come in: eight bytes each, on a stream.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use adit_capture::questions::{ANSWER, Answer, NotAnAnswer};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::queue::Queue;

/// Answers that are acted on at once. Each takes the kernel some microseconds, as it sends the packet on then and there.
const AT_ONCE: usize = 32;

/// Why no more answers are heard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("cannot read answers: {0}")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Form(#[from] NotAnAnswer),
    #[error("the kernel takes no verdicts: {0}")]
    Verdict(#[source] io::Error),
}

/// Both ends of the way: where answers come in, and what the broker is given.
pub(crate) fn way() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Acts on answers until there are no more. What is held then stays so until the session ends.
///
/// # Errors
/// When something comes that is no answer, or the kernel takes none.
pub(crate) async fn act(mut answers: UnixStream, queue: Arc<Queue>) -> Result<(), AnswerError> {
    let mut buffer = [0; AT_ONCE * ANSWER];
    let mut filled = 0;
    loop {
        let room = buffer.get_mut(filled..).unwrap_or_default();
        match answers.read(room).await? {
            0 => return Ok(()),
            count => filled += count,
        }
        let (whole, rest) = buffer
            .get(..filled)
            .unwrap_or_default()
            .as_chunks::<ANSWER>();
        let (read, rest) = (filled - rest.len(), rest.len());
        let decoded: Result<Vec<_>, _> = whole.iter().map(|bytes| Answer::decode(*bytes)).collect();
        if !whole.is_empty() {
            queue.answer(decoded?).map_err(AnswerError::Verdict)?;
        }
        buffer.copy_within(read..filled, 0);
        filled = rest;
        if read == buffer.len() {
            // There may be more, and others wait as well.
            tokio::task::yield_now().await;
        }
    }
}
