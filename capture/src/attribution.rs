//! From a captured connection to the application that opened it: the kernel says which socket and user it is, `/proc` which
//! process of that user holds the socket.

mod memory;
mod process;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use memory::{Holder, Memory};
use process::Handle;

use crate::sock_diag::{Diag, DiagError};

/// The process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The path of its binary, here as well as for the process itself.
    pub path: PathBuf,
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
        self.named(holder)
    }

    /// Which process of that user holds the socket. `None`: not found or not readable, or in a mount namespace of its own where
    /// the path of its binary is another file.
    pub fn process(&mut self, owner: &Owner) -> Option<Process> {
        let holder = self
            .processes
            .recall(owner)
            .or_else(|| self.processes.look_through(owner))
            .or_else(|| search(owner, &mut self.processes))?;
        self.named(holder)
    }

    fn named(&mut self, holder: Holder) -> Option<Process> {
        let process = Process {
            pid: holder.process.pid,
            path: holder.process.binary()?,
        };
        self.processes.keep(holder);
        Some(process)
    }
}

/// The processes of `owner`'s user, newest first: most connections are those of a program that was just started.
fn search(owner: &Owner, memory: &mut Memory) -> Option<Holder> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable_by(|a, b| b.cmp(a));
    pids.into_iter().find_map(|pid| {
        let process = Handle::open(pid).filter(|process| process.uid == owner.uid)?;
        memory.scan(&Arc::new(process), owner.inode)
    })
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
