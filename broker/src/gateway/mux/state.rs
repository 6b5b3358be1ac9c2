//! All channels of a connection: what is said of them and by them, without a socket or a lock.

use std::collections::{HashMap, VecDeque};
use std::task::{Poll, Waker};

use adit_link::{LinkEnd, OpenError, OpenHeader, Received, RefusalReason, StreamError};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::{Duration, Instant};

use super::super::refusal::{refusal, refused};
use super::channel::{Channel, Phase};
use super::wire::{self, DATA_HEADER, PROHIBITED, message, put_string, take_string, words};
use super::{PACKET, SENT, WINDOW};

/// As many as a link has.
const MOST: usize = 4096;
/// Channels that were not opened stay in the memory of a master as long as it runs; another takes its place then.
const MOST_REFUSED: usize = 2000;
/// For a destination; as long as sshd itself may try.
pub(super) const DIAL_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are read from a program at once.
const ROOM: usize = 2 * SENT;
/// What a server takes in one message at the least (RFC 4253, section 6.1, asks for 32 KiB): what is sent is cut for it, and each piece costs.
const LEAST: usize = 1 << 10;
/// Bytes of one channel that wait to be taken by the master, above which its program waits.
const QUEUE: usize = 4 * SENT;
/// The same of all.
const BACKLOG: usize = 1 << 20;
/// Above it, what waits is not ours: payload, and what is to be said of as many channels as there can be, is less.
const MOST_WAITING: usize = 4 * BACKLOG;

#[derive(Debug, Default)]
pub(super) struct State {
    channels: HashMap<u32, Channel>,
    next: u32,
    out: VecDeque<Piece>,
    /// Bytes in that, and in what is being written.
    waiting: usize,
    waits_for_room: Vec<u32>,
    /// How often something was sent.
    sends: u64,
    /// Channels that were asked for, and how long they may take to be answered.
    unanswered: VecDeque<(Instant, u32)>,
    refused: usize,
    /// Connections that the master has whole.
    handed: usize,
    drains: bool,
    end: Option<LinkEnd>,
    end_wakers: Vec<Waker>,
    woken: Vec<Waker>,
}

/// Bytes for the master.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// The channel that they are counted for.
    channel: Option<u32>,
}

impl State {
    /// Whom the caller has to wake.
    pub(super) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    /// Whether there is something to send, or no more.
    pub(super) fn has_news(&self) -> bool {
        !self.out.is_empty() || self.end.is_some()
    }

    /// Whether one more is to be had.
    fn takes(&self, header: &OpenHeader) -> Result<(), OpenError> {
        header.check().map_err(OpenError::Header)?;
        if let Some(end) = &self.end {
            return Err(OpenError::Ended(end.clone()));
        }
        if self.drains {
            return Err(OpenError::Draining);
        }
        if self.streams() >= MOST {
            return Err(OpenError::TooMany);
        }
        Ok(())
    }

    /// Counts a connection that the master gets whole.
    pub(super) fn hand(&mut self, header: &OpenHeader) -> Result<(), OpenError> {
        self.takes(header)?;
        self.handed += 1;
        Ok(())
    }

    /// It has it no more.
    pub(super) fn handed_back(&mut self) {
        self.handed = self.handed.saturating_sub(1);
        self.end_if_drained();
    }

    pub(super) fn open(&mut self, header: &OpenHeader) -> Result<u32, OpenError> {
        self.takes(header)?;
        while self.channels.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        self.next = id.wrapping_add(1);
        self.channels.insert(id, Channel::opening());
        self.unanswered
            .push_back((Instant::now() + DIAL_PATIENCE, id));
        let host = wire::host(header);
        let mut payload = BytesMut::new();
        put_string(&mut payload, b"direct-tcpip");
        payload.put_u32(id);
        payload.put_u32(WINDOW);
        payload.put_u32(PACKET);
        put_string(&mut payload, host.as_bytes());
        payload.put_u32(u32::from(header.port));
        // Where the connection comes from is nobody's business.
        put_string(&mut payload, b"127.0.0.1");
        payload.put_u32(0);
        self.say(message::CHANNEL_OPEN, &payload);
        Ok(id)
    }

