//! One helper in a network namespace: a lock file named for it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

const DIRECTORY: &str = "/run/adit";

/// Not being the only one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstanceError {
    #[error("cannot tell the network namespace: {0}")]
    Namespace(#[source] io::Error),
    #[error("cannot use the lock file {}: {source}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("a capture helper already runs in this network namespace: {0}")]
    Running(String),
}

/// Held for as long as this process is the helper.
#[derive(Debug)]
pub(crate) struct Instance {
    _lock: Flock<File>,
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
        make_directory(Path::new(DIRECTORY)).map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(failed)?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, Errno::EWOULDBLOCK)) => return Err(InstanceError::Running(holder(file))),
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        lock.set_len(0).map_err(failed)?;
        writeln!(lock, "process {}, {purpose}", std::process::id()).map_err(failed)?;
        Ok(Instance { _lock: lock })
    }
}

/// Makes a directory that everyone can look into, with those above it, whatever the umask; what is there stays as it is.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        make_directory(parent)?;
    }
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn holder(file: File) -> String {
    let mut text = String::new();
    match file.take(256).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Ok(_) | Err(_) => "it has not said which".to_owned(),
    }
}
