//! Speed of the link over SSH and loopback: one flow each way, round trip, openings a second.
//! Broker and gateway are a thread each, and so are the programs at both ends.
//! Usage: `cargo run --release -p adit-link --example throughput [SECONDS] [CHUNK]`
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measuring program"
)]

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use adit_link::Limits;
use rig::{Rig, Settings};

fn main() {
    let mut words = std::env::args().skip(1);
    let seconds = words.next().and_then(|word| word.parse().ok()).unwrap_or(3);
    let mut settings = Settings::default();
    if let Some(chunk) = words.next().and_then(|word| word.parse().ok()) {
        settings.limits = Limits {
            max_chunk: chunk,
            ..Limits::default()
        };
    }
    let only = words.next();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let rig = Rig::with(settings);
    let lasting = Duration::from_secs(seconds);
    if wanted("up") {
        let up = rig.entrance(listen(sink));
        println!("up    {:6.2} Gbit/s", send_for(up, lasting));
    }
    if wanted("down") {
        let down = rig.entrance(listen(source));
        println!("down  {:6.2} Gbit/s", receive_for(down, lasting));
    }
    if wanted("rtt") {
        let destination = listen(echo);
        println!("rtt   {:6.1} us direct", round_trip(destination));
        println!("rtt   {:6.1} us", round_trip(rig.entrance(destination)));
    }
    if wanted("serial") {
        let destination = listen(echo);
        println!(
            "connect + 1 byte, serial  {:7.0} /s direct",
            connects(destination, lasting)
        );
        println!(
            "connect + 1 byte, serial  {:7.0} /s",
            connects(rig.entrance(destination), lasting)
        );
    }
    if wanted("opens") {
        println!("opens {:6.0} /s", opens(&rig, lasting));
    }
}

fn listen(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            thread::spawn(move || serve(tcp));
        }
    });
    address
}

fn sink(mut tcp: TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    while tcp.read(&mut buffer).is_ok_and(|read| read > 0) {}
    let _ = tcp.write_all(b"!");
}

fn source(mut tcp: TcpStream) {
    let buffer = vec![7; 256 << 10];
    while tcp.write_all(&buffer).is_ok() {}
}

fn echo(mut tcp: TcpStream) {
    tcp.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = tcp.read(&mut buffer) {
        if tcp.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

fn gigabits(bytes: usize, since: Instant) -> f64 {
    bytes as f64 * 8.0 / since.elapsed().as_secs_f64() / 1e9
}

fn send_for(to: SocketAddr, lasting: Duration) -> f64 {
    let mut tcp = TcpStream::connect(to).unwrap();
    let buffer = vec![7; 256 << 10];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < lasting {
        tcp.write_all(&buffer).unwrap();
        sent += buffer.len();
    }
    tcp.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        tcp.read(&mut [0; 1]).unwrap(),
        1,
        "the other end has everything"
    );
    gigabits(sent, start)
}

fn receive_for(from: SocketAddr, lasting: Duration) -> f64 {
    let mut tcp = TcpStream::connect(from).unwrap();
    let mut buffer = vec![0; 256 << 10];
    let (start, mut received) = (Instant::now(), 0);
    while start.elapsed() < lasting {
        received += tcp.read(&mut buffer).unwrap();
    }
    gigabits(received, start)
}

/// The median, in microseconds.
fn round_trip(to: SocketAddr) -> f64 {
    let mut tcp = TcpStream::connect(to).unwrap();
    tcp.set_nodelay(true).unwrap();
    let mut times: Vec<Duration> = (0..5000).map(|_| ask(&mut tcp)).collect();
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn ask(tcp: &mut TcpStream) -> Duration {
    let start = Instant::now();
    tcp.write_all(b"?").unwrap();
    tcp.read_exact(&mut [0; 1]).unwrap();
    start.elapsed()
}

fn connects(to: SocketAddr, lasting: Duration) -> f64 {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < lasting {
        ask(&mut TcpStream::connect(to).unwrap());
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// Streams that are asked for and refused, 64 at a time: what the link itself takes.
fn opens(rig: &Rig, lasting: Duration) -> f64 {
    use adit_link::{Host, OpenHeader};
    let link = rig.link.clone();
    rig.on_broker(async move {
        let header = OpenHeader {
            host: Host::Name(String::from("nowhere")),
            port: 1,
            application: None,
        };
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < lasting {
            let mut streams: Vec<_> = (0..64).map(|_| link.open(&header).unwrap()).collect();
            for stream in &mut streams {
                stream.opened().await.unwrap_err();
                count += 1;
            }
        }
        f64::from(count) / start.elapsed().as_secs_f64()
    })
}
