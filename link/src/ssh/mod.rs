//! russh: the channel as chunks, the socket that never makes a session loop wait, the tuned
//! configuration.

mod buffered_socket;
mod channel_socket;
mod tuning;

use std::io;

use bytes::Bytes;
use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};

use crate::chunks::{ReadChunks, WriteChunks};

pub use buffered_socket::{Backlog, BufferedSocket};
pub use channel_socket::ChannelSocket;
pub use tuning::{Rekey, WINDOW, preferred, tune_client, tune_server};

/// Name of the subsystem that carries a link.
pub const SUBSYSTEM: &str = "adit-link";

/// What a channel of either side's session loop must offer.
pub trait Message: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static {}

impl<S: From<(ChannelId, ChannelMsg)> + Send + Sync + 'static> Message for S {}

/// The two directions of a channel, as chunks. Only data is looked at: requests, extended data and
/// exit statuses are for who has the channel before.
pub fn split<S: Message>(channel: Channel<S>) -> (ChannelReader, ChannelWriter<S>) {
    let (read, write) = channel.split();
    (
        ChannelReader {
            read,
            says_its_end: false,
        },
        ChannelWriter {
            write,
            backlog: None,
            closes: true,
        },
    )
}

/// The receiving half of a channel.
pub struct ChannelReader {
    read: ChannelReadHalf,
    says_its_end: bool,
}

impl ChannelReader {
    /// Takes only the peer's word that nothing more comes for the end. A channel that is closed or lost without it has failed, so
    /// that half a transfer is not taken for a whole one.
    #[must_use]
    pub fn saying_its_end(mut self) -> Self {
        self.says_its_end = true;
        self
    }

    fn cut_off(&self) -> io::Result<Option<Bytes>> {
        if self.says_its_end {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(None)
    }
}

impl ReadChunks for ChannelReader {
    async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(message) = self.read.wait().await {
            if let ChannelMsg::Data { data } = message {
                return Ok(Some(data));
            }
            if matches!(message, ChannelMsg::Eof) {
                return Ok(None);
            }
            if matches!(message, ChannelMsg::Close) {
                return self.cut_off();
            }
        }
        self.cut_off()
    }
}

/// The sending half of a channel.
pub struct ChannelWriter<S: Message> {
    write: ChannelWriteHalf<S>,
    backlog: Option<Backlog>,
    closes: bool,
}

impl<S: Message> ChannelWriter<S> {
    /// Waits before each chunk until the socket under the session has little left to send, so that
    /// what is sent next is decided as late as possible.
    #[must_use]
    pub fn paced_by(mut self, backlog: Backlog) -> Self {
        self.backlog = Some(backlog);
        self
    }

    /// Says only that no more is sent when it has finished: the channel goes on in the other direction until it is dropped.
    #[must_use]
    pub fn half_closing(mut self) -> Self {
        self.closes = false;
        self
    }
}

impl<S: Message> WriteChunks for ChannelWriter<S> {
    async fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        if let Some(backlog) = &self.backlog {
            backlog.low().await;
        }
        self.write.data_bytes(chunk).await.map_err(io::Error::other)
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.write.eof().await.map_err(io::Error::other)?;
        if !self.closes {
            return Ok(());
        }
        self.write.close().await.map_err(io::Error::other)
    }
}
