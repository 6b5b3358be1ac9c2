//! A queue of the kernel's in which SYNs are held (linux/netfilter/nfnetlink_queue.h), and the verdicts on them.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use adit_capture::mark;
use adit_capture::netfilter::{ACK, Header, REQUEST, attribute, message};
use adit_capture::questions::Answer;
use caps::{CapSet, Capability};
use netlink_sys::Socket;
use nix::errno::Errno;
use rustix::net::{RecvFlags, recv, sockopt};

use super::netlink;

/// Numbers of our queues. Of those that a user's rules lead to nobody else may be given one.
const NUMBERS: std::ops::Range<u16> = 0xad00..0xbd00;
/// What of a packet is needed: both headers with the longest options of IPv4.
const COPIED: u32 = 128;
/// What waits to be read of [`MOST_OF_A_USER`] questions takes less than this, as the kernel counts (socket(7), `SO_RCVBUF`:
/// it is doubled).
const BUFFER: usize = 4 * 1024 * 1024;
/// SYNs that are held: of a user, and of all.
pub(crate) const MOST_OF_A_USER: usize = 4096;
pub(crate) const MOST: usize = 16_384;

/// `NFNL_SUBSYS_QUEUE << 8` and `NFQNL_MSG_VERDICT`, `NFQNL_MSG_CONFIG`, `NFQNL_MSG_VERDICT_BATCH`.
const VERDICT: u16 = 3 << 8 | 1;
const CONFIG: u16 = 3 << 8 | 2;
const VERDICT_BATCH: u16 = 3 << 8 | 3;
/// `NFQA_VERDICT_HDR`, `NFQA_MARK` of `enum nfqnl_attr_type`.
const VERDICT_HEADER: u16 = 2;
const MARK: u16 = 3;
/// `NFQA_CFG_CMD`, `NFQA_CFG_PARAMS`, `NFQA_CFG_QUEUE_MAXLEN` of `enum nfqnl_attr_config`.
const COMMAND: u16 = 1;
const PARAMETERS: u16 = 2;
const MAX_LENGTH: u16 = 3;
/// `NFQNL_CFG_CMD_BIND`, `NFQNL_CFG_CMD_UNBIND`.
const BIND: u8 = 1;
const UNBIND: u8 = 2;
/// `NFQNL_COPY_PACKET`.
const COPY_PACKET: u8 = 2;
/// `NF_DROP`, `NF_ACCEPT`, `NF_REPEAT` (linux/netfilter.h): the last leads through the chain again that the packet came from.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const REPEAT: u32 = 4;
/// Numbers are compared as those of TCP are (`nfq_id_after` of net/netfilter/nfnetlink_queue.c): up to each of these is half of
/// all, so up to both of them is all.
const ALL: [u32; 2] = [0x7fff_ffff, 0xffff_ffff];

/// A queue that could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    #[error("cannot open a socket for a queue: {0}")]
    Socket(#[source] io::Error),
    #[error("the kernel gives no queue: {0}")]
    Bind(#[source] io::Error),
    #[error("all queues are taken")]
    Full,
}

/// Where what is let go may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Onward {
    /// Wherever the rules lead it, if they do.
    Anywhere,
    /// To a listener, or to an error: its rules are there.
    NotOut,
}

/// A queue that is open until it is dropped.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Shared with the broker, which reads from it. So it is never read here once it was given away.
    socket: Socket,
    number: u16,
    most: AtomicU32,
}

impl Queue {
    /// Opens one of those numbers that are not `taken`. Nothing is held before [`Queue::hold`].
    pub(crate) fn open(taken: impl Fn(u16) -> bool) -> Result<Queue, QueueError> {
        let socket = socket().map_err(QueueError::Socket)?;
        for number in NUMBERS.filter(|number| !taken(*number)) {
            match bind(&socket, number) {
                Ok(()) => {
                    let most = AtomicU32::new(0);
                    return Ok(Queue {
                        socket,
                        number,
                        most,
                    });
                }
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(QueueError::Bind(error)),
            }
        }
        Err(QueueError::Full)
    }

