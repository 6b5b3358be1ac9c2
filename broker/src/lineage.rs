//! From which processes a program descends, and which shell two programs have in common.
//!
//! A process is its pid and when it started: a pid alone may be another's by now.

use std::io::Read as _;

/// Generations that are looked at.
const DEEPEST: usize = 64;
/// The longest `/proc/PID/stat` there is has some 400 bytes.
const LONGEST: u64 = 4096;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kin {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since the system did.
    started: u64,
    /// The leader of its session; 0 when that one is out of sight.
    session: u32,
    /// The one that started it, or took it over; 0 when out of sight.
    parent: u32,
}

/// A process and those from which it descends, as far as they were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage(Vec<Kin>);

/// What two programs have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinship {
    /// Both descend from this process, which is in the session of the one that asks.
    Process(u32),
    /// Only the session that this process leads.
    Session(u32),
}

impl Lineage {
    /// The process alone: one look. `None`: it is gone.
    pub fn begin(pid: u32) -> Option<Self> {
        Some(Self(vec![Kin::look(pid)?]))
    }

    /// The process and its ancestors.
    pub fn of(pid: u32) -> Option<Self> {
        let mut lineage = Self::begin(pid)?;
        lineage.complete();
        Some(lineage)
    }

    /// Adds the ancestors that are not there yet. Those of a process that has ended meanwhile are found through its parent.
    pub fn complete(&mut self) {
        while let Some(last) = self.0.last().filter(|_| self.0.len() < DEEPEST) {
            // Who started later has got the pid of a parent that is gone.
            match Kin::look(last.parent).filter(|parent| parent.started <= last.started) {
                Some(parent) => self.0.push(parent),
                None => return,
            }
        }
    }

    /// Processes of the session up to its leader: shells and scripts around a command. The command itself too, as a shell may
    /// have become its last command.
    fn shells(&self) -> impl Iterator<Item = &Kin> {
        let session = self.0.first().map(|own| own.session);
        let processes = self.0.iter();
        processes.take_while(move |kin| Some(kin.session) == session)
    }

    fn session(&self) -> Option<u32> {
        self.0.first().map(|own| own.session).filter(|id| *id != 0)
    }

    fn includes(&self, process: &Kin) -> bool {
        let is_it = |own: &Kin| (own.pid, own.started) == (process.pid, process.started);
        self.0.iter().any(is_it)
    }

    /// Of `candidates`, the best first, the one that is nearest to this process: the first that descends from it, else from its
    /// parent, else from the one above, up to the leader of its session; else the first of its session.
    pub fn nearest<'a, T>(&self, candidates: &'a [(T, Lineage)]) -> Option<(&'a T, Kinship)> {
        let by_process = self.shells().find_map(|shell| {
            let found = candidates.iter().find(|(_, other)| other.includes(shell));
            found.map(|(found, _)| (found, Kinship::Process(shell.pid)))
        });
        by_process.or_else(|| {
            let session = self.session()?;
            let mut same = candidates.iter();
            let found = same.find(|(_, other)| other.session() == Some(session));
            found.map(|(found, _)| (found, Kinship::Session(session)))
        })
    }
}

