//! The multiplexer as a state machine: frames in, frames out, what streams may do meanwhile.
//!
//! No socket, clock, task or lock in here. Wakers are kept for who waits, and collected in
//! [`Core::take_woken`] for the caller to wake once it has let go of the core.

mod ending;
mod inbox;
mod notice;
mod receive;
mod state;
mod transmit;
mod window;
mod woken;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};

use crate::end::{LinkEnd, OpenError, StreamError, Violation};
use crate::frame::{self, FLAG_LIMITED, HEADER, Header, Kind};
use crate::header::{OpenHeader, Refusal, RefusalReason};
use crate::hello::{self, Hello};
use crate::limits::Limits;
pub use notice::Notice;
use notice::Notices;
use state::{Phase, ReceiveEnd, SendEnd, State, Turn, park};
pub(crate) use transmit::Output;
use window::Budget;
pub(crate) use woken::Woken;

/// Credit of one direction of a stream never exceeds this.
pub(crate) const MAX_CREDIT: u32 = 0x7fff_ffff;
/// Control frames that wait for a peer that does not read; bytes. Beyond, it is cut off. As many
/// refusals as there can be streams fit in.
const MAX_ANSWERS: usize = 4 << 20;
/// With as many bytes of control frames waiting, nothing more is opened, so that openings alone never
/// make a peer look like one that does not read.
const MAX_OPENINGS: usize = 2 << 20;
/// Pieces handed to a reader at once.
const BATCH: usize = 16;

/// Which side of the link this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The broker: opens streams.
    Initiator,
    /// The gateway: answers them.
    Acceptor,
}

/// What a reader finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// At least one piece.
    Data,
    /// Everything was read, and the peer finished.
    Fin,
}

#[derive(Debug)]
pub(crate) struct Core {
    role: Role,
    limits: Limits,
    /// Credit that a new stream has towards the peer.
    peer_early_window: u32,
    peer_max_streams: u32,
    max_payload: usize,
    streams: HashMap<u32, State>,
    /// The highest id used so far; ids are never used twice.
    highest: u32,
    budget: Budget,
    /// Payload waiting in all outboxes.
    queued: usize,
    decoder: frame::Decoder,
    /// Encoded frames that go before any data.
    control: BytesMut,
    /// Streams that have just begun to send, with little, and all others that have to.
    fresh: VecDeque<u32>,
    rotation: VecDeque<u32>,
    /// Bytes that fresh streams sent since the last turn of one in rotation.
    fresh_sent: usize,
    credit_due: VecDeque<u32>,
    waiting_for_room: VecDeque<u32>,
    requests: VecDeque<(u32, OpenHeader)>,
    takes_requests: bool,
    /// Requests that nobody saw but us.
    refused: u64,
    /// The peer opens nothing more, and goes once the last stream has ended.
    peer_drains: bool,
    /// We take nothing more, and go once the last stream has ended.
    drains: bool,
    said_goodbye: bool,
    notices: Notices,
    ended: Option<LinkEnd>,
    driver_waker: Option<Waker>,
    requests_waker: Option<Waker>,
    ended_wakers: Vec<Waker>,
    woken: Woken,
}

impl Core {
    pub(crate) fn new(role: Role, limits: Limits, peer: &Hello) -> Self {
        Self {
            role,
            peer_early_window: peer.early_window,
            peer_max_streams: peer.max_streams,
            max_payload: limits.max_payload(peer.max_frame),
            streams: HashMap::new(),
            highest: 0,
            budget: Budget::new(limits.window_budget),
            limits,
            queued: 0,
            decoder: frame::Decoder::new(),
            control: BytesMut::new(),
            fresh: VecDeque::new(),
            rotation: VecDeque::new(),
            fresh_sent: 0,
            credit_due: VecDeque::new(),
            waiting_for_room: VecDeque::new(),
            requests: VecDeque::new(),
            takes_requests: role == Role::Acceptor,
            refused: 0,
            peer_drains: false,
            drains: false,
            said_goodbye: false,
            notices: Notices::new(peer.features & hello::NOTICES != 0),
            ended: None,
            driver_waker: None,
            requests_waker: None,
            ended_wakers: Vec::new(),
            woken: Woken::default(),
        }
    }

