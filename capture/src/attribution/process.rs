//! A process as `/proc` shows it (proc(5)), by a handle on its directory there.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io;

use super::newest;

/// What the kernel appends to the path of what was removed and is still in use.
const DELETED: &[u8] = b" (deleted)";
/// What is read at once: the kernel writes most of these files anew for whoever reads their beginning.
const USUAL: usize = 4096;
/// Of so many threads it is asked what they have started.
const MOST_THREADS: usize = 64;
/// What is read of a list of children.
const MOST_CHILDREN: usize = 64 << 10;
/// More sockets than this are not compared between processes.
const MOST_SOCKETS: usize = 16_384;

/// A process, and no other that is given its pid later: once it has ended, nothing is found through its handle.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) pid: u32,
    /// The user that its directory belonged to.
    pub(super) uid: u32,
    /// Of the process, or of a thread that outlived its first one.
    directory: OwnedFd,
    /// The path of its binary when last asked, and of which file.
    binary: Mutex<Option<Binary>>,
    /// The sockets that it may have shared with others when that was noted, in order; unless these were too many.
    shared: OnceLock<Option<Vec<u64>>>,
    /// Its children when they were listed last, and the last number that had been given to a process then.
    children: Mutex<Option<(u32, Vec<u32>)>>,
}

/// What a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binary {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

/// A file, and no other that is given its number later: what is created sets the time of its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct File {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// `O_CLOEXEC` (open(2)), as `fdinfo` has it.
const CLOSED_ON_EXEC: u32 = 0o2_000_000;
/// What is said of one descriptor is about 100 bytes.
const MOST_OF_A_DESCRIPTOR: usize = 4096;

/// The process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended;

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

