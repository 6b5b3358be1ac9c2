//! Connections that never authenticate.
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::destinations::echo;
use crate::flows::Broker;
use crate::site::{PATIENCE, Site};

const POLICY: &str = r#"[{name: loopback, users: [alice], allow: ["127.0.0.1:*"]}]"#;

/// Reads what the server says until it closes; how long that took.
fn until_closed(socket: &mut TcpStream, since: Instant) -> Duration {
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut said = Vec::new();
    match socket.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    assert!(
        said.starts_with(b"SSH-2.0-"),
        "{:?}",
        String::from_utf8_lossy(&said)
    );
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_that_never_log_in_hinder_nobody_and_are_closed_in_time() {
    let site = Site::new();
    let gateway = site.start(POLICY, "login_grace_seconds: 3");
    let since = Instant::now();
    let mut silent: Vec<_> = (0..50)
        .map(|_| TcpStream::connect(gateway.address).expect("connect"))
        .collect();
    // Half of them say who they are and nothing more, so that they stand within the key exchange.
    for socket in silent.iter_mut().step_by(2) {
        std::io::Write::write_all(socket, b"SSH-2.0-silent\r\n").expect("write");
    }
    let broker = Broker::connect(&site, gateway.address).await;
    broker.flow(echo().await).await;
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "an honest client was kept waiting for {:?}",
        since.elapsed()
    );
    let closed = tokio::task::spawn_blocking(move || {
        silent
            .iter_mut()
            .map(|socket| until_closed(socket, since))
            .max()
            .expect("fifty")
    });
    let closed = closed.await.expect("closed");
    assert!(
        (Duration::from_secs(3)..Duration::from_secs(6)).contains(&closed),
        "closed after {closed:?}"
    );
    // The honest one is still there.
    broker.flow(echo().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_too_many_ends_the_oldest_and_lets_an_honest_one_in() {
    let site = Site::new();
    let gateway = site.start(POLICY, "max_unauthenticated: 10");
    let since = Instant::now();
    let mut silent: Vec<_> = (0..10)
        .map(|_| TcpStream::connect(gateway.address).expect("connect"))
        .collect();
    let broker = Broker::connect(&site, gateway.address).await;
    broker.flow(echo().await).await;
    let mut oldest = silent.remove(0);
    let closed = tokio::task::spawn_blocking(move || until_closed(&mut oldest, since))
        .await
        .expect("closed");
    assert!(
        closed < Duration::from_secs(20),
        "the oldest was closed after {closed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_a_place_is_given_back() {
    let site = Site::new();
    let gateway = site.start(POLICY, "max_connections: 1");
    let first = Broker::connect(&site, gateway.address).await;
    let second = crate::flows::log_in(&site, gateway.address).await;
    assert!(
        second.channel_open_session().await.is_err(),
        "a second connection"
    );
    gateway.wait_log(|line| {
        let why = line["why"].as_str().unwrap_or_default();
        line["event"] == "login_refused" && why.starts_with("too many connections: ")
    });
    drop(first);
    gateway.wait_log(|line| line["message"] == "link ended");
    let tried = async {
        loop {
            let session = crate::flows::log_in(&site, gateway.address).await;
            if session.channel_open_session().await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, tried)
        .await
        .expect("the place is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_a_bounded_number_of_connections_and_others_have_theirs() {
    let site = Site::new();
    site.authorize("bob", &site.public_key("alice"));
    let policy = r#"[{name: loopback, users: [alice, bob], allow: ["127.0.0.1:*"]}]"#;
    let gateway = site.start(policy, "max_connections_per_user: 2");
    let held = [
        Broker::connect(&site, gateway.address).await,
        Broker::connect(&site, gateway.address).await,
    ];
    let third = crate::flows::log_in(&site, gateway.address).await;
    assert!(
        third.channel_open_session().await.is_err(),
        "a third connection"
    );
    gateway.wait_log(|line| line["why"] == "too many connections: this user has 2 already");
    let (bob, success) = crate::flows::try_log_in(&site, gateway.address, "bob").await;
    assert!(success && bob.channel_open_session().await.is_ok());
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_link_is_closed() {
    let site = Site::new();
    let gateway = site.start(POLICY, "login_grace_seconds: 1\nport_forwarding: false");
    let since = Instant::now();
    let idle = crate::flows::log_in(&site, gateway.address).await;
    let broker = Broker::connect(&site, gateway.address).await;
    gateway.wait_log(|line| line["message"] == "closed: no link on it");
    let closed = async {
        while !idle.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed)
        .await
        .expect("closed");
    assert!((1..5).contains(&since.elapsed().as_secs()));
    // One with a link stands, and goes after it.
    broker.flow(echo().await).await;
    broker.link.close();
    let both = || {
        let lines = gateway.log_lines();
        let closed = |line: &&serde_json::Value| line["message"] == "closed: no link on it";
        lines.iter().filter(closed).count() == 2
    };
    let closed = async {
        while !both() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed)
        .await
        .expect("closed");
}
