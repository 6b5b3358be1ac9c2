//! How a link ends: at our word, at the peer's, with its transport, or with its last stream.

use std::task::{Poll, Waker};

use bytes::{BufMut, BytesMut};

use super::Core;
use super::state::SendEnd;
use crate::end::LinkEnd;
use crate::frame::{self, Kind};
use crate::header::put_text;

impl Core {
    /// Ends the link from our side: what finished streams have queued, goodbye, then nothing more.
    pub(crate) fn close(&mut self, text: &str) {
        if self.ended.is_none() {
            self.put_last_frames();
        }
        self.say_goodbye(false, text);
        self.finish_link(LinkEnd::Closed);
    }

    /// Takes no new streams; the link ends with its last stream.
    pub(crate) fn drain(&mut self, text: &str) {
        if self.ended.is_none() && !self.drains {
            self.say_goodbye(true, text);
            self.drains = true;
            self.stop_requests();
            self.end_if_drained();
        }
    }

    /// The transport is gone, the peer broke the rules, or the driver was dropped.
    pub(crate) fn fail(&mut self, end: LinkEnd) {
        if let LinkEnd::Protocol(violation) = &end {
            self.say_goodbye(false, &violation.to_string());
        }
        self.finish_link(end);
    }

    pub(crate) fn poll_ended(&mut self, waker: &Waker) -> Poll<LinkEnd> {
        if let Some(end) = &self.ended {
            return Poll::Ready(end.clone());
        }
        if !self
            .ended_wakers
            .iter()
            .any(|parked| parked.will_wake(waker))
        {
            self.ended_wakers.push(waker.clone());
        }
        Poll::Pending
    }

    /// Moves what streams have queued that nobody writes to any more before the goodbye, after which
    /// the peer takes nothing. At most the link's send budget.
    fn put_last_frames(&mut self) {
        for (&id, state) in &mut self.streams {
            let last = match state.send_end {
                SendEnd::FinDue => Kind::Fin,
                SendEnd::ResetDue => Kind::Reset,
                SendEnd::Open | SendEnd::FinSent => continue,
            };
            for frame in state.outbox.drain(..) {
                self.control.extend_from_slice(&frame);
            }
            frame::put(&mut self.control, last, id, &[]);
            state.send_end = SendEnd::FinSent;
        }
    }

    fn say_goodbye(&mut self, drains: bool, text: &str) {
        if self.ended.is_some() || self.said_goodbye {
            return;
        }
        self.said_goodbye = !drains;
        let mut body = BytesMut::new();
        body.put_u8(u8::from(drains));
        put_text(&mut body, text);
        frame::put(&mut self.control, Kind::Goodbye, 0, &body);
        self.wake_driver();
    }

    pub(super) fn finish_link(&mut self, end: LinkEnd) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(end);
        for (id, _) in std::mem::take(&mut self.requests) {
            self.streams.remove(&id);
        }
        self.streams.retain(|_, state| state.held);
        for state in self.streams.values_mut() {
            state.outbox.clear();
            state.queued = 0;
            self.woken.extend(state.take_wakers());
        }
        self.queued = 0;
        self.fresh.clear();
        self.rotation.clear();
        self.credit_due.clear();
        self.waiting_for_room.clear();
        self.woken.extend(self.requests_waker.take());
        self.woken.extend(self.ended_wakers.drain(..));
        self.wake_driver();
    }

    pub(super) fn end_if_drained(&mut self) {
        if (self.drains || self.peer_drains) && self.streams.is_empty() && self.ended.is_none() {
            self.close("drained");
        }
    }
}
