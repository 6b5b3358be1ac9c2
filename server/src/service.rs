//! What a service does for its manager: limits, signals, readiness.
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Takes all descriptors that we may have: every stream needs one, and the soft limit is 1024 on
/// most systems for the sake of programs that use select(2).
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(limit) => tracing::debug!(limit, "descriptors"),
        Err(error) => tracing::warn!(%error, "the limit of descriptors cannot be raised"),
    }
}

/// How many descriptors streams may have in all: a tenth of the limit is kept, so that connections can
/// still be accepted and files be read.
pub(crate) fn descriptors_for_streams() -> usize {
    // Without an answer, what every Linux gives.
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(limit - limit / 10).unwrap_or(usize::MAX)
}

/// Where the control socket is when the file does not say: in the directory that systemd made for us
/// (systemd.exec(5), `RuntimeDirectory=`), the first one if there are several.
pub(crate) fn control_socket() -> Option<PathBuf> {
    let directories = std::env::var_os("RUNTIME_DIRECTORY")?;
    let first = directories.as_bytes().split(|b| *b == b':').next()?;
    Some(Path::new(OsStr::from_bytes(first)).join("control.sock"))
}

/// Tells systemd a state, such as `READY=1` (sd_notify(3)). Without systemd this does nothing.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&path, state) {
        tracing::warn!(%error, state, "the service manager was not told");
    }
}

fn send(path: &OsStr, state: &str) -> io::Result<()> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
}
