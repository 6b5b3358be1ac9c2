//! What the peer's frames do.

use bytes::Bytes;

use super::state::{Phase, ReceiveEnd, State};
use super::{Core, MAX_ANSWERS, MAX_CREDIT, Role};
use crate::end::{LinkEnd, Violation};
use crate::frame::{self, Item, Kind};
use crate::header::{OpenHeader, Refusal, RefusalReason, decode_window, take_text};

impl Core {
    /// Takes a chunk apart. After an error the link must be failed with it.
    pub(crate) fn receive(&mut self, mut chunk: Bytes) -> Result<(), Violation> {
        let size = chunk.len();
        while self.ended.is_none() {
            self.check_answers()?;
            match self.decoder.next(&mut chunk)? {
                Some(Item::Data {
                    stream,
                    bytes,
                    limited,
                }) => {
                    self.receive_data(stream, bytes, limited, size)?;
                }
                Some(Item::Control { kind, stream, body }) => {
                    self.receive_control(kind, stream, &body)?;
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn receive_data(
        &mut self,
        id: u32,
        bytes: Bytes,
        limited: bool,
        chunk: usize,
    ) -> Result<(), Violation> {
        let Some(state) = self.known(id)? else {
            return Ok(());
        };
        match &state.receive_end {
            ReceiveEnd::Open if state.phase == Phase::Opening => {
                return Self::violate(Violation::BeforeAnswer(id));
            }
            ReceiveEnd::Open => {}
            ReceiveEnd::Fin => return Self::violate(Violation::AfterEnd(id)),
            ReceiveEnd::Reset | ReceiveEnd::Refused(_) => return Ok(()),
        }
        if !state.window.received(bytes.len()) {
            return Self::violate(Violation::CreditOverrun(id));
        }
        if limited {
            state.window.note_limited();
        }
        if !bytes.is_empty() {
            state.inbox.push(bytes, chunk);
            let waker = state.receive_waker.take();
            self.woken.extend(waker);
        }
        Ok(())
    }

    fn receive_control(&mut self, kind: Kind, id: u32, body: &Bytes) -> Result<(), Violation> {
        match kind {
            Kind::Open => self.receive_open(id, body),
            Kind::Opened => self.receive_opened(id),
            Kind::Refused => self.receive_refused(id, body),
            Kind::Window => self.receive_window(id, body),
            Kind::Fin => self.receive_fin(id),
            Kind::Reset => self.receive_reset(id),
            Kind::Ping => {
                frame::put(&mut self.control, Kind::Pong, 0, &body[..body.len().min(8)]);
                self.wake_driver();
                Ok(())
            }
            Kind::Goodbye => self.receive_goodbye(body),
            Kind::Notice => self.receive_notice(body),
            Kind::Pong | Kind::Data | Kind::Skipped => Ok(()),
        }
    }

    fn receive_open(&mut self, id: u32, body: &Bytes) -> Result<(), Violation> {
        if self.role != Role::Acceptor {
            return Self::violate(Violation::OpenFromGateway);
        }
        if id <= self.highest {
            return Self::violate(Violation::ReusedStream(id));
        }
        self.highest = id;
        let header = OpenHeader::decode(body).map_err(|source| Violation::Header { id, source })?;
        let full =
            self.streams.len() >= usize::try_from(self.limits.max_streams).unwrap_or(usize::MAX);
        if full || !self.takes_requests {
            let detail = if full {
                "too many streams"
            } else {
                "the gateway stops"
            };
            let refusal = Refusal {
                reason: RefusalReason::Busy,
                detail: detail.to_owned(),
            };
            self.refused += 1;
            frame::put(&mut self.control, Kind::Refused, id, &refusal.encode());
            self.wake_driver();
            return Ok(());
        }
        let state = State::new(
            Phase::Requested,
            self.peer_early_window,
            self.limits.early_window,
        );
        self.streams.insert(id, state);
        self.requests.push_back((id, header));
        self.woken.extend(self.requests_waker.take());
        Ok(())
    }

    fn receive_opened(&mut self, id: u32) -> Result<(), Violation> {
        let role = self.role;
        let Some(state) = self.known(id)? else {
            return Ok(());
        };
        if state.receive_end.is_broken() {
            return Ok(());
        }
        if role != Role::Initiator || state.phase != Phase::Opening {
            return Self::violate(Violation::SecondAnswer(id));
        }
        state.phase = Phase::Open;
        let waker = state.opened_waker.take();
        self.woken.extend(waker);
        Ok(())
    }

    fn receive_refused(&mut self, id: u32, body: &Bytes) -> Result<(), Violation> {
        let refusal = Refusal::decode(body).map_err(|source| Violation::Header { id, source })?;
        let role = self.role;
        let Some(state) = self.known(id)? else {
            return Ok(());
        };
        if state.receive_end.is_broken() {
            return Ok(());
        }
        if role != Role::Initiator || state.phase != Phase::Opening {
            return Self::violate(Violation::SecondAnswer(id));
        }
        self.break_stream(id, ReceiveEnd::Refused(refusal));
        Ok(())
    }

    fn receive_window(&mut self, id: u32, body: &Bytes) -> Result<(), Violation> {
        let credit = decode_window(body).map_err(|source| Violation::Header { id, source })?;
        let Some(state) = self.known(id)? else {
            return Ok(());
        };
        match state.credit.checked_add(credit) {
            Some(sum) if sum <= MAX_CREDIT => state.credit = sum,
            Some(_) | None => return Self::violate(Violation::CreditOverflow(id)),
        }
        let waker = state.send_waker.take();
        self.woken.extend(waker);
        Ok(())
    }

    fn receive_fin(&mut self, id: u32) -> Result<(), Violation> {
        let Some(state) = self.known(id)? else {
            return Ok(());
        };
        match &state.receive_end {
            ReceiveEnd::Open if state.phase == Phase::Opening => {
                return Self::violate(Violation::BeforeAnswer(id));
            }
            ReceiveEnd::Open => state.receive_end = ReceiveEnd::Fin,
            ReceiveEnd::Fin => return Self::violate(Violation::AfterEnd(id)),
            ReceiveEnd::Reset | ReceiveEnd::Refused(_) => return Ok(()),
        }
        let waker = state.receive_waker.take();
        self.woken.extend(waker);
        Ok(())
    }

    fn receive_reset(&mut self, id: u32) -> Result<(), Violation> {
        if self
            .known(id)?
            .is_some_and(|state| !state.receive_end.is_broken())
        {
            self.break_stream(id, ReceiveEnd::Reset);
        }
        Ok(())
    }

    fn receive_goodbye(&mut self, body: &Bytes) -> Result<(), Violation> {
        let header = |source| Violation::Header { id: 0, source };
        let (drains, mut text) = match body.split_first() {
            Some((&1, rest)) => (true, rest),
            Some((_, rest)) => (false, rest),
            None => (false, &[][..]),
        };
        let text = if text.is_empty() {
            String::new()
        } else {
            take_text(&mut text).map_err(header)?
        };
        if drains {
            self.peer_drains = true;
            self.end_if_drained();
        } else {
            self.finish_link(LinkEnd::PeerClosed(text));
        }
        Ok(())
    }

    /// The peer wants nothing more to do with this stream: what we have for it is dropped, what
    /// came from it stays to be read.
    fn break_stream(&mut self, id: u32, end: ReceiveEnd) {
        let Some(state) = self.streams.get_mut(&id) else {
            return;
        };
        state.receive_end = end;
        state.outbox.clear();
        self.queued -= std::mem::take(&mut state.queued);
        self.woken.extend(state.take_wakers());
        if !state.held {
            self.remove(id);
        }
        self.offer_room();
    }

    /// `None` for a stream that was there once: the frame crossed with its end.
    fn known(&mut self, id: u32) -> Result<Option<&mut State>, Violation> {
        if id > self.highest {
            return Err(Violation::UnknownStream(id));
        }
        Ok(self.streams.get_mut(&id))
    }

    /// Before any frame, since what answers one (a refusal, an opening, a reset) may come long after it.
    fn check_answers(&self) -> Result<(), Violation> {
        if self.control.len() > MAX_ANSWERS {
            return Self::violate(Violation::Flood);
        }
        Ok(())
    }
}
