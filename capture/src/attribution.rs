//! From a captured connection to the application that opened it: the kernel says which socket and user it is, `/proc` which
//! process of that user holds the socket.

mod memory;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use memory::{Holder, Identity, Memory};

use crate::sock_diag::{Diag, DiagError};

/// What the kernel appends to the path of a binary that was replaced while it runs (proc(5), `/proc/PID/exe`).
const DELETED: &[u8] = b" (deleted)";

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

/// Looks sockets up; blocking (tens of µs), remembers processes by (pid, start time).
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

    /// Which process of that user holds the socket. `None`: not found or not readable, or in a mount namespace of its own where
    /// the path of its binary is another file.
    pub fn process(&mut self, owner: &Owner) -> Option<Process> {
        let remembered = self.processes.recall(owner).filter(|holder| {
            // Of a pid that another process was given since, nothing that is remembered holds.
            let same = holder.lives();
            if !same {
                self.processes.forget(holder.pid);
            }
            same
        });
        let holder = remembered.or_else(|| search(owner, &mut self.processes))?;
        let path = holder.binary()?;
        self.processes.keep(holder);
        Some(Process {
            pid: holder.pid,
            path,
        })
    }
}

/// Field 22 of `/proc/PID/stat` (proc(5)); the name before it may hold anything, also `)`.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    start_time(&stat)
}

fn start_time(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The path of a process's binary, when that path leads to that binary for us as well.
///
/// A process in another mount namespace has another file at the same path: what it calls `/usr/bin/ssh` may be anything. So the
/// file that it runs has to be the one that we find there, by device and inode; both are asked of the same file system, so that
/// overlays and subvolumes that give numbers of their own give the same ones. A binary that was replaced while it runs is not
/// there any more to be compared: its path is believed of processes that share our mount namespace.
fn binary(pid: u32) -> Option<PathBuf> {
    let link = format!("/proc/{pid}/exe");
    let path = fs::read_link(&link).ok()?;
    let same = |one: &str, other: &Path| {
        let (one, other) = (fs::metadata(one).ok()?, fs::metadata(other).ok()?);
        ((one.dev(), one.ino()) == (other.dev(), other.ino())).then_some(())
    };
    let Some(before) = path.as_os_str().as_bytes().strip_suffix(DELETED) else {
        same(&link, &path)?;
        return Some(path);
    };
    let namespace = format!("/proc/{pid}/ns/mnt");
    same(&namespace, Path::new("/proc/self/ns/mnt"))?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(before.to_vec())))
}

/// The processes of `owner`'s user, newest first: most connections are those of a program that was just started.
fn search(owner: &Owner, memory: &mut Memory) -> Option<Holder> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable_by(|a, b| b.cmp(a));
    let of_user =
        |pid: &u32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == owner.uid);
    pids.into_iter().filter(of_user).find_map(|pid| {
        let process = Identity::of(pid, owner.uid)?;
        memory.scan(process, owner.inode)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(stat: &str, expected: Option<u64>) {
        assert_eq!(start_time(stat.as_bytes()), expected, "{stat}");
    }

    #[test]
    fn the_start_time_is_field_22_whatever_the_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        check(&format!("12 (curl) {rest}"), Some(4711));
        check(&format!("12 (a) S 9 (b)) {rest}"), Some(4711));
        check("12 (curl) S 1 2", None);
        check("", None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(stat in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = start_time(&stat);
        }
    }
}
