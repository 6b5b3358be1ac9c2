//! The relay on standard input and output: as a subsystem or command of another Secure Shell
//! server, which authenticates.
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use adit_link::LinkEnd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::audit::Who;
use crate::credential::Credential;
use crate::gateway::Gateway;
use crate::link_session::{self, LinkError};
use crate::permissions::Permissions;
use crate::sessions::{Ending, Session};
use crate::time_outs::TimeOuts;
use crate::user_name::{BadUserName, UserName};

/// Why there is no link on stdin and stdout.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// Somebody tried it by hand.
    #[error(
        "--stdio speaks a binary protocol with a broker and is no use on a terminal: let sshd start it (Subsystem adit-link)"
    )]
    Terminal,
    /// Whose process this is cannot be found out, so no policy can be applied.
    #[error("the name of the user with uid {uid} is not known: {why}")]
    NoUser {
        /// The process's own.
        uid: u32,
        /// What the user database said.
        why: String,
    },
    /// The user's name is none that the policy could name.
    #[error("user {0:?}: {1}")]
    BadUser(String, BadUserName),
    /// A descriptor cannot be used.
    #[error("stdin or stdout: {0}")]
    Descriptor(#[from] io::Error),
    /// It never began.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Who we relay for: the user this process belongs to. Where from is only known from the
/// environment that sshd sets.
///
/// # Errors
/// The user has no name, or none that can be used.
pub fn who() -> Result<Who, StdioError> {
    let uid = nix::unistd::getuid();
    let no_user = |why: String| StdioError::NoUser {
        uid: uid.as_raw(),
        why,
    };
    let found = nix::unistd::User::from_uid(uid).map_err(|error| no_user(error.to_string()))?;
    let name = found
        .ok_or_else(|| no_user("no such user".to_owned()))?
        .name;
    let user: UserName = name
        .parse()
        .map_err(|error| StdioError::BadUser(name, error))?;
    let from = std::env::var("SSH_CONNECTION").unwrap_or_else(|_| "stdio".to_owned());
    Ok(Who {
        session: 0,
        user,
        address: from.split(' ').next().and_then(|first| first.parse().ok()),
        from,
        credential: Credential::Elsewhere,
        how: "elsewhere".to_owned(),
    })
}

/// Serves one link on stdin and stdout until it ends.
///
/// # Errors
/// There never was one.
pub async fn serve(gateway: &Arc<Gateway>, who: Who) -> Result<LinkEnd, StdioError> {
    if io::stdin().is_terminal() || io::stdout().is_terminal() {
        return Err(StdioError::Terminal);
    }
    let input = reader(io::stdin().as_fd().try_clone_to_owned()?)?;
    let output = writer(io::stdout().as_fd().try_clone_to_owned()?)?;
    let (read, write) = adit_link::pipe::split(input, output);
    let ending = Arc::new(Ending::new());
    let session = Session::new(who, Permissions::all(), None, ending);
    let _time_outs = TimeOuts::start(&session, gateway.limits());
    Ok(link_session::serve(gateway, &session, read, write).await?)
}

/// sshd gives a socket for both or a pipe for each; those are polled like any other. Other files
/// are read by a thread.
fn reader(fd: OwnedFd) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    let file = File::from(fd);
    let kind = file.metadata()?.file_type();
    if kind.is_socket() {
        Ok(Box::new(socket(file)?))
    } else if kind.is_fifo() {
        Ok(Box::new(pipe::Receiver::from_owned_fd(file.into())?))
    } else {
        Ok(Box::new(tokio::io::stdin()))
    }
}

fn writer(fd: OwnedFd) -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
    let file = File::from(fd);
    let kind = file.metadata()?.file_type();
    if kind.is_socket() {
        Ok(Box::new(socket(file)?))
    } else if kind.is_fifo() {
        Ok(Box::new(pipe::Sender::from_owned_fd(file.into())?))
    } else {
        Ok(Box::new(tokio::io::stdout()))
    }
}

fn socket(file: File) -> io::Result<UnixStream> {
    let socket = StdUnixStream::from(OwnedFd::from(file));
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
