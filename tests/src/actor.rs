//! Acts out one end of a [`Script`] on a real socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::content::{Content, mix};
use crate::entry::Entry;
use crate::script::{Script, Sight, Step, Timing};

/// A peer that says nothing for so long is not coming back.
const PATIENCE: Duration = Duration::from_secs(45);
const BUFFER: usize = 64 * 1024;
/// A flood that nobody stops ends here.
const FLOOD: u64 = 1 << 30;

/// Which end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The one that connects.
    Dialler,
    /// The one that accepts.
    Listener,
}

/// What a socket is bound to before it connects.
#[derive(Debug, Clone, Default)]
pub struct From {
    /// Port; 0: any that is free.
    pub port: u16,
    /// Name of the network device that it may use, if not any (socket(7), `SO_BINDTODEVICE`).
    pub device: Option<String>,
}

/// Connects and acts. `number` tells this connection from others of the same script.
#[must_use]
pub fn dial(to: SocketAddr, from: &From, script: &Script, seed: u64, number: u64) -> Sight {
    let started = Instant::now();
    let mut sight = acted(connect(to, from), started, script, seed, number);
    // A connection that was reset meanwhile does not tell any more where it led to.
    if sight.steps.first().is_some_and(|step| step == "connected") {
        sight.peer = to.ip().to_canonical().to_string();
    }
    sight
}

/// The same through an entry.
#[must_use]
pub fn dial_through(
    entry: Entry,
    to: SocketAddr,
    script: &Script,
    seed: u64,
    number: u64,
) -> Sight {
    let started = Instant::now();
    let connected = connect(entry.address(), &From::default()).and_then(|stream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        entry.ask(&stream, to)?;
        Ok(stream)
    });
    Sight {
        peer: to.ip().to_canonical().to_string(),
        ..acted(connected, started, script, seed, number)
    }
}

fn acted(
    connected: io::Result<TcpStream>,
    started: Instant,
    script: &Script,
    seed: u64,
    number: u64,
) -> Sight {
    let connect_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut sight = match connected {
        Ok(stream) => act(stream, script, End::Dialler, seed, number),
        Err(error) => Sight {
            steps: vec![format!("connect: {}", name(&error))],
            ..Sight::default()
        },
    };
    sight.timing.connect_us = connect_us;
    sight
}

fn connect(to: SocketAddr, from: &From) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(device) = &from.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if from.port != 0 {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any, from.port).into())?;
    }
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Acts on a connection that is there.
#[must_use]
pub fn act(stream: TcpStream, script: &Script, end: End, seed: u64, number: u64) -> Sight {
    let peer = stream
        .peer_addr()
        .map(|peer| peer.ip().to_canonical().to_string());
    let mut actor = Actor {
        stream,
        end,
        seed,
        number,
        own: Content::new(0),
        other: Content::new(0),
        timing: Timing::default(),
    };
    let mut steps = vec!["connected".to_owned()];
    if let Err(error) = actor.prepare() {
        steps.push(format!("set-up: {}", name(&error)));
    }
    for step in &script.0 {
        if *step == Step::Reset {
            let reset = SockRef::from(&actor.stream).set_linger(Some(Duration::ZERO));
            steps.push(reset.map_or_else(|error| name(&error), |()| "reset it".to_owned()));
            break;
        }
        match actor.perform(*step) {
            Ok(what) => steps.push(what),
            Err(error) => {
                steps.push(format!("{step:?}: {}", name(&error)));
                break;
            }
        }
    }
    Sight {
        steps,
        peer: peer.unwrap_or_default(),
        timing: actor.timing,
    }
}

/// How many have come to the meeting, and who waits for more of them.
static MEETING: (Mutex<u64>, Condvar) = (Mutex::new(0), Condvar::new());

