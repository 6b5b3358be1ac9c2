//! What those can do who have logged in: at most lose their own connection. The peer that misbehaves is
//! `bad_peer.py`, on paramiko.
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::destinations::echo;
use crate::flows::Broker;
use crate::hostile::{POLICY, is_well};
use crate::misbehaviour::{Expected, NOTHING, expect, misbehave};
use crate::site::{PATIENCE, Site};

// RFC 4250 section 4.1.2.
const REQUEST_FAILURE: u64 = 82;
const OPEN_FAILURE: u64 = 92;
const CLOSE: u64 = 97;
const CHANNEL_FAILURE: u64 = 100;

const ALL: &[Expected] = &[
    expect("beyond_the_window_of_a_link", None, (CLOSE, 1)),
    expect("beyond_the_window_before_a_link", None, NOTHING),
    expect("data_for_no_channel", None, NOTHING),
    expect("data_after_the_end", None, NOTHING),
    expect("data_after_the_close", None, NOTHING),
    expect("closed_twice", None, NOTHING),
    expect("a_flood_of_channels", Some(true), NOTHING),
    expect("a_flood_of_forwarded_ports", Some(true), NOTHING),
    // RFC 4254 sections 5.1, 5.4 and 4.
    expect(
        "kinds_of_channels_that_no_one_knows",
        Some(false),
        (OPEN_FAILURE, 6),
    ),
    expect(
        "requests_that_no_one_knows",
        Some(false),
        (CHANNEL_FAILURE, 4),
    ),
    expect(
        "global_requests_that_no_one_knows",
        Some(false),
        (REQUEST_FAILURE, 4),
    ),
    expect("a_packet_that_is_too_long", Some(true), NOTHING),
    expect("data_without_any", None, NOTHING),
    expect("a_window_beyond_what_fits", None, NOTHING),
    expect("a_channel_that_takes_packets_of_nothing", None, NOTHING),
    expect("a_channel_without_a_window", Some(false), NOTHING),
    // What is shown to one that asks for a shell waits until it is taken, once.
    expect(
        "shells_without_a_window",
        Some(false),
        (CHANNEL_FAILURE, 99),
    ),
    expect("a_confirmation_of_nothing", Some(true), NOTHING),
    expect("a_failure_of_nothing", None, NOTHING),
    expect("a_link_that_is_confirmed_again", None, NOTHING),
    expect("a_flood_of_key_exchanges", Some(true), NOTHING),
    expect("new_keys_out_of_turn", None, NOTHING),
    // RFC 4252 section 5.3.
    expect("a_login_after_the_login", Some(false), NOTHING),
    expect("a_service_after_the_login", None, NOTHING),
    // RFC 4254 section 6.5: "only one of these requests can succeed per channel".
    expect("a_link_begun_twice", Some(false), (CHANNEL_FAILURE, 1)),
    expect("a_link_that_is_noise", None, (CLOSE, 1)),
    expect("a_link_of_the_longest_frames", None, (CLOSE, 1)),
    expect("extended_data_in_a_link", None, NOTHING),
    expect("lengths_beyond_their_packet", Some(true), NOTHING),
    // RFC 4253 section 11.4.
    expect("messages_that_no_one_knows", Some(false), NOTHING),
    expect("a_terminal_without_end", None, NOTHING),
    expect("places_to_listen_at", None, NOTHING),
];

/// One round trip after another; the number of them.
async fn echoes(mut program: TcpStream, mut over: tokio::sync::oneshot::Receiver<()>) -> usize {
    let mut number = 0;
    while over.try_recv().is_err() {
        program.write_all(b"x").await.expect("write");
        let back = timeout(PATIENCE, program.read_u8()).await;
        assert_eq!(back.expect("in time").expect("read"), b'x');
        number += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    number
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_should_say_after_a_login_ends_its_own_connection_at_most() {
    let site = Site::new();
    let gateway = site.start(POLICY, "login_grace_seconds: 5\nmotd: no shell here");
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let (done, over) = tokio::sync::oneshot::channel();
    let honest = tokio::spawn(echoes(broker.flow(at).await, over));
    tokio::task::block_in_place(|| misbehave("bad_peer.py", &site, &gateway, ALL));
    done.send(()).expect("the honest flow goes on");
    let number = timeout(PATIENCE, honest).await.expect("in time");
    assert!(number.expect("every byte came back") > ALL.len());
    is_well(&site, &gateway, &broker, at).await;
}
