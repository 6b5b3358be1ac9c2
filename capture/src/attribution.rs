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

/// How far up a socket is followed that may have been handed down from parent to child.
const GENERATIONS: usize = 16;
/// So many descendants of a process are looked at, rather than all processes.
const DESCENDANTS: usize = 256;

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

    /// Whether its program lets this connection use one network device only. Then no redirect to `lo` ever arrives.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn is_bound_to_device(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> io::Result<bool> {
        let found = self
            .diag
            .connection(source, destination)
            .map_err(io_error)?;
        Ok(found.is_some_and(|found| found.is_bound_to_device))
    }

    /// Which process of that user holds the socket, if it is where the last ones were: some microseconds. `None` says nothing.
    pub fn process_at_hand(&mut self, owner: &Owner) -> Option<Process> {
        let holder = self.processes.recall(owner)?;
        if !holder.process.has_for_itself(owner.inode) {
            return None;
        }
        let is_alone = holder.process.has_no_children();
        is_alone.then(|| self.named(holder)).flatten()
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

    /// A socket is handed down to whoever its process starts. So a process above that holds it too has made it; and if not all that
    /// hold it are the same program, nobody can say which of them connects it: `None`.
    fn maker(&mut self, holder: Holder, owner: &Owner) -> Option<Holder> {
        if holder.process.has_for_itself(owner.inode) {
            self.agree_below(&holder.process, &holder, owner)?;
            return Some(holder);
        }
        let above = match holder.keeps_it_to_itself() {
            true => Above::Nobody(holder.clone()),
            false => self.above(&holder, owner)?,
        };
        let (maker, family) = match above {
            Above::Nobody(maker) => (maker, None),
            Above::Family(maker, family) => (maker, Some(family)),
        };
        let below = self.agree_below(&maker.process, &maker, owner)?;
        // A program that opens one connection is not worth it.
        if self.processes.knows(&holder.process) {
            let family = family.map(|family| [family, below].concat());
            holder.process.note_shared(family.as_ref());
        }
        Some(maker)
    }

    /// Who made a socket that may be handed down, and of whom its holder descends: of those each may have it, and of what the
    /// nearest has started.
    fn above(&mut self, holder: &Holder, owner: &Owner) -> Option<Above> {
        let mut maker = holder.clone();
        let mut family = Vec::new();
        let (mut last, mut holds) = (Arc::clone(&holder.process), true);
        for generation in 0..GENERATIONS {
            let status = last.status()?;
            let (parent, is_certain) = match ancestors::parent(&last, &status) {
                Parent::Is(parent, its) => (Some(parent), status.is_born_to(&its)),
                Parent::Nobody | Parent::Unknown => (None, false),
            };
            if !is_certain {
                // Its true parent may have ended, and have left others that hold it.
                let is_maker = !holds || self.is_alone(&maker, owner)?;
                return is_maker.then_some(Above::Nobody(maker));
            }
            let parent = parent.filter(|parent| parent.uid == owner.uid);
            let Some(parent) = parent.map(Arc::new) else {
                break;
            };
            let above = self.processes.scan(&parent, owner.inode);
            holds = above.is_some();
            if let Some(above) = above {
                is_same_program(&above, &maker)?;
                maker = above;
            } else if generation == 0 {
                family.extend(self.agree_below(&parent, &maker, owner)?);
            }
            family.push(Arc::clone(&parent));
            last = parent;
        }
        Some(Above::Family(maker, family))
    }

    /// Those that descend from `top`. `None`: one of them holds the socket and is another program than `maker`.
    fn agree_below(
        &mut self,
        top: &Handle,
        maker: &Holder,
        owner: &Owner,
    ) -> Option<Vec<Arc<Handle>>> {
        let (mut found, mut next) = (Vec::new(), top.children());
        while let Some(child) = next.pop() {
            if found.len() == DESCENDANTS {
                return self.is_alone(maker, owner)?.then_some(found);
            }
            let child = Handle::open(child).filter(|child| child.uid == owner.uid);
            let Some(child) = child.map(Arc::new) else {
                continue;
            };
            if let Some(below) = self.processes.scan(&child, owner.inode) {
                is_same_program(&below, maker)?;
            }
            next.extend(child.children());
            found.push(child);
        }
        Some(found)
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

/// Who made a socket, and the processes of whom its holder descends, where all of them are known.
enum Above {
    Nobody(Holder),
    Family(Holder, Vec<Arc<Handle>>),
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
