//! The gateway's end of the control socket.
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::protocol::{Answer, MAX_REQUEST, Request};
use crate::throttle::seldom;

/// Connections served at once; more wait in the backlog.
const AT_ONCE: usize = 16;
/// A client that asks or listens more slowly is hung up on.
const PATIENCE: Duration = Duration::from_secs(5);

/// There is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the control socket {}: {source}", path.display())]
pub struct ControlError {
    path: PathBuf,
    source: io::Error,
}

/// The control socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Someone may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl ControlSocket {
    /// Binds `path`, replacing the socket of a gateway that is gone.
    ///
    /// # Errors
    /// Another gateway answers there, or it cannot be made.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError {
            path: path.to_owned(),
            source,
        };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let source = io::Error::new(io::ErrorKind::AddrInUse, "another gateway answers there");
            return Err(failed(source));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket = Self {
            listener,
            path: path.to_owned(),
        };
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, mode).map_err(failed)?;
        Ok(socket)
    }

    /// Answers requests until dropped.
    pub async fn serve<F: Future<Output = Answer> + Send>(
        &self,
        answer: impl Fn(Request) -> F + Clone + Send + 'static,
    ) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    seldom!(warn, %error, "control socket");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let answer = answer.clone();
            tokio::spawn(async move {
                if let Err(error) = converse(stream, answer).await {
                    tracing::debug!(%error, "control connection");
                }
                drop(place);
            });
        }
    }
}

/// Answers root and whoever runs the server; anyone else is hung up on.
async fn converse<F: Future<Output = Answer>>(
    stream: UnixStream,
    answer: impl Fn(Request) -> F,
) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = nix::unistd::geteuid().as_raw();
    if peer != own && peer != 0 {
        seldom!(warn, uid = peer, "a user who may not control this gateway");
        return Ok(());
    }
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST as u64 + 1));
    timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let answered = match parse(&line) {
        Ok(request) => answer(request).await,
        Err(why) => Answer::Error(why),
    };
    let mut text = serde_json::to_vec(&answered)?;
    text.push(b'\n');
    timeout(PATIENCE, writer.write_all(&text)).await??;
    Ok(())
}

fn parse(line: &[u8]) -> Result<Request, String> {
    if line.len() > MAX_REQUEST {
        return Err(format!("a request is at most {MAX_REQUEST} bytes"));
    }
    serde_json::from_slice(line).map_err(|error| format!("no request: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_read_as_documented() {
        let read = |text: &str| parse(text.as_bytes());
        assert_eq!(
            read("{\"request\":\"sessions\"}\n"),
            Ok(Request::Sessions {})
        );
        assert_eq!(
            read("{\"request\":\"kill\",\"id\":7}"),
            Ok(Request::Kill { id: 7 })
        );
        let drain = Request::Drain { deadline: 60 };
        assert_eq!(read("{\"request\":\"drain\",\"deadline\":60}"), Ok(drain));
        assert!(read("{\"request\":\"kill\",\"id\":7,\"all\":true}").is_err());
        assert!(read("{\"request\":\"shell\"}").is_err());
        assert!(read("").is_err());
        assert!(read(&" ".repeat(5000)).is_err_and(|why| why.contains("4096")));
    }

    #[tokio::test]
    async fn a_socket_that_answers_is_not_taken_over() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("control.sock");
        let first = ControlSocket::bind(&path).expect("socket");
        assert!(ControlSocket::bind(&path).is_err());
        let mode = std::fs::metadata(&path)
            .expect("socket")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        // What a gateway that was killed leaves. Closed as a process's end does it: another test may be starting a program,
        // which has our descriptors until its execve.
        let stale = directory.path().join("stale.sock");
        let killed = std::os::unix::net::UnixListener::bind(&stale).expect("bind");
        let shut_down = socket2::SockRef::from(&killed).shutdown(std::net::Shutdown::Both);
        shut_down.expect("shut down");
        assert!(ControlSocket::bind(&stale).is_ok());
        drop(first);
        assert!(!path.exists());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(line in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&line);
        }
    }
}
