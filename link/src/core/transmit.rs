//! What goes out next, and in which order.
//!
//! Control frames first: they are short, and others wait for them. Then data, one frame a turn. A
//! stream that begins to send, with something small, has its first turn before all others (much
//! as in fq_codel, RFC 8290): a keystroke does not wait for the round of the bulk transfers. So
//! that these can't starve the others, after a chunk's worth of first turns one of the others goes.

use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::Core;
use super::state::{SendEnd, State, Turn, park};
use crate::frame::{self, HEADER, Kind};

/// Frames shorter than this are gathered into one chunk; longer ones travel as they are.
pub(super) const GATHERED: usize = 8 << 10;

/// What the driver is to do.
#[derive(Debug)]
pub(crate) enum Output {
    /// Hand this to the transport.
    Chunk(Bytes),
    /// Nothing more will come: finish the transport.
    Finish,
}

impl Core {
    /// The next chunk, if anything waits to be sent.
    pub(crate) fn poll_output(&mut self, waker: &Waker) -> Poll<Output> {
        if let Some(chunk) = self.next_chunk() {
            return Poll::Ready(Output::Chunk(chunk));
        }
        if self.ended.is_some() {
            return Poll::Ready(Output::Finish);
        }
        park(&mut self.driver_waker, waker);
        Poll::Pending
    }

    fn next_chunk(&mut self) -> Option<Bytes> {
        self.put_credit();
        let most = self.limits.max_chunk.max(2 * HEADER);
        if self.control.len() > most {
            return Some(self.control.split_to(most).freeze());
        }
        let mut out = std::mem::take(&mut self.control);
        while let Some((id, length)) = self.next_turn() {
            if out.is_empty() && (length >= GATHERED || self.is_alone(id)) {
                return Some(self.take_frame(id));
            }
            if length >= GATHERED || out.len() + length > most {
                break;
            }
            if out.is_empty() {
                out.reserve(GATHERED.min(most));
            }
            out.extend_from_slice(&self.take_frame(id));
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// Turns the credit that is due into frames.
    fn put_credit(&mut self) {
        while let Some(id) = self.credit_due.pop_front() {
            let Some(state) = self.streams.get_mut(&id) else {
                continue;
            };
            state.credit_queued = false;
            let credit = state.window.take_credit();
            if credit > 0 {
                frame::put(&mut self.control, Kind::Window, id, &credit.to_be_bytes());
            }
        }
    }

    /// Whose turn it is, and the length of its next frame. It stays at the head of its queue.
    fn next_turn(&mut self) -> Option<(u32, usize)> {
        loop {
            let id = *if self.fresh_goes() {
                self.fresh.front()
            } else {
                self.rotation.front()
            }?;
            match self.streams.get(&id).filter(|state| state.has_output()) {
                Some(state) => return Some((id, state.outbox.front().map_or(HEADER, Bytes::len))),
                None => self.pass_turn(id),
            }
        }
    }

    fn fresh_goes(&self) -> bool {
        let enough = self.fresh_sent >= self.limits.max_chunk && !self.rotation.is_empty();
        !self.fresh.is_empty() && !enough
    }

    /// True when nothing else could share a chunk with this stream's next frame.
    fn is_alone(&self, id: u32) -> bool {
        self.fresh.len() + self.rotation.len() == 1
            && self
                .streams
                .get(&id)
                .is_none_or(|state| frames_due(state) == 1)
    }

    /// Removes the stream at the head from its queue; it had nothing to send after all.
    fn pass_turn(&mut self, id: u32) {
        if self.fresh_goes() {
            self.fresh.pop_front();
        } else {
            self.rotation.pop_front();
        }
        if let Some(state) = self.streams.get_mut(&id) {
            state.turn = Turn::Idle;
        }
    }

    /// The next frame of the stream that [`Self::next_turn`] gave.
    fn take_frame(&mut self, id: u32) -> Bytes {
        let was_fresh = self.fresh_goes();
        self.pass_turn(id);
        let Some(state) = self.streams.get_mut(&id) else {
            return Bytes::new();
        };
        let Some(frame) = state.outbox.pop_front() else {
            return self.take_last_frame(id);
        };
        let payload = frame.len() - HEADER;
        state.queued -= payload;
        if state.queued <= self.limits.send_queue / 2 {
            self.woken.extend(state.send_waker.take());
        }
        if state.has_output() {
            state.turn = Turn::Queued;
            self.rotation.push_back(id);
        }
        self.fresh_sent = if was_fresh {
            self.fresh_sent + frame.len()
        } else {
            0
        };
        self.queued -= payload;
        self.offer_room();
        frame
    }

    /// FIN or RESET.
    fn take_last_frame(&mut self, id: u32) -> Bytes {
        let Some(state) = self.streams.get_mut(&id) else {
            return Bytes::new();
        };
        let kind = if state.send_end == SendEnd::ResetDue {
            Kind::Reset
        } else {
            Kind::Fin
        };
        state.send_end = SendEnd::FinSent;
        if !state.held {
            self.remove(id);
        }
        let mut out = BytesMut::with_capacity(HEADER);
        frame::put(&mut out, kind, id, &[]);
        out.freeze()
    }
}

fn frames_due(state: &State) -> usize {
    let last = matches!(state.send_end, SendEnd::FinDue | SendEnd::ResetDue);
    state.outbox.len() + usize::from(last)
}
