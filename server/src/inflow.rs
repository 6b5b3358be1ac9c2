//! What waits for the destinations of forwarded ports: so much for each, and for all of one connection.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes};

/// Most that waits for one destination, in bytes.
const PER_FLOW: usize = 16 << 20;
/// And for all of one connection.
const PER_CONNECTION: usize = 64 << 20;
/// Who has less waiting than this is not made to wait for what others have.
const SMALL: usize = 64 << 10;
/// What a piece takes beside its bytes, at most.
const PIECE: usize = 128;

/// What waits for the destinations of one connection.
#[derive(Debug, Default)]
pub(crate) struct Inflow {
    held: AtomicUsize,
    flows: AtomicUsize,
}

impl Inflow {
    /// Is there no more than one flow?
    pub(crate) fn is_alone(&self) -> bool {
        self.flows.load(Ordering::Relaxed) <= 1
    }
}

/// What waits for one destination.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    inflow: &'a Inflow,
    pub(crate) pieces: VecDeque<Bytes>,
    held: usize,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(inflow: &'a Inflow) -> Self {
        inflow.flows.fetch_add(1, Ordering::Relaxed);
        Self {
            inflow,
            pieces: VecDeque::new(),
            held: 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        let all = || self.inflow.held.load(Ordering::Relaxed);
        self.held >= PER_FLOW || self.held >= SMALL && all() >= PER_CONNECTION
    }

    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.hold(piece.len() + PIECE);
            self.pieces.push_back(piece);
        }
    }

    pub(crate) fn written(&mut self, mut bytes: usize) {
        while bytes > 0
            && let Some(first) = self.pieces.front_mut()
        {
            let of_first = bytes.min(first.len());
            first.advance(of_first);
            bytes -= of_first;
            let over = first.is_empty();
            self.release(of_first + if over { PIECE } else { 0 });
            if over {
                self.pieces.pop_front();
            }
        }
    }

    fn hold(&mut self, bytes: usize) {
        self.held += bytes;
        self.inflow.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn release(&mut self, bytes: usize) {
        self.held -= bytes;
        self.inflow.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.release(self.held);
        self.inflow.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_by_flow_and_by_connection() {
        let inflow = Inflow::default();
        let mut large = Waiting::new(&inflow);
        let piece = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..15 {
            large.push(piece.clone());
        }
        assert!(!large.is_full());
        large.push(piece.clone());
        assert!(large.is_full());
        large.written((1 << 20) + 5);
        assert_eq!(large.held, 15 * ((1 << 20) + PIECE) - 5);
        let mut others: Vec<_> = (0..4).map(|_| Waiting::new(&inflow)).collect();
        for other in &mut others {
            (0..13).for_each(|_| other.push(piece.clone()));
        }
        // All together are above their bound now: only whoever has next to nothing goes on.
        assert!(large.is_full() && others.iter().all(Waiting::is_full));
        let mut small = Waiting::new(&inflow);
        small.push(Bytes::from_static(b"?"));
        assert!(!small.is_full());
        assert_eq!(inflow.flows.load(Ordering::Relaxed), 6);
        drop((large, others, small));
        assert_eq!(inflow.held.load(Ordering::Relaxed), 0);
        assert_eq!(inflow.flows.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_small_pieces_are_counted_with_what_they_take() {
        let inflow = Inflow::default();
        let mut waiting = Waiting::new(&inflow);
        let mut count = 0;
        while !waiting.is_full() {
            waiting.push(Bytes::from_static(b"x"));
            count += 1;
        }
        assert!(count < PER_FLOW / PIECE, "{count} pieces");
    }
}
