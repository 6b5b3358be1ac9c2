//! One helper in a network namespace: a lock file named for it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use super::directory::{self, DirectoryError};

const DIRECTORY: &str = "/run/adit";

/// Not being the only one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstanceError {
    #[error("cannot tell the network namespace: {0}")]
    Namespace(#[source] io::Error),
    #[error("cannot use the lock file {}: {source}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("a capture helper already runs in this network namespace: {0}")]
    Running(String),
}

/// Held for as long as this process is the helper. The lock is the process's (fcntl(2), F_SETLK) and not the open file's: a program that
/// it is about to run has the file open for a moment, and would keep the lock of a helper that was killed from the next one.
#[derive(Debug)]
pub(crate) struct Instance {
    _lock: File,
}

impl Instance {
    /// Becomes the only one.
    pub(crate) fn take(purpose: &str) -> Result<Instance, InstanceError> {
        let namespace = fs::metadata("/proc/self/ns/net")
            .map_err(InstanceError::Namespace)?
            .ino();
        let path = Path::new(DIRECTORY).join(format!("capture-{namespace}.lock"));
        let failed = |source| InstanceError::Lock {
            path: path.clone(),
            source,
        };
        directory::make(Path::new(DIRECTORY))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .map_err(failed)?;
        match fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Err(InstanceError::Running(holder(lock))),
            Err(errno) => return Err(failed(errno.into())),
        }
        lock.set_len(0).map_err(failed)?;
        writeln!(lock, "process {}, {purpose}", std::process::id()).map_err(failed)?;
        Ok(Instance { _lock: lock })
    }
}

fn holder(file: File) -> String {
    let mut text = String::new();
    match file.take(256).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Ok(_) | Err(_) => "it has not said which".to_owned(),
    }
}
