//! What carries the streams of a [`Link`](crate::Link): our own protocol, or channels of another.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};

use crate::core::{Notice, Received};
use crate::end::{LinkEnd, OpenError, StreamError};
use crate::header::OpenHeader;

/// Streams to destinations, as [`Link`](crate::Link), [`Stream`](crate::Stream) and the relay need them. Nothing here waits: whoever
/// finds that there is nothing to do yet leaves a waker behind, one for each stream and kind of waiting.
///
/// A stream is known by its number as long as it is held, and to nobody after [`Self::release`]. What is asked of a number that is not
/// known is answered as for a stream that was reset.
pub trait Multiplexer: Send + Sync {
    /// Asks for a stream. See [`Link::open`](crate::Link::open).
    ///
    /// # Errors
    /// When there are to be no more, or not now, or not to there.
    fn open(&self, header: &OpenHeader) -> Result<u32, OpenError>;

    /// Resolves with the answer to that.
    fn poll_opened(&self, stream: u32, waker: &Waker) -> Poll<Result<(), StreamError>>;

    /// Resolves when the stream has ended other than by both sides finishing.
    fn poll_broken(&self, stream: u32, waker: &Waker) -> Poll<StreamError>;

    /// How many bytes [`Self::send`] takes now, at least one.
    fn poll_room(&self, stream: u32, waker: &Waker) -> Poll<Result<usize, StreamError>>;

    /// Whether the peer takes any more at the moment.
    fn has_credit(&self, stream: u32) -> bool;

    /// Bytes of any value that a frame given to [`Self::send`] begins with, for whatever has to stand before the payload.
    fn headroom(&self) -> usize;

    /// Sends what stands behind the headroom: at most as much as [`Self::poll_room`] gave.
    fn send(&self, stream: u32, frame: BytesMut);

    /// Nothing more is sent.
    fn finish(&self, stream: u32);

    /// Adds what has arrived to `out`.
    fn poll_receive(
        &self,
        stream: u32,
        out: &mut VecDeque<Bytes>,
        waker: &Waker,
    ) -> Poll<Result<Received, StreamError>>;

    /// So many bytes of that are done with: the peer may send as many more.
    fn consumed(&self, stream: u32, bytes: usize);

    /// Nobody holds the stream any more. One that has not finished both ways is reset; if `ordered`, behind what was sent.
    fn release(&self, stream: u32, ordered: bool);

    /// How many streams there are.
    fn streams(&self) -> usize;

    /// Why there are no streams any more.
    fn end(&self) -> Option<LinkEnd>;

    /// Resolves with that. Any number may wait.
    fn poll_end(&self, waker: &Waker) -> Poll<LinkEnd>;

    /// Whether no more streams are to be had.
    fn is_closing(&self) -> bool;

    /// Resolves with what the gateway said last, once that is later than its word of this number. Any number may wait.
    fn poll_notice(&self, after: u64, waker: &Waker) -> Poll<Notice>;

    /// Ends all streams. The words are for the other side.
    fn close(&self, words: &str);

    /// Takes no more streams, and ends with the last one.
    fn drain(&self, words: &str);
}
