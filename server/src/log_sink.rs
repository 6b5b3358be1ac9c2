//! The log as a stream of lines, or as entries of the journal; what was not taken stays and can be tried
//! again.
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::log_queue::{BATCH, GATHERING};

/// systemd-journald.service(8): the native protocol, one datagram for each entry.
pub(crate) const JOURNAL: &str = "/run/systemd/journal/socket";

/// For a sink that takes nothing for a moment; beside it nothing else is written.
const SLOW: Duration = Duration::from_secs(1);

/// Where the log goes.
#[derive(Debug)]
pub(crate) enum Sink {
    Stderr,
    Journal(UnixDatagram),
}

/// A sink, and the lines that it has not taken yet. How many can wait is for the caller to bound.
#[derive(Debug)]
pub(crate) struct SinkQueue {
    sink: Sink,
    lines: VecDeque<Vec<u8>>,
}

impl fmt::Display for SinkQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.sink {
            Sink::Stderr => "standard error",
            Sink::Journal(_) => "the journal",
        })
    }
}

impl SinkQueue {
    pub(crate) fn new(sink: Sink) -> Self {
        let lines = VecDeque::new();
        Self { sink, lines }
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.lines.is_empty()
    }

    /// To be written with the next [`SinkQueue::write`].
    pub(crate) fn put(&mut self, line: Vec<u8>) {
        self.lines.push_back(line);
    }

    /// Writes what waits: how many lines went, and why the others did not.
    pub(crate) fn write(&mut self) -> (usize, io::Result<()>) {
        let before = self.lines.len();
        let written = match &self.sink {
            Sink::Stderr => write_lines(io::stderr(), &mut self.lines),
            Sink::Journal(socket) => send_entries(socket, Path::new(JOURNAL), &mut self.lines),
        };
        (before - self.lines.len(), written)
    }

    /// Drops what waits: how many lines that was.
    pub(crate) fn forget(&mut self) -> usize {
        std::mem::take(&mut self.lines).len()
    }
}

/// What was taken of a line is not written again.
fn write_lines(mut to: impl Write, lines: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
    let mut since = Instant::now();
    while !lines.is_empty() {
        let batch: Vec<&[u8]> = lines.iter().take(BATCH).map(Vec::as_slice).collect();
        match to.write(&batch.concat()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                take(lines, written);
                since = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A terminal or pipe that others have made so: slow, or nobody reads there any more.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && since.elapsed() < SLOW => {
                thread::sleep(GATHERING);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn take(lines: &mut VecDeque<Vec<u8>>, mut bytes: usize) {
    while let Some(first) = lines.front_mut() {
        if bytes < first.len() {
            first.drain(..bytes);
            return;
        }
        bytes -= first.len();
        lines.pop_front();
    }
}

fn send_entries(socket: &UnixDatagram, to: &Path, lines: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
    while let Some(first) = lines.front() {
        // By its path each time: it is another socket after the journal was set up anew.
        match socket.send_to(first, to) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // It never will fit, and would stand before all others.
            Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
                crate::log_queue::lose(1);
            }
            Err(error) => return Err(error),
        }
        lines.pop_front();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and then nothing more.
    struct Disk {
        room: usize,
        written: Vec<u8>,
    }

    impl Write for &mut Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let fits = bytes.len().min(self.room);
            self.room -= fits;
            self.written.extend_from_slice(&bytes[..fits]);
            match fits {
                0 => Err(io::ErrorKind::StorageFull.into()),
                fits => Ok(fits),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_not_taken_waits_and_nothing_is_written_twice() {
        let mut lines: VecDeque<_> = (0..200)
            .map(|n| format!("line {n}\n").into_bytes())
            .collect();
        let whole: Vec<u8> = lines.iter().flatten().copied().collect();
        let mut disk = Disk {
            room: 1000,
            written: Vec::new(),
        };
        let full = write_lines(&mut disk, &mut lines).expect_err("no room");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(lines.len() > 50 && lines.len() < 200);
        disk.room = usize::MAX;
        write_lines(&mut disk, &mut lines).expect("room");
        assert!(lines.is_empty() && disk.written == whole);
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_given_up_and_keeps_what_it_did_not_take() {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).expect("pipe");
        let mut pipe = std::fs::File::from(write);
        let mut lines = VecDeque::from([vec![b'x'; 1 << 20]]);
        let given_up = write_lines(&mut pipe, &mut lines).expect_err("full");
        assert_eq!(given_up.kind(), io::ErrorKind::WouldBlock);
        assert!(!lines[0].is_empty());
        drop(read);
    }

    #[test]
    fn entries_wait_for_a_journal_that_is_not_there() {
        let directory = tempfile::tempdir().expect("directory");
        let at = directory.path().join("socket");
        let socket = UnixDatagram::unbound().expect("socket");
        let mut lines = VecDeque::from([b"one".to_vec(), b"two".to_vec()]);
        assert!(send_entries(&socket, &at, &mut lines).is_err() && lines.len() == 2);
        let journal = UnixDatagram::bind(&at).expect("bind");
        send_entries(&socket, &at, &mut lines).expect("sent");
        let mut entry = [0; 8];
        for expected in [b"one", b"two"] {
            let length = journal.recv(&mut entry).expect("entry");
            assert_eq!(&entry[..length], expected);
        }
        // One that no datagram can hold stands before no others.
        let mut lines = VecDeque::from([vec![0; 64 << 20], b"three".to_vec()]);
        send_entries(&socket, &at, &mut lines).expect("sent");
        assert_eq!(journal.recv(&mut entry).expect("entry"), 5);
    }
}
