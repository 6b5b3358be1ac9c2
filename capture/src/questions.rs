//! Connections held at their SYN: the kernel asks, the broker answers.
//!
//! The questions come straight from the kernel, on a netlink socket that the helper has bound to this user's queue and handed
//! over: reading it needs no privilege. The answers need one at every use (CAP_NET_ADMIN, `nfnetlink_rcv`), so they go to the
//! helper, eight bytes each.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram as StdUnixDatagram, UnixStream as StdUnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{UnixDatagram, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::held_packet::{self, NotAQuestion};

/// Bytes of one answer on the way to the helper.
pub const ANSWER: usize = 8;
/// A question is a header, some attributes and the beginning of a packet.
const LONGEST: usize = 2048;

/// A connection that is held at its SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question {
    /// The kernel's number for it, for the answer.
    pub id: u32,
    /// The address of the program's socket.
    pub source: SocketAddr,
    /// Where it wants to go.
    pub destination: SocketAddr,
    /// Its initial sequence number (RFC 9293, 3.4.1): with the addresses it tells this connection from any other.
    pub sequence: u32,
    /// Whether the host itself has a way there. Without one the connection is on its way to `lo`, where only a redirect helps.
    pub routed: bool,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Go on: to the broker's listener, as the claim says.
    Redirect,
    /// Past all capture rules: the kernel connects it itself.
    Direct,
    /// The program sees ECONNREFUSED.
    Refuse,
    /// The program sees EHOSTUNREACH.
    HostUnreachable,
    /// The program sees ENETUNREACH.
    NetworkUnreachable,
    /// Nothing: the kernel sends the SYN again in time, which is a new question, until the program has had enough.
    Drop,
}

const ANSWERS: [(Answer, u8); 6] = [
    (Answer::Redirect, 1),
    (Answer::Direct, 2),
    (Answer::Refuse, 3),
    (Answer::HostUnreachable, 4),
    (Answer::NetworkUnreachable, 5),
    (Answer::Drop, 6),
];

/// Eight bytes that are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an answer: {0:02x?}")]
pub struct NotAnAnswer(pub [u8; ANSWER]);

impl Answer {
    /// As it goes to the helper: the question's number, big-endian, the answer, three bytes of zero.
    pub fn encode(self, id: u32) -> [u8; ANSWER] {
        let [a, b, c, d] = id.to_be_bytes();
        let code = ANSWERS.iter().find(|(answer, _)| *answer == self);
        [a, b, c, d, code.map_or(0, |(_, code)| *code), 0, 0, 0]
    }

    /// The question's number, and its answer.
    ///
    /// # Errors
    /// When the bytes are no answer.
    pub fn decode(bytes: [u8; ANSWER]) -> Result<(u32, Answer), NotAnAnswer> {
        let [a, b, c, d, code, 0, 0, 0] = bytes else {
            return Err(NotAnAnswer(bytes));
        };
        let answer = ANSWERS.iter().find(|(_, known)| *known == code);
        let (answer, _) = answer.ok_or(NotAnAnswer(bytes))?;
        Ok((u32::from_be_bytes([a, b, c, d]), *answer))
    }
}

/// Where this user's questions come from. Dropped, the kernel's questions go unread; the helper does with those that are held
/// what the claim says of a broker that is gone once the session ends.
#[derive(Debug)]
pub struct Questions {
    /// A netlink socket. All that is asked of it is recv(2), which is the same for each socket of datagrams.
    queue: UnixDatagram,
    buffer: Vec<u8>,
}

impl Questions {
    pub(crate) fn new(queue: OwnedFd) -> io::Result<Questions> {
        let queue = StdUnixDatagram::from(queue);
        queue.set_nonblocking(true)?;
        Ok(Questions {
            queue: UnixDatagram::from_std(queue)?,
            buffer: vec![0; LONGEST],
        })
    }

