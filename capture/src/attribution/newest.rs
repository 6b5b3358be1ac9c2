//! The processes that were started last: most connections are those of a program that was just started.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use super::process::Handle;

/// So many numbers back from the last that was given.
const NUMBERS: u32 = 64;
/// Three loads, what runs of how many, and the number: the kernel gives the whole line to the first read.
const LINE: usize = 256;
/// A program that has just started this many threads hides who came before it.
const AGAIN: u32 = 8;

/// Those of a user, the newest first.
pub(super) fn of_user(uid: u32) -> impl Iterator<Item = Handle> {
    let last = last_given().unwrap_or(0);
    let mut numbers = last.saturating_sub(NUMBERS).max(1)..=last;
    let mut met = Met::default();
    std::iter::from_fn(move || {
        while met.again < AGAIN {
            let found = Handle::open(numbers.next_back()?).filter(|found| found.uid == uid);
            let process = found.and_then(|found| met.meet(found));
            if let Some(process) = process.filter(|process| process.uid == uid) {
                return Some(process);
            }
        }
        None
    })
}

/// Processes with threads that were met: these take numbers as well.
#[derive(Default)]
struct Met {
    processes: Vec<u32>,
    again: u32,
}

impl Met {
    /// The number of a thread opens its process. `None`: that was met before.
    fn meet(&mut self, found: Handle) -> Option<Handle> {
        if !found.has_threads() {
            return Some(found);
        }
        let process = found.status()?.process;
        if self.processes.contains(&process) {
            self.again += 1;
            return None;
        }
        self.processes.push(process);
        if process == found.pid {
            return Some(found);
        }
        Handle::open(process)
    }
}

/// The number of the last process or thread that was made in our process namespace (proc(5), `/proc/loadavg`).
pub(super) fn last_given() -> Option<u32> {
    static LOADS: OnceLock<Option<File>> = OnceLock::new();
    let loads = LOADS.get_or_init(|| File::open("/proc/loadavg").ok());
    let mut line = [0; LINE];
    let length = loads.as_ref()?.read_at(&mut line, 0).ok()?;
    let line = std::str::from_utf8(line.get(..length)?).ok()?;
    line.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_program_that_was_just_started_is_among_them() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let uid = Handle::open(std::process::id()).unwrap().uid;
        let found: Vec<u32> = of_user(uid).map(|handle| handle.pid).collect();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(
            found.contains(&child.id()),
            "{} not in {found:?}",
            child.id()
        );
        let mut once = found.clone();
        once.dedup();
        assert_eq!(once, found);
    }
}
