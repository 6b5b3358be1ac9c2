//! Conversations of two programs over one TCP connection, and what each of them sees.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails where its script does")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

/// Far beyond what any conversation takes: a stall is a failure, not a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program does next with its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Sends so many bytes.
    Send(usize),
    /// Sends so many bytes, one to three a write.
    Dribble(usize),
    /// Sends for ever, until that fails.
    Flood,
    /// Reads so many bytes.
    Expect(usize),
    /// Reads to the end, at most so many bytes at once.
    ToEnd(usize),
    /// Sends and reads so many bytes, both at once.
    Both(usize),
    /// Ends its sending direction.
    Finish,
    /// Ends the connection with a reset.
    Reset,
}

/// A conversation: the steps of both ends. After its steps, an end closes.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) client: Vec<Step>,
    pub(crate) server: Vec<Step>,
}

/// What both ends saw.
pub(crate) type Sight = (Vec<String>, Vec<String>);

/// Plays a script against a fresh server; `via` says where the client connects to reach it.
pub(crate) fn play(
    at: IpAddr,
    script: &Script,
    via: impl FnOnce(SocketAddr) -> SocketAddr,
) -> Sight {
    let listener = TcpListener::bind((at, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let steps = script.server.clone();
    let server = thread::spawn(move || act(listener.accept().unwrap().0, &steps, 2, 1));
    let entrance = via(address);
    let client = act(TcpStream::connect(entrance).unwrap(), &script.client, 1, 2);
    (client, server.join().unwrap())
}

fn act(tcp: TcpStream, steps: &[Step], own: u64, others: u64) -> Vec<String> {
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut end = End {
        tcp,
        out: Content(own),
        into: Content(others),
    };
    steps
        .iter()
        .map(|&step| end.perform(step).unwrap_or_else(|error| name(&error)))
        .collect()
}

struct End {
    tcp: TcpStream,
    out: Content,
    into: Content,
}

impl End {
    fn perform(&mut self, step: Step) -> io::Result<String> {
        match step {
            Step::Send(bytes) => send(&self.tcp, &mut self.out, bytes, 64 << 10),
            Step::Dribble(bytes) => send(&self.tcp, &mut self.out, bytes, 3),
            Step::Flood => send(&self.tcp, &mut self.out, usize::MAX, 64 << 10),
            Step::Expect(bytes) => expect(&self.tcp, &mut self.into, bytes),
            Step::ToEnd(most) => to_end(&self.tcp, &mut self.into, most),
            Step::Both(bytes) => thread::scope(|scope| {
                let (tcp, into) = (&self.tcp, &mut self.into);
                let reading = scope.spawn(move || expect(tcp, into, bytes));
                send(&self.tcp, &mut self.out, bytes, 64 << 10)?;
                reading.join().unwrap()
            }),
            Step::Finish => {
                self.tcp.shutdown(std::net::Shutdown::Write)?;
                Ok(String::from("finished"))
            }
            Step::Reset => {
                SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO))?;
                Ok(String::from("closes with a reset"))
            }
        }
    }
}

fn send(
    mut tcp: &TcpStream,
    content: &mut Content,
    bytes: usize,
    most: usize,
) -> io::Result<String> {
    let mut buffer = vec![0; most];
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(most);
        content.fill(&mut buffer[..piece]);
        tcp.write_all(&buffer[..piece])?;
        left -= piece;
    }
    Ok(format!("sent {bytes}"))
}

fn expect(mut tcp: &TcpStream, content: &mut Content, bytes: usize) -> io::Result<String> {
    let mut buffer = vec![0; bytes.min(64 << 10)];
    let mut left = bytes;
    while left > 0 {
        let most = buffer.len().min(left);
        let read = tcp.read(&mut buffer[..most])?;
        if read == 0 {
            return Ok(format!("ended with {left} bytes missing"));
        }
        content.check(&buffer[..read]);
        left -= read;
    }
    Ok(format!("got {bytes}"))
}

fn to_end(mut tcp: &TcpStream, content: &mut Content, most: usize) -> io::Result<String> {
    let mut buffer = vec![0; most];
    let mut total = 0;
    loop {
        match tcp.read(&mut buffer) {
            Ok(0) => return Ok(format!("got {total}, end")),
            Ok(read) => {
                content.check(&buffer[..read]);
                total += read;
            }
            Err(error) => return Ok(format!("got {total}, {}", name(&error))),
        }
    }
}

/// EPIPE and ECONNRESET tell the same; which of them a writer gets is a matter of time.
fn name(error: &io::Error) -> String {
    let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    if gone.contains(&error.kind()) {
        String::from("reset")
    } else {
        error.to_string()
    }
}

/// Bytes that both ends can make, so that each is checked at its place (xorshift64).
struct Content(u64);

impl Content {
    fn next(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[3]
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        buffer.fill_with(|| self.next());
    }

    fn check(&mut self, bytes: &[u8]) {
        assert!(
            bytes.iter().all(|&byte| byte == self.next()),
            "other bytes than were sent"
        );
    }
}
