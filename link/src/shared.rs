//! The core behind its lock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};

use crate::core::{Core, Notice, Received};
use crate::end::{LinkEnd, OpenError, StreamError};
use crate::frame::HEADER;
use crate::header::OpenHeader;
use crate::multiplexer::Multiplexer;

/// The core of a link, for all that have to do with it. The lock is never held over an await, nor while waking.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Locked>);

struct Locked(Mutex<Core>);

impl Shared {
    pub(crate) fn new(core: Core) -> Self {
        Self(Arc::new(Locked(Mutex::new(core))))
    }

    /// Does something with the core, then wakes whom that concerns.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        self.0.with(act)
    }

    pub(crate) fn into_multiplexer(self) -> Arc<dyn Multiplexer> {
        self.0
    }
}

impl Locked {
    fn with<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        let (result, woken) = {
            let mut core = self.lock();
            let result = act(&mut core);
            (result, core.take_woken())
        };
        woken.wake();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // The core never panics on purpose; if it did, going on beats taking every flow down.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Multiplexer for Locked {
    fn open(&self, header: &OpenHeader) -> Result<u32, OpenError> {
        self.with(|core| core.open(header))
    }

    fn poll_opened(&self, stream: u32, waker: &Waker) -> Poll<Result<(), StreamError>> {
        self.with(|core| core.poll_opened(stream, waker))
    }

    fn poll_broken(&self, stream: u32, waker: &Waker) -> Poll<StreamError> {
        self.with(|core| core.poll_broken(stream, waker))
    }

    fn poll_room(&self, stream: u32, waker: &Waker) -> Poll<Result<usize, StreamError>> {
        self.with(|core| core.poll_room(stream, waker))
    }

    fn has_credit(&self, stream: u32) -> bool {
        self.with(|core| core.has_credit(stream))
    }

    fn headroom(&self) -> usize {
        HEADER
    }

    fn send(&self, stream: u32, frame: BytesMut) {
        self.with(|core| core.send(stream, frame));
    }

    fn finish(&self, stream: u32) {
        self.with(|core| core.finish(stream));
    }

    fn poll_receive(
        &self,
        stream: u32,
        out: &mut VecDeque<Bytes>,
        waker: &Waker,
    ) -> Poll<Result<Received, StreamError>> {
        self.with(|core| core.poll_receive(stream, out, waker))
    }

    fn consumed(&self, stream: u32, bytes: usize) {
        self.with(|core| core.consumed(stream, bytes));
    }

    fn release(&self, stream: u32, ordered: bool) {
        self.with(|core| core.release(stream, ordered));
    }

    fn streams(&self) -> usize {
        self.with(|core| core.streams())
    }

    fn end(&self) -> Option<LinkEnd> {
        self.with(|core| core.end().cloned())
    }

    fn poll_end(&self, waker: &Waker) -> Poll<LinkEnd> {
        self.with(|core| core.poll_ended(waker))
    }

    fn is_closing(&self) -> bool {
        self.with(|core| core.is_closing())
    }

    fn poll_notice(&self, after: u64, waker: &Waker) -> Poll<Notice> {
        self.with(|core| core.poll_notice(after, waker))
    }

    fn close(&self, words: &str) {
        self.with(|core| core.close(words));
    }

    fn drain(&self, words: &str) {
        self.with(|core| core.drain(words));
    }
}
