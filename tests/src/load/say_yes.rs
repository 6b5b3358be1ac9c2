//! The least that it costs to hold a SYN: one thread that reads the kernel's questions and hands each on, and one that answers all
//! with yes. Two threads that take turns, as broker and helper do, and nothing else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use anyhow::{Result, bail, ensure};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NFNL_SUBSYS_QUEUE << 8` and `NFQNL_MSG_PACKET`, `NFQNL_MSG_VERDICT`, `NFQNL_MSG_CONFIG` (linux/netfilter/nfnetlink_queue.h).
const PACKET: u16 = 3 << 8;
const VERDICT: u16 = 3 << 8 | 1;
const CONFIG: u16 = 3 << 8 | 2;
/// `NFQA_CFG_CMD` with `NFQNL_CFG_CMD_BIND`, `NFQA_CFG_PARAMS` with 128 bytes of each packet and `NFQNL_COPY_PACKET`,
/// `NFQA_VERDICT_HDR` with `NF_ACCEPT`.
const BIND: [u8; 8] = [8, 0, 1, 0, 1, 0, 0, 0];
const COPY: [u8; 12] = [9, 0, 2, 0, 0, 0, 0, 128, 2, 0, 0, 0];
const YES: [u8; 8] = [12, 0, 2, 0, 0, 0, 0, 1];
/// Where the number of the packet is: behind the header of netlink, that of netfilter, and that of the first attribute.
const NUMBER: usize = 16 + 4 + 4;

/// Says yes to all that this queue holds; `ready` is called before the first.
///
/// # Errors
/// When the queue cannot be had, or is gone.
pub fn say_yes(queue: u16, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    let socket = Arc::new(socket);
    tell(&socket, CONFIG, queue, &[&BIND[..], &COPY].concat())?;
    let (mut numbers, heard) = UnixStream::pair()?;
    let answering = socket.clone();
    let answerer = thread::spawn(move || answer(&answering, queue, heard));
    ready()?;
    let mut buffer = [0; 4096];
    while !answerer.is_finished() {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let message = &buffer[..length];
        ensure!(length >= NUMBER + 4, "a message of {length} bytes");
        match u16::from_ne_bytes([message[4], message[5]]) {
            PACKET => numbers.write_all(&message[NUMBER..NUMBER + 4])?,
            other => bail!("a message of kind {other:#x}"),
        }
    }
    bail!("nobody answers any more")
}

fn answer(socket: &Socket, queue: u16, mut numbers: UnixStream) -> Result<()> {
    loop {
        let mut number = [0; 4];
        numbers.read_exact(&mut number)?;
        tell(socket, VERDICT, queue, &[&YES[..], &number].concat())?;
    }
}

fn tell(socket: &Socket, kind: u16, queue: u16, attributes: &[u8]) -> Result<()> {
    let length = u32::try_from(20 + attributes.len())?;
    let message = [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &REQUEST.to_ne_bytes(),
        &[0; 10],
        &queue.to_be_bytes(),
        attributes,
    ]
    .concat();
    socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
    Ok(())
}
