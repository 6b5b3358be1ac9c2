//! Sessions on which nothing happens: links live, what is no link any more ends.
#![allow(clippy::unwrap_used, reason = "tests")]

mod rig;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use rig::{Rig, Settings};
use tokio::time::timeout;

/// Timers of 15 s (keepalive) and 90 s (inactivity) become 0.3 s and 1.8 s.
fn hurried() -> Rig {
    Rig::with(Settings {
        hurry: 50,
        ..Settings::default()
    })
}

#[test]
fn an_idle_link_lives() {
    let mut rig = hurried();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut client = TcpStream::connect(rig.entrance(listener.local_addr().unwrap())).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let link = rig.link.clone();
    let idle = rig.on_broker(async move { timeout(Duration::from_secs(6), link.ended()).await });
    assert!(idle.is_err(), "{idle:?}");
    assert!(rig.sessions.try_recv().is_err());
    client.write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_peer_that_disconnects_and_stays_is_let_go() {
    let mut rig = hurried();
    let mut tcp = TcpStream::connect(rig.gateway).unwrap();
    // RFC 4253, section 6: length, length of the padding, SSH_MSG_DISCONNECT (1), padding.
    tcp.write_all(b"SSH-2.0-test\r\n\x00\x00\x00\x0c\x0a\x01\0\0\0\0\0\0\0\0\0\0")
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let patience = Duration::from_secs(20);
    let ended = runtime.block_on(async { timeout(patience, rig.sessions.recv()).await });
    assert_eq!(ended, Ok(Some(())));
    drop(tcp);
}
