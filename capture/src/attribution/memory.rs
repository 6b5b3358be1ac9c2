//! Where sockets were seen: a process that opens many connections is not searched through for each of them.
//!
//! What is remembered is only a hint where to look. An answer is what the descriptor shows now, in a process that is still
//! the one it was.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Owner;
use super::process::{Ended, Handle};

/// Processes that were found before and are asked first. Each takes a descriptor.
const PROCESSES: usize = 128;
/// Of these, so many are asked for what they opened since, and so many are looked through whole.
const RECENT: usize = 4;
const LOOKED_THROUGH: usize = 32;
/// Sockets whose descriptor is remembered, of all processes.
const SOCKETS: usize = 16_384;
/// How far above and below the last descriptor found the next ones are looked for, and how many gaps end that.
const ABOVE: u32 = 64;
const BELOW: u32 = 4;
const GAPS: u32 = 4;
/// To list more descriptors than this costs more than to try the highest ones first, which are the newest mostly.
const FEW: u32 = 8;
/// So many are tried.
const HIGHEST: u32 = 4;

/// A process that holds the socket asked for.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) process: Arc<Handle>,
    descriptor: u32,
}

/// What a descriptor is.
enum Looked {
    Found(Holder),
    Another,
    /// No socket, or none at all.
    Gap,
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

impl Holder {
    /// Whether no program that its process starts can have the socket from it, and it has it from none itself: what is closed when a
    /// program is started was opened since. `false` also where that is not known.
    pub(super) fn keeps_it_to_itself(&self) -> bool {
        self.process.closes_on_exec(self.descriptor) == Some(true)
    }
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
        let mut alive = 0;
        for known in self.known(owner.uid, PROCESSES) {
            match self.look_nearby(&known, owner.inode) {
                Ok(Some(holder)) => return Some(holder),
                Ok(None) => alive += 1,
                Err(Ended) => self.forget(&known.process),
            }
            if alive == RECENT {
                break;
            }
        }
        None
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
        if !self.knows(process)
            && let Some(holder) = self.try_highest(process, inode)
        {
            return Some(holder);
        }
        let descriptors = process.descriptors().unwrap_or_default();
        if !descriptors.is_empty() {
            return self.look_at(process, descriptors, inode);
        }
        self.forget(process);
        let process = Arc::new(process.by_another_thread()?);
        let descriptors = process.descriptors().ok()?;
        self.look_at(&process, descriptors, inode)
    }

    /// Looks where the socket is mostly, if it is in that process: in the highest descriptors, or in all where they are few.
    /// `None` says nothing.
    pub(super) fn glance(&mut self, process: &Arc<Handle>, inode: u64) -> Option<Holder> {
        match process.descriptor_count()? {
            ..=FEW => self.scan(process, inode),
            _ => self.try_highest(process, inode),
        }
    }

    fn try_highest(&mut self, process: &Arc<Handle>, inode: u64) -> Option<Holder> {
        let count = process.descriptor_count().filter(|count| *count > FEW)?;
        let mut highest = (count.saturating_sub(HIGHEST)..count).rev();
        let descriptor = highest.find(|at| process.socket_at(*at) == Some(inode))?;
        Some(self.see(process, descriptor, inode))
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

    /// A program's next connection has the descriptor of one that it closed, or the next one.
    fn look_nearby(&mut self, known: &Holder, inode: u64) -> Result<Option<Holder>, Ended> {
        let last = known.descriptor;
        let mut look = |descriptor| -> Result<Looked, Ended> {
            let Some(seen) = known.process.living_socket_at(descriptor)? else {
                return Ok(Looked::Gap);
            };
            let holder = self.see(&known.process, descriptor, seen);
            Ok(match seen == inode {
                true => Looked::Found(holder),
                false => Looked::Another,
            })
        };
        let next = [last, last.saturating_add(1)];
        let below = (last.saturating_sub(BELOW)..last).rev();
        for descriptor in next.into_iter().chain(below) {
            if let Looked::Found(holder) = look(descriptor)? {
                return Ok(Some(holder));
            }
        }
        let mut gaps = 0;
        for descriptor in last.saturating_add(2)..last.saturating_add(ABOVE) {
            match look(descriptor)? {
                Looked::Found(holder) => return Ok(Some(holder)),
                Looked::Another => {}
                Looked::Gap => gaps += 1,
            }
            if gaps == GAPS {
                break;
            }
        }
        Ok(None)
    }

    fn forget(&mut self, process: &Arc<Handle>) {
        self.processes
            .retain(|known| !Arc::ptr_eq(&known.process, process));
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
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;
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
    fn the_descriptor_below_the_last_one_is_tried() {
        let sockets = [(); 2].map(|()| UnixDatagram::unbound().unwrap());
        let [below, above] = sockets.each_ref().map(|socket| socket.as_raw_fd());
        let [first, second] = sockets.each_ref().map(owner);
        let process = own();
        let last = u32::try_from(below.max(above)).unwrap();
        let other = if below > above { second } else { first };
        // As much lower as others opened descriptors in between; of them, only the nearest are tried.
        let descriptor = last - below.abs_diff(above).saturating_sub(1);
        let mut memory = Memory::default();
        memory.keep(Holder {
            process,
            descriptor,
        });
        let found = memory.recall(&other).unwrap();
        assert!(found.descriptor < descriptor);
    }

    /// A program with thirteen descriptors, and one more: a socket. `at`: what the shell makes of its standard input. It stands still: who
    /// starts another program opens libraries meanwhile.
    fn program(at: &str, socket: &UnixDatagram) -> std::process::Child {
        let open: String = (3..13).map(|it| format!("{it}</dev/null ")).collect();
        let others =
            "for it in /proc/$$/fd/*; do it=${it##*/}; [ $it -le 2 ] || eval \"exec $it>&-\"; done";
        // Other shells have no descriptors of two digits. It keeps what it had in those meanwhile, and closes them afterwards.
        let child = Command::new("bash")
            .args(["-c", &format!("{others}; exec {open} {at}; kill -STOP $$")])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(
                socket.try_clone().unwrap(),
            )))
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let stands = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(stands, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        child
    }

    #[test]
    fn a_glance_finds_the_newest_and_a_scan_all() {
        let socket = UnixDatagram::unbound().unwrap();
        let inode = owner(&socket).inode;
        for (at, is_newest) in [("13<&0 0</dev/null", true), ("13</dev/null", false)] {
            let mut child = program(at, &socket);
            let process = Arc::new(Handle::open(child.id()).unwrap());
            let mut memory = Memory::default();
            let glance = memory.glance(&process, inode);
            let scan = memory.scan(&process, inode).map(|it| it.descriptor);
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(glance.map(|it| it.descriptor), is_newest.then_some(13));
            assert_eq!(scan, Some(if is_newest { 13 } else { 0 }));
        }
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
        let asked = Owner {
            uid: process.uid,
            inode: 1,
        };
        assert!(memory.recall(&asked).is_none());
        assert!(memory.processes.is_empty(), "forgotten");
        assert!(memory.scan(&process, 1).is_none());
    }
}
