//! From a captured connection to the application that opened it: the kernel says which socket and user it is, `/proc` which
//! process of that user holds the socket, and what more rules may ask of that process.

mod ancestors;
mod cgroup;
mod hashes;
mod interpreter;
mod memory;
mod newest;
mod process;
mod script;
mod shebang;
mod status;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ancestors::Parent;
use memory::{Holder, Memory};
use process::{Binary, File, Handle};

pub use ancestors::Ancestors;
pub use hashes::Hashes;

use crate::sock_diag::{Diag, DiagError};

/// How far up a socket is followed that was handed down from parent to child.
const GENERATIONS: usize = 16;

/// How a process is looked at for a socket.
type Look = fn(&mut Memory, &Arc<Handle>, u64) -> Option<Holder>;

/// It cannot be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be found out")]
pub struct Unknowable;

/// The process that holds a socket.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The path of its binary, here as well as for the process itself.
    pub path: PathBuf,
    handle: Arc<Handle>,
    /// The file at that path when it was found.
    runs: File,
}

/// Whose a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The user that made the socket.
    pub uid: u32,
    /// The socket's inode.
    pub inode: u64,
}

/// Looks sockets up; blocking (some µs for a process that was found before, up to milliseconds for one that was not).
#[derive(Debug)]
pub struct Attributor {
    diag: Diag,
    processes: Memory,
}

impl Attributor {
    /// Opens the way to the kernel.
    ///
    /// # Errors
    /// When the netlink socket cannot be made.
    pub fn new() -> io::Result<Attributor> {
        Ok(Attributor {
            diag: Diag::open().map_err(io_error)?,
            processes: Memory::default(),
        })
    }

    /// Who owns exactly this connection: `source` as seen by accept, `destination` the original one. `None`: no such socket
    /// (any more).
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn owner(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> io::Result<Option<Owner>> {
        let found = self
            .diag
            .connection(source, destination)
            .map_err(io_error)?;
        Ok(found.map(|found| Owner {
            uid: found.uid,
            inode: found.inode,
        }))
    }

    /// Which process of that user holds the socket, if it is where the last ones were: some microseconds. `None` says nothing.
    pub fn process_at_hand(&mut self, owner: &Owner) -> Option<Process> {
        let holder = self.processes.recall(owner)?;
        let is_its_own = holder.process.has_for_itself(owner.inode);
        is_its_own.then(|| self.named(holder)).flatten()
    }

    /// Which process of that user made the connection: the one that holds the socket. `None`: not found or not readable; in a
    /// mount namespace of its own where the path of its binary is another file; or shared by processes of different binaries.
    pub fn process(&mut self, owner: &Owner) -> Option<Process> {
        let holder = self
            .processes
            .recall(owner)
            .or_else(|| self.newest(owner))
            .or_else(|| self.processes.look_through(owner))
            .or_else(|| self.search(owner, Memory::glance, |_| true))
            .or_else(|| self.search(owner, Memory::scan, |_| true))?;
        let maker = self.maker(holder, owner)?;
        self.named(maker)
    }

    fn named(&mut self, holder: Holder) -> Option<Process> {
        let Binary { file, path } = holder.process.binary()?;
        let process = Process {
            pid: holder.process.pid,
            path,
            handle: Arc::clone(&holder.process),
            runs: file,
        };
        self.processes.keep(holder);
        Some(process)
    }

    fn newest(&mut self, owner: &Owner) -> Option<Holder> {
        newest::of_user(owner.uid).find_map(|process| {
            let process = self.processes.known_as(process);
            self.processes.scan(&process, owner.inode)
        })
    }

    /// Looks at the processes of `owner`'s user, newest first.
    fn search(
        &mut self,
        owner: &Owner,
        look: Look,
        wanted: impl Fn(u32) -> bool,
    ) -> Option<Holder> {
        let mut pids: Vec<u32> = fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable_by(|a, b| b.cmp(a));
        pids.into_iter().filter(|pid| wanted(*pid)).find_map(|pid| {
            let process = Handle::open(pid).filter(|process| process.uid == owner.uid)?;
            let process = self.processes.known_as(process);
            look(&mut self.processes, &process, owner.inode)
        })
    }

    /// A socket is handed down to whoever its process starts. So a parent that holds it too has made it; and if parent and child
    /// are not the same program, nobody can say which of them connects it: `None`.
    fn maker(&mut self, holder: Holder, owner: &Owner) -> Option<Holder> {
        if holder.process.has_for_itself(owner.inode) {
            return Some(holder);
        }
        let mut maker = holder.clone();
        let mut family = Vec::new();
        let mut is_whole = true;
        for _ in 0..GENERATIONS {
            let status = maker.process.status()?;
            let (parent, is_certain) = match ancestors::parent(&maker.process, &status) {
                Parent::Is(parent, its) => (Some(parent), status.is_born_to(&its)),
                Parent::Nobody | Parent::Unknown => (None, false),
            };
            is_whole &= is_certain;
            // Its true parent may have ended, and have left others that hold it.
            if !is_certain && !self.is_alone(&maker, owner)? {
                return None;
            }
            let Some(parent) = parent.filter(|parent| parent.uid == owner.uid) else {
                break;
            };
            family.push(Arc::new(parent));
            let Some(above) = self.processes.scan(family.last()?, owner.inode) else {
                break;
            };
            is_same_program(&above, &maker)?;
            maker = above;
        }
        for child in maker.process.children() {
            let child = Handle::open(child).filter(|child| child.uid == owner.uid);
            let Some(child) = child.map(Arc::new) else {
                continue;
            };
            if let Some(below) = self.processes.scan(&child, owner.inode) {
                is_same_program(&below, &maker)?;
            }
            family.push(child);
        }
        // A program that opens one connection is not worth it.
        if self.processes.knows(&holder.process) {
            holder.process.note_shared(is_whole.then_some(&family));
        }
        Some(maker)
    }

    /// Whether all that hold the socket run the same binary.
    fn is_alone(&mut self, holder: &Holder, owner: &Owner) -> Option<bool> {
        let binary = holder.process.binary()?;
        let mut met = vec![holder.process.pid];
        loop {
            let Some(other) = self.search(owner, Memory::scan, |pid| !met.contains(&pid)) else {
                return Some(true);
            };
            if other.process.binary().as_ref() != Some(&binary) {
                return Some(false);
            }
            met.push(other.process.pid);
        }
    }
}

impl Process {
    /// A live process of this user. `None`: there is none, or the path of its binary can't be told (see [`Attributor::process`]).
    pub fn of(pid: u32, uid: u32) -> Option<Process> {
        let handle = Handle::open(pid).filter(|handle| handle.uid == uid)?;
        let Binary { file, path } = handle.binary()?;
        Some(Process {
            pid,
            path,
            handle: Arc::new(handle),
            runs: file,
        })
    }

