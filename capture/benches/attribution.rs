//! How long it takes to find the program of a connection among 500 processes with 50 descriptors each. The aim: of a program
//! that was just started p50 ≤ 100 µs, p99 ≤ 1 ms.
//!
//! Any user can run it; all processes are that user's.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench, which has nobody to tell"
)]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use adit_capture::attribution::Attributor;

const PROCESSES: usize = 500;
const DESCRIPTORS: usize = 50;
/// Standard input, output and error, and those that are opened for connections.
const OTHERS: usize = 4;
const ROUNDS: usize = 1000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("starter") => starter(),
        Some("program") => program(),
        // As `cargo test` runs it.
        Some("--test") => bench(5, 5),
        Some(_) | None => bench(PROCESSES, ROUNDS),
    }
}

/// Starts a program for each line that it reads, as a shell would: with few descriptors of its own.
fn starter() {
    let mut children: Vec<Child> = Vec::new();
    for _line in std::io::stdin().lock().lines() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let child = command.arg("program").stdin(Stdio::null()).spawn();
        children.push(child.unwrap());
        children.retain_mut(|child| child.try_wait().unwrap().is_none());
    }
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Opens descriptors, half of them sockets, and connects to each address that it is sent.
fn program() {
    let sockets = (DESCRIPTORS - OTHERS) / 2;
    let _sockets: Vec<UdpSocket> = (0..sockets)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let _files: Vec<File> = (sockets..DESCRIPTORS - OTHERS)
        .map(|_| File::open("/dev/null").unwrap())
        .collect();
    let orders = UdpSocket::bind("127.0.0.1:0").unwrap();
    println!("{} {}", std::process::id(), orders.local_addr().unwrap());
    let mut _last = None;
    loop {
        let mut order = [0; 64];
        let (length, master) = orders.recv_from(&mut order).unwrap();
        let Ok(to) = std::str::from_utf8(&order[..length])
            .unwrap()
            .parse::<SocketAddr>()
        else {
            return;
        };
        let stream = TcpStream::connect(to).unwrap();
        let from = stream.local_addr().unwrap().to_string();
        orders.send_to(from.as_bytes(), master).unwrap();
        _last = Some(stream);
    }
}

struct Bench {
    starter: Child,
    orders: ChildStdin,
    started: BufReader<ChildStdout>,
    words: UdpSocket,
    listener: TcpListener,
    attributor: Attributor,
}

/// A program that runs, and where it takes orders.
#[derive(Clone, Copy)]
struct Program {
    pid: u32,
    orders: SocketAddr,
}

impl Bench {
    fn new() -> Bench {
        let mut starter = Command::new(std::env::current_exe().unwrap())
            .arg("starter")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Bench {
            orders: starter.stdin.take().unwrap(),
            started: BufReader::new(starter.stdout.take().unwrap()),
            starter,
            words: UdpSocket::bind("127.0.0.1:0").unwrap(),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            attributor: Attributor::new().unwrap(),
        }
    }

    fn start(&mut self) -> Program {
        writeln!(self.orders).unwrap();
        let mut line = String::new();
        self.started.read_line(&mut line).unwrap();
        let (pid, orders) = line.trim().split_once(' ').unwrap();
        Program {
            pid: pid.parse().unwrap(),
            orders: orders.parse().unwrap(),
        }
    }

    fn end(&self, program: Program) {
        self.words.send_to(b"end", program.orders).unwrap();
    }

    /// How long it takes to find who has just connected.
    fn time(&mut self, program: Program) -> Duration {
        let to = self.listener.local_addr().unwrap();
        let order = to.to_string();
        self.words
            .send_to(order.as_bytes(), program.orders)
            .unwrap();
        let mut from = [0; 64];
        let length = self.words.recv(&mut from).unwrap();
        let from = std::str::from_utf8(&from[..length])
            .unwrap()
            .parse()
            .unwrap();
        let start = Instant::now();
        let owner = self.attributor.owner(from, to).unwrap().unwrap();
        let found = self.attributor.process(&owner).unwrap();
        let took = start.elapsed();
        assert_eq!(found.pid, program.pid);
        // The program keeps its end; ours is of no more use.
        drop(self.listener.accept().unwrap());
        took
    }
}

fn bench(processes: usize, rounds: usize) {
    let mut bench = Bench::new();
    let alive: Vec<Program> = (0..processes).map(|_| bench.start()).collect();
    println!(
        "{processes} processes with {DESCRIPTORS} descriptors each, {rounds} connections a line"
    );
    let mut took = Vec::new();
    for _ in 0..rounds {
        let program = bench.start();
        took.push(bench.time(program));
        bench.end(program);
    }
    report("a program that was just started", took);
    let same = alive[processes / 2];
    let took = (0..rounds).map(|_| bench.time(same)).collect();
    report("one that was found before", took);
    let took = (0..rounds)
        .map(|round| bench.time(alive[round * 7 % processes]))
        .collect();
    report("any of those that run", took);
    drop(bench.orders);
    bench.starter.wait().unwrap();
}

fn report(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 1000).min(took.len() - 1)].as_micros();
    println!(
        "{what}: p50 {} µs, p99 {} µs, longest {} µs",
        at(500),
        at(990),
        at(1000)
    );
}
