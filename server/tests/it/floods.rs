//! What a user who is logged in asks for without end, beside what another does.
use std::sync::Arc;
use std::time::Duration;

use adit_link::{RefusalReason, StreamError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::destinations::{echo, silent};
use crate::flows::{Broker, asked, open, try_log_in};
use crate::hostile::{are_twice_at_most, usual};
use crate::site::Site;

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
