//! What a user who is logged in asks for without end, beside what another does.
use std::sync::Arc;
use std::time::Duration;

use adit_link::{RefusalReason, StreamError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::destinations::{echo, silent};
use crate::flows::{Broker, asked, open, try_log_in};
use crate::hostile::{are_twice_at_most, usual};
use crate::site::{PATIENCE, Site};

const POLICY: &str = r#"[{name: loopback, users: [alice, bob], allow: ["127.0.0.1:*"]}]"#;
/// More than bob may have.
const ASKED: usize = 600;
const PAUSE: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_without_end_hinders_no_other_user() {
    let site = Site::new();
    site.authorize("bob", &site.public_key("alice"));
    let gateway = site.start(
        POLICY,
        "limits: [{users: [bob], flows: 500, opens_per_second: 2000}]",
    );
    let alice = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let (nowhere, _full) = silent().await;
    usual(&alice, at).await;
    let mut ratios = Vec::new();
    for _ in 0..5 {
        let alone = usual(&alice, at).await;
        let (session, is_in) = try_log_in(&site, gateway.address, "bob").await;
        assert!(is_in);
        let bob = Arc::new(Broker::over(session).await);
        // What is never answered is as much as he may have; from then on he is refused.
        let held: Vec<_> = (0..ASKED)
            .map(|_| asked(&bob.link, &nowhere.ip().to_string(), nowhere.port()))
            .collect();
        let (refused, mut begun) = mpsc::channel(1);
        let mut asking = JoinSet::new();
        for _ in 0..4 {
            let (bob, refused) = (bob.clone(), refused.clone());
            asking.spawn(async move {
                loop {
                    match open(&bob.link, "127.0.0.1", at.port()).await {
                        Err(StreamError::Refused(refusal)) => {
                            assert_eq!(refusal.reason, RefusalReason::Busy, "{refusal}");
                            // Who is told once needs not be told again.
                            let _ = refused.try_send(());
                        }
                        Err(other) => panic!("{other}"),
                        // It was faster than some of those before it.
                        Ok(stream) => drop(stream),
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        drop(refused);
        begun.recv().await.expect("refused");
        let beside = usual(&alice, at).await;
        asking.shutdown().await;
        drop((held, bob));
        ratios.push(beside.as_secs_f64() / alone.as_secs_f64());
    }
    are_twice_at_most(ratios);
}

/// The log takes nothing: each line waits. Whoever causes most of them stops first.
#[tokio::test(flavor = "multi_thread")]
async fn who_fills_the_audit_leaves_room_for_others() {
    let site = Site::new();
    site.authorize("bob", &site.public_key("alice"));
    let gateway = site.start(POLICY, "");
    let alice = Broker::connect(&site, gateway.address).await;
    let (session, is_in) = try_log_in(&site, gateway.address, "bob").await;
    assert!(is_in);
    let bob = Broker::over(session).await;
    let at = echo().await;
    drop(alice.flow(at).await);
    gateway.hold_log(true);
    let denied = async {
        // More than may wait altogether.
        for _ in 0..6000 {
            bob.refusal("192.0.2.1", 1).await;
        }
        bob.refusal("192.0.2.1", 1).await
    };
    let refusal = tokio::time::timeout(PATIENCE, denied)
        .await
        .expect("in time");
    assert_eq!(refusal.reason, RefusalReason::Busy, "{refusal}");
    assert!(refusal.detail.contains("about this user"), "{refusal}");
    drop(alice.flow(at).await);
    gateway.hold_log(false);
    let heard = async {
        while bob.refusal("192.0.2.1", 1).await.reason != RefusalReason::Denied {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, heard)
        .await
        .expect("in time");
    gateway.wait_log(|line| line["event"] == "lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_what_is_too_much_are_few_lines() {
    const ASKED: u64 = 200;
    let site = Site::new();
    let gateway = site.start(POLICY, "limits: [{users: [alice], opens_per_second: 1}]");
    let alice = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let mut asked = 0;
    // All of them within a second or two, and one when that is over.
    while asked < ASKED {
        match open(&alice.link, "127.0.0.1", at.port()).await {
            Err(StreamError::Refused(refusal)) if refusal.reason == RefusalReason::Busy => {
                asked += 1
            }
            Err(other) => panic!("{other}"),
            Ok(stream) => drop(stream),
        }
    }
    let is_refused = |line: &serde_json::Value| {
        let why = line["why"].as_str().unwrap_or_default();
        line["event"] == "refuse" && why.contains("too many streams a second")
    };
    let told = async {
        loop {
            let _ = open(&alice.link, "127.0.0.1", at.port()).await;
            let lines = gateway.log_lines();
            let left_out = |line: &serde_json::Value| line["left_out"].as_u64().unwrap_or(0);
            let total: u64 = lines.iter().map(left_out).sum();
            if total >= ASKED / 2 {
                return lines.iter().filter(|line| is_refused(line)).count();
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let lines = tokio::time::timeout(PATIENCE, told).await.expect("in time");
    assert!(lines < 60, "{lines} lines");
}