fn meet(number: u64) -> io::Result<()> {
    let (come, more) = &MEETING;
    let mut come = come.lock().unwrap_or_else(PoisonError::into_inner);
    let whole = (*come / number + 1) * number;
    *come += 1;
    more.notify_all();
    let (come, waited) = more
        .wait_timeout_while(come, PATIENCE, |come| *come < whole)
        .unwrap_or_else(PoisonError::into_inner);
    match waited.timed_out() {
        true => Err(io::Error::other(format!(
            "only {come} of {whole} have come"
        ))),
        false => Ok(()),
    }
}

struct Actor {
    stream: TcpStream,
    end: End,
    seed: u64,
    number: u64,
    own: Content,
    other: Content,
    timing: Timing,
}

impl Actor {
    fn prepare(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.set_write_timeout(Some(PATIENCE))?;
        self.choose_content();
        Ok(())
    }

    fn choose_content(&mut self) {
        let base = self.seed.wrapping_add(mix(self.number) & !1);
        let (own, other) = if self.end == End::Dialler {
            (base, base | 1)
        } else {
            (base | 1, base)
        };
        self.own = Content::new(own);
        self.other = Content::new(other);
    }

    fn perform(&mut self, step: Step) -> io::Result<String> {
        match step {
            Step::Number => self.exchange_number(),
            Step::Send(bytes) => {
                send(&self.stream, &mut self.own, bytes).map(|()| "sent".to_owned())
            }
            Step::SendRandom(most) => self.perform(Step::Send(self.random(most, self.end))),
            Step::Dribble(writes) => self.dribble(writes),
            Step::Flood => Ok(flood(&self.stream, &mut self.own)),
            Step::Expect(bytes) => self.expect(bytes, BUFFER, Duration::ZERO),
            Step::ExpectRandom(most) => {
                self.perform(Step::Expect(self.random(most, other(self.end))))
            }
            Step::ExpectDribble(writes) => self.perform(Step::Expect(dribbled(writes))),
            Step::Slowly(bytes) => self.expect(bytes, 32 * 1024, Duration::from_millis(5)),
            Step::End => expect_end(&self.stream),
            Step::Finish => self
                .stream
                .shutdown(Shutdown::Write)
                .map(|()| "finished".to_owned()),
            Step::Reset => Ok(String::new()),
            Step::Pause(ms) => {
                thread::sleep(Duration::from_millis(ms));
                Ok("paused".to_owned())
            }
            Step::Meet(number) => meet(number).map(|()| "met".to_owned()),
            Step::Echo => self.echo(),
            Step::Ping(times) => self.ping(times),
            Step::Both(bytes) => self.both(bytes),
            Step::Saturate(ms) => self.saturate(Duration::from_millis(ms)),
        }
    }

    fn exchange_number(&mut self) -> io::Result<String> {
        if self.end == End::Dialler {
            self.stream.write_all(&self.number.to_be_bytes())?;
        } else {
            let mut bytes = [0; 8];
            self.stream.read_exact(&mut bytes)?;
            self.number = u64::from_be_bytes(bytes);
        }
        self.choose_content();
        Ok("know the number".to_owned())
    }

    fn random(&self, most: u64, sender: End) -> u64 {
        mix(self.seed ^ mix(self.number * 2 + u64::from(sender == End::Dialler))) % (most + 1)
    }

    fn dribble(&mut self, writes: u64) -> io::Result<String> {
        for turn in 0..writes {
            send(&self.stream, &mut self.own, turn % 3 + 1)?;
        }
        Ok("dribbled".to_owned())
    }

