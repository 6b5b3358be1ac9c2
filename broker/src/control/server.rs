//! The broker's end of the control socket.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, fcntl_lock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::place::{self, PlaceError};
use super::protocol::{Answer, MAX_REQUEST, Request, parse_request};

/// Connections served at once; more wait in the backlog.
const AT_ONCE: usize = 16;
/// A client that asks or listens more slowly is hung up on.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another broker serves it.
    #[error("another broker already answers on {}: end it with `adit down` first", .0.display())]
    InUse(PathBuf),
    /// Others could put something else there.
    #[error("no place for a control socket: {0}")]
    Place(#[from] PlaceError),
    /// It could not be made.
    #[error("cannot make the control socket {}: {source}", path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Who asks, by the kernel's word (SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its process; `None` when the kernel does not say, 0 when it is in another pid namespace.
    pub pid: Option<u32>,
}

/// The control socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    // One broker a socket: without it two that start together would each remove the other's.
    _lock: File,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Someone may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl ControlSocket {
    /// Binds `path`, replacing the socket of a broker that is gone. Only its user (and root) may connect.
    pub async fn bind(path: &Path) -> Result<Self, ControlError> {
        place::prepare(path)?;
        let failed = |source| ControlError::Bind {
            path: path.to_owned(),
            source,
        };
        let lock = lock_beside(path)?;
        // Whose lock we hold is dead.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket = Self {
            listener,
            path: path.to_owned(),
            _lock: lock,
        };
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, mode).map_err(failed)?;
        Ok(socket)
    }

    /// Answers requests until dropped.
    pub async fn serve<A>(&self, answer: impl Fn(Request, Caller) -> A + Clone + Send + 'static)
    where
        A: Future<Output = Answer> + Send,
    {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let answer = answer.clone();
            tokio::spawn(async move {
                if let Err(error) = converse(stream, answer).await {
                    tracing::debug!("control connection: {error}");
                }
                drop(place);
            });
        }
    }
}

/// A line with its end, or what there is of it. It may hold a secret, so that no other copy is made.
async fn read_line(mut reader: OwnedReadHalf) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(vec![0; MAX_REQUEST + 1]);
    let mut filled = 0;
    while filled < line.len() {
        let count = reader.read(&mut line[filled..]).await?;
        let end = line[filled..filled + count]
            .iter()
            .position(|it| *it == b'\n');
        if let Some(end) = end {
            filled += end + 1;
            break;
        }
        if count == 0 {
            break;
        }
        filled += count;
    }
    line.truncate(filled);
    Ok(line)
}

/// The process's own: one that its children inherit would outlive a broker that is killed while it starts one (fcntl(2), flock(2)).
fn lock_beside(path: &Path) -> Result<File, ControlError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let opened = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&name);
    let file = opened.map_err(|source| ControlError::Bind {
        path: PathBuf::from(name),
        source,
    })?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(ControlError::InUse(path.to_owned())),
    }
}

async fn converse<A: Future<Output = Answer>>(
    stream: UnixStream,
    answer: impl Fn(Request, Caller) -> A,
) -> std::io::Result<()> {
    let peer = stream.peer_cred()?;
    let (uid, own) = (peer.uid(), nix::unistd::geteuid().as_raw());
    if uid != own && uid != 0 {
        tracing::warn!("uid {uid} may not control this broker");
        return Ok(());
    }
    let caller = Caller {
        pid: peer.pid().and_then(|pid| u32::try_from(pid).ok()),
    };
    let (reader, mut writer) = stream.into_split();
    let line = timeout(PATIENCE, read_line(reader)).await??;
    let answered = match parse_request(&line) {
        Ok(request) => answer(request, caller).await,
        Err(error) => Answer::Error(error),
    };
    let mut text = serde_json::to_vec(&answered)?;
    text.push(b'\n');
    timeout(PATIENCE, writer.write_all(&text)).await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy of its descriptor is what a child has that is about to run another program.
    #[tokio::test]
    async fn the_lock_of_a_broker_that_is_gone_is_not_its_childs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let first = ControlSocket::bind(&path).await.unwrap();
        let _of_the_child = first._lock.try_clone().unwrap();
        drop(first);
        ControlSocket::bind(&path).await.unwrap();
    }
}
