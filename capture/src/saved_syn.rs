//! The SYN that an accepted connection began with, as the listener's kernel got it (tcp(7), `TCP_SAVE_SYN`).
//!
//! A redirect may change the source port of a connection, but never its initial sequence number: by it an accepted connection is
//! led back to the question that was asked when its SYN was held.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::libc;

/// The longest IPv4 header and the longest TCP header; IPv6 has 40 bytes where no extension was asked for.
const LONGEST: usize = 60 + 60;

/// Has the kernel keep the SYN of each connection that this listener accepts.
///
/// # Errors
/// When the socket does not take the option.
pub fn keep(listener: impl AsFd) -> io::Result<()> {
    let on: i32 = 1;
    // SAFETY: the option's value is an int that lives until the call returns, and its size is said.
    let done = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVE_SYN,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The initial sequence number of the client of an accepted connection. Can be asked once. `None`: the kernel kept no SYN, as for
/// a connection that began with a SYN cookie.
///
/// # Errors
/// When the socket cannot be asked.
pub fn sequence(accepted: impl AsFd) -> io::Result<Option<u32>> {
    let mut syn = [0_u8; LONGEST];
    let mut length = LONGEST as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `syn`, which has as many, and how many it wrote to `length`.
    let done = unsafe {
        libc::getsockopt(
            accepted.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            syn.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let syn = syn.get(..length as usize).unwrap_or_default();
    Ok(crate::held_packet::ends(syn).map(|(_, _, sequence)| sequence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

    /// What the kernel kept has to be the beginning of this very connection.
    fn check(address: SocketAddr) {
        let listener = TcpListener::bind(address).unwrap();
        keep(&listener).unwrap();
        let own = listener.local_addr().unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let _client = TcpStream::connect(own).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            seen.push(sequence(&accepted).unwrap().unwrap());
            assert_eq!(
                sequence(&accepted).unwrap(),
                None,
                "it is kept for one question"
            );
        }
        seen.dedup();
        assert_eq!(
            seen.len(),
            3,
            "each connection has a number of its own: {seen:?}"
        );
    }

    #[test]
    fn the_syn_of_each_connection_is_kept() {
        check((Ipv4Addr::LOCALHOST, 0).into());
        check((Ipv6Addr::LOCALHOST, 0).into());
    }

    #[test]
    fn without_asking_none_is_kept() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(sequence(&accepted).unwrap(), None);
    }
}
