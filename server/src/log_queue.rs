//! Between those who log and where the log goes: a bounded queue and a thread that writes, so that a
//! journal or a terminal that takes no lines keeps no stream waiting.
//!
//! Half of the queue is for the audit alone, and streams are not opened any more once that half is
//! needed ([`has_room`]). What finds no place at all is counted, and the number is written later.
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::audit;

/// Lines that may wait; each has at most a few KiB.
const LINES: usize = 2048;
/// Lines that are written with one call.
const BATCH: usize = 64;
/// Time for what still waits when the program ends.
const FLUSH: Duration = Duration::from_secs(2);
/// systemd-journald.service(8): the native protocol, one datagram for each entry.
pub(crate) const JOURNAL: &str = "/run/systemd/journal/socket";

static WAITING: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

/// Can the audit of one more stream be written? To be asked before it is opened.
pub(crate) fn has_room() -> bool {
    WAITING.load(Ordering::Relaxed) < LINES / 2
}

/// Counts lines that are not written.
pub(crate) fn lose(lines: u64) {
    LOST.fetch_add(lines, Ordering::Relaxed);
}

enum Message {
    Line(Vec<u8>),
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
    pub(crate) fn start(sink: Sink) -> io::Result<Self> {
        // One more, for a flush.
        let (sender, receiver) = sync_channel(LINES + 1);
        let writer = thread::Builder::new().name("log".to_owned());
        writer.spawn(move || write_all(&receiver, &sink))?;
        Ok(Self(sender))
    }

    /// Never waits.
    pub(crate) fn put(&self, target: &str, line: Vec<u8>) {
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
        } else if self.0.try_send(Message::Line(line)).is_err() {
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

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.flush();
    }
}

fn write_all(queue: &Receiver<Message>, sink: &Sink) {
    while let Ok(first) = queue.recv() {
        let mut lines = Vec::new();
        let mut flushed = Vec::new();
        let more = std::iter::from_fn(|| queue.try_recv().ok());
        for message in std::iter::once(first).chain(more.take(BATCH)) {
            match message {
                Message::Line(line) => lines.push(line),
                Message::Flush(done) => flushed.push(done),
            }
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
    }
}

fn say_lost() {
    let lines = LOST.swap(0, Ordering::Relaxed);
    if lines > 0 {
        tracing::error!(target: audit::TARGET, event = "lost", lines, "lines could not be written");
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
