//! Where sockets were seen: a process that opens many connections is not searched through for each of them.
//!
//! What is remembered is only a hint where to look. An answer is what the descriptor shows now, in a process that is still
//! the one it was.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Owner;
use super::process::Handle;

/// Processes that were found before and are asked first. Each takes a descriptor.
const PROCESSES: usize = 128;
/// Of these, so many are asked for what they opened since, and so many are looked through whole.
const RECENT: usize = 4;
const LOOKED_THROUGH: usize = 32;
/// Sockets whose descriptor is remembered, of all processes.
const SOCKETS: usize = 16_384;
/// How far behind the last descriptor found the next ones are looked for, and how many gaps end that.
const AHEAD: u32 = 64;
const GAPS: u32 = 4;

/// A process that holds the socket asked for.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) process: Arc<Handle>,
    descriptor: u32,
}

/// Where a socket was seen.
#[derive(Debug, Clone, Copy)]
struct Sight {
    pid: u32,
    descriptor: u32,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The last hit first.
    processes: VecDeque<Holder>,
    /// By the socket's inode.
    sockets: HashMap<u64, Sight>,
}

impl Memory {
    /// Looks where the socket was seen, then at what the last processes opened since: some microseconds.
    pub(super) fn recall(&mut self, owner: &Owner) -> Option<Holder> {
        if let Some(sight) = self.sockets.get(&owner.inode).copied()
            && let Some(process) = self.process(sight.pid)
            && process.uid == owner.uid
            && process.socket_at(sight.descriptor) == Some(owner.inode)
        {
            return Some(Holder {
                process,
                descriptor: sight.descriptor,
            });
        }
        self.known(owner.uid, RECENT)
            .iter()
            .find_map(|known| self.look_ahead(known, owner.inode))
    }

    /// Looks through all descriptors of the processes that were found last.
    pub(super) fn look_through(&mut self, owner: &Owner) -> Option<Holder> {
        self.known(owner.uid, LOOKED_THROUGH)
            .iter()
            .find_map(|known| self.scan(&known.process, owner.inode))
    }

    /// Remembers who was found, to be asked first.
    pub(super) fn keep(&mut self, holder: Holder) {
        let pid = holder.process.pid;
        self.processes.retain(|known| known.process.pid != pid);
        self.processes.push_front(holder);
        self.processes.truncate(PROCESSES);
    }

    /// Looks through the descriptors of a process for a socket, and remembers those it comes by: all of them, if the process was
    /// found before and so opens more than one. One that is gone is forgotten.
    pub(super) fn scan(&mut self, process: &Arc<Handle>, inode: u64) -> Option<Holder> {
        let descriptors = process.descriptors().unwrap_or_default();
        if !descriptors.is_empty() {
            return self.look_at(process, descriptors, inode);
        }
        self.processes
            .retain(|known| !Arc::ptr_eq(&known.process, process));
        let process = Arc::new(process.by_another_thread()?);
        let descriptors = process.descriptors().ok()?;
        self.look_at(&process, descriptors, inode)
    }

    fn look_at(
        &mut self,
        process: &Arc<Handle>,
        descriptors: Vec<u32>,
        inode: u64,
    ) -> Option<Holder> {
        let is_known = self.knows(process);
        let mut found = None;
        for descriptor in descriptors {
            let Some(seen) = process.socket_at(descriptor) else {
                continue;
            };
            let holder = self.see(process, descriptor, seen);
            if seen == inode {
                found = Some(holder);
                if !is_known {
                    break;
                }
            }
        }
        found
    }

    /// Whether this very process was found before.
    pub(super) fn knows(&self, process: &Arc<Handle>) -> bool {
        let mut known = self.processes.iter();
        known.any(|known| Arc::ptr_eq(&known.process, process))
    }

