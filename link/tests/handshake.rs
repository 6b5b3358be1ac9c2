//! How links begin and end, over pipes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr};

use adit_link::{
    Driver, HandshakeError, Host, Incoming, Limits, Link, LinkEnd, OpenError, OpenHeader, Refusal,
    RefusalReason, StreamError, accept, initiate, pipe,
};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::task::JoinHandle;

async fn joined() -> (Link, JoinHandle<LinkEnd>, Incoming, JoinHandle<LinkEnd>) {
    let (near, far) = duplex(1 << 16);
    let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
    let (near_read, near_write) = pipe::split(near_read, near_write);
    let (far_read, far_write) = pipe::split(far_read, far_write);
    let (broker, gateway) = tokio::join!(
        initiate(near_read, near_write, Limits::default()),
        accept(far_read, far_write, Limits::default())
    );
    let ((link, driver), (incoming, other)) = (broker.unwrap(), gateway.unwrap());
    (
        link,
        tokio::spawn(Driver::run(driver)),
        incoming,
        tokio::spawn(Driver::run(other)),
    )
}

fn header() -> OpenHeader {
    let host = Host::Address(IpAddr::from(Ipv4Addr::LOCALHOST));
    OpenHeader {
        host,
        port: 1,
        application: None,
    }
}

fn hello(lowest: u16, highest: u16) -> Vec<u8> {
    let mut bytes = b"ADIT\x01\x00\x00\x1e".to_vec();
    bytes.extend(lowest.to_be_bytes());
    bytes.extend(highest.to_be_bytes());
    bytes.extend([0xff; 8]);
    bytes.extend([0, 0, 0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 9]);
    bytes.extend(*b"future");
    bytes
}

async fn answered_with(bytes: Vec<u8>) -> (Result<(Link, Driver), HandshakeError>, DuplexStream) {
    let (near, mut far) = duplex(1 << 16);
    far.write_all(&bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let (read, write) = split(near);
    let (read, write) = pipe::split(read, write);
    (initiate(read, write, Limits::default()).await, far)
}

#[tokio::test]
async fn a_later_peer_that_still_speaks_version_1_is_understood() {
    assert!(answered_with(hello(1, 7)).await.0.is_ok());
}

#[tokio::test]
async fn a_peer_without_a_common_version_is_refused_with_words() {
    let (outcome, mut far) = answered_with(hello(2, 7)).await;
    assert!(matches!(
        outcome,
        Err(HandshakeError::Version {
            lowest: 2,
            highest: 7
        })
    ));
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert!(
        String::from_utf8_lossy(&heard).contains("no common version"),
        "{heard:?}"
    );
}

#[tokio::test]
async fn words_of_a_refusal_arrive() {
    let (outcome, _) = answered_with(b"ADIT\x02\x00\x00\x06\x00\x04full".to_vec()).await;
    assert!(matches!(outcome, Err(HandshakeError::Refused(words)) if words == "full"));
}

#[tokio::test]
async fn something_else_that_answers_is_shown() {
    let (outcome, _) = answered_with(b"bash: adit-server: command not found\n".to_vec()).await;
    let Err(HandshakeError::NotALink(said)) = outcome else {
        panic!("a link")
    };
    assert!(said.starts_with("bash: adit-server"));
}

proptest! {
    #[test]
    fn bent_hellos_never_panic(at in 0..40_usize, to in any::<u8>(), cut in 0..40_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut bytes = hello(1, 1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
        }
        bytes.truncate(cut);
        let outcome = runtime.block_on(answered_with(bytes)).0;
        prop_assert!(cut >= 38 || outcome.is_err());
    }
}

#[tokio::test]
async fn refusals_and_openings_reach_the_broker() {
    let (link, _driver, mut incoming, _other) = joined().await;
    let (mut no, mut dropped, mut yes) = (
        link.open(&header()).unwrap(),
        link.open(&header()).unwrap(),
        link.open(&header()).unwrap(),
    );
    let refusal = Refusal {
        reason: RefusalReason::Denied,
        detail: String::from("entry 3"),
    };
    let request = incoming.next().await.unwrap();
    assert_eq!(request.header(), &header());
    request.refuse(refusal.clone());
    drop(incoming.next().await.unwrap());
    let accepted = incoming.next().await.unwrap().accept();
    assert_eq!(no.opened().await, Err(StreamError::Refused(refusal)));
    let failed = dropped.opened().await.unwrap_err();
    assert!(matches!(failed, StreamError::Refused(r) if r.reason == RefusalReason::Failed));
    assert_eq!(yes.opened().await, Ok(()));
    drop(accepted);
    assert_eq!(yes.broken().await, StreamError::Reset);
}

#[tokio::test]
async fn a_broker_that_gives_up_cancels_the_request() {
    let (link, _driver, mut incoming, _other) = joined().await;
    let stream = link.open(&header()).unwrap();
    let request = incoming.next().await.unwrap();
    drop(stream);
    request.cancelled().await;
}

#[tokio::test]
async fn goodbye_is_told_apart_from_a_lost_transport() {
    let (link, driver, incoming, other) = joined().await;
    link.close();
    assert_eq!(driver.await.unwrap(), LinkEnd::Closed);
    assert!(matches!(other.await.unwrap(), LinkEnd::PeerClosed(_)));
    assert!(matches!(
        link.open(&header()),
        Err(OpenError::Ended(LinkEnd::Closed))
    ));
    drop(incoming);
    let (link, driver, incoming, other) = joined().await;
    other.abort();
    assert!(matches!(driver.await.unwrap(), LinkEnd::Transport(_)));
    assert!(matches!(link.ended().await, LinkEnd::Transport(_)));
    assert_eq!(incoming.ended().await, LinkEnd::Abandoned);
}

#[tokio::test]
async fn a_drained_link_ends_with_its_last_stream() {
    let (link, driver, mut incoming, other) = joined().await;
    let mut stream = link.open(&header()).unwrap();
    let accepted = incoming.next().await.unwrap().accept();
    stream.opened().await.unwrap();
    incoming.drain();
    assert!(incoming.next().await.is_none());
    // The broker's next word crosses with the goodbye or comes after it: refused either way.
    match link.open(&header()) {
        Ok(mut late) => assert!(matches!(
            late.opened().await.unwrap_err(),
            StreamError::Refused(r) if r.reason == RefusalReason::Busy
        )),
        Err(error) => assert!(matches!(error, OpenError::Draining)),
    }
    assert_eq!(link.end(), None);
    drop((stream, accepted));
    driver.await.unwrap();
    other.await.unwrap();
}

#[tokio::test]
async fn the_last_handle_takes_the_link_with_it() {
    let (link, driver, _incoming, other) = joined().await;
    drop(link.clone());
    assert!(!link.is_closing());
    drop(link);
    assert_eq!(driver.await.unwrap(), LinkEnd::Closed);
    other.await.unwrap();
}