    /// Whom the caller has to wake.
    pub(crate) fn take_woken(&mut self) -> Woken {
        std::mem::take(&mut self.woken)
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Requests that were refused without anyone having seen them.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    pub(crate) fn end(&self) -> Option<&LinkEnd> {
        self.ended.as_ref()
    }

    /// No stream can be opened any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.ended.is_some() || self.drains || self.peer_drains || self.highest == u32::MAX
    }

    /// Asks for a stream. The broker's.
    pub(crate) fn open(&mut self, header: &OpenHeader) -> Result<u32, OpenError> {
        debug_assert_eq!(self.role, Role::Initiator);
        let body = header.encode().map_err(OpenError::Header)?;
        if let Some(end) = &self.ended {
            return Err(OpenError::Ended(end.clone()));
        }
        if self.is_closing() {
            return Err(OpenError::Draining);
        }
        let most = self.limits.max_streams.min(self.peer_max_streams);
        let full = self.streams.len() >= usize::try_from(most).unwrap_or(usize::MAX);
        if full || self.control.len() > MAX_OPENINGS {
            return Err(OpenError::TooMany);
        }
        self.highest += 1;
        let id = self.highest;
        let state = State::new(
            Phase::Opening,
            self.peer_early_window,
            self.limits.early_window,
        );
        self.streams.insert(id, state);
        frame::put(&mut self.control, Kind::Open, id, &body);
        self.raise_window(id);
        self.wake_driver();
        if id == u32::MAX {
            self.drain("all stream ids are used up");
        }
        Ok(id)
    }

    /// The next stream that the peer asked for; `None` once there will be none. The gateway's.
    pub(crate) fn poll_request(&mut self, waker: &Waker) -> Poll<Option<(u32, OpenHeader)>> {
        if let Some(request) = self.requests.pop_front() {
            return Poll::Ready(Some(request));
        }
        if self.ended.is_some() || self.drains || !self.takes_requests {
            return Poll::Ready(None);
        }
        park(&mut self.requests_waker, waker);
        Poll::Pending
    }

    /// Says yes to a request.
    pub(crate) fn accept(&mut self, id: u32) {
        let Some(state) = self.streams.get_mut(&id) else {
            return;
        };
        state.phase = Phase::Open;
        if !state.receive_end.is_broken() {
            frame::put(&mut self.control, Kind::Opened, id, &[]);
            self.raise_window(id);
        }
        self.wake_driver();
    }

    /// Says no to a request; the stream is gone.
    pub(crate) fn refuse(&mut self, id: u32, refusal: &Refusal) {
        let Some(state) = self.streams.get(&id) else {
            return;
        };
        if !state.receive_end.is_broken() && self.ended.is_none() {
            frame::put(&mut self.control, Kind::Refused, id, &refusal.encode());
        }
        self.remove(id);
        self.wake_driver();
    }

    /// No one takes requests any more; those that wait are refused.
    pub(crate) fn stop_requests(&mut self) {
        self.takes_requests = false;
        for (id, _) in std::mem::take(&mut self.requests) {
            let detail = String::from("the gateway stops");
            self.refused += 1;
            self.refuse(
                id,
                &Refusal {
                    reason: RefusalReason::Busy,
                    detail,
                },
            );
        }
        self.woken.extend(self.requests_waker.take());
    }

    /// Resolves with the answer to an opening.
    pub(crate) fn poll_opened(&mut self, id: u32, waker: &Waker) -> Poll<Result<(), StreamError>> {
        let phase = self.streams.get(&id).map(|state| state.phase);
        match self.check(id) {
            Ok(()) => {}
            // Yes is the answer, though a reset may follow it at once.
            Err(StreamError::Reset) if phase == Some(Phase::Open) => return Poll::Ready(Ok(())),
            Err(error) => return Poll::Ready(Err(error)),
        }
        match self.streams.get_mut(&id) {
            Some(state) if state.phase == Phase::Opening => {
                park(&mut state.opened_waker, waker);
                Poll::Pending
            }
            Some(_) | None => Poll::Ready(Ok(())),
        }
    }

