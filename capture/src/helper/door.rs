//! The socket that brokers come to.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use tokio::net::UnixListener;

use super::directory::{self, DirectoryError};

/// A door that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    #[error("the socket that the service manager passed is of no use: {0}")]
    Passed(#[source] io::Error),
    #[error("{} is there and is no socket", .0.display())]
    NoSocket(PathBuf),
    #[error("cannot listen at {}: {source}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("no --socket, and none was passed by a service manager")]
    Nowhere,
}

/// A listening socket, and its file when that is ours to remove.
#[derive(Debug)]
pub(crate) struct Door {
    listener: StdListener,
    own_file: Option<PathBuf>,
}

impl Door {
    /// Takes what the service manager passes (sd_listen_fds(3)), else listens at `path`. A file that a dead helper left is
    /// replaced: the caller holds the lock, so nobody alive listens there.
    pub(crate) fn open(path: Option<&Path>) -> Result<Door, DoorError> {
        let passed = ListenFd::from_env()
            .take_unix_listener(0)
            .map_err(DoorError::Passed)?;
        if let Some(listener) = passed {
            return Ok(Door {
                listener,
                own_file: None,
            });
        }
        let path = path.ok_or(DoorError::Nowhere)?;
        let failed = |source| DoorError::Listen {
            path: path.to_owned(),
            source,
        };
        directory::make(directory_of(path))?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
            Ok(_) => return Err(DoorError::NoSocket(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // Everyone may come: who they are is known by the kernel's word on the connection.
        let bind = || StdListener::bind(path);
        let listener = directory::with_umask(0o111, bind).map_err(failed)?;
        Ok(Door {
            listener,
            own_file: Some(path.to_owned()),
        })
    }

    /// Where its file is, when that is ours to remove.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.own_file.as_deref().map(directory_of)
    }

    /// The same socket for the runtime.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(path) = self.own_file.take()
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "the socket's file stays");
        }
    }
}
