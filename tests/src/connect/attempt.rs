//! One connect(), or one after another.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::{CONNECTED, GAVE_UP, Told, Way, microseconds, uring};

/// How long a connection may say nothing before that is called silence: longer than a host takes to find out that a neighbour is
/// not there.
const SILENCE: Duration = Duration::from_secs(5);

/// A connection to be tried.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Where to.
    pub to: SocketAddr,
    /// How to wait.
    pub way: Way,
    /// The program's own time-out.
    pub within: Duration,
    /// Local port; 0: any that is free.
    pub from: u16,
    /// Whether to read from the connection.
    pub read: bool,
    /// What to do after a failure.
    pub repeat: Repeat,
}

/// How often and how fast to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// At most so often after the first.
    pub times: usize,
    /// From a failure to the next attempt.
    pub every: Duration,
}

/// What one `connect()` came to, and the events that told of it.
type Came = (Result<(), Failure>, Option<String>);

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    GaveUp,
    Told(i32),
}

impl Attempt {
    /// Tries until it works or was tried often enough; then reads, when asked to.
    ///
    /// # Errors
    /// When this machine can't try: no socket, no `io_uring`.
    pub fn run(&self) -> io::Result<Told> {
        let started = Instant::now();
        let mut before = Vec::new();
        loop {
            let socket = socket(self.to, self.from)?;
            let (came, events) = self.connect(&socket)?;
            let outcome = outcome(came);
            if came.is_err() && before.len() < self.repeat.times {
                before.push(outcome);
                drop(socket);
                thread::sleep(self.repeat.every);
                continue;
            }
            let us = microseconds(started.elapsed());
            let then = (self.read && came.is_ok()).then(|| read(socket.into()));
            return Ok(Told {
                to: self.to,
                outcome,
                us,
                before,
                events,
                then,
            });
        }
    }

    fn connect(&self, socket: &Socket) -> io::Result<Came> {
        match self.way {
            Way::Blocking => {
                socket.set_write_timeout(Some(self.within))?;
                let connected = socket.connect(&self.to.into());
                Ok((connected.map_err(|error| failure(&error)), None))
            }
            Way::Poll => self.non_blocking(socket, wait_by_poll),
            Way::Epoll => self.non_blocking(socket, wait_by_epoll),
            Way::Uring => Ok((uring::connect(socket, self.to, self.within)?, None)),
        }
    }

    fn non_blocking(
        &self,
        socket: &Socket,
        wait: fn(&Socket, Duration) -> io::Result<Option<String>>,
    ) -> io::Result<Came> {
        if let Err(told) = begin(socket, self.to)? {
            return Ok((Err(told), None));
        }
        let Some(events) = wait(socket, self.within)? else {
            return Ok((Err(Failure::GaveUp), None));
        };
        let error = socket.take_error()?;
        let came = error.map_or(Ok(()), |error| Err(failure(&error)));
        Ok((came, Some(events)))
    }
}

/// A socket for connections to `to`.
pub(super) fn socket(to: SocketAddr, from: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if from != 0 {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any, from).into())?;
    }
    Ok(socket)
}

/// Begins a non-blocking connect(); an error that is known at once is the outcome.
pub(super) fn begin(socket: &Socket, to: SocketAddr) -> io::Result<Result<(), Failure>> {
    socket.set_nonblocking(true)?;
    Ok(match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
            Err(failure(&error))
        }
        _ => Ok(()),
    })
}

fn wait_by_poll(socket: &Socket, within: Duration) -> io::Result<Option<String>> {
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let within = PollTimeout::try_from(within).map_err(io::Error::other)?;
    if poll(&mut polled, within)? == 0 {
        return Ok(None);
    }
    let events = polled[0].revents().unwrap_or(PollFlags::empty());
    let names: Vec<&str> = events.iter_names().map(|(name, _)| name).collect();
    Ok(Some(names.join(" | ")))
}

fn wait_by_epoll(socket: &Socket, within: Duration) -> io::Result<Option<String>> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let wanted = EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
    epoll.add(socket, EpollEvent::new(wanted, 0))?;
    let mut events = [EpollEvent::empty()];
    let within = EpollTimeout::try_from(within).map_err(io::Error::other)?;
    if epoll.wait(&mut events, within)? == 0 {
        return Ok(None);
    }
    let events = events[0].events();
    let names: Vec<&str> = events.iter_names().map(|(name, _)| name).collect();
    Ok(Some(names.join(" | ")))
}

/// A blocking connect() whose `SO_SNDTIMEO` is over says EINPROGRESS (socket(7)).
pub(super) fn failure(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(code) if code != Errno::EINPROGRESS as i32 => Failure::Told(code),
        _ => Failure::GaveUp,
    }
}

pub(super) fn outcome(came: Result<(), Failure>) -> String {
    match came {
        Ok(()) => CONNECTED.to_owned(),
        Err(Failure::GaveUp) => GAVE_UP.to_owned(),
        Err(Failure::Told(code)) => format!("{:?}", Errno::from_raw(code)),
    }
}

fn read(mut stream: TcpStream) -> String {
    let prepared = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(SILENCE)));
    let mut came = prepared.and_then(|()| stream.read(&mut [0; 1]));
    // The end of a ring interrupts what its thread waits for.
    while came
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::Interrupted)
    {
        came = stream.read(&mut [0; 1]);
    }
    match came {
        Ok(0) => "end".to_owned(),
        Ok(_) => "data".to_owned(),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN) | None => "silence".to_owned(),
            Some(errno) => format!("{errno:?}"),
        },
    }
}
