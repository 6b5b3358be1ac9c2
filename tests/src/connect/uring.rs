//! connect() by `io_uring`: no thread waits in the system call, and no event tells that the socket is ready.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use compio_driver::op::Connect;
use compio_driver::{DriverType, Proactor, PushEntry};
use socket2::Socket;

use super::attempt::{Failure, failure};

/// Connects `socket`.
///
/// # Errors
/// When this kernel has no `io_uring`, or does not let this user have it.
pub(super) fn connect(
    socket: &Socket,
    to: SocketAddr,
    within: Duration,
) -> io::Result<Result<(), Failure>> {
    let mut ring = Proactor::builder()
        .driver_type(DriverType::IoUring)
        .build()?;
    let descriptor = OwnedFd::from(socket.try_clone()?);
    let mut entry = ring.push(Connect::new(descriptor, to.into()));
    let started = Instant::now();
    loop {
        let key = match entry {
            PushEntry::Ready(done) => {
                let connected = done.0.map(|_| ());
                return Ok(connected.map_err(|error| failure(&error)));
            }
            PushEntry::Pending(key) => key,
        };
        let left = within.saturating_sub(started.elapsed());
        if left.is_zero() {
            ring.cancel(key);
            return Ok(Err(Failure::GaveUp));
        }
        match ring.poll(Some(left)) {
            Err(error) if error.kind() != io::ErrorKind::TimedOut => return Err(error),
            _ => entry = ring.pop(key),
        }
    }
}
