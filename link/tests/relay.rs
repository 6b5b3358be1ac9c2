//! What programs see through a link is what they see without one.
#![allow(clippy::unwrap_used, reason = "tests")]

mod rig;
mod script;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use adit_link::{Counters, RefusalReason, RelayEnd, relay_tcp};
use rig::Rig;
use script::Step::{Both, Dribble, Expect, Finish, Flood, Reset, Send, ToEnd};
use script::{Script, Step, play};
use socket2::SockRef;

const BULK: usize = 16 << 20;

fn script(client: &[Step], server: &[Step]) -> Script {
    Script {
        client: client.to_vec(),
        server: server.to_vec(),
    }
}

/// Plays it directly for the expected sight, then through a link, and over a pair of sockets.
fn check(client: &[Step], server: &[Step]) {
    let script = script(client, server);
    let rig = Rig::start();
    for at in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ] {
        let expected = play(at, &script, |address| address);
        let through = play(at, &script, |address| rig.entrance(address));
        assert_eq!(through, expected, "through the link, at {at}: {script:?}");
        let beside = play(at, &script, |address| bypass(&rig, address));
        assert_eq!(beside, expected, "over two sockets, at {at}: {script:?}");
    }
}

/// An address that leads to `destination` by way of `relay_tcp`.
fn bypass(rig: &Rig, destination: SocketAddr) -> SocketAddr {
    rig.on_broker(async move {
        let at = SocketAddr::new(destination.ip(), 0);
        let listener = tokio::net::TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (near, _) = listener.accept().await.unwrap();
            let far = tokio::net::TcpStream::connect(destination).await.unwrap();
            relay_tcp(near, far, &Counters::default()).await
        });
        address
    })
}

#[test]
fn request_and_reply() {
    check(
        &[Send(100), Expect(2000), Send(3), Expect(4)],
        &[Expect(100), Send(2000), Expect(3), Send(4)],
    );
}

#[test]
fn client_half_closes_then_server_replies() {
    check(
        &[Send(1000), Finish, ToEnd(4096)],
        &[ToEnd(4096), Send(BULK)],
    );
}

#[test]
fn server_half_closes_then_client_uploads() {
    check(
        &[ToEnd(100), Send(BULK), Finish],
        &[Send(10), Finish, ToEnd(1 << 16)],
    );
}

#[test]
fn server_resets() {
    check(&[Send(10), ToEnd(100)], &[Expect(10), Reset]);
}

#[test]
fn client_resets() {
    check(&[Expect(10), Reset], &[Send(10), ToEnd(100)]);
}

#[test]
fn server_resets_after_an_exchange() {
    check(
        &[Expect(1000), Send(1), ToEnd(100)],
        &[Send(1000), Expect(1), Reset],
    );
}

#[test]
fn client_resets_after_half_closing() {
    check(
        &[Send(5), Finish, Expect(5), Reset],
        &[ToEnd(100), Send(5), Flood],
    );
}

#[test]
fn server_resets_after_half_closing() {
    check(&[ToEnd(100), Send(5), Flood], &[Finish, Expect(5), Reset]);
}

#[test]
fn client_resets_while_nobody_reads_what_the_server_floods() {
    check(&[Expect(1 << 20), Reset], &[Flood]);
}

#[test]
fn server_resets_while_nobody_reads_what_the_client_floods() {
    check(&[Flood], &[Expect(1 << 20), Reset]);
}

#[test]
fn server_speaks_first() {
    check(&[Expect(300), Send(300)], &[Send(300), Expect(300)]);
}

#[test]
fn server_closes_at_once() {
    check(&[ToEnd(100)], &[]);
}

#[test]
fn client_closes_at_once() {
    check(&[], &[ToEnd(100)]);
}

#[test]
fn server_closes_while_the_client_writes() {
    check(&[Flood], &[Expect(100_000)]);
}

#[test]
fn client_closes_while_the_server_writes() {
    check(&[Expect(100_000)], &[Flood]);
}

#[test]
fn thousands_of_tiny_writes() {
    check(
        &[Dribble(6000), Finish, ToEnd(1000)],
        &[Expect(6000), Dribble(6000)],
    );
}