    /// The next question. What is no question is reported and can be passed over: the kernel gives it up with the rest.
    ///
    /// # Errors
    /// When the socket is of no use any more.
    pub async fn next(&mut self) -> io::Result<Result<Question, NotAQuestion>> {
        loop {
            match self.queue.recv(&mut self.buffer).await {
                Ok(length) => {
                    let message = self.buffer.get(..length).unwrap_or_default();
                    return Ok(held_packet::decode(message));
                }
                // More was asked than the socket could hold: those SYNs are lost, and sent again.
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
        || error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}

/// Where answers go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Answers {
    outbox: Arc<Outbox>,
    /// Ends with the last clone.
    _flushing: Arc<JoinSet<()>>,
}

#[derive(Debug)]
struct Outbox {
    /// Not watched by the runtime, which would hear of each answer that the helper has read.
    stream: StdUnixStream,
    /// What the stream did not take yet: at most an answer for each connection that is held.
    waiting: Mutex<Vec<u8>>,
    more: Notify,
}

impl Answers {
    /// On the stream that came with the queue.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn new(stream: OwnedFd) -> io::Result<Answers> {
        let stream = StdUnixStream::from(stream);
        stream.set_nonblocking(true)?;
        let outbox = Arc::new(Outbox {
            stream,
            waiting: Mutex::default(),
            more: Notify::new(),
        });
        let mut flushing = JoinSet::new();
        let flushed = outbox.clone();
        flushing.spawn(async move {
            if let Err(error) = flushed.flush().await {
                tracing::debug!("answers are heard no more: {error}");
            }
        });
        Ok(Answers {
            outbox,
            _flushing: Arc::new(flushing),
        })
    }

    /// Answers a question. Without a helper that hears it there is no such question any more.
    pub fn give(&self, id: u32, answer: Answer) {
        self.outbox.put(&answer.encode(id));
    }
}

impl Outbox {
    fn put(&self, record: &[u8]) {
        let mut waiting = self.waiting();
        let written = match waiting.is_empty() {
            true => (&self.stream).write(record).unwrap_or(0),
            false => 0,
        };
        let rest = record.get(written..).unwrap_or_default();
        if !rest.is_empty() {
            waiting.extend_from_slice(rest);
            self.more.notify_one();
        }
    }

    /// Writes what has to wait, until the helper is gone, and with it all that was held.
    async fn flush(&self) -> io::Result<()> {
        loop {
            self.more.notified().await;
            let stream = UnixStream::from_std(self.stream.try_clone()?)?;
            while !self.waiting().is_empty() {
                stream.writable().await?;
                self.write_waiting(&stream)?;
            }
        }
    }

    fn write_waiting(&self, stream: &UnixStream) -> io::Result<()> {
        let mut waiting = self.waiting();
        match stream.try_write(&waiting) {
            Ok(written) => {
                waiting.drain(..written);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read as _;

    #[test]
    fn an_answer_is_eight_bytes() {
        for (answer, code) in [
            (Answer::Redirect, 1),
            (Answer::Direct, 2),
            (Answer::Refuse, 3),
            (Answer::HostUnreachable, 4),
            (Answer::NetworkUnreachable, 5),
            (Answer::Drop, 6),
        ] {
            let bytes = [1, 2, 3, 4, code, 0, 0, 0];
            assert_eq!(answer.encode(0x0102_0304), bytes);
            assert_eq!(Answer::decode(bytes), Ok((0x0102_0304, answer)));
        }
    }

    proptest! {
        /// Each eight bytes are an answer in one way, or none.
        #[test]
        fn answers_survive_the_journey(id in any::<[u8; 4]>(), code in 0_u8..10, rest in prop::collection::vec(0_u8..2, 3)) {
            let [a, b, c, d] = id;
            let bytes = [a, b, c, d, code, rest[0], rest[1], rest[2]];
            match Answer::decode(bytes) {
                Ok((id, answer)) => prop_assert_eq!(answer.encode(id), bytes),
                Err(error) => {
                    prop_assert_eq!(error, NotAnAnswer(bytes));
                    prop_assert!(code == 0 || code > 6 || rest != [0, 0, 0]);
                }
            }
        }
    }

    /// What the stream does not take at once is not lost, and keeps its order.
    #[tokio::test]
    async fn answers_wait_for_a_slow_helper() {
        const MANY: u32 = 20_000;
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let answers = Answers::new(ours.into()).unwrap();
        (0..MANY).for_each(|id| answers.give(id, Answer::Redirect));
        let reader = tokio::task::spawn_blocking(move || {
            let mut theirs = theirs;
            let mut bytes = vec![0; MANY as usize * ANSWER];
            theirs.read_exact(&mut bytes).map(|()| bytes)
        });
        let bytes = reader.await.unwrap().unwrap();
        let (records, []) = bytes.as_chunks::<ANSWER>() else {
            panic!("{} bytes", bytes.len());
        };
        for (record, id) in records.iter().zip(0..) {
            assert_eq!(Answer::decode(*record), Ok((id, Answer::Redirect)));
        }
    }

    /// A datagram that is no question does not end the reading.
    #[tokio::test]
    async fn what_is_no_question_is_passed_over() {
        let (kernel, ours) = StdUnixDatagram::pair().unwrap();
        let mut questions = Questions::new(ours.into()).unwrap();
        kernel.send(b"?").unwrap();
        assert!(questions.next().await.unwrap().is_err());
        kernel.send(&[]).unwrap();
        assert!(questions.next().await.unwrap().is_err());
    }

    /// A helper that is gone has heard nothing, and nobody is kept waiting for it.
    #[tokio::test]
    async fn a_helper_that_is_gone_takes_no_answers() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let answers = Answers::new(ours.into()).unwrap();
        drop(theirs);
        answers.give(1, Answer::Drop);
    }
}
