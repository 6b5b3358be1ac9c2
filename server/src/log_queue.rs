//! Between those who log and where the log goes: a bounded queue and a thread that writes, so that a
//! journal or a terminal that takes no lines keeps no stream waiting.
//!
//! Half of the queue is for the audit alone, and streams are not opened any more once that half is
//! needed, or while what should take the audit takes nothing ([`has_room`]). What finds no place at all
//! is counted, and the number is written later.
use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::audit;
use crate::audit_event::Event;
use crate::audit_file::AuditFile;
use crate::log_sink::{Sink, SinkQueue};

/// Lines that may wait; each has at most a few KiB.
const LINES: usize = 4096;
/// Lines that are written with one call.
pub(crate) const BATCH: usize = 64;
/// How long lines are gathered after some were written: waking the thread for each of them keeps the streams waiting.
pub(crate) const GATHERING: Duration = Duration::from_millis(5);
/// How long until what took nothing is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Time for what still waits when the program ends.
const FLUSH: Duration = Duration::from_secs(2);
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// Lines that found a place since the start.
static PUT: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);
static LOST_IN_ALL: AtomicU64 = AtomicU64::new(0);
/// Where the audit goes, its file or, without one, the log, takes nothing.
static UNWRITABLE: AtomicBool = AtomicBool::new(false);

/// Can the audit of one more stream be written? To be asked before it is opened.
pub(crate) fn has_room() -> bool {
    WAITING.load(Ordering::Relaxed) < LINES / 2 && !UNWRITABLE.load(Ordering::Relaxed)
}

/// Lines that found a place so far.
pub(crate) fn put_so_far() -> u64 {
    PUT.load(Ordering::Relaxed)
}

/// How many of those wait no more. They are written in their order.
pub(crate) fn written_so_far() -> u64 {
    put_so_far().saturating_sub(WAITING.load(Ordering::Relaxed) as u64)
}

/// Lines that were not written since the start.
pub(crate) fn lost_in_all() -> u64 {
    LOST_IN_ALL.load(Ordering::Relaxed)
}

/// Counts lines that are not written.
pub(crate) fn lose(lines: u64) {
    LOST.fetch_add(lines, Ordering::Relaxed);
    LOST_IN_ALL.fetch_add(lines, Ordering::Relaxed);
}

enum Message {
    Line(Vec<u8>),
    /// For the file of the audit.
    Audit(Vec<u8>),
    /// Opens that file anew.
    Reopen,
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

/// The way into the queue.
#[derive(Debug, Clone)]
pub(crate) struct LogQueue(SyncSender<Message>);

impl LogQueue {
    /// Starts the thread.
    pub(crate) fn start(sink: Sink, file: Option<AuditFile>) -> io::Result<Self> {
        // A few more, for what is no line.
        let (sender, receiver) = sync_channel(LINES + 16);
        let outlets = Outlets {
            log: SinkQueue::new(sink),
            file,
        };
        let writer = thread::Builder::new().name("log".to_owned());
        writer.spawn(move || write_all(&receiver, outlets))?;
        Ok(Self(sender))
    }

    /// Never waits.
    pub(crate) fn put(&self, target: &str, line: Vec<u8>) {
        self.send(target, Message::Line(line));
    }

    /// The same for the file of the audit.
    pub(crate) fn put_audit(&self, line: Vec<u8>) {
        self.send(audit::TARGET, Message::Audit(line));
    }

    fn send(&self, target: &str, message: Message) {
        let most = match target == audit::TARGET {
            true => LINES,
            false => LINES / 2,
        };
        let fits = WAITING
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < most).then_some(waiting + 1)
            })
            .is_ok();
        if !fits {
            return lose(1);
        }
        PUT.fetch_add(1, Ordering::Relaxed);
        if self.0.try_send(message).is_err() {
            WAITING.fetch_sub(1, Ordering::Relaxed);
            lose(1);
        }
    }

    fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.0.try_send(Message::Flush(done)).is_ok() {
            // Whoever takes no lines is not waited for.
            let _ = written.recv_timeout(FLUSH);
        }
    }
}