#[test]
fn bulk_both_ways_at_once() {
    check(&[Both(2 * BULK)], &[Both(2 * BULK)]);
}

#[test]
fn slow_readers() {
    check(
        &[Send(BULK / 4), Finish, ToEnd(700)],
        &[ToEnd(700), Send(BULK / 4)],
    );
}

/// A small generator is enough to vary sizes; the seed is in the failure by way of the sizes.
#[test]
fn two_hundred_at_once_of_many_sizes() {
    let mut rig = Rig::start();
    thread::scope(|scope| {
        for number in 0..200_usize {
            let rig = &rig;
            scope.spawn(move || {
                let up = number * number * 37 % 400_000;
                let down = number * number * number * 11 % 400_000;
                let client = [Send(up), Finish, ToEnd(1 << 14)];
                let script = script(&client, &[ToEnd(1 << 14), Send(down)]);
                let at = if number % 2 == 0 {
                    IpAddr::from(Ipv4Addr::LOCALHOST)
                } else {
                    IpAddr::from(Ipv6Addr::LOCALHOST)
                };
                let (client, server) = play(at, &script, |address| rig.entrance(address));
                assert_eq!(client.last(), Some(&format!("got {down}, end")));
                assert_eq!(server.first(), Some(&format!("got {up}, end")));
            });
        }
    });
    for _ in 0..200 {
        assert!(matches!(
            rig.ends.blocking_recv().unwrap(),
            RelayEnd::Finished
        ));
    }
    assert_eq!(rig.link.streams(), 0, "nothing is left behind");
}

#[test]
fn a_refusal_is_a_reset_with_a_reason() {
    let mut rig = Rig::start();
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let mut tcp = TcpStream::connect(rig.entrance(nobody)).unwrap();
    let error = tcp.read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let end = rig.ends.blocking_recv().unwrap();
    let RelayEnd::Refused(refusal) = end else {
        panic!("ended as {end:?}")
    };
    assert_eq!(refusal.reason, RefusalReason::Refused);
}

#[test]
fn a_closed_link_resets_its_flows() {
    let mut rig = Rig::start();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut tcp = TcpStream::connect(rig.entrance(listener.local_addr().unwrap())).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    rig.link.close();
    for end in [&mut tcp, &mut server] {
        let error = end.read(&mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert!(matches!(
        rig.ends.blocking_recv().unwrap(),
        RelayEnd::LinkEnded(_)
    ));
}

/// How the relay on the broker's side ended, which it must without waiting for anyone.
fn end_of(rig: &mut Rig) -> RelayEnd {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let patience = Duration::from_secs(60);
    let end = runtime.block_on(async { tokio::time::timeout(patience, rig.ends.recv()).await });
    end.expect("the relay goes on").unwrap()
}

fn connected(rig: &Rig) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(rig.entrance(listener.local_addr().unwrap())).unwrap();
    (client, listener.accept().unwrap().0)
}

fn reset(tcp: TcpStream) {
    SockRef::from(&tcp)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(tcp);
}

#[test]
fn a_reset_is_noticed_while_nothing_more_can_be_read() {
    let mut rig = Rig::start();
    let (mut client, mut server) = connected(&rig);
    client
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    while client.write(&[0; 65536]).is_ok() {}
    reset(client);
    assert!(matches!(end_of(&mut rig), RelayEnd::ResetHere(_)));
    let error = io::copy(&mut server, &mut io::sink()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_is_noticed_after_half_closing() {
    let mut rig = Rig::start();
    let (client, mut server) = connected(&rig);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 10]).unwrap(), 0);
    reset(client);
    assert!(matches!(end_of(&mut rig), RelayEnd::ResetHere(_)));
    let gone = (0..100)
        .find_map(|_| server.write_all(&[0; 65536]).err())
        .unwrap();
    assert!(matches!(
        gone.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    ));
}

#[test]
fn a_dropped_relay_resets_both_sides() {
    let rig = Rig::start();
    let (mut client, mut server) = connected(&rig);
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0; 1]).unwrap();
    drop(rig);
    for end in [&mut client, &mut server] {
        let error = end.read(&mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
