//! Between those who log and where the log goes: a bounded queue and a thread that writes, so that a
//! journal or a terminal that takes no lines keeps no stream waiting.
//!
//! Half of the queue is for the audit alone, and streams are not opened any more once that half is
//! needed ([`has_room`]). What finds no place at all is counted, and the number is written later.
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::audit;
use crate::audit_event::Event;
use crate::audit_file::AuditFile;

/// Lines that may wait; each has at most a few KiB.
const LINES: usize = 2048;
/// Lines that are written with one call.
const BATCH: usize = 64;
/// How long lines are gathered after some were written: waking the thread for each of them keeps the streams waiting.
const GATHERING: Duration = Duration::from_millis(5);
/// How long until a file that took nothing is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Time for what still waits when the program ends.
const FLUSH: Duration = Duration::from_secs(2);
/// systemd-journald.service(8): the native protocol, one datagram for each entry.
pub(crate) const JOURNAL: &str = "/run/systemd/journal/socket";

static WAITING: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);
static LOST_IN_ALL: AtomicU64 = AtomicU64::new(0);
/// The file of the audit takes nothing.
static UNWRITABLE: AtomicBool = AtomicBool::new(false);

/// Can the audit of one more stream be written? To be asked before it is opened.
pub(crate) fn has_room() -> bool {
    WAITING.load(Ordering::Relaxed) < LINES / 2 && !UNWRITABLE.load(Ordering::Relaxed)
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

/// Where the thread writes to.
pub(crate) enum Sink {
    Stderr,
    Journal(UnixDatagram),
}

/// The way into the queue.
#[derive(Debug, Clone)]
pub(crate) struct LogQueue(SyncSender<Message>);

impl LogQueue {
    /// Starts the thread.
    pub(crate) fn start(sink: Sink, mut file: Option<AuditFile>) -> io::Result<Self> {
        // A few more, for what is no line.
        let (sender, receiver) = sync_channel(LINES + 16);
        let writer = thread::Builder::new().name("log".to_owned());
        writer.spawn(move || write_all(&receiver, &sink, file.as_mut()))?;
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
            lose(1);
        } else if self.0.try_send(message).is_err() {
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

fn write_all(queue: &Receiver<Message>, sink: &Sink, mut file: Option<&mut AuditFile>) {
    while let Some(first) = next(queue, file.as_deref_mut()) {
        let (mut lines, mut flushed) = (Vec::new(), Vec::new());
        let more = std::iter::from_fn(|| queue.try_recv().ok());
        let messages: Vec<_> = std::iter::once(first).chain(more.take(BATCH)).collect();
        let are_all = messages.len() <= BATCH;
        for message in messages {
            match (message, file.as_deref_mut()) {
                (Message::Line(line), _) => lines.push(line),
                (Message::Audit(line), Some(file)) => file.put(&line),
                (Message::Audit(_), None) => {}
                (Message::Reopen, Some(file)) => file.reopen(),
                (Message::Reopen, None) => {}
                (Message::Flush(done), _) => flushed.push(done),
            }
        }
        if let Some(file) = file.as_deref_mut() {
            settle(file);
        }
        let failed = write(sink, &lines);
        WAITING.fetch_sub(lines.len(), Ordering::Relaxed);
        lose(failed);
        // Only where lines arrive: this is one as well.
        if failed == 0 && !lines.is_empty() && has_room() {
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

/// Waits for a message; meanwhile a file that took nothing is tried again.
fn next(queue: &Receiver<Message>, mut file: Option<&mut AuditFile>) -> Option<Message> {
    loop {
        let Some(file) = file.as_deref_mut().filter(|file| file.has_waiting()) else {
            return queue.recv().ok();
        };
        match queue.recv_timeout(RETRY) {
            Ok(message) => return Some(message),
            Err(RecvTimeoutError::Timeout) => settle(file),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Writes what waits; what cannot be written waits on, and no flow is opened until it is.
fn settle(file: &mut AuditFile) {
    match file.write() {
        Ok(lines) => {
            WAITING.fetch_sub(lines, Ordering::Relaxed);
            if UNWRITABLE.swap(false, Ordering::Relaxed) {
                tracing::info!(file = %file.path().display(), "the audit is written again");
            }
        }
        Err(error) => {
            if !UNWRITABLE.swap(true, Ordering::Relaxed) {
                let file = file.path().display();
                tracing::error!(%file, %error, "the audit cannot be written: no flow is opened");
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

/// How many could not be written.
fn write(sink: &Sink, lines: &[Vec<u8>]) -> u64 {
    match sink {
        Sink::Stderr if lines.is_empty() => 0,
        Sink::Stderr => match io::stderr().write_all(&lines.concat()) {
            Ok(()) => 0,
            Err(_) => lines.len() as u64,
        },
        // By its path each time: it is another socket after the journal was set up anew.
        Sink::Journal(socket) => {
            let failed = lines
                .iter()
                .filter(|line| socket.send_to(line, JOURNAL).is_err());
            failed.count() as u64
        }
    }
}