    pub(super) fn poll_opened(&mut self, id: u32, waker: &Waker) -> Poll<Result<(), StreamError>> {
        let channel = self.held(id);
        // Yes is the answer, though a reset may follow it at once.
        if channel.is_some_and(|channel| channel.phase == Phase::Open) {
            return Poll::Ready(Ok(()));
        }
        if let Err(error) = self.check(id) {
            return Poll::Ready(Err(error));
        }
        self.park(id, waker, |channel| &mut channel.wakers.answer)
    }

    pub(super) fn poll_broken(&mut self, id: u32, waker: &Waker) -> Poll<StreamError> {
        if let Err(error) = self.check(id) {
            return Poll::Ready(error);
        }
        self.park(id, waker, |channel| &mut channel.wakers.broken)
    }

    pub(super) fn poll_room(&mut self, id: u32, waker: &Waker) -> Poll<Result<usize, StreamError>> {
        if let Err(error) = self.check(id) {
            return Poll::Ready(Err(error));
        }
        let is_full = self.waiting >= BACKLOG;
        if let Some(channel) = self.channels.get_mut(&id) {
            if channel.is_closed {
                // Whatever is sent now resets it.
                return Poll::Ready(Ok(ROOM));
            }
            let room = usize::try_from(channel.leave).unwrap_or(ROOM).min(ROOM);
            // As long as something waits, less than could be sent at once waits too.
            let is_worth = room == ROOM || channel.queued == 0;
            if room > 0 && is_worth && channel.queued + room <= QUEUE && !is_full {
                return Poll::Ready(Ok(room));
            }
            if is_full && !std::mem::replace(&mut channel.waits_for_room, true) {
                self.waits_for_room.push(id);
            }
        }
        self.park(id, waker, |channel| &mut channel.wakers.room)
    }

    pub(super) fn has_credit(&self, id: u32) -> bool {
        self.channels
            .get(&id)
            .is_some_and(|channel| channel.leave > 0)
    }

