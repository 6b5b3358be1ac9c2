//! One relayed flow on a link, as its holder sees it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::core::Received;
use crate::end::StreamError;
use crate::multiplexer::Multiplexer;

/// One relayed flow on a link. Dropped before both ends finished = reset.
pub struct Stream {
    multiplexer: Arc<dyn Multiplexer>,
    id: u32,
    /// What the drop does: nothing when the stream is gone already.
    release: Release,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Release {
    AtOnce,
    AfterData,
    Done,
}

impl Stream {
    pub(crate) fn new(multiplexer: Arc<dyn Multiplexer>, id: u32) -> Self {
        Self {
            multiplexer,
            id,
            release: Release::AtOnce,
        }
    }

    /// Its number on the link, for logs.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Waits for the gateway's answer beside whoever holds the stream. One at a time: the latest
    /// that asks is told.
    pub fn answer(&self) -> Answer {
        Answer {
            multiplexer: self.multiplexer.clone(),
            id: self.id,
        }
    }

    /// Resolves when the gateway has answered. Needed by callers that must know before they accept
    /// a connection.
    ///
    /// # Errors
    /// The gateway's refusal, or how else the stream ended.
    pub async fn opened(&mut self) -> Result<(), StreamError> {
        self.answer().opened().await
    }

    /// Resolves when the stream has ended other than by both sides finishing.
    pub async fn broken(&self) -> StreamError {
        poll_fn(|cx| self.poll_broken(cx)).await
    }

    pub(crate) fn poll_broken(&self, cx: &Context<'_>) -> Poll<StreamError> {
        self.multiplexer.poll_broken(self.id, cx.waker())
    }

    /// How many bytes of payload [`Self::send`] takes now.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<usize, StreamError>> {
        self.multiplexer.poll_room(self.id, cx.waker())
    }

    /// Whether the peer takes any more at the moment.
    pub(crate) fn has_credit(&self) -> bool {
        self.multiplexer.has_credit(self.id)
    }

    /// Bytes of any value that a frame begins with.
    pub(crate) fn headroom(&self) -> usize {
        self.multiplexer.headroom()
    }

    /// Queues a frame: the headroom, then the payload.
    pub(crate) fn send(&self, frame: BytesMut) {
        self.multiplexer.send(self.id, frame);
    }

    /// FIN after what was sent.
    pub(crate) fn finish(&self) {
        self.multiplexer.finish(self.id);
    }

    /// Adds what has arrived to `out`.
    pub(crate) fn poll_receive(
        &self,
        cx: &Context<'_>,
        out: &mut VecDeque<Bytes>,
    ) -> Poll<Result<Received, StreamError>> {
        self.multiplexer.poll_receive(self.id, out, cx.waker())
    }

    /// Gives the peer credit for bytes that are done with.
    pub(crate) fn consumed(&self, bytes: usize) {
        self.multiplexer.consumed(self.id, bytes);
    }

    /// Resets the stream behind what was sent, as a TCP reset follows the data before it.
    pub(crate) fn reset_after_data(mut self) {
        self.release = Release::AfterData;
    }

    /// Its multiplexer has forgotten it.
    pub(crate) fn forget(mut self) {
        self.release = Release::Done;
    }
}

/// The gateway's answer to one stream.
pub struct Answer {
    multiplexer: Arc<dyn Multiplexer>,
    id: u32,
}

impl Answer {
    /// Resolves when the gateway has answered, or the stream is gone.
    ///
    /// # Errors
    /// The gateway's refusal, or how else the stream ended.
    pub async fn opened(&self) -> Result<(), StreamError> {
        poll_fn(|cx| self.multiplexer.poll_opened(self.id, cx.waker())).await
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let ordered = self.release == Release::AfterData;
        if self.release != Release::Done {
            self.multiplexer.release(self.id, ordered);
        }
    }
}