    fn expect(&mut self, bytes: u64, most: usize, rest: Duration) -> io::Result<String> {
        let mut buffer = vec![0; most];
        let mut left = bytes;
        while left > 0 {
            let want = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = (&self.stream).read(&mut buffer[..want])?;
            if got == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "too short"));
            }
            if !self.other.matches(&buffer[..got]) {
                return Err(io::Error::new(ErrorKind::InvalidData, "wrong bytes"));
            }
            left -= got as u64;
            if !rest.is_zero() {
                thread::sleep(rest);
            }
        }
        Ok(format!("received {bytes} intact"))
    }

    fn echo(&mut self) -> io::Result<String> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match (&self.stream).read(&mut buffer)? {
                0 => return Ok("echoed".to_owned()),
                got => (&self.stream).write_all(&buffer[..got])?,
            }
        }
    }

    fn ping(&mut self, times: u64) -> io::Result<String> {
        let mut byte = [0];
        for turn in 0..times {
            let started = Instant::now();
            (&self.stream).write_all(&[turn.to_le_bytes()[0]])?;
            (&self.stream).read_exact(&mut byte)?;
            let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.timing.round_trips_us.push(took);
        }
        self.timing.round_trips_us.sort_unstable();
        Ok(format!("{times} round trips"))
    }

    fn both(&mut self, bytes: u64) -> io::Result<String> {
        let (writer, mut own) = (self.stream.try_clone()?, self.own.clone());
        let sending = thread::spawn(move || send(&writer, &mut own, bytes));
        let received = self.expect(bytes, BUFFER, Duration::ZERO);
        sending
            .join()
            .map_err(|_| io::Error::other("the sender panicked"))??;
        received
    }

    fn saturate(&mut self, lasting: Duration) -> io::Result<String> {
        let (writer, mut own) = (self.stream.try_clone()?, self.own.clone());
        let sending = thread::spawn(move || {
            let started = Instant::now();
            while started.elapsed() < lasting {
                send(&writer, &mut own, BUFFER as u64)?;
            }
            writer.shutdown(Shutdown::Write)
        });
        let mut buffer = vec![0; BUFFER];
        let mut last = Instant::now();
        loop {
            let got = (&self.stream).read(&mut buffer)?;
            let standstill = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.timing.longest_standstill_ms = self.timing.longest_standstill_ms.max(standstill);
            last = Instant::now();
            if got == 0 {
                break;
            }
            if !self.other.matches(&buffer[..got]) {
                return Err(io::Error::new(ErrorKind::InvalidData, "wrong bytes"));
            }
            self.timing.received += got as u64;
        }
        sending
            .join()
            .map_err(|_| io::Error::other("the sender panicked"))??;
        Ok("saturated, intact to the end".to_owned())
    }
}

fn send(mut stream: &TcpStream, content: &mut Content, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER.min(usize::try_from(bytes).unwrap_or(BUFFER))];
    let mut left = bytes;
    while left > 0 {
        let part = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        content.fill(&mut buffer[..part]);
        stream.write_all(&buffer[..part])?;
        left -= part as u64;
    }
    Ok(())
}

fn flood(stream: &TcpStream, content: &mut Content) -> String {
    match send(stream, content, FLOOD) {
        Ok(()) => "nobody stopped it".to_owned(),
        // Which of the two it is depends on whether the reset came before or during the write.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) =>
        {
            "stopped by a reset".to_owned()
        }
        Err(error) => name(&error),
    }
}

fn expect_end(mut stream: &TcpStream) -> io::Result<String> {
    match stream.read(&mut [0; 1])? {
        0 => Ok("end".to_owned()),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "more bytes")),
    }
}

fn other(end: End) -> End {
    if end == End::Dialler {
        End::Listener
    } else {
        End::Dialler
    }
}

fn dribbled(writes: u64) -> u64 {
    (0..writes).map(|turn| turn % 3 + 1).sum()
}

/// A read's time-out says "would block": nobody spoke.
fn name(error: &io::Error) -> String {
    let kind = error.kind();
    if kind == ErrorKind::Other {
        error.to_string()
    } else if kind == ErrorKind::WouldBlock {
        "silence".to_owned()
    } else if matches!(kind, ErrorKind::InvalidData | ErrorKind::UnexpectedEof) {
        error.to_string()
    } else {
        kind.to_string()
    }
}