    /// Resolves when the stream has ended by violence: reset, refused, or with the link.
    pub(crate) fn poll_broken(&mut self, id: u32, waker: &Waker) -> Poll<StreamError> {
        if let Err(error) = self.check(id) {
            return Poll::Ready(error);
        }
        if let Some(state) = self.streams.get_mut(&id) {
            park(&mut state.status_waker, waker);
        }
        Poll::Pending
    }

    /// How much may be sent now, in one frame; at least one byte.
    pub(crate) fn poll_room(&mut self, id: u32, waker: &Waker) -> Poll<Result<usize, StreamError>> {
        if let Err(error) = self.check(id) {
            return Poll::Ready(Err(error));
        }
        let Some(state) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(StreamError::Reset));
        };
        let credit = usize::try_from(state.credit).unwrap_or(usize::MAX);
        let mut room = self.max_payload.min(credit);
        if state.queued > 0
            && (room < self.max_payload || state.queued + room > self.limits.send_queue)
        {
            // What is queued keeps the link busy until there is room for a full frame.
            room = 0;
        }
        let shared = self.queued < self.limits.send_budget;
        if room > 0 && shared {
            return Poll::Ready(Ok(room));
        }
        park(&mut state.send_waker, waker);
        if !shared && !state.waits_for_room {
            state.waits_for_room = true;
            self.waiting_for_room.push_back(id);
        }
        Poll::Pending
    }

    /// Whether the peer takes any more on a stream at the moment.
    pub(crate) fn has_credit(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|state| state.credit > 0)
    }

    /// Queues a DATA frame: `frame` is [`HEADER`] bytes of any value, then payload of at most what
    /// [`Self::poll_room`] gave.
    pub(crate) fn send(&mut self, id: u32, mut frame: BytesMut) {
        let Some(state) = self.streams.get_mut(&id) else {
            return;
        };
        let payload = frame.len().saturating_sub(HEADER);
        if payload == 0 || state.send_end != SendEnd::Open || state.receive_end.is_broken() {
            return;
        }
        let length = u16::try_from(payload).unwrap_or(u16::MAX);
        debug_assert!(state.credit >= u32::from(length), "sent beyond the credit");
        state.credit = state.credit.saturating_sub(u32::from(length));
        let mut header = Header::new(Kind::Data, id, length);
        if state.credit == 0 {
            header.flags |= FLAG_LIMITED;
        }
        frame[..HEADER].copy_from_slice(&header.to_bytes());
        state.outbox.push_back(frame.freeze());
        state.queued += payload;
        self.queued += payload;
        self.schedule(id);
    }

    /// FIN after what is queued.
    pub(crate) fn finish(&mut self, id: u32) {
        let Some(state) = self.streams.get_mut(&id) else {
            return;
        };
        if state.send_end == SendEnd::Open && !state.receive_end.is_broken() {
            state.send_end = SendEnd::FinDue;
            self.schedule(id);
        }
    }

    /// Takes what has arrived.
    pub(crate) fn poll_receive(
        &mut self,
        id: u32,
        out: &mut VecDeque<Bytes>,
        waker: &Waker,
    ) -> Poll<Result<Received, StreamError>> {
        let Some(state) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(self.check(id).err().unwrap_or(StreamError::Reset)));
        };
        if state.inbox.len() > 0 {
            state.inbox.take(out, BATCH);
            return Poll::Ready(Ok(Received::Data));
        }
        if state.receive_end == ReceiveEnd::Fin {
            return Poll::Ready(Ok(Received::Fin));
        }
        if let Err(error) = self.check(id) {
            return Poll::Ready(Err(error));
        }
        if let Some(state) = self.streams.get_mut(&id) {
            park(&mut state.receive_waker, waker);
        }
        Poll::Pending
    }

    /// `bytes` of what was received are done with; the peer may send as many more.
    pub(crate) fn consumed(&mut self, id: u32, bytes: usize) {
        let Some(state) = self.streams.get_mut(&id) else {
            return;
        };
        if state.receive_end != ReceiveEnd::Open {
            return;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let unread = u32::try_from(state.inbox.len()).unwrap_or(u32::MAX);
        let due = state
            .window
            .consumed(bytes, unread, &self.limits, &mut self.budget);
        if due && !state.credit_queued {
            state.credit_queued = true;
            self.credit_due.push_back(id);
            self.wake_driver();
        }
    }

    /// The holder lets go of a stream. One that has not finished both ways is reset: at once, or,
    /// with `ordered`, after what it has queued.
    pub(crate) fn release(&mut self, id: u32, ordered: bool) {
        let Some(state) = self.streams.get_mut(&id) else {
            return;
        };
        let finished = matches!(state.send_end, SendEnd::FinDue | SendEnd::FinSent)
            && state.receive_end == ReceiveEnd::Fin
            && state.inbox.len() == 0;
        if state.receive_end.is_broken() || self.ended.is_some() {
            self.remove(id);
        } else if finished && state.send_end == SendEnd::FinDue {
            state.held = false;
        } else if finished {
            self.remove(id);
        } else if ordered && state.has_output() {
            state.held = false;
            state.send_end = SendEnd::ResetDue;
            self.schedule(id);
        } else {
            frame::put(&mut self.control, Kind::Reset, id, &[]);
            self.remove(id);
            self.wake_driver();
        }
    }

    /// Whether the stream still works. One that both sides finished needs its link no more: what
    /// is left of it lies in its inbox.
    fn check(&self, id: u32) -> Result<(), StreamError> {
        let state = self.streams.get(&id);
        match state.map(|state| (&state.receive_end, state.send_end)) {
            Some((ReceiveEnd::Refused(refusal), _)) => Err(StreamError::Refused(refusal.clone())),
            Some((ReceiveEnd::Reset, _)) => Err(StreamError::Reset),
            Some((ReceiveEnd::Fin, SendEnd::FinSent)) => Ok(()),
            Some((ReceiveEnd::Open | ReceiveEnd::Fin, _)) | None => match &self.ended {
                Some(end) => Err(StreamError::LinkEnded(end.clone())),
                None if state.is_none() => Err(StreamError::Reset),
                None => Ok(()),
            },
        }
    }

    /// Lifts a stream's window from its early size to the usual one, unless it must first show that
    /// it needs that.
    fn raise_window(&mut self, id: u32) {
        let Some(state) = self.streams.get_mut(&id) else {
            return;
        };
        if self.budget.is_plentiful() {
            let initial = self.limits.initial_window;
            state.window.raise(initial, &mut self.budget);
        }
        let credit = state.window.take_credit();
        if credit > 0 {
            frame::put(&mut self.control, Kind::Window, id, &credit.to_be_bytes());
        }
    }

    /// Forgets a stream; whoever still waits on it learns so.
    fn remove(&mut self, id: u32) {
        let Some(mut state) = self.streams.remove(&id) else {
            return;
        };
        self.budget.give_back(state.window.borrowed());
        self.queued -= state.queued;
        self.woken.extend(state.take_wakers());
        self.offer_room();
        self.end_if_drained();
    }

    /// Queues the stream for its turn. One that begins with something small goes before those that
    /// have been sending, one that begins with bulk goes behind them.
    fn schedule(&mut self, id: u32) {
        if let Some(state) = self.streams.get_mut(&id)
            && state.turn == Turn::Idle
            && self.ended.is_none()
        {
            state.turn = Turn::Queued;
            if state
                .outbox
                .front()
                .is_some_and(|frame| frame.len() >= transmit::GATHERED)
            {
                self.rotation.push_back(id);
            } else {
                self.fresh.push_back(id);
            }
            self.wake_driver();
        }
    }

    fn wake_driver(&mut self) {
        self.woken.extend(self.driver_waker.take());
    }

    /// Lets streams go on that waited for the send budget, first come first served.
    fn offer_room(&mut self) {
        let mut room = self.limits.send_budget.saturating_sub(self.queued);
        while room > 0 {
            let Some(id) = self.waiting_for_room.pop_front() else {
                return;
            };
            if let Some(state) = self.streams.get_mut(&id) {
                state.waits_for_room = false;
                self.woken.extend(state.send_waker.take());
                room = room.saturating_sub(self.max_payload);
            }
        }
    }

    fn violate<T>(violation: Violation) -> Result<T, Violation> {
        Err(violation)
    }
}
