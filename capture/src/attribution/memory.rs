//! Where sockets were seen: a process that opens many connections is not searched through for each of them.
//!
//! What is remembered is only a hint where to look. An answer is what the descriptor shows now, in a process that is still
//! the one it was.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use super::{Owner, binary, started};

/// Processes that were found before and are asked first.
const PROCESSES: usize = 32;
/// Of these, so many are asked for what they opened since.
const RECENT: usize = 4;
/// Sockets whose descriptor is remembered, of all processes.
const SOCKETS: usize = 16_384;
/// How far behind the last descriptor found the next ones are looked for, and how many gaps end that.
const AHEAD: u32 = 64;
const GAPS: u32 = 4;

/// One process, and no other that is given its pid later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pid: u32,
    uid: u32,
    /// In clock ticks since boot.
    started: u64,
}

impl Identity {
    pub(super) fn of(pid: u32, uid: u32) -> Option<Identity> {
        started(pid).map(|started| Identity { pid, uid, started })
    }
}

/// A process that holds the socket asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    process: Identity,
    descriptor: u32,
}

impl Holder {
    /// Its binary; `None` when it is gone, also when another has its pid by now.
    pub(super) fn binary(self) -> Option<PathBuf> {
        let path = binary(self.pid)?;
        self.lives().then_some(path)
    }

    /// Whether the process that was seen is the one that has its pid now.
    pub(super) fn lives(self) -> bool {
        started(self.pid) == Some(self.process.started)
    }
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The last hit first.
    processes: Vec<Holder>,
    /// By the socket's inode.
    sockets: HashMap<u64, Holder>,
}

impl Memory {
    /// Looks where the socket was seen, then at what the last processes opened since, then through all of them.
    pub(super) fn recall(&mut self, owner: &Owner) -> Option<Holder> {
        if let Some(holder) = self.sockets.get(&owner.inode).copied()
            && holder.process.uid == owner.uid
            && socket_at(holder.pid, holder.descriptor) == Some(owner.inode)
        {
            return Some(holder);
        }
        let known: Vec<Holder> = self
            .processes
            .iter()
            .filter(|known| known.process.uid == owner.uid)
            .copied()
            .collect();
        let opened_since = |known: &Holder| self.look_ahead(*known, owner.inode);
        if let Some(holder) = known.iter().take(RECENT).find_map(opened_since) {
            return Some(holder);
        }
        known
            .iter()
            .find_map(|known| self.scan(known.process, owner.inode))
    }

    /// Remembers who was found, to be asked first.
    pub(super) fn keep(&mut self, holder: Holder) {
        self.processes.retain(|known| known.pid != holder.pid);
        self.processes.insert(0, holder);
        self.processes.truncate(PROCESSES);
    }

    /// Forgets all that was seen of whoever had this pid.
    pub(super) fn forget(&mut self, pid: u32) {
        self.processes.retain(|known| known.pid != pid);
        self.sockets.retain(|_, holder| holder.pid != pid);
    }

    /// Looks through all descriptors of a process, and remembers its sockets.
    pub(super) fn scan(&mut self, process: Identity, inode: u64) -> Option<Holder> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid)).ok()?;
        let mut found = None;
        for entry in descriptors.flatten() {
            let descriptor = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(descriptor) = descriptor
                && let Some(seen) = socket_at(process.pid, descriptor)
            {
                let holder = self.see(process, descriptor, seen);
                found = found.or((seen == inode).then_some(holder));
            }
        }
        found
    }

    /// A program that opens many connections gives them rising descriptors.
    fn look_ahead(&mut self, known: Holder, inode: u64) -> Option<Holder> {
        let mut gaps = 0;
        for descriptor in known.descriptor..known.descriptor.saturating_add(AHEAD) {
            match socket_at(known.pid, descriptor) {
                Some(seen) if seen == inode => {
                    return Some(self.see(known.process, descriptor, seen));
                }
                Some(seen) => {
                    self.see(known.process, descriptor, seen);
                }
                None => gaps += 1,
            }
            if gaps == GAPS {
                return None;
            }
        }
        None
    }

    fn see(&mut self, process: Identity, descriptor: u32, inode: u64) -> Holder {
        let pid = process.pid;
        let holder = Holder {
            pid,
            process,
            descriptor,
        };
        if self.sockets.len() >= SOCKETS {
            self.sockets.clear();
        }
        self.sockets.insert(inode, holder);
        holder
    }
}

/// The inode of the socket behind a descriptor: the link reads `socket:[INODE]` (proc(5), `/proc/PID/fd`).
fn socket_at(pid: u32, descriptor: u32) -> Option<u64> {
    let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok()?;
    let inode = target
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?;
    inode.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Attributor;
    use super::*;
    use crate::sock_diag::Diag;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixDatagram;

    fn own() -> Identity {
        Identity::of(std::process::id(), 0).unwrap()
    }

    fn inode(socket: &UnixDatagram) -> u64 {
        // fstat of a socket gives the same number (proc(5)).
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn a_socket_is_found_by_scan_then_by_sight() {
        let socket = UnixDatagram::unbound().unwrap();
        let owner = Owner {
            uid: 0,
            inode: inode(&socket),
        };
        let mut memory = Memory::default();
        assert_eq!(memory.recall(&owner), None, "nothing is remembered yet");
        let found = memory.scan(own(), owner.inode).unwrap();
        assert_eq!(i64::from(found.descriptor), i64::from(socket.as_raw_fd()));
        assert_eq!(memory.recall(&owner), Some(found));
        let other = Owner { uid: 1000, ..owner };
        assert_eq!(memory.recall(&other), None, "another user's");
    }

    #[test]
    fn what_was_closed_is_not_found_where_it_was() {
        let socket = UnixDatagram::unbound().unwrap();
        let owner = Owner {
            uid: 0,
            inode: inode(&socket),
        };
        let mut memory = Memory::default();
        let found = memory.scan(own(), owner.inode).unwrap();
        memory.keep(found);
        drop(socket);
        assert_eq!(memory.recall(&owner), None);
    }

    #[test]
    fn another_start_time_is_another_process() {
        let socket = UnixDatagram::unbound().unwrap();
        let mut memory = Memory::default();
        let mut process = own();
        process.started += 1;
        let found = memory.scan(process, inode(&socket)).unwrap();
        assert_eq!(found.binary(), None);
    }

    #[test]
    fn a_pid_that_was_given_anew_is_found_anew() {
        let (seen, later) = (
            UnixDatagram::unbound().unwrap(),
            UnixDatagram::unbound().unwrap(),
        );
        let mut dead = own();
        dead.started -= 1;
        let mut memory = Memory::default();
        let found = memory.scan(dead, inode(&seen)).unwrap();
        memory.keep(found);
        // Where it was seen, and where it is looked for next.
        memory.sockets.remove(&inode(&later));
        let mut attributor = Attributor {
            diag: Diag::open().unwrap(),
            processes: memory,
        };
        for socket in [seen, later] {
            let owner = Owner {
                uid: 0,
                inode: inode(&socket),
            };
            let process = attributor.process(&owner).unwrap();
            assert_eq!(process.pid, std::process::id());
            let kept = attributor.processes.recall(&owner).unwrap();
            assert_eq!(kept.process, own());
        }
    }
}
