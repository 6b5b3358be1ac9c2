//! One channel, as both sides of it stand.

use std::collections::VecDeque;
use std::task::Waker;

use adit_link::{Refusal, StreamError};
use bytes::{Bytes, BytesMut};

use super::WINDOW;

/// Bytes of a piece that is put together with those around it.
const SMALL: usize = 4 << 10;

/// How far its opening has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Opening,
    Open,
    Refused(Refusal),
}

/// What a holder waits for.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    pub(super) answer: Option<Waker>,
    pub(super) broken: Option<Waker>,
    pub(super) room: Option<Waker>,
    pub(super) receive: Option<Waker>,
}

impl Wakers {
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Waker> + use<> {
        let all = std::mem::take(self);
        [all.answer, all.broken, all.room, all.receive]
            .into_iter()
            .flatten()
    }
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) phase: Phase,
    /// The server has said something to its opening.
    pub(super) is_answered: bool,
    /// The server's number for it.
    pub(super) far: u32,
    /// Bytes that may be sent, and how many in a message.
    pub(super) leave: u64,
    pub(super) most: usize,
    /// Bytes that wait for the master.
    pub(super) queued: usize,
    /// Among those that wait until the master has taken something.
    pub(super) waits_for_room: bool,
    /// When something was sent last, counted in what all send.
    pub(super) last_sent: u64,
    /// Bytes that may still come.
    pub(super) window: u32,
    /// Bytes that were taken and are not told of yet.
    pub(super) taken: u32,
    arrived: VecDeque<Bytes>,
    /// Small pieces that arrived after those: each by itself would cost far more than it holds.
    arrived_last: BytesMut,
    /// Nothing more is sent, which is said once it is open.
    pub(super) has_finished: bool,
    /// The server sends no more.
    pub(super) has_ended: bool,
    /// The server has closed it.
    pub(super) is_closed: bool,
    /// We have.
    pub(super) close_is_sent: bool,
    /// Something was sent after the server had closed it.
    pub(super) is_reset: bool,
    /// Someone has it.
    pub(super) is_held: bool,
    pub(super) wakers: Wakers,
}

impl Channel {
    pub(super) fn opening() -> Self {
        Self {
            phase: Phase::Opening,
            is_answered: false,
            far: 0,
            leave: 0,
            most: 1,
            queued: 0,
            waits_for_room: false,
            last_sent: 0,
            window: WINDOW,
            taken: 0,
            arrived: VecDeque::new(),
            arrived_last: BytesMut::new(),
            has_finished: false,
            has_ended: false,
            is_closed: false,
            close_is_sent: false,
            is_reset: false,
            is_held: true,
            wakers: Wakers::default(),
        }
    }

    /// Why it is of no use any more, as far as that is its own doing. What was cut off is not taken for whole.
    pub(super) fn fault(&self) -> Option<StreamError> {
        match &self.phase {
            Phase::Refused(refusal) => Some(StreamError::Refused(refusal.clone())),
            Phase::Opening | Phase::Open => {
                let is_cut_off = self.is_closed && !self.has_ended;
                (is_cut_off || self.is_reset).then_some(StreamError::Reset)
            }
        }
    }

    /// Needs nothing more of its connection.
    pub(super) fn is_done(&self) -> bool {
        self.has_ended && self.has_finished && self.queued == 0
    }

    pub(super) fn arrive(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.arrived_last.extend_from_slice(&data);
        }
        if !self.arrived_last.is_empty()
            && (data.len() >= SMALL || self.arrived_last.len() >= SMALL)
        {
            self.arrived.push_back(self.arrived_last.split().freeze());
        }
        if data.len() >= SMALL {
            self.arrived.push_back(data);
        }
    }

    /// Adds what has arrived to `out`.
    pub(super) fn take_arrived(&mut self, out: &mut VecDeque<Bytes>) {
        out.append(&mut self.arrived);
        if !self.arrived_last.is_empty() {
            out.push_back(self.arrived_last.split().freeze());
        }
    }

    pub(super) fn forget_arrived(&mut self) {
        self.arrived = VecDeque::new();
        self.arrived_last = BytesMut::new();
    }

    /// Pieces that wait, and the bytes in them.
    #[cfg(test)]
    pub(super) fn waits(&self) -> (usize, usize) {
        let bytes = self.arrived.iter().map(Bytes::len).sum::<usize>();
        (self.arrived.len(), bytes + self.arrived_last.len())
    }
}
