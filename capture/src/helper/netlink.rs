//! Requests to the kernel's netfilter that it answers before they have been sent (netlink(7)).

use std::io;
use std::time::Duration;

use adit_capture::netfilter::{ERROR, Message};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

/// The kernel answers while the request is being sent; this only bounds what cannot happen.
const DEADLINE: Duration = Duration::from_secs(1);
/// Messages that belong to something else, before we give up.
const STRAYS: usize = 16;
/// An error tells the request again, and ours are short.
const LONGEST: usize = 4096;

/// A socket with an address of its own.
pub(crate) fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    SockRef::from(&socket).set_read_timeout(Some(DEADLINE))?;
    Ok(socket)
}

/// Sends this. The address is said each time: the kernel then asks only for the sender's own capability, and not also for that
/// of whoever opened the socket (`NETLINK_SKB_DST` of net/netlink/af_netlink.c).
pub(crate) fn send(socket: &Socket, messages: &[u8]) -> io::Result<()> {
    match socket.send_to(messages, &SocketAddr::new(0, 0), 0)? {
        sent if sent == messages.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Sends this, and waits for what the kernel says to the message of that number, which asks for an answer.
pub(crate) fn done(socket: &Socket, messages: &[u8], sequence: u32) -> io::Result<()> {
    send(socket, messages)?;
    let mut buffer = vec![0; LONGEST];
    for _ in 0..STRAYS {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let bytes = buffer.get(..length).unwrap_or_default();
        let message = Message::decode(bytes).map_err(io::Error::other)?;
        if message.kind != ERROR {
            continue;
        }
        match message.error().map_err(io::Error::other)? {
            0 if message.sequence == sequence => return Ok(()),
            0 => {}
            code => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
