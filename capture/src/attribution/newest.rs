//! The processes that were started last: most connections are those of a program that was just started.

use std::fs;

use super::process::Handle;

/// So many numbers back from the last that was given.
const NUMBERS: u32 = 64;

/// Those of a user, the newest first.
pub(super) fn of_user(uid: u32) -> impl Iterator<Item = Handle> {
    let last = last_given().unwrap_or(0);
    let mut met: Vec<u32> = Vec::new();
    let numbers = last.saturating_sub(NUMBERS).max(1)..=last;
    numbers.rev().filter_map(move |number| {
        let found = Handle::open(number).filter(|found| found.uid == uid)?;
        // The number of a thread opens its process, and threads take numbers as well.
        if !found.has_threads() {
            return Some(found);
        }
        let process = found.status()?.process;
        if met.contains(&process) {
            return None;
        }
        met.push(process);
        if process == number {
            return Some(found);
        }
        Handle::open(process).filter(|found| found.uid == uid)
    })
}

/// The number of the last process or thread that was made in our process namespace (proc(5), `/proc/loadavg`).
fn last_given() -> Option<u32> {
    let line = fs::read_to_string("/proc/loadavg").ok()?;
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