    /// Its control group in the unified hierarchy, from the root. `Ok(None)`: this kernel has none.
    ///
    /// # Errors
    /// When it cannot be found out, or the process runs something else by now.
    pub fn cgroup(&self) -> Result<Option<String>, Unknowable> {
        self.still(cgroup::of(&self.handle))
    }

    /// The script that it runs, when it is an interpreter, with all links resolved. `Ok(None)`: it runs none. Blocking.
    ///
    /// # Errors
    /// When it cannot be found out, or the process runs something else by now.
    pub fn script(&self) -> Result<Option<PathBuf>, Unknowable> {
        let binary = Binary {
            file: self.runs,
            path: self.path.clone(),
        };
        self.still(script::of(&self.handle, &binary))
    }

    /// The processes from which it descends. Blocking.
    pub fn ancestors(&self) -> Ancestors {
        ancestors::of(&self.handle)
    }

    /// Whether it lives, and runs the binary that it ran when it was found.
    fn is_unchanged(&self) -> bool {
        self.handle.file("exe") == Some(self.runs)
    }

    fn still<T>(&self, fact: Result<T, Unknowable>) -> Result<T, Unknowable> {
        fact.and_then(|fact| self.is_unchanged().then_some(fact).ok_or(Unknowable))
    }
}

fn is_same_program(one: &Holder, another: &Holder) -> Option<()> {
    (one.process.binary()? == another.process.binary()?).then_some(())
}

fn io_error(error: DiagError) -> io::Error {
    match error {
        DiagError::Open(source) | DiagError::Exchange(source) | DiagError::Refused(source) => {
            source
        }
        DiagError::Decode(_) | DiagError::NoAnswer => {
            io::Error::new(io::ErrorKind::InvalidData, error)
        }
    }
}