    /// Whether the kernel has queues. Tried with the number that would be given last.
    pub(crate) fn try_out() -> Result<(), QueueError> {
        Queue::open(|number| number < NUMBERS.end - 1).map(drop)
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// For the broker: what is read of it are the kernel's questions.
    pub(crate) fn questions(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Holds as many as this from now on. More than that are dropped.
    pub(crate) fn hold(&self, most: usize) -> io::Result<()> {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        if self.most.load(Ordering::Relaxed) == most {
            return Ok(());
        }
        let length = attribute(MAX_LENGTH, &most.to_be_bytes());
        netlink::send(&self.socket, &config(self.number, 0, &length))?;
        self.most.store(most, Ordering::Relaxed);
        Ok(())
    }

    /// Says what becomes of each of these. Who is no longer there is none of anybody's business: the kernel tells the broker.
    pub(crate) fn answer(
        &self,
        answers: impl IntoIterator<Item = (u32, Answer)>,
    ) -> io::Result<()> {
        let messages: Vec<u8> = answers
            .into_iter()
            .flat_map(|(id, answer)| verdict(self.number, id, answer))
            .collect();
        netlink::send(&self.socket, &messages)
    }

    /// Lets all that is held go on to the rules that come next. Takes some microseconds for each.
    pub(crate) fn let_go(&self, onward: Onward) -> io::Result<()> {
        ALL.iter().try_for_each(|last| {
            let attributes = match onward {
                Onward::Anywhere => verdict_header(ACCEPT, *last),
                Onward::NotOut => {
                    let mark = attribute(MARK, &mark::REDIRECT.to_be_bytes());
                    [verdict_header(REPEAT, *last), mark].concat()
                }
            };
            netlink::send(
                &self.socket,
                &request(VERDICT_BATCH, self.number, &attributes),
            )
        })
    }
}

impl Drop for Queue {
    /// The broker may keep its copy of the socket: that alone does not close the queue.
    fn drop(&mut self) {
        let closed = netlink::send(&self.socket, &command(self.number, UNBIND));
        if let Err(error) = closed {
            tracing::error!(number = self.number, %error, "a queue was not closed");
        }
        // Nor should it keep memory of the kernel's beyond what any socket may.
        let unread = BUFFER / size_of::<u64>();
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        (0..unread).find(|_| recv(&self.socket, &mut [0_u8; 1][..], flags).is_err());
    }
}

/// A socket with which the kernel takes nothing but what is sent to it by its address, see [`netlink::send`]: it was opened by
/// someone who may not configure the network. So the broker cannot have its copy written to by a program that may, as is any
/// program that changes its user when it starts and is given the copy as its standard output (credentials(7)).
fn socket() -> io::Result<Socket> {
    let open = || {
        // Of this thread alone (capabilities(7)).
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).map_err(io::Error::other)?;
        netlink::socket()
    };
    let thread = std::thread::Builder::new().name("queue".into());
    let opened = thread.spawn(open)?.join();
    let socket = opened.map_err(|_panic| io::Error::other("a thread of the helper panicked"))??;
    socket.set_no_enobufs(true)?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    Ok(socket)
}

fn bind(socket: &Socket, number: u16) -> io::Result<()> {
    let [a, b, c, d] = COPIED.to_be_bytes();
    let attributes = [
        command_attribute(BIND),
        attribute(PARAMETERS, &[a, b, c, d, COPY_PACKET]),
        attribute(MAX_LENGTH, &[0; 4]),
    ]
    .concat();
    netlink::done(socket, &config(number, ACK, &attributes), 0)
}

/// By another socket; what the kernel says depends on how far it looks.
fn is_taken(error: &io::Error) -> bool {
    [Errno::EBUSY, Errno::EPERM]
        .iter()
        .any(|code| error.raw_os_error() == Some(*code as i32))
}

fn command(number: u16, command: u8) -> Vec<u8> {
    config(number, 0, &command_attribute(command))
}

/// `struct nfqnl_msg_config_cmd`: the command, and a protocol family that is no longer looked at.
fn command_attribute(command: u8) -> Vec<u8> {
    attribute(COMMAND, &[command, 0, 0, 0])
}

fn config(number: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let header = Header {
        kind: CONFIG,
        flags: REQUEST | flags,
        sequence: 0,
        family: 0,
        resource: number,
    };
    message(header, attributes)
}

fn verdict(number: u16, id: u32, answer: Answer) -> Vec<u8> {
    let (verdict, mark) = match answer {
        Answer::Redirect => (REPEAT, Some(mark::REDIRECT)),
        Answer::Direct => (REPEAT, Some(mark::DIRECT)),
        Answer::Refuse => (REPEAT, Some(mark::REFUSE)),
        Answer::HostUnreachable => (REPEAT, Some(mark::HOST_UNREACHABLE)),
        Answer::NetworkUnreachable => (REPEAT, Some(mark::NETWORK_UNREACHABLE)),
        Answer::Drop => (DROP, None),
    };
    let mut attributes = verdict_header(verdict, id);
    if let Some(mark) = mark {
        attributes.extend(attribute(MARK, &mark.to_be_bytes()));
    }
    request(VERDICT, number, &attributes)
}

/// `struct nfqnl_msg_verdict_hdr`: verdict and number.
fn verdict_header(verdict: u32, id: u32) -> Vec<u8> {
    let value = [verdict.to_be_bytes(), id.to_be_bytes()].concat();
    attribute(VERDICT_HEADER, &value)
}

fn request(kind: u16, number: u16, attributes: &[u8]) -> Vec<u8> {
    let header = Header {
        kind,
        flags: REQUEST,
        sequence: 0,
        family: 0,
        resource: number,
    };
    message(header, attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte for byte as linux/netfilter/nfnetlink_queue.h has it, on a machine whose own order is little-endian.
    #[test]
    fn a_verdict_is_what_the_kernel_headers_say() {
        let check = |answer, verdict: u32, mark: Option<u32>| {
            let length = 32 + if mark.is_some() { 8 } else { 0 };
            let mut expected = vec![length, 0, 0, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            expected.extend([0, 0, 0xad, 0x05]);
            expected.extend([12, 0, 2, 0]);
            expected.extend(verdict.to_be_bytes());
            expected.extend([0x01, 0x02, 0x03, 0x04]);
            if let Some(mark) = mark {
                expected.extend([8, 0, 3, 0]);
                expected.extend(mark.to_be_bytes());
            }
            assert_eq!(self::verdict(0xad05, 0x0102_0304, answer), expected);
        };
        check(Answer::Redirect, 4, Some(0xad1f));
        check(Answer::Direct, 4, Some(0xad1b));
        check(Answer::Refuse, 4, Some(0xad1c));
        check(Answer::HostUnreachable, 4, Some(0xad1d));
        check(Answer::NetworkUnreachable, 4, Some(0xad1e));
        check(Answer::Drop, 0, None);
    }

    /// `(int)(id - max) > 0` ends the kernel's walk.
    #[test]
    fn all_numbers_are_let_go() {
        for id in [
            0,
            1,
            0x7fff_fffe,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_fffe,
            u32::MAX,
        ] {
            let reached = |last: &u32| id.wrapping_sub(*last).cast_signed() <= 0;
            assert!(ALL.iter().any(reached), "{id:#x}");
        }
    }
}