impl From<&fs::Metadata> for File {
    fn from(found: &fs::Metadata) -> File {
        File {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

impl File {
    pub(super) fn is_same_as(self, other: File) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

impl Handle {
    /// `None`: there is none, or no longer.
    pub(super) fn open(pid: u32) -> Option<Handle> {
        Handle::at(pid, &format!("/proc/{pid}"))
    }

    fn at(pid: u32, path: &str) -> Option<Handle> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty()).ok()?;
        let uid = statat(&directory, "", AtFlags::EMPTY_PATH).ok()?.st_uid;
        Some(Handle {
            pid,
            uid,
            directory,
            binary: Mutex::new(None),
            shared: OnceLock::new(),
            children: Mutex::new(None),
        })
    }

    /// A process whose first thread has ended shows nothing in its own directory, but in those of its other threads.
    pub(super) fn by_another_thread(&self) -> Option<Handle> {
        let threads = self.numbers("task").ok()?;
        let others = threads.into_iter().filter(|thread| *thread != self.pid);
        let mut handles = others.filter_map(|thread| {
            let path = format!("/proc/{}/task/{thread}", self.pid);
            Handle::at(self.pid, &path).filter(|it| it.file("exe").is_some())
        });
        handles.next()
    }

    /// Whether it has more than one thread: each is a directory there, beside the two of every directory.
    pub(super) fn has_threads(&self) -> bool {
        statat(&self.directory, "task", AtFlags::empty()).is_ok_and(|stat| stat.st_nlink > 3)
    }

    /// The processes that its threads started and that have not ended (proc(5), `children`).
    pub(super) fn children(&self) -> Vec<u32> {
        // Whoever is started while they are listed has a later number.
        let last = newest::last_given();
        if let Some(children) = self.children_as_of(last) {
            return children;
        }
        let children = self.list_children();
        *self.listed_children() = last.map(|last| (last, children.clone()));
        children
    }

    /// Whether it surely has none, as far as that is known by some system calls: nothing was started on the whole host since they
    /// were listed, or there is but one list.
    pub(super) fn has_no_children(&self) -> bool {
        match self.children_as_of(newest::last_given()) {
            Some(children) => children.is_empty(),
            None => !self.has_threads() && self.children().is_empty(),
        }
    }

    fn children_as_of(&self, last: Option<u32>) -> Option<Vec<u32>> {
        let listed = self.listed_children();
        let (as_of, children) = listed.as_ref()?;
        (Some(*as_of) == last).then(|| children.clone())
    }

    fn list_children(&self) -> Vec<u32> {
        let threads = match self.has_threads() {
            true => self.numbers("task").unwrap_or_default(),
            false => vec![self.pid],
        };
        let threads = threads.into_iter().take(MOST_THREADS);
        let children = threads.flat_map(|thread| {
            let list = self.read(&format!("task/{thread}/children"), MOST_CHILDREN);
            let list = String::from_utf8(list.unwrap_or_default()).unwrap_or_default();
            let numbers = list.split_whitespace().filter_map(|it| it.parse().ok());
            numbers.collect::<Vec<u32>>()
        });
        children.collect()
    }

    fn listed_children(&self) -> MutexGuard<'_, Option<(u32, Vec<u32>)>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this descriptor is not there any more in a program that it starts (proc(5), `fdinfo`).
    pub(super) fn closes_on_exec(&self, descriptor: u32) -> Option<bool> {
        let said = self.read(&format!("fdinfo/{descriptor}"), MOST_OF_A_DESCRIPTOR)?;
        let said = std::str::from_utf8(&said).ok()?;
        let flags = said.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
        Some(flags & CLOSED_ON_EXEC != 0)
    }

    /// The inode of the socket behind a descriptor, if there is one.
    pub(super) fn socket_at(&self, descriptor: u32) -> Option<u64> {
        self.living_socket_at(descriptor).ok().flatten()
    }

    /// The same of a process that may have ended.
    pub(super) fn living_socket_at(&self, descriptor: u32) -> Result<Option<u64>, Ended> {
        match readlinkat(&self.directory, format!("fd/{descriptor}"), [0; 64]) {
            Ok(target) => Ok(target.to_str().ok().and_then(socket_in)),
            Err(io::Errno::SRCH) => Err(Ended),
            Err(_) => Ok(None),
        }
    }

    /// How many descriptors it has: the size of their directory (Linux 6.2 and later). `None`: not known.
    pub(super) fn descriptor_count(&self) -> Option<u32> {
        let size = self.stat("fd")?.st_size;
        u32::try_from(size).ok().filter(|count| *count > 0)
    }

    /// Its descriptors, the highest first: it is the newest mostly. An error says that they cannot be read, or that it is gone.
    pub(super) fn descriptors(&self) -> io::Result<Vec<u32>> {
        let mut descriptors = self.numbers("fd")?;
        descriptors.sort_unstable_by(|a, b| b.cmp(a));
        Ok(descriptors)
    }

    fn numbers(&self, name: &str) -> io::Result<Vec<u32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&self.directory, name, flags, Mode::empty())?;
        let number = |entry: io::Result<rustix::fs::DirEntry>| {
            entry.ok()?.file_name().to_str().ok()?.parse().ok()
        };
        Ok(Dir::new(directory)?.filter_map(number).collect())
    }

    /// Notes, the first time, which of its sockets it may share with others: with these, or with anybody.
    pub(super) fn note_shared(&self, family: Option<&Vec<Arc<Handle>>>) {
        self.shared.get_or_init(|| {
            let mut sockets = self.sockets()?;
            if let Some(family) = family {
                let theirs: Vec<Vec<u64>> = family.iter().filter_map(|it| it.sockets()).collect();
                let is_shared = |own: &u64| theirs.iter().any(|it| it.binary_search(own).is_ok());
                sockets.retain(is_shared);
            }
            Some(sockets)
        });
    }

    /// Its sockets in order, unless these are too many.
    fn sockets(&self) -> Option<Vec<u64>> {
        let descriptors = self.numbers("fd").ok()?.into_iter();
        let sockets = descriptors.filter_map(|descriptor| self.socket_at(descriptor));
        let mut sockets: Vec<u64> = sockets.take(MOST_SOCKETS + 1).collect();
        sockets.sort_unstable();
        (sockets.len() <= MOST_SOCKETS).then_some(sockets)
    }