    /// The same process as it was found before, if it was.
    pub(super) fn known_as(&self, process: Handle) -> Arc<Handle> {
        let known = self.found(process.pid);
        known
            .filter(|known| known.is_alive())
            .unwrap_or_else(|| Arc::new(process))
    }

    /// The process of that number, if there is one: as it is remembered.
    fn process(&self, pid: u32) -> Option<Arc<Handle>> {
        self.found(pid).or_else(|| Handle::open(pid).map(Arc::new))
    }

    fn found(&self, pid: u32) -> Option<Arc<Handle>> {
        let known = self.processes.iter().find(|known| known.process.pid == pid);
        known.map(|known| Arc::clone(&known.process))
    }

    fn known(&self, uid: u32, most: usize) -> Vec<Holder> {
        let of_user = self
            .processes
            .iter()
            .filter(|known| known.process.uid == uid);
        of_user.take(most).cloned().collect()
    }

    /// A program that opens many connections gives them rising descriptors.
    fn look_ahead(&mut self, known: &Holder, inode: u64) -> Option<Holder> {
        let mut gaps = 0;
        for descriptor in known.descriptor..known.descriptor.saturating_add(AHEAD) {
            match known.process.socket_at(descriptor) {
                Some(seen) => {
                    let holder = self.see(&known.process, descriptor, seen);
                    if seen == inode {
                        return Some(holder);
                    }
                }
                None => gaps += 1,
            }
            if gaps == GAPS {
                return None;
            }
        }
        None
    }

    fn see(&mut self, process: &Arc<Handle>, descriptor: u32, inode: u64) -> Holder {
        if self.sockets.len() >= SOCKETS {
            self.sockets.clear();
        }
        let pid = process.pid;
        let sight = Sight { pid, descriptor };
        self.sockets.insert(inode, sight);
        Holder {
            process: Arc::clone(process),
            descriptor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};

    fn own() -> Arc<Handle> {
        Arc::new(Handle::open(std::process::id()).unwrap())
    }

    fn owner(socket: &UnixDatagram) -> Owner {
        // fstat of a socket gives the same number (proc(5)).
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let own = std::fs::metadata(path).unwrap();
        Owner {
            uid: own.uid(),
            inode: own.ino(),
        }
    }

    #[test]
    fn a_socket_is_found_by_scan_then_by_sight() {
        let socket = UnixDatagram::unbound().unwrap();
        let owner = owner(&socket);
        let mut memory = Memory::default();
        assert!(memory.recall(&owner).is_none(), "nothing is remembered yet");
        let own = own();
        let found = memory.scan(&own, owner.inode).unwrap();
        assert_eq!(i64::from(found.descriptor), i64::from(socket.as_raw_fd()));
        assert_eq!(memory.recall(&owner).unwrap().descriptor, found.descriptor);
        let other = Owner {
            uid: owner.uid + 1,
            ..owner
        };
        assert!(memory.recall(&other).is_none(), "another user's");
        drop((found, own));
        assert!(memory.recall(&owner).is_some(), "the sight remains");
    }

    #[test]
    fn what_was_closed_is_not_found_where_it_was() {
        let socket = UnixDatagram::unbound().unwrap();
        let owner = owner(&socket);
        let mut memory = Memory::default();
        let found = memory.scan(&own(), owner.inode).unwrap();
        memory.keep(found);
        drop(socket);
        assert!(memory.recall(&owner).is_none());
        assert!(memory.look_through(&owner).is_none());
    }

    #[test]
    fn a_process_that_has_ended_is_found_no_more() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Arc::new(Handle::open(child.id()).unwrap());
        assert!(process.binary().is_some() && process.descriptors().is_ok());
        let mut memory = Memory::default();
        memory.keep(Holder {
            process: Arc::clone(&process),
            descriptor: 0,
        });
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(process.binary().is_none() && process.socket_at(0).is_none());
        assert!(memory.scan(&process, 1).is_none());
        assert!(memory.processes.is_empty(), "forgotten");
    }
}
