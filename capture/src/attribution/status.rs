//! What `/proc/PID/status` says, of any process and to anybody (proc(5)).

use super::process::Handle;

/// It is about 1.5 KiB, and longer with the groups of its user.
const MOST: usize = 256 << 10;

/// Where a process stands among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    /// The process; another number than it was asked by, if that was a thread's.
    pub(super) process: u32,
    /// 0: it is outside of our process namespace, or there is none.
    pub(super) parent: u32,
    /// The real user.
    pub(super) uid: u32,
    /// `None`: a kernel without process namespaces does not say. 0: outside of ours.
    pub(super) session: Option<u32>,
}

impl Handle {
    pub(super) fn status(&self) -> Option<Status> {
        Status::parse(&self.read("status", MOST)?)
    }
}

impl Status {
    /// The name of a program stands in the first line; a line break in it is escaped.
    fn parse(text: &[u8]) -> Option<Status> {
        let first = |key: &[u8]| -> Option<u32> {
            let line = text
                .split(|byte| *byte == b'\n')
                .find_map(|line| line.strip_prefix(key))?;
            let words = std::str::from_utf8(line).ok()?;
            words.split_whitespace().next()?.parse().ok()
        };
        Some(Status {
            process: first(b"Tgid:")?,
            parent: first(b"PPid:")?,
            uid: first(b"Uid:")?,
            session: first(b"NSsid:"),
        })
    }

    /// Whether the parent can only be the one that started it: a child is in its parent's session, until it makes one of its
    /// own. Whoever adopted it may be in any.
    pub(super) fn is_born_to(&self, parent: &Status) -> bool {
        self.session.is_some() && self.session == parent.session
    }

    /// Whether the parent cannot be the one that started it, unless that has made a session of its own since.
    pub(super) fn is_adopted_by(&self, parent: &Status) -> bool {
        self.session != parent.session && self.session != Some(self.process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let text = b"Name:\tPPid:\\n7\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t812\nNgid:\t0\nPid:\t813\n\
            PPid:\t800\nTracerPid:\t0\nUid:\t1000\t0\t0\t0\nGid:\t1000\t1000\t1000\t1000\nNSsid:\t790\t1\n";
        let expected = Status {
            process: 812,
            parent: 800,
            uid: 1000,
            session: Some(790),
        };
        assert_eq!(Status::parse(text), Some(expected));
        assert_eq!(Status::parse(b"Name:\tx\nTgid:\t1\n"), None);
        assert_eq!(Status::parse(b"Tgid:\t1\nPPid:\t-\nUid:\t0\n"), None);
    }

    #[test]
    fn a_parent_and_whoever_adopted_it() {
        let status = |process, session| Status {
            process,
            parent: 1,
            uid: 1000,
            session,
        };
        let (child, leader) = (status(9, Some(5)), status(9, Some(9)));
        assert!(child.is_born_to(&status(5, Some(5))) && !child.is_adopted_by(&status(5, Some(5))));
        assert!(!child.is_born_to(&status(3, Some(3))) && child.is_adopted_by(&status(3, Some(3))));
        assert!(
            !leader.is_born_to(&status(3, Some(3))) && !leader.is_adopted_by(&status(3, Some(3)))
        );
        assert!(!status(9, None).is_born_to(&status(3, None)));
    }
}
