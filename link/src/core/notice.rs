//! Words of the gateway for whoever looks at the link: kept until the next ones.

use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::{Core, Role};
use crate::end::Violation;
use crate::frame::{self, Kind};
use crate::header::{put_text, take_text};

/// What the gateway said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Counts what it said on this link, from 1.
    pub number: u64,
    /// For people, at most [`crate::MAX_DETAIL`] bytes; empty when it takes back what it said before.
    pub words: Arc<str>,
}

#[derive(Debug)]
pub(super) struct Notices {
    /// Both sides know of them.
    agreed: bool,
    last: Option<Notice>,
    wakers: Vec<Waker>,
}

impl Notices {
    pub(super) fn new(agreed: bool) -> Self {
        Self {
            agreed,
            last: None,
            wakers: Vec::new(),
        }
    }
}

impl Core {
    /// The gateway's; nothing to a broker that does not know of notices.
    pub(crate) fn notify(&mut self, words: &str) {
        debug_assert_eq!(self.role, Role::Acceptor);
        if !self.notices.agreed || self.ended.is_some() || self.said_goodbye {
            return;
        }
        let mut body = BytesMut::new();
        put_text(&mut body, words);
        frame::put(&mut self.control, Kind::Notice, 0, &body);
        self.wake_driver();
    }

    /// The latest one, once it is later than the one with this number.
    pub(crate) fn poll_notice(&mut self, after: u64, waker: &Waker) -> Poll<Notice> {
        match &self.notices.last {
            Some(notice) if notice.number > after => return Poll::Ready(notice.clone()),
            Some(_) | None => {}
        }
        let wakers = &mut self.notices.wakers;
        if !wakers.iter().any(|parked| parked.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        Poll::Pending
    }

    /// Without the feature it is one of the frames that may be skipped.
    pub(super) fn receive_notice(&mut self, body: &Bytes) -> Result<(), Violation> {
        if self.role != Role::Initiator || !self.notices.agreed {
            return Ok(());
        }
        let words = take_text(&mut &body[..]);
        let words = words.map_err(|source| Violation::Header { id: 0, source })?;
        let number = self.notices.last.as_ref().map_or(0, |last| last.number) + 1;
        let words = words.into();
        self.notices.last = Some(Notice { number, words });
        let wakers = std::mem::take(&mut self.notices.wakers);
        self.woken.extend(wakers);
        Ok(())
    }
}
