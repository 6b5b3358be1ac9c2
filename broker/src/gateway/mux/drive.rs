//! What moves the messages between the channels and the master.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::time::Duration;

use adit_link::{LinkEnd, Multiplexer as _};
use socket2::SockRef;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, sleep_until};

use super::wire::next_message;
use super::{Abandoned, Channels, MuxError};

/// Pieces that are written at once.
const AT_ONCE: usize = 32;
/// For what is left to be sent when all is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Until it is over; says why.
pub(super) async fn run(
    abandoned: Abandoned,
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    runs_on: Option<OwnedFd>,
) -> LinkEnd {
    let channels = &*abandoned.0;
    let last_words = async {
        ended(channels).await;
        sleep(LAST_WORDS).await;
    };
    let outcome = tokio::select! {
        outcome = read_all(channels, read, runs_on) => outcome,
        outcome = write_all(channels, write) => outcome,
        () = give_up_in_time(channels) => Ok(()),
        () = last_words => Ok(()),
    };
    if let Err(error) = outcome {
        channels.with(|state| state.finish_all(LinkEnd::Transport(error.to_string())));
    }
    ended(channels).await
}

pub(super) async fn ended(channels: &Channels) -> LinkEnd {
    poll_fn(|cx| channels.poll_end(cx.waker())).await
}

/// What is said. After the end no more than what was said before it.
async fn write_all(channels: &Channels, mut write: OwnedWriteHalf) -> Result<(), MuxError> {
    let mut pieces = VecDeque::new();
    loop {
        let is_over = channels.with(|state| {
            state.take_out(&mut pieces, AT_ONCE);
            state.end().is_some()
        });
        if pieces.is_empty() {
            if is_over {
                return Ok(());
            }
            channels.news.notified().await;
        }
        while !pieces.is_empty() {
            let slices: Vec<_> = pieces.iter().map(|it| IoSlice::new(&it.bytes)).collect();
            let written = write.write_vectored(&slices).await?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            channels.with(|state| state.written(&mut pieces, written));
        }
    }
}

async fn read_all(
    channels: &Channels,
    mut read: BufReader<OwnedReadHalf>,
    runs_on: Option<OwnedFd>,
) -> Result<(), MuxError> {
    loop {
        let message = next_message(&mut read).await?;
        let heard = channels.with(|state| state.hear(message));
        heard.ok_or(MuxError::Nonsense)?;
        if read.buffer().is_empty()
            && let Some(tcp) = &runs_on
        {
            // It only makes things faster.
            let _ = SockRef::from(tcp).set_tcp_quickack(true);
        }
    }
}

/// Tells those whose channel is not answered in time.
async fn give_up_in_time(channels: &Channels) {
    loop {
        match channels.with(|state| state.next_unanswered()) {
            Some((until, id)) => {
                sleep_until(until).await;
                channels.with(|state| state.give_up(id));
            }
            None => channels.opened.notified().await,
        }
    }
}
