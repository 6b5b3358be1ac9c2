//! One stream of a link, as the core knows it.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;

use super::inbox::Inbox;
use super::window::Window;
use crate::header::Refusal;

/// How far the opening has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// We asked and wait for the answer.
    Opening,
    /// The peer asked and waits for our answer.
    Requested,
    /// Both agreed.
    Open,
}

/// What ends our direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendEnd {
    /// More may come.
    Open,
    /// FIN follows what is queued.
    FinDue,
    /// FIN is out.
    FinSent,
    /// RESET follows what is queued; nobody holds the stream any more.
    ResetDue,
}

/// What ended the peer's direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReceiveEnd {
    /// More may come.
    Open,
    /// FIN follows what is in the inbox.
    Fin,
    /// The peer reset the stream.
    Reset,
    /// The gateway said no.
    Refused(Refusal),
}

impl ReceiveEnd {
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Self::Reset | Self::Refused(_))
    }
}

/// Where in the send schedule a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing to send.
    Idle,
    /// In one of the two queues.
    Queued,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Someone holds the stream; else it only lives until its last frames are out.
    pub(crate) held: bool,
    /// What we may still send.
    pub(crate) credit: u32,
    /// Whole DATA frames, header included.
    pub(crate) outbox: VecDeque<Bytes>,
    /// Payload in `outbox`.
    pub(crate) queued: usize,
    pub(crate) send_end: SendEnd,
    pub(crate) turn: Turn,
    pub(crate) inbox: Inbox,
    pub(crate) window: Window,
    /// In the queue of those whose peer is to hear of credit.
    pub(crate) credit_queued: bool,
    pub(crate) receive_end: ReceiveEnd,
    /// In the queue of those who wait for room in the link's send budget.
    pub(crate) waits_for_room: bool,
    pub(crate) send_waker: Option<Waker>,
    pub(crate) receive_waker: Option<Waker>,
    /// Waits for the answer to an opening, or for the end of the stream by violence.
    pub(crate) status_waker: Option<Waker>,
    pub(crate) opened_waker: Option<Waker>,
}

impl State {
    pub(crate) fn new(phase: Phase, credit: u32, early_window: u32) -> Self {
        Self {
            phase,
            held: true,
            credit,
            outbox: VecDeque::new(),
            queued: 0,
            send_end: SendEnd::Open,
            turn: Turn::Idle,
            inbox: Inbox::default(),
            window: Window::new(early_window),
            credit_queued: false,
            receive_end: ReceiveEnd::Open,
            waits_for_room: false,
            send_waker: None,
            receive_waker: None,
            status_waker: None,
            opened_waker: None,
        }
    }

    /// True when the schedule has something to do for this stream.
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty() || matches!(self.send_end, SendEnd::FinDue | SendEnd::ResetDue)
    }

    /// Everything that waits on this stream.
    pub(crate) fn take_wakers(&mut self) -> impl Iterator<Item = Waker> + use<> {
        [
            self.send_waker.take(),
            self.receive_waker.take(),
            self.status_waker.take(),
            self.opened_waker.take(),
        ]
        .into_iter()
        .flatten()
    }
}

/// Keeps `cx`'s waker, without cloning when it is the same as before.
pub(crate) fn park(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(parked) => parked.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}
