//! Flows that share a link do not feel each other; load and rekeying lose nothing.
#![allow(clippy::unwrap_used, reason = "tests")]

mod rig;
mod script;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use adit_link::ssh::Rekey;
use rig::{Rig, Settings};
use script::Step::{Both, Expect, Flood, Send};
use script::{Script, play};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server that does this with each connection.
fn listen(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for tcp in listener.incoming() {
            let tcp = tcp.unwrap();
            thread::spawn(move || serve(tcp));
        }
    });
    address
}

fn echo(mut tcp: TcpStream) {
    tcp.set_nodelay(true).unwrap();
    let mut buffer = [0; 1000];
    while let Ok(read @ 1..) = tcp.read(&mut buffer) {
        tcp.write_all(&buffer[..read]).unwrap();
    }
}

fn flood(mut tcp: TcpStream) {
    while tcp.write_all(&[0; 65536]).is_ok() {}
}

/// Reads one byte, and then no more.
fn read_nothing(mut tcp: TcpStream) {
    tcp.read_exact(&mut [0]).unwrap();
    thread::park();
}

/// The median round trip of a byte.
fn round_trip(tcp: &mut TcpStream) -> Duration {
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut times: Vec<Duration> = (0..300)
        .map(|_| {
            let start = Instant::now();
            tcp.write_all(b"?").unwrap();
            tcp.read_exact(&mut [0]).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// Writes until the connection has taken nothing for a while.
fn fill(mut tcp: &TcpStream) -> usize {
    tcp.set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut total = 0;
    while let Ok(written) = tcp.write(&[0; 65536]) {
        total += written;
    }
    total
}

#[test]
fn flows_beside_stopped_readers_go_on() {
    let rig = Rig::start();
    let echo_entrance = rig.entrance(listen(echo));
    let mut tcp = TcpStream::connect(echo_entrance).unwrap();
    let idle = round_trip(&mut tcp);
    let floods = rig.entrance(listen(flood));
    let stopped: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut tcp = TcpStream::connect(floods).unwrap();
            tcp.read_exact(&mut [0]).unwrap();
            tcp
        })
        .collect();
    let deaf = TcpStream::connect(rig.entrance(listen(read_nothing))).unwrap();
    assert!(fill(&deaf) > 0);
    let beside = round_trip(&mut tcp);
    let fresh = round_trip(&mut TcpStream::connect(echo_entrance).unwrap());
    let bound = idle * 4 + Duration::from_millis(2);
    assert!(
        beside < bound,
        "{beside:?} beside stopped readers, {idle:?} before"
    );
    assert!(fresh < bound, "{fresh:?} on a new flow, {idle:?} before");
    drop((stopped, deaf));
}

/// Sixteen flows, each with this much to send and to receive at once, and all bytes checked.
fn check_load(rig: &Rig, bytes: usize) {
    let script = Script {
        client: vec![Both(bytes)],
        server: vec![Both(bytes)],
    };
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let (client, server) = play(HERE, &script, |address| rig.entrance(address));
                assert_eq!(client, [format!("got {bytes}")]);
                assert_eq!(server, [format!("got {bytes}")]);
            });
        }
    });
    assert!(rig.link.end().is_none());
}

#[test]
fn saturated_both_ways_progresses() {
    check_load(&Rig::start(), 24 << 20);
}

#[test]
fn rekeying_under_load_loses_nothing() {
    let rekey = Rekey { bytes: 8 << 20 };
    let rig = Rig::with(Settings {
        rekey,
        ..Settings::default()
    });
    check_load(&rig, 16 << 20);
    let exchanges = rig.exchanges.load(Ordering::Relaxed);
    assert!(exchanges > 20, "only {exchanges} key exchanges");
}

#[test]
fn a_flood_that_nobody_reads_stays_within_its_window() {
    let rig = Rig::start();
    let listener = TcpListener::bind((HERE, 0)).unwrap();
    let client = TcpStream::connect(rig.entrance(listener.local_addr().unwrap())).unwrap();
    let (server, _) = listener.accept().unwrap();
    let taken = fill(&client);
    // Socket buffers (tcp_wmem and tcp_rmem, 4 and 6 MiB here at most, twice) and one window.
    assert!(taken < 32 << 20, "{taken} bytes were taken");
    drop(server);
}

#[test]
fn many_flows_come_and_go_while_one_floods() {
    let rig = Rig::start();
    let floods = rig.entrance(listen(flood));
    let mut bulk = TcpStream::connect(floods).unwrap();
    let reading = thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        let mut total = 0;
        while total < 512 << 20 {
            total += bulk.read(&mut buffer).unwrap();
        }
    });
    let script = Script {
        client: vec![Send(100), Expect(5000)],
        server: vec![Expect(100), Send(5000)],
    };
    let expected = play(HERE, &script, |address| address);
    for _ in 0..200 {
        assert_eq!(
            play(HERE, &script, |address| rig.entrance(address)),
            expected
        );
    }
    reading.join().unwrap();
    let gone = Script {
        client: vec![Expect(10)],
        server: vec![Flood],
    };
    play(HERE, &gone, |address| rig.entrance(address));
}
