//! Many connections of one program at once.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use socket2::{Domain, Protocol, Socket, Type};

/// Each of them is on its way, or has come to an end.
#[derive(Default)]
pub(crate) struct Crowd {
    sockets: Vec<Socket>,
}

impl Crowd {
    /// `None`: not one of its orders.
    pub(crate) fn obey(&mut self, order: &str, rest: &str) -> Option<String> {
        Some(match order {
            "start" => self.start(rest),
            "outcome" => self.outcome(Duration::from_millis(rest.parse().unwrap())),
            "give_up" => {
                self.sockets.clear();
                "ok".into()
            }
            "errno" => errno(rest),
            "connect_with_mark" => with_mark(rest),
            "time_connects" => time_connects(rest),
            "syns" => syns(rest),
            _ => return None,
        })
    }

    /// So many to one address; they wait for nothing.
    fn start(&mut self, rest: &str) -> String {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let (count, to) = rest.split_once(' ').unwrap();
        let to: SocketAddr = to.parse().unwrap();
        for _ in 0..count.parse().unwrap() {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _underway = socket.connect(&to.into());
            self.sockets.push(socket);
        }
        "ok".into()
    }

    /// What came of them within that time: the count of each outcome, by errno(3), 0 for a connection.
    fn outcome(&self, within: Duration) -> String {
        let end = Instant::now() + within;
        let mut outcomes = std::collections::BTreeMap::new();
        let mut waiting = 0;
        for socket in &self.sockets {
            let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            let left = end.saturating_duration_since(Instant::now());
            if poll(&mut ready, PollTimeout::try_from(left).unwrap()).unwrap() == 0 {
                waiting += 1;
                continue;
            }
            let error = socket.take_error().unwrap();
            let errno = error.and_then(|error| error.raw_os_error()).unwrap_or(0);
            *outcomes.entry(errno).or_insert(0) += 1;
        }
        let mut said: Vec<String> = outcomes
            .iter()
            .map(|(errno, count)| format!("{count}x{errno}"))
            .collect();
        if waiting > 0 {
            said.push(format!("{waiting} waiting"));
        }
        said.join(" ")
    }
}

/// Of one that waits: the number of its error, 0 for a connection.
fn errno(to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    match socket.connect(&to.into()) {
        Ok(()) => "0".into(),
        Err(error) => error.raw_os_error().unwrap().to_string(),
    }
}

fn with_mark(rest: &str) -> String {
    let (mark, to) = rest.split_once(' ').unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_mark(mark.parse().unwrap()).unwrap();
    match socket.connect(&to.into()) {
        Ok(()) => format!("ok {}", socket.local_addr().unwrap().as_socket().unwrap()),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// So many one after another: microseconds of the median, and of the one that only one in a hundred is slower than.
fn time_connects(rest: &str) -> String {
    let (count, to) = rest.split_once(' ').unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let mut took: Vec<u128> = (0..count.parse().unwrap())
        .map(|_| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            let start = Instant::now();
            socket.connect(&to.into()).unwrap();
            start.elapsed().as_micros()
        })
        .collect();
    took.sort_unstable();
    format!(
        "ok {} {}",
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    )
}

/// So many SYNs without a socket that they would be of; how many the rules let pass, or queued, and in how many milliseconds.
fn syns(rest: &str) -> String {
    let (count, to) = rest.split_once(' ').unwrap();
    let (count, to): (u16, SocketAddr) = (count.parse().unwrap(), to.parse().unwrap());
    let raw = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP)).unwrap();
    // What is held counts as not yet sent.
    set_socket_send_buffer_size_force(&raw, 16 << 20).unwrap();
    let to_host = SocketAddr::new(to.ip(), 0).into();
    let start = Instant::now();
    let sent = (1..=count).filter(|source_port| {
        let sent = raw.send_to(&syn(*source_port, to.port()), &to_host);
        // What is dropped on its way out is not permitted (`nf_hook_slow` of net/netfilter/core.c).
        let is_dropped = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
        assert!(sent.as_ref().err().is_none_or(is_dropped), "{sent:?}");
        sent.is_ok()
    });
    format!("ok {} {}", sent.count(), start.elapsed().as_millis())
}

/// RFC 9293, 3.1, without a checksum.
fn syn(source_port: u16, port: u16) -> [u8; 20] {
    let [a, b] = source_port.to_be_bytes();
    let [c, d] = port.to_be_bytes();
    let (words, flag) = (5 << 4, 2);
    [
        a, b, c, d, 0, 0, a, b, 0, 0, 0, 0, words, flag, 255, 255, 0, 0, 0, 0,
    ]
}