impl Kin {
    fn look(pid: u32) -> Option<Self> {
        if pid == 0 {
            return None;
        }
        let file = std::fs::File::open(format!("/proc/{pid}/stat")).ok()?;
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text).ok()?;
        Self::parse(pid, &text)
    }

    /// Reads `PID (COMM) STATE PPID PGRP SESSION …`, in which the 22nd field is the time of start (proc_pid_stat(5)). COMM may
    /// have anything in it, parentheses too.
    fn parse(pid: u32, text: &[u8]) -> Option<Self> {
        let behind = text.iter().rposition(|byte| *byte == b')')? + 1;
        let fields = std::str::from_utf8(&text[behind..]).ok()?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // STATE is the third.
        let field = |number: usize| fields.get(number - 3);
        Some(Self {
            pid,
            parent: field(4)?.parse().ok()?,
            // Of kernel threads and processes of another pid namespace it may be negative or 0.
            session: field(6)?.parse().unwrap_or(0),
            started: field(22)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn reads_what_the_kernel_writes() {
        let rest = "S 7 42 40 34816 42 4194304 1 2 3 4 5 6 7 8 20 0 1 0 123456 10000 200";
        let expected = Kin {
            pid: 42,
            parent: 7,
            session: 40,
            started: 123_456,
        };
        for comm in ["bash", "a b", "a) S 1 1 1", "((", ""] {
            let text = format!("42 ({comm}) {rest}\n");
            assert_eq!(Kin::parse(42, text.as_bytes()), Some(expected), "{comm}");
        }
        for text in ["", "42", "42 (x", "42 (x) S 7", "42 (x) S x 42 40 0"] {
            assert_eq!(Kin::parse(42, text.as_bytes()), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Kin::parse(1, &bytes);
        }
    }

    #[test]
    fn a_child_descends_from_us() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let lineage = Lineage::of(child.id()).unwrap();
        let own = Kin::look(std::process::id()).unwrap();
        assert_eq!(lineage.0[1], own);
        assert!(lineage.includes(&own));
        let mut begun = Lineage::begin(child.id()).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(Lineage::begin(child.id()), None, "gone");
        begun.complete();
        assert_eq!(begun, lineage, "through its parent, which is still there");
    }

    fn kin(pid: u32, session: u32) -> Kin {
        Kin {
            pid,
            started: u64::from(pid),
            session,
            parent: 0,
        }
    }

    fn line(pids: &[u32], session: u32) -> Lineage {
        // 1 and 2 are of a session of their own: what all users' shells descend from.
        let session_of = |pid: u32| if pid < 3 { 1 } else { session };
        Lineage(pids.iter().map(|pid| kin(*pid, session_of(*pid))).collect())
    }

    /// `20` is the shell of session 20, `30` that of session 30; both under the terminal `2`.
    #[track_caller]
    fn check(caller: &Lineage, candidates: &[(&str, Lineage)], expected: Option<(&str, Kinship)>) {
        let found = caller.nearest(candidates);
        assert_eq!(found.map(|(name, kinship)| (*name, kinship)), expected);
    }

    #[test]
    fn the_nearest_in_the_same_shell() {
        let caller = line(&[25, 20, 2, 1], 20);
        let same = line(&[21, 20, 2, 1], 20);
        let deeper = line(&[23, 22, 20, 2, 1], 20);
        let other = line(&[31, 30, 2, 1], 30);
        let shell = Some(("it", Kinship::Process(20)));
        check(&caller, &[("it", same.clone())], shell);
        check(&caller, &[("other", other.clone()), ("it", deeper)], shell);
        check(&caller, &[("other", other)], None);
        check(&caller, &[], None);
        // A shell that became what asks.
        let became = line(&[20, 2, 1], 20);
        check(&became, &[("it", same.clone())], shell);
        // In a script, what the script did goes before what its shell did later.
        let in_script = line(&[29, 28, 20, 2, 1], 20);
        let of_script = line(&[27, 28, 20, 2, 1], 20);
        let both = [("shell's", same), ("script's", of_script)];
        check(&in_script, &both, Some(("script's", Kinship::Process(28))));
    }

    #[test]
    fn a_pid_that_is_anothers_now_is_nobody() {
        let caller = line(&[25, 20, 2, 1], 20);
        let mut reused = line(&[21, 20, 2, 1], 19);
        reused.0[1].started += 1;
        check(&caller, &[("it", reused)], None);
    }

    #[test]
    fn the_session_where_the_parent_is_gone() {
        let caller = line(&[25, 20, 2, 1], 20);
        let orphan = line(&[21, 1], 20);
        check(
            &caller,
            &[("it", orphan)],
            Some(("it", Kinship::Session(20))),
        );
        // Sessions that are out of sight are all 0.
        let caller = line(&[25, 20], 0);
        check(&caller, &[("it", line(&[31, 30], 0))], None);
        let own = line(&[21, 20], 0);
        check(&caller, &[("it", own)], Some(("it", Kinship::Process(20))));
    }
}
