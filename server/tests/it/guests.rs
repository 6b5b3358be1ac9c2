//! Connections that never authenticate.
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use russh::client::KeyboardInteractiveAuthResponse as Asked;

use crate::answers::{ALICE, hash, secrets, try_with};
use crate::destinations::echo;
use crate::flows::{Broker, greet};
use crate::site::{PATIENCE, Running, Site};

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

/// Is asked, and answers so; nothing when that ends the connection.
async fn answer(site: &Site, gateway: &Running, answers: Vec<String>) -> Option<Asked> {
    let mut stranger = greet(site, gateway.address).await;
    let asked = stranger.authenticate_keyboard_interactive_start("alice", None);
    let asked = asked.await.expect("a question");
    assert!(matches!(asked, Asked::InfoRequest { .. }), "{asked:?}");
    let answered = stranger.authenticate_keyboard_interactive_respond(answers);
    answered.await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_is_taken_and_no_long_one() {
    let site = Site::new();
    let passwords = secrets(&site, "passwords", &[("alice", &hash("open sesame"))]);
    let gateway = site.start(POLICY, &(passwords + "methods: [password]"));
    let long = |length| "x".repeat(length);
    for (answers, is_taken) in [
        (vec![long(1024)], true),
        (vec![long(1025)], false),
        (vec![long(200_000)], false),
        (vec![long(1), long(1)], false),
        (vec![String::new(); 60_000], false),
        (vec![], false),
    ] {
        let number = answers.len();
        let answered = answer(&site, &gateway, answers).await;
        let wrong = matches!(answered, Some(Asked::Failure { .. }));
        assert_eq!(wrong, is_taken, "{number}: {answered:?}");
    }
}

/// Whoever stands before others in the queue of those who are judged has to be there still.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_turned_out_is_not_judged() {
    const STRANGERS: usize = 24;
    let site = std::sync::Arc::new(Site::new());
    // As much as a hash may cost by half.
    let slow = "$argon2id$v=19$m=131072,t=4,p=1$bm9ib2R5J3Mgc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let lines = [("alice", slow), ("bob", &hash("swordfish"))];
    let extra = secrets(&site, "passwords", &lines) + "methods: [password]\nmax_unauthenticated: 4";
    let policy = r#"[{name: loopback, users: [alice, bob], allow: ["127.0.0.1:*"]}]"#;
    let gateway = std::sync::Arc::new(site.start(policy, &extra));
    let mut strangers = tokio::task::JoinSet::new();
    for _ in 0..STRANGERS {
        let mut stranger = greet(&site, gateway.address).await;
        let asked = stranger.authenticate_keyboard_interactive_start("alice", None);
        // Turned out already, by those that came after.
        if asked.await.is_err() {
            continue;
        }
        strangers.spawn(async move {
            let answers = vec!["wrong".to_owned()];
            let answered = stranger.authenticate_keyboard_interactive_respond(answers);
            answered.await.is_ok()
        });
    }
    let honest = || try_with(&site, &gateway, ("bob", ALICE.1), &["swordfish"; 3]);
    tokio::task::block_in_place(honest).check("subsystem request failed");
    let lines = gateway.log_lines();
    let judged = lines.iter().filter(|line| line["event"] == "login_refused");
    assert!(judged.count() <= STRANGERS / 2, "{lines:#?}");
    while strangers.join_next().await.is_some() {}
}
