//! What has arrived on a stream and was not taken yet.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

/// Pieces shorter than this are always gathered, so that a peer that sends single bytes can't
/// make each of them cost an entry.
const SMALL: usize = 2 << 10;
/// The capacity of a gathering buffer, once it is shared by several pieces.
const GATHER: usize = 8 << 10;

/// A queue of bytes whose memory stays within about twice its length.
///
/// A slice of a chunk keeps the whole chunk alive. So a piece is kept as a slice only if it is at
/// least half of its chunk; others are copied, small ones side by side.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    whole: VecDeque<Bytes>,
    tail: BytesMut,
    length: usize,
}

impl Inbox {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Appends `bytes`, a piece of a chunk of `chunk` bytes.
    pub(crate) fn push(&mut self, bytes: Bytes, chunk: usize) {
        self.length += bytes.len();
        if bytes.len() >= SMALL {
            self.seal();
            let sparse = bytes.len() < chunk / 2;
            self.whole.push_back(if sparse {
                Bytes::copy_from_slice(&bytes)
            } else {
                bytes
            });
            return;
        }
        if self.tail.capacity() - self.tail.len() < bytes.len() {
            // A first piece gets what it needs, since most of the time it is the only one.
            let capacity = if self.tail.is_empty() {
                bytes.len()
            } else {
                GATHER
            };
            self.seal();
            self.tail = BytesMut::with_capacity(capacity);
        }
        self.tail.put_slice(&bytes);
    }

    /// Moves pieces to `out` until it holds `most` of them or nothing is left.
    pub(crate) fn take(&mut self, out: &mut VecDeque<Bytes>, most: usize) {
        while out.len() < most {
            if self.whole.is_empty() {
                self.seal();
            }
            let Some(piece) = self.whole.pop_front() else {
                return;
            };
            self.length -= piece.len();
            out.push_back(piece);
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.whole
                .push_back(std::mem::take(&mut self.tail).freeze());
        }
    }
}
