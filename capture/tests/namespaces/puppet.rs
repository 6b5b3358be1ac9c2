//! A process that does one thing for each line it reads, and says in one line what came of it: `ok …`, or the kind of error.

use std::collections::VecDeque;
use std::io::{BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use adit_capture::wire::Redirected;
use adit_capture::{Claim, Client, ClientError, Family};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::runtime::Runtime;

use crate::asker::Asker;
use crate::crowd::Crowd;
use crate::lab::SOCKET;
use crate::looker::Looker;

const CONNECT: Duration = Duration::from_secs(2);
const ACCEPT: Duration = Duration::from_secs(2);

struct Puppet {
    runtime: Runtime,
    client: Option<Client>,
    listeners: Vec<TcpListener>,
    /// Connections stay open.
    streams: VecDeque<TcpStream>,
    looker: Looker,
    asker: Asker,
    crowd: Crowd,
}

pub(crate) fn run() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut puppet = Puppet {
        runtime,
        client: None,
        listeners: Vec::new(),
        streams: VecDeque::new(),
        looker: Looker::default(),
        asker: Asker::default(),
        crowd: Crowd::default(),
    };
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (order, rest) = line.split_once(' ').unwrap_or((&line, ""));
        println!("{}", puppet.obey(order, rest));
        std::io::stdout().flush().unwrap();
    }
    ExitCode::SUCCESS
}

impl Puppet {
    fn obey(&mut self, order: &str, rest: &str) -> String {
        if let Some(said) = self.crowd.obey(order, rest) {
            return said;
        }
        if let Some(said) = self.looker.obey(order, rest) {
            return said;
        }
        let client = self.client.as_ref();
        if let Some(said) = self.asker.obey(&self.runtime, client, (order, rest)) {
            return said;
        }
        match order {
            "listeners" => self.listen(&["127.0.0.1:0", "[::1]:0"]),
            "listen" => self.listen(&rest.split(' ').collect::<Vec<_>>()),
            "session" => self.session(),
            "leave" => {
                self.client = None;
                "ok".into()
            }
            "claim" => self.claim(
                rest,
                &self.listeners.iter().map(AsFd::as_fd).collect::<Vec<_>>(),
            ),
            "odd" => {
                let (kind, claim) = rest.split_once(' ').unwrap();
                let descriptors = odd(kind);
                self.claim(
                    claim,
                    &descriptors.iter().map(AsFd::as_fd).collect::<Vec<_>>(),
                )
            }
            "release" => said(self.runtime.block_on(self.client().release())),
            "gone" => {
                self.runtime.block_on(self.client().gone());
                "ok".into()
            }
            "connect" => self.connect(rest),
            "connect_from" => self.connect_from(rest),
            "reset" => self.reset(),
            "original_source" => self.original_source(rest),
            "original_source_at" => self.original_source_at(rest),
            "bench_source" => self.bench_source(rest),
            "address" => self.address(rest).to_string(),
            "listeners_anew" => {
                self.listeners.clear();
                self.listen(&["127.0.0.1:0", "[::1]:0"])
            }
            "connect_mptcp" => self.connect_mptcp(rest),
            "marked" => self.marked(rest),
            "accept" => self.accept(rest),
            "talk" => self.talk(),
            "hear" => self.hear(),
            "accept_none" => self.accept_none(rest),
            "mark" => self.mark(rest),
            "rebind_listener" => self.rebind_listener(rest),
            "rebind_accepted" => self.rebind_accepted(rest),
            other => panic!("no such order: {other}"),
        }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().unwrap()
    }

    fn listen(&mut self, addresses: &[&str]) -> String {
        let mut ports = "ok".to_owned();
        for address in addresses {
            match listen(address.parse().unwrap()) {
                Ok(listener) => {
                    ports.push_str(&format!(" {}", listener.local_addr().unwrap().port()));
                    self.listeners.push(listener);
                }
                Err(error) => return format!("{:?}", error.kind()),
            }
        }
        ports
    }

