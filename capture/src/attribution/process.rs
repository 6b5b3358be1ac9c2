//! A process as `/proc` shows it (proc(5)), by a handle on its directory there.

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io;

/// What the kernel appends to the path of a binary that was replaced while it runs.
const DELETED: &[u8] = b" (deleted)";

/// A process, and no other that is given its pid later: once it has ended, nothing is found through its handle.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) pid: u32,
    /// The user that its directory belonged to.
    pub(super) uid: u32,
    directory: OwnedFd,
    /// The path of its binary when last asked, and of which file.
    binary: Mutex<Option<(File, PathBuf)>>,
}

/// A file, and no other that is given its number later: what is created sets the time of its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct File {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl From<Stat> for File {
    fn from(stat: Stat) -> File {
        File {
            device: stat.st_dev,
            inode: stat.st_ino,
            changed: (
                stat.st_ctime,
                i64::try_from(stat.st_ctime_nsec).unwrap_or(0),
            ),
        }
    }
}

impl File {
    fn is_same_as(self, other: File) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

impl Handle {
    /// `None`: there is none, or no longer.
    pub(super) fn open(pid: u32) -> Option<Handle> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
        let uid = statat(&directory, "", AtFlags::EMPTY_PATH).ok()?.st_uid;
        Some(Handle {
            pid,
            uid,
            directory,
            binary: Mutex::new(None),
        })
    }

    /// The inode of the socket behind a descriptor: the link reads `socket:[INODE]`.
    pub(super) fn socket_at(&self, descriptor: u32) -> Option<u64> {
        let target = readlinkat(&self.directory, format!("fd/{descriptor}"), [0; 64]).ok()?;
        let target = target.to_str().ok()?;
        let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
        inode.parse().ok()
    }

    /// Its descriptors. An error says that they cannot be read, or that it is gone.
    pub(super) fn descriptors(&self) -> io::Result<Vec<u32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&self.directory, "fd", flags, Mode::empty())?;
        let number = |entry: io::Result<rustix::fs::DirEntry>| {
            entry.ok()?.file_name().to_str().ok()?.parse().ok()
        };
        Ok(Dir::new(directory)?.filter_map(number).collect())
    }

    /// The path of its binary, when that path leads to that binary for us as well.
    ///
    /// A process in another mount namespace has another file at the same path: what it calls `/usr/bin/ssh` may be anything. So
    /// the file that it runs has to be the one that we find there, by device and inode; both are asked of the same file system, so
    /// that overlays and subvolumes that give numbers of their own give the same ones. A binary that was replaced while it runs is
    /// not there any more to be compared: its path is believed of processes that share our mount namespace.
    pub(super) fn binary(&self) -> Option<PathBuf> {
        let runs = self.file("exe")?;
        if let Some((file, path)) = &*self.last_binary()
            && *file == runs
        {
            return Some(path.clone());
        }
        let link = readlinkat(&self.directory, "exe", Vec::new()).ok()?;
        let path = match link.as_bytes().strip_suffix(DELETED) {
            None => {
                let path = PathBuf::from(OsString::from_vec(link.into_bytes()));
                file_at(&path)?.is_same_as(runs).then_some(path)?
            }
            Some(before) => {
                let ours = file_at(Path::new("/proc/self/ns/mnt"))?;
                let shared = self.file("ns/mnt")?.is_same_as(ours);
                shared.then(|| PathBuf::from(OsString::from_vec(before.to_vec())))?
            }
        };
        // It may have started another program in between.
        (self.file("exe")? == runs).then_some(())?;
        *self.last_binary() = Some((runs, path.clone()));
        Some(path)
    }

    fn last_binary(&self) -> MutexGuard<'_, Option<(File, PathBuf)>> {
        self.binary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, name: &str) -> Option<File> {
        Some(statat(&self.directory, name, AtFlags::empty()).ok()?.into())
    }
}

fn file_at(path: &Path) -> Option<File> {
    let found = fs::metadata(path).ok()?;
    Some(File {
        device: found.dev(),
        inode: found.ino(),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}