    /// Whether it is known to have this socket for itself, or to have got it since that was noted: not from its parent.
    pub(super) fn has_for_itself(&self, socket: u64) -> bool {
        let shared = self.shared.get().and_then(Option::as_ref);
        shared.is_some_and(|sockets| sockets.binary_search(&socket).is_err())
    }

    /// Whether it still runs something.
    pub(super) fn is_alive(&self) -> bool {
        self.stat("exe").is_some()
    }

    /// The path of its binary, when that path leads to that binary for us as well.
    ///
    /// A process in another mount namespace has another file at the same path: what it calls `/usr/bin/ssh` may be anything. So
    /// the file that it runs has to be the one that we find there, by device and inode; both are asked of the same file system, so
    /// that overlays and subvolumes that give numbers of their own give the same ones. A binary that was replaced while it runs is
    /// not there any more to be compared: its path is believed of processes that share our mount namespace.
    pub(super) fn binary(&self) -> Option<Binary> {
        let runs = self.file("exe")?;
        if let Some(last) = &*self.last_binary()
            && last.file == runs
        {
            return Some(last.clone());
        }
        let link = readlinkat(&self.directory, "exe", Vec::new()).ok()?;
        let path = match link.as_bytes().strip_suffix(DELETED) {
            None => {
                let path = PathBuf::from(OsString::from_vec(link.into_bytes()));
                file_at(&path)?.is_same_as(runs).then_some(path)?
            }
            Some(before) => {
                let path = PathBuf::from(OsString::from_vec(before.to_vec()));
                self.is_same_here("ns/mnt").then_some(path)?
            }
        };
        // It may have started another program in between.
        (self.file("exe")? == runs).then_some(())?;
        let binary = Binary { file: runs, path };
        *self.last_binary() = Some(binary.clone());
        Some(binary)
    }

    fn last_binary(&self) -> MutexGuard<'_, Option<Binary>> {
        self.binary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it sees the same files at the same paths as we do.
    pub(super) fn sees_our_files(&self) -> bool {
        self.is_same_here("ns/mnt") && self.is_same_here("root")
    }

    fn is_same_here(&self, name: &str) -> bool {
        let ours = file_at(&Path::new("/proc/self").join(name));
        ours.zip(self.file(name))
            .is_some_and(|(ours, theirs)| ours.is_same_as(theirs))
    }

    /// What a link in its directory leads to.
    pub(super) fn file(&self, name: &str) -> Option<File> {
        Some(self.stat(name)?.into())
    }

    pub(super) fn stat(&self, name: &str) -> Option<Stat> {
        statat(&self.directory, name, AtFlags::empty()).ok()
    }

    /// What a link in its directory reads. `None` also for what was removed.
    pub(super) fn link(&self, name: &str) -> Option<PathBuf> {
        let link = readlinkat(&self.directory, name, Vec::new()).ok()?;
        let is_there = !link.as_bytes().ends_with(DELETED);
        is_there.then(|| PathBuf::from(OsString::from_vec(link.into_bytes())))
    }

    pub(super) fn open_file(&self, name: &str) -> Option<fs::File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::empty()).ok()?;
        Some(fs::File::from(file))
    }

    /// A file of its directory. `None`: not readable, or longer than this.
    pub(super) fn read(&self, name: &str, most: usize) -> Option<Vec<u8>> {
        let mut contents = Vec::with_capacity(USUAL);
        let most = u64::try_from(most).ok()?;
        let mut file = self.open_file(name)?.take(most + 1);
        let length = file.read_to_end(&mut contents).ok()?;
        (u64::try_from(length).ok()? <= most).then_some(contents)
    }
}

/// A descriptor's link reads `socket:[INODE]` (proc(5)).
fn socket_in(link: &str) -> Option<u64> {
    let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

/// The file that a path leads to, for us.
pub(super) fn file_at(path: &Path) -> Option<File> {
    Some(File::from(&fs::metadata(path).ok()?))
}