    fn session(&mut self) -> String {
        match self.runtime.block_on(Client::connect(Path::new(SOCKET))) {
            Ok(client) => {
                self.client = Some(client);
                "ok".into()
            }
            Err(error) => said(Err(error)),
        }
    }

    fn claim(&self, claim: &str, descriptors: &[BorrowedFd<'_>]) -> String {
        let claim: Claim = serde_json::from_str(claim).unwrap();
        said(
            self.runtime
                .block_on(self.client().claim(&claim, descriptors)),
        )
    }

    fn connect(&mut self, to: &str) -> String {
        match TcpStream::connect_timeout(&to.parse().unwrap(), CONNECT) {
            Ok(stream) => self.keep(stream),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    fn connect_from(&mut self, rest: &str) -> String {
        let (from, to) = rest.split_once(' ').unwrap();
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&from.into()).unwrap();
        match socket.connect_timeout(&to.into(), CONNECT) {
            Ok(()) => self.keep(socket.into()),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    /// Ends the last connection without a word.
    fn reset(&mut self) -> String {
        let stream = self.streams.pop_back().unwrap();
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        "ok".into()
    }

    fn address(&self, number: &str) -> SocketAddr {
        let listener = &self.listeners[number.parse::<usize>().unwrap()];
        listener.local_addr().unwrap()
    }

    /// The client's own address of what the listener of that number accepted from that peer.
    fn original_source(&self, rest: &str) -> String {
        let (number, peer) = rest.split_once(' ').unwrap();
        self.original_source_at(&format!("{} {peer}", self.address(number)))
    }

    fn original_source_at(&self, rest: &str) -> String {
        let (listener, peer) = rest.split_once(' ').unwrap();
        let (listener, peer) = (listener.parse().unwrap(), peer.parse().unwrap());
        let asked = self
            .client()
            .original_sources(vec![Redirected { listener, peer }; 2]);
        let sources = match self.runtime.block_on(asked) {
            Ok(sources) => sources,
            Err(error) => return said(Err(error)),
        };
        // Asked twice in one request: an answer each, in order.
        match sources[..] {
            [Some(source), same] if same == Some(source) => format!("ok {source}"),
            [None, None] => "none".into(),
            _ => format!("differ {sources:?}"),
        }
    }

    /// Microseconds for one.
    fn bench_source(&self, rest: &str) -> String {
        const ROUNDS: u32 = 2000;
        let expected = self.original_source(rest);
        let start = std::time::Instant::now();
        (0..ROUNDS).for_each(|_| assert_eq!(self.original_source(rest), expected));
        format!("ok {}", (start.elapsed() / ROUNDS).as_micros())
    }

    fn connect_mptcp(&mut self, to: &str) -> String {
        let to: SocketAddr = to.parse().unwrap();
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP));
        let socket = socket.unwrap();
        match socket.connect_timeout(&to.into(), CONNECT) {
            Ok(()) => self.keep(socket.into()),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    fn marked(&mut self, to: &str) -> String {
        let to: SocketAddr = to.parse().unwrap();
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let socket = match self.runtime.block_on(self.client().marked_socket(family)) {
            Ok(socket) => Socket::from(socket),
            Err(error) => return said(Err(error)),
        };
        assert!(socket.nonblocking().unwrap());
        match socket.connect_timeout(&to.into(), CONNECT) {
            Ok(()) => self.keep(socket.into()),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    fn keep(&mut self, stream: TcpStream) -> String {
        let answer = format!("ok {}", stream.local_addr().unwrap());
        self.streams.push_back(stream);
        answer
    }

    /// Peer and original destination of the next connection of the listener of that number.
    fn accept(&mut self, number: &str) -> String {
        let listener = &self.listeners[number.parse::<usize>().unwrap()];
        SockRef::from(listener)
            .set_read_timeout(Some(ACCEPT))
            .unwrap();
        match listener.accept() {
            Ok((stream, peer)) => {
                let socket = SockRef::from(&stream);
                let original = match peer {
                    SocketAddr::V4(_) => socket.original_dst_v4(),
                    SocketAddr::V6(_) => socket.original_dst_v6(),
                };
                let original = original.map(|address| address.as_socket().unwrap().to_string());
                self.streams.push_back(stream);
                format!(
                    "ok {peer} {}",
                    original.unwrap_or_else(|_none| "direct".into())
                )
            }
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    /// Sends a byte on the last connection.
    fn talk(&mut self) -> String {
        let stream = self.streams.back_mut().unwrap();
        match stream.write_all(b"x") {
            Ok(()) => "ok".into(),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    /// Waits for two bytes on the last connection.
    fn hear(&mut self) -> String {
        let stream = self.streams.back_mut().unwrap();
        stream.set_read_timeout(Some(ACCEPT)).unwrap();
        let mut bytes = [0; 2];
        match stream.read_exact(&mut bytes) {
            Ok(()) => format!("ok {}", bytes.len()),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    /// That nobody has connected to the listener of that number.
    fn accept_none(&mut self, number: &str) -> String {
        let listener = &self.listeners[number.parse::<usize>().unwrap()];
        listener.set_nonblocking(true).unwrap();
        match listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => "ok".into(),
            other => format!("{other:?}"),
        }
    }

    /// `SO_MARK` of the listener of that number.
    fn mark(&self, number: &str) -> String {
        let listener = &self.listeners[number.parse::<usize>().unwrap()];
        format!("ok {}", SockRef::from(listener).mark().unwrap())
    }

    /// The listener of that number lets go of its port and listens somewhere else.
    fn rebind_listener(&mut self, rest: &str) -> String {
        let (number, address) = rest.split_once(' ').unwrap();
        let listener = &self.listeners[number.parse::<usize>().unwrap()];
        rebind(&SockRef::from(listener), address)
    }

    /// What was accepted last becomes one more listener.
    fn rebind_accepted(&mut self, address: &str) -> String {
        let socket = Socket::from(self.streams.pop_back().unwrap());
        let answer = rebind(&socket, address);
        self.listeners.push(socket.into());
        answer
    }
}

/// connect(2) to nowhere takes a socket's addresses, and its state; its options stay.
fn rebind(socket: &Socket, address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    rustix::net::connect_unspec(socket).unwrap();
    let result = socket
        .bind(&address.into())
        .and_then(|()| socket.listen(16));
    match result {
        Ok(()) => "ok".into(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// As many as the kernel allows may wait to be accepted.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

pub(crate) fn said(result: Result<(), ClientError>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(ClientError::Refused { code, text }) => format!("{code:?} {text}"),
        Err(error) => format!("{error:?}"),
    }
}

/// Descriptors that no claim may come with.
fn odd(kind: &str) -> Vec<OwnedFd> {
    let tcp = |address: &str| TcpListener::bind(address).unwrap().into();
    match kind {
        "nothing" => Vec::new(),
        "not_listening" => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket
                .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
                .unwrap();
            vec![socket.into()]
        }
        "udp" => vec![UdpSocket::bind("127.0.0.1:0").unwrap().into()],
        "file" => vec![std::fs::File::open("/dev/null").unwrap().into()],
        "unix" => {
            let path = format!("/tmp/puppet-{}", std::process::id());
            let listener = UnixListener::bind(&path).unwrap();
            std::fs::remove_file(path).unwrap();
            vec![listener.into()]
        }
        "any_address" => vec![tcp("0.0.0.0:0")],
        "other_loopback" => vec![tcp("127.0.0.2:0")],
        "any_v6" => vec![tcp("[::]:0")],
        "twice" => vec![tcp("127.0.0.1:0"), tcp("127.0.0.1:0")],
        // A listener of another network namespace, where here someone else has that port.
        "elsewhere" => {
            let here = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = here.local_addr().unwrap().port();
            let there = std::thread::spawn(move || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                crate::lab::sh("ip link set lo up");
                vec![TcpListener::bind(("127.0.0.1", port)).unwrap().into()]
            });
            let there = there.join().unwrap();
            std::mem::forget(here);
            there
        }
        other => panic!("no such descriptors: {other}"),
    }
}