/// Writes what still waits when it is dropped, within two seconds.
#[derive(Debug)]
pub struct Flush(pub(crate) LogQueue);

impl Flush {
    /// Opens the file of the audit anew, after it was moved away.
    pub fn reopen(&self) {
        let _ = self.0.0.try_send(Message::Reopen);
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Where the thread writes to.
struct Outlets {
    log: SinkQueue,
    file: Option<AuditFile>,
}

impl Outlets {
    /// Is there something that could not be written yet?
    fn has_waiting(&self) -> bool {
        self.log.has_waiting() || self.file.as_ref().is_some_and(AuditFile::has_waiting)
    }

    /// Writes what waits. What the audit needs and cannot be written waits on, and no flow is opened until
    /// it is; beside a file of the audit, what the log does not take is lost. Was something?
    fn settle(&mut self) -> bool {
        if let Some(file) = &mut self.file {
            let written = file.write();
            let taken = written.as_ref().copied().unwrap_or(0);
            WAITING.fetch_sub(taken, Ordering::Relaxed);
            note(&written.map(drop), &file.path().display());
        }
        let (taken, written) = self.log.write();
        WAITING.fetch_sub(taken, Ordering::Relaxed);
        match (&self.file, written) {
            (None, written) => {
                note(&written, &self.log);
                false
            }
            (Some(_), Ok(())) => false,
            (Some(_), Err(_)) => {
                let lost = self.log.forget();
                WAITING.fetch_sub(lost, Ordering::Relaxed);
                lose(lost as u64);
                true
            }
        }
    }
}

fn write_all(queue: &Receiver<Message>, mut outlets: Outlets) {
    while let Some(first) = next(queue, &mut outlets) {
        let mut flushed = Vec::new();
        let more = std::iter::from_fn(|| queue.try_recv().ok());
        let messages: Vec<_> = std::iter::once(first).chain(more.take(BATCH)).collect();
        let are_all = messages.len() <= BATCH;
        for message in messages {
            match (message, &mut outlets.file) {
                (Message::Line(line), _) => outlets.log.put(line),
                (Message::Audit(line), Some(file)) => file.put(&line),
                (Message::Audit(_), None) => {}
                (Message::Reopen, Some(file)) => file.reopen(),
                (Message::Reopen, None) => {}
                (Message::Flush(done), _) => flushed.push(done),
            }
        }
        let has_lines = outlets.log.has_waiting();
        let has_failed = outlets.settle();
        // Only where lines arrive: this is one as well.
        if has_lines && !has_failed && has_room() {
            say_lost();
        }
        for done in flushed {
            let _ = done.try_send(());
        }
        if are_all {
            thread::sleep(GATHERING);
        }
    }
}

/// Waits for a message; meanwhile what could not be written is tried again.
fn next(queue: &Receiver<Message>, outlets: &mut Outlets) -> Option<Message> {
    loop {
        if !outlets.has_waiting() {
            return queue.recv().ok();
        }
        match queue.recv_timeout(RETRY) {
            Ok(message) => return Some(message),
            Err(RecvTimeoutError::Timeout) => drop(outlets.settle()),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Whether flows may be opened: how writing the audit there went.
fn note(written: &io::Result<()>, to: &dyn Display) {
    let to = to.to_string();
    match written {
        Ok(()) => {
            if UNWRITABLE.swap(false, Ordering::Relaxed) {
                tracing::info!(to, "the audit is written again");
            }
        }
        Err(error) => {
            if !UNWRITABLE.swap(true, Ordering::Relaxed) {
                tracing::error!(to, %error, "the audit cannot be written: no flow is opened");
            }
        }
    }
}

fn say_lost() {
    let lines = LOST.swap(0, Ordering::Relaxed);
    if lines > 0 {
        tracing::error!(
            target: audit::TARGET,
            id = Event::Lost.id(),
            event = Event::Lost.name(),
            lines,
            "lines could not be written"
        );
    }
}
