//! A stream's receive window: what the peer may send, when it hears of more, how it grows.

use crate::limits::Limits;

/// A window is given back in steps of at least this part of it, so that credit is few frames.
const STEP: u32 = 4;
/// Growth needs a reader that leaves at most this part of the window lying.
const KEEPS_UP: u32 = 4;

/// What a stream has borrowed is at most this part of itself and what is left, so that however many
/// have grown and gone idle, something is left for the next that needs it.
const SHARE: u64 = 8;

/// All windows of a link share this, beyond the early window that each stream has anyway.
#[derive(Debug)]
pub(crate) struct Budget {
    all: u64,
    left: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            all: bytes,
            left: bytes,
        }
    }

    /// True while so much is left that streams may have some which have not shown any need.
    pub(crate) fn is_plentiful(&self) -> bool {
        self.left > self.all / 2
    }

    /// Up to `wanted` bytes for a stream that has borrowed `borrowed` before.
    fn take(&mut self, wanted: u32, borrowed: u32) -> u32 {
        let share = (self.left + u64::from(borrowed)) / SHARE;
        let given = u64::from(wanted).min(share.saturating_sub(u64::from(borrowed)));
        self.left -= given;
        u32::try_from(given).unwrap_or(wanted)
    }

    pub(crate) fn give_back(&mut self, bytes: u32) {
        self.left += u64::from(bytes);
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

/// The invariant: `allowed + unread + owed == size`, where unread bytes lie in the inbox.
#[derive(Debug)]
pub(crate) struct Window {
    /// What the window is now.
    size: u32,
    /// The part of it that no budget pays for.
    early: u32,
    /// What the peer may still send.
    allowed: u32,
    /// Read, and not yet given back to the peer.
    owed: u32,
    /// The peer has used up what it was given since the last growth.
    limited: bool,
}

impl Window {
    pub(crate) fn new(early: u32) -> Self {
        Self {
            size: early,
            early,
            allowed: early,
            owed: 0,
            limited: false,
        }
    }

    /// The part of the window that the budget gets back.
    pub(crate) fn borrowed(&self) -> u32 {
        self.size - self.early
    }

    /// Grows to `target`, as far as the budget goes. That the peer was held back so far says
    /// nothing about the new size.
    pub(crate) fn raise(&mut self, target: u32, budget: &mut Budget) {
        let given = budget.take(target.saturating_sub(self.size), self.borrowed());
        self.size += given;
        self.limited = false;
        self.owed += given;
    }

    /// The peer sent `bytes`; `false` when it was not allowed to.
    pub(crate) fn received(&mut self, bytes: usize) -> bool {
        match u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.allowed.checked_sub(bytes))
        {
            Some(allowed) => {
                self.allowed = allowed;
                true
            }
            None => false,
        }
    }

    pub(crate) fn note_limited(&mut self) {
        self.limited = true;
    }

    /// `bytes` were read and `unread` remain; doubles the window (to at least the initial one) when
    /// it is what holds the peer back and not the reader. True when the peer should hear of its
    /// credit now.
    pub(crate) fn consumed(
        &mut self,
        bytes: u32,
        unread: u32,
        limits: &Limits,
        budget: &mut Budget,
    ) -> bool {
        debug_assert!(bytes <= self.size - self.allowed - self.owed);
        self.owed = self
            .owed
            .saturating_add(bytes)
            .min(self.size - self.allowed);
        if self.limited && unread <= self.size / KEEPS_UP {
            let target = self.size.saturating_mul(2).max(limits.initial_window);
            self.raise(target.min(limits.max_window), budget);
        }
        self.due()
    }

    /// True when enough is owed to be worth a frame.
    pub(crate) fn due(&self) -> bool {
        self.owed > 0 && self.owed >= self.size / STEP
    }

    #[cfg(test)]
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Takes the credit to tell the peer.
    pub(crate) fn take_credit(&mut self) -> u32 {
        let credit = std::mem::take(&mut self.owed);
        self.allowed += credit;
        credit
    }
}
