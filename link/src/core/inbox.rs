//! What has arrived on a stream and was not taken yet.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

/// Pieces shorter than this are always gathered, so that a peer that sends single bytes can't
/// make each of them cost an entry.
const SMALL: usize = 2 << 10;
/// The capacity of a gathering buffer, once it is shared by several pieces.
const GATHER: usize = 8 << 10;

/// A queue of bytes whose memory stays within twice its length and one gathering buffer.
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
        if self.tail.is_empty() {
            return;
        }
        let tail = std::mem::take(&mut self.tail);
        self.whole.push_back(if tail.len() < tail.capacity() / 2 {
            Bytes::copy_from_slice(&tail)
        } else {
            tail.freeze()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes pieces of these lengths over and over, as pieces of one large chunk each.
    fn check_memory(lengths: &[usize]) {
        let mut inbox = Inbox::default();
        let chunk = Bytes::from(vec![7; 32 << 10]);
        for _ in 0..100 {
            for &length in lengths {
                inbox.push(chunk.slice(..length), chunk.len());
            }
        }
        let length = inbox.len();
        drop(chunk);
        let mut out = VecDeque::new();
        inbox.take(&mut out, usize::MAX);
        let memory: usize = out
            .into_iter()
            .map(|piece| piece.try_into_mut().map_or(0, |piece| piece.capacity()))
            .sum();
        assert!(memory >= length, "all of it is its own: {lengths:?}");
        assert!(
            memory <= 2 * length + GATHER,
            "{lengths:?}: {memory} for {length}"
        );
    }

    #[test]
    fn memory_stays_within_twice_the_length() {
        check_memory(&[1]);
        check_memory(&[1, 1, SMALL]);
        check_memory(&[1, SMALL - 1, 1, SMALL - 1, SMALL]);
        check_memory(&[SMALL - 1]);
        check_memory(&[SMALL]);
        check_memory(&[10_000, 3]);
    }
}
