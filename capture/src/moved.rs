//! How much a TCP connection has carried, by the kernel's count (tcp(7), `TCP_INFO` and `SIOCOUTQ`): for one that another process reads and writes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::libc;

/// States of the kernel's tcp_states.h in which the peer's FIN has come, which counts as a byte that was received.
const PEER_HAS_FINISHED: [u8; 3] = [
    8,  // TCP_CLOSE_WAIT
    9,  // TCP_LAST_ACK
    11, // TCP_CLOSING
];

/// Bytes of payload of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// That came from the peer, read or not.
    pub received: u64,
    /// That were written for the peer, whether they have arrived or not.
    pub written: u64,
}

/// What has been moved on a connection that this side has not finished: its own FIN would count as a byte.
///
/// # Errors
/// When the socket is no TCP socket.
pub fn moved(connection: impl AsFd) -> io::Result<Moved> {
    let info = info(&connection)?;
    let fin = PEER_HAS_FINISHED.contains(&info.tcpi_state);
    Ok(Moved {
        received: info.tcpi_bytes_received.saturating_sub(u64::from(fin)),
        written: info.tcpi_bytes_acked + u64::from(unacknowledged(&connection)?),
    })
}

fn info(connection: &impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has as many.
    let done = unsafe {
        libc::getsockopt(
            connection.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it consists of integers, for which zeroes, and whatever the kernel wrote over them, are values.
    Ok(unsafe { info.assume_init() })
}

fn unacknowledged(connection: &impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes an int, which lives until the call returns.
    let done = unsafe {
        libc::ioctl(
            connection.as_fd().as_raw_fd(),
            libc::TIOCOUTQ,
            &raw mut bytes,
        )
    };
    match done {
        0 => Ok(u32::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn payload_is_counted_and_nothing_else() {
        let (mut near, mut far) = pair();
        assert_eq!(moved(&far).unwrap(), Moved::default());
        near.write_all(&[1; 70_000]).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let mut read = Vec::new();
        far.read_to_end(&mut read).unwrap();
        // More than the peer takes, so that some of it waits here.
        far.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(more) = far.write(&[2; 10_000]) {
            written += more as u64;
        }
        let expected = Moved {
            received: read.len() as u64,
            written,
        };
        assert_eq!(moved(&far).unwrap(), expected);
        assert_eq!(expected.received, 70_000);
    }

    #[test]
    fn what_is_no_connection_has_moved_nothing() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(moved(&one).is_err());
    }
}