    /// In messages that the server takes, without a copy of the payload.
    pub(super) fn send(&mut self, id: u32, mut frame: BytesMut) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        if channel.is_closed {
            channel.is_reset = true;
            self.woken.extend(channel.wakers.take_all());
            return;
        }
        let payload = frame.len().saturating_sub(DATA_HEADER);
        if payload == 0 || channel.has_finished {
            return;
        }
        self.sends += 1;
        channel.last_sent = self.sends;
        let (far, most) = (channel.far, channel.most);
        channel.leave = channel.leave.saturating_sub(payload as u64);
        channel.queued += frame.len();
        let first = payload.min(most);
        let mut more = frame.split_off(DATA_HEADER + first);
        frame[..DATA_HEADER].copy_from_slice(&wire::data_header(far, first));
        self.put(frame.freeze(), Some(id));
        while !more.is_empty() {
            let next = more.split_to(more.len().min(most));
            let header = wire::data_header(far, next.len());
            self.put(Bytes::copy_from_slice(&header), None);
            self.put(next.freeze(), Some(id));
        }
    }

    pub(super) fn finish(&mut self, id: u32) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut channel.has_finished, true) && channel.phase == Phase::Open {
            self.say_end(id);
        }
    }

    pub(super) fn poll_receive(
        &mut self,
        id: u32,
        out: &mut VecDeque<Bytes>,
        waker: &Waker,
    ) -> Poll<Result<Received, StreamError>> {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.take_arrived(out);
            if !out.is_empty() {
                return Poll::Ready(Ok(Received::Data));
            }
            if channel.has_ended {
                return Poll::Ready(Ok(Received::Fin));
            }
        }
        if let Err(error) = self.check(id) {
            return Poll::Ready(Err(error));
        }
        self.park(id, waker, |channel| &mut channel.wakers.receive)
    }

    pub(super) fn consumed(&mut self, id: u32, bytes: usize) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        channel.taken += u32::try_from(bytes).unwrap_or(0);
        if channel.taken >= WINDOW / 2 && !channel.close_is_sent && !channel.has_ended {
            let (far, taken) = (channel.far, std::mem::take(&mut channel.taken));
            channel.window += taken;
            self.say(message::CHANNEL_WINDOW_ADJUST, &words(&[far, taken]));
        }
    }

    /// One that is not answered yet can't be closed: that is done when it is.
    pub(super) fn release(&mut self, id: u32) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        channel.is_held = false;
        channel.forget_arrived();
        self.woken.extend(channel.wakers.take_all());
        if self.end.is_some() {
            self.channels.remove(&id);
        } else if channel.is_answered {
            self.close_channel(id);
        }
    }

    pub(super) fn streams(&self) -> usize {
        self.channels.len() + self.handed
    }

    pub(super) fn end(&self) -> Option<&LinkEnd> {
        self.end.as_ref()
    }

    pub(super) fn poll_end(&mut self, waker: &Waker) -> Poll<LinkEnd> {
        if let Some(end) = &self.end {
            return Poll::Ready(end.clone());
        }
        if !self.end_wakers.iter().any(|it| it.will_wake(waker)) {
            self.end_wakers.push(waker.clone());
        }
        Poll::Pending
    }

    pub(super) fn is_closing(&self) -> bool {
        self.end.is_some() || self.drains
    }

    pub(super) fn drain(&mut self) {
        self.drains = true;
        self.end_if_drained();
    }

    /// The end of all channels.
    pub(super) fn finish_all(&mut self, end: LinkEnd) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        self.channels.retain(|_, channel| channel.is_held);
        let channels = self.channels.values_mut();
        self.woken
            .extend(channels.flat_map(|channel| channel.wakers.take_all()));
        self.woken.append(&mut self.end_wakers);
    }

    /// The channel that has to be answered first, and until when.
    pub(super) fn next_unanswered(&mut self) -> Option<(Instant, u32)> {
        while let Some(first @ (_, id)) = self.unanswered.front() {
            let channel = self.channels.get(id);
            if channel.is_some_and(|channel| channel.phase == Phase::Opening) {
                return Some(*first);
            }
            self.unanswered.pop_front();
        }
        None
    }

    /// It was not answered in time.
    pub(super) fn give_up(&mut self, id: u32) {
        self.unanswered.retain(|(_, other)| *other != id);
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        if channel.phase == Phase::Opening && channel.is_held {
            let words = "the gateway did not answer";
            channel.phase = Phase::Refused(refused(RefusalReason::TimedOut, words));
            self.woken.extend(channel.wakers.take_all());
        }
    }

    /// Moves up to so many pieces to `to`.
    pub(super) fn take_out(&mut self, to: &mut VecDeque<Piece>, most: usize) {
        let count = self.out.len().min(most);
        to.extend(self.out.drain(..count));
    }

    /// The master has taken so many bytes of these.
    pub(super) fn written(&mut self, pieces: &mut VecDeque<Piece>, mut bytes: usize) {
        self.waiting = self.waiting.saturating_sub(bytes);
        let mut have_room = Vec::new();
        while let Some(first) = pieces.front_mut() {
            let taken = bytes.min(first.bytes.len());
            have_room.extend(first.channel.filter(|id| self.was_written(*id, taken)));
            if taken < first.bytes.len() {
                first.bytes.advance(taken);
                break;
            }
            bytes -= taken;
            pieces.pop_front();
        }
        if self.waiting < BACKLOG {
            for id in std::mem::take(&mut self.waits_for_room) {
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.waits_for_room = false;
                    have_room.push(id);
                }
            }
        }
        self.offer_room(have_room);
    }

    /// First to those whose last turn is the longest ago: there is not enough for all.
    fn offer_room(&mut self, mut to: Vec<u32>) {
        to.sort_by_cached_key(|id| self.channels.get(id).map(|channel| channel.last_sent));
        for id in to {
            if let Some(channel) = self.channels.get_mut(&id) {
                self.woken.extend(channel.wakers.room.take());
            }
        }
    }

    /// Something that the server said. `None`: it makes no sense.
    pub(super) fn hear(&mut self, mut message: Bytes) -> Option<()> {
        if self.end.is_some() {
            // What was said before the end is still on its way; whatever comes is nobody's.
            return Some(());
        }
        let _padding = message.try_get_u8().ok()?;
        let kind = message.try_get_u8().ok()?;
        if !(message::CHANNEL_OPEN..=message::CHANNEL_FAILURE).contains(&kind) {
            // About the connection, which is the master's.
            return Some(());
        }
        if kind == message::CHANNEL_OPEN {
            // The server opens nothing to us: nothing was asked for that it could open channels for.
            return None;
        }
        let id = message.try_get_u32().ok()?;
        let channel = match self.channels.get_mut(&id) {
            Some(channel) if !channel.is_closed => channel,
            // It may cross a close, and changes nothing; ssh lets it pass as well.
            Some(_) | None if kind == message::CHANNEL_WINDOW_ADJUST => return Some(()),
            Some(_) | None => return None,
        };
        let is_answer = matches!(
            kind,
            message::CHANNEL_OPEN_CONFIRMATION | message::CHANNEL_OPEN_FAILURE
        );
        // That comes first, and once.
        if std::mem::replace(&mut channel.is_answered, true) == is_answer {
            return None;
        }
        let wakers = &mut channel.wakers;
        match kind {
            message::CHANNEL_OPEN_CONFIRMATION => {
                channel.far = message.try_get_u32().ok()?;
                channel.leave = message.try_get_u32().ok()?.into();
                let most = usize::try_from(message.try_get_u32().ok()?).ok()?;
                if most < LEAST {
                    return None;
                }
                channel.most = most.min(SENT);
                if channel.is_held && channel.phase == Phase::Opening {
                    channel.phase = Phase::Open;
                    self.woken.extend(wakers.answer.take());
                    self.woken.extend(wakers.room.take());
                    if channel.has_finished {
                        self.say_end(id);
                    }
                } else {
                    self.close_channel(id);
                }
            }
            message::CHANNEL_OPEN_FAILURE => {
                let is_prohibited = message.try_get_u32().ok()? == PROHIBITED;
                let words = take_string(&mut message)?;
                let refusal = refusal(is_prohibited, &String::from_utf8_lossy(&words));
                channel.phase = Phase::Refused(refusal);
                (channel.is_closed, channel.close_is_sent) = (true, true);
                self.woken.extend(wakers.take_all());
                self.close_channel(id);
                self.refused += 1;
                if self.refused > MOST_REFUSED {
                    self.drain();
                }
            }
            message::CHANNEL_WINDOW_ADJUST => {
                channel.leave += u64::from(message.try_get_u32().ok()?);
                self.woken.extend(wakers.room.take());
            }
            message::CHANNEL_DATA => {
                let data = take_string(&mut message)?;
                if !message.is_empty() {
                    // It would stay in memory with the payload, and be counted nowhere.
                    return None;
                }
                let length = u32::try_from(data.len()).ok()?;
                channel.window = channel.window.checked_sub(length)?;
                if channel.is_held && !data.is_empty() {
                    self.woken.extend(wakers.receive.take());
                    channel.arrive(data);
                }
            }
            message::CHANNEL_EXTENDED_DATA => {
                // Nothing of the kind was asked for, so it is done with; it counts all the same (RFC 4254, section 5.2).
                let _kind = message.try_get_u32().ok()?;
                let length = take_string(&mut message)?.len();
                channel.window = channel.window.checked_sub(u32::try_from(length).ok()?)?;
                self.consumed(id, length);
            }
            message::CHANNEL_EOF => {
                channel.has_ended = true;
                self.woken.extend(wakers.receive.take());
            }
            message::CHANNEL_CLOSE => {
                channel.is_closed = true;
                self.woken.extend(wakers.take_all());
                self.close_channel(id);
            }
            message::CHANNEL_REQUEST => {
                // None is understood, which is what is to be said to who wants an answer.
                let _name = take_string(&mut message)?;
                // Behind our close nothing is said any more.
                if message.try_get_u8().ok()? != 0 && !channel.close_is_sent {
                    // Who asks and asks, and does not take the answers, would fill our memory with them.
                    if channel.queued > 2 * QUEUE || self.waiting > MOST_WAITING {
                        return None;
                    }
                    let failure = wire::packet(message::CHANNEL_FAILURE, &words(&[channel.far]));
                    channel.queued += failure.len();
                    self.put(failure, Some(id));
                }
            }
            _ => {}
        }
        Some(())
    }

    fn say(&mut self, kind: u8, payload: &[u8]) {
        self.put(wire::packet(kind, payload), None);
    }

    fn put(&mut self, bytes: Bytes, channel: Option<u32>) {
        self.waiting += bytes.len();
        self.out.push_back(Piece { bytes, channel });
    }

    fn say_end(&mut self, id: u32) {
        if let Some(channel) = self.channels.get(&id)
            && !channel.close_is_sent
        {
            let payload = words(&[channel.far]);
            self.say(message::CHANNEL_EOF, &payload);
        }
    }

    /// Says so, unless it has been said. What both sides have closed is forgotten once nobody has it.
    fn close_channel(&mut self, id: u32) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        let is_over = channel.is_closed && !channel.is_held;
        if !std::mem::replace(&mut channel.close_is_sent, true) {
            let payload = words(&[channel.far]);
            self.say(message::CHANNEL_CLOSE, &payload);
        }
        if is_over {
            self.channels.remove(&id);
            self.end_if_drained();
        }
    }

    fn end_if_drained(&mut self) {
        if self.drains && self.streams() == 0 {
            self.finish_all(LinkEnd::Closed);
        }
    }

    /// Whether the channel may send more, as far as it alone is concerned.
    fn was_written(&mut self, id: u32, bytes: usize) -> bool {
        let Some(channel) = self.channels.get_mut(&id) else {
            return false;
        };
        channel.queued = channel.queued.saturating_sub(bytes);
        channel.queued + ROOM <= QUEUE
    }

    /// One that was released is nobody's business but the server's.
    fn held(&self, id: u32) -> Option<&Channel> {
        self.channels.get(&id).filter(|channel| channel.is_held)
    }

    /// Whether it still works. What both sides have finished needs its connection no more.
    fn check(&self, id: u32) -> Result<(), StreamError> {
        let channel = self.held(id).ok_or(StreamError::Reset)?;
        match (channel.fault(), &self.end) {
            (Some(error), _) => Err(error),
            (None, Some(end)) if !channel.is_done() => Err(StreamError::LinkEnded(end.clone())),
            (None, Some(_) | None) => Ok(()),
        }
    }

    fn park<T>(
        &mut self,
        id: u32,
        waker: &Waker,
        slot: impl FnOnce(&mut Channel) -> &mut Option<Waker>,
    ) -> Poll<T> {
        if let Some(channel) = self.channels.get_mut(&id) {
            match slot(channel) {
                Some(parked) => parked.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        Poll::Pending
    }

    #[cfg(test)]
    pub(super) fn channel(&self, id: u32) -> Option<&Channel> {
        self.channels.get(&id)
    }
}
