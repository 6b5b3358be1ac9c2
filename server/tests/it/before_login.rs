//! What those can do who have exchanged keys and are not logged in: at most lose their own connection. The peer
//! that misbehaves is `bad_stranger.py`; what can be said before there are keys is in `hostile.rs`.
use crate::destinations::echo;
use crate::flows::Broker;
use crate::hostile::{POLICY, is_well};
use crate::misbehaviour::{Expected, NOTHING, USERAUTH_SUCCESS, expect, misbehave};
use crate::site::Site;

// RFC 4250 section 4.1.2.
const DISCONNECT: u64 = 1;
const SERVICE_ACCEPT: u64 = 6;
const FAILURE: u64 = 51;

/// Where nothing is said of the end, the way there is the library's: at once, or by the time that a login may take.
const ALL: &[Expected] = &[
    expect("a_login_that_is_cut_short", None, (SERVICE_ACCEPT, 20)),
    expect("lengths_beyond_their_login", None, (SERVICE_ACCEPT, 18)),
    // What can be read and is wrong is refused (RFC 4252 section 5.1), and the connection goes on.
    expect("keys_of_noise", None, (FAILURE, 20)),
    expect("certificates_of_noise", None, (FAILURE, 4)),
    expect("signatures_that_are_none", None, NOTHING),
    expect("a_signature_by_another_name", None, (FAILURE, 1)),
    expect("a_signature_for_something_else", Some(false), (FAILURE, 4)),
    expect("the_signature_that_is_wanted", None, (USERAUTH_SUCCESS, 1)),
    expect("a_key_by_another_name", None, (FAILURE, 1)),
    expect("answers_to_no_question", None, (FAILURE, 6)),
    expect("methods_that_no_one_knows", None, (FAILURE, 10)),
    expect("a_password_in_the_wrong_place", None, (FAILURE, 4)),
    // RFC 4253 section 10, RFC 4252 section 5.
    expect("a_service_that_no_one_knows", Some(true), NOTHING),
    expect(
        "what_comes_after_the_login_as_a_service",
        Some(true),
        NOTHING,
    ),
    expect("a_login_for_a_service_that_no_one_knows", None, NOTHING),
    expect("a_login_before_its_service", None, NOTHING),
    expect(
        "a_service_that_is_asked_for_again",
        None,
        (SERVICE_ACCEPT, 1),
    ),
    // RFC 4252 section 6 wants these answered with an end; the library goes on without a word, and nothing is opened.
    expect("a_channel_before_the_login", None, NOTHING),
    expect("forwarded_ports_before_the_login", None, NOTHING),
    expect("a_place_to_listen_at_before_the_login", None, NOTHING),
    expect("data_before_the_login", None, NOTHING),
    expect("what_only_a_server_says", None, NOTHING),
    expect("new_keys_before_the_login", None, NOTHING),
    expect("a_flood_of_key_exchanges", Some(true), NOTHING),
    expect("a_name_that_is_no_name", None, (FAILURE, 10)),
    // Not by the time that a login may take: that comes without a word.
    expect("a_flood_of_logins", Some(true), (DISCONNECT, 1)),
    expect("a_flood_of_keys", Some(true), (DISCONNECT, 1)),
    expect("a_packet_that_is_too_long", Some(true), NOTHING),
    // RFC 4253 section 11.4.
    expect("messages_that_no_one_knows", Some(false), NOTHING),
    expect("anything", None, (SERVICE_ACCEPT, 30)),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_should_say_before_a_login_ends_its_own_connection_at_most() {
    let site = Site::new();
    let gateway = site.start(
        POLICY,
        "login_grace_seconds: 5\nmax_unauthenticated: 4096\nmax_unauthenticated_per_source: 4096",
    );
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    tokio::task::block_in_place(|| misbehave("bad_stranger.py", &site, &gateway, ALL));
    let log = gateway.log_lines();
    let logins = log.iter().filter(|line| line["event"] == "login");
    assert_eq!(
        logins.count(),
        2,
        "the broker's and the one with the right signature: {log:#?}"
    );
    is_well(&site, &gateway, &broker, at).await;
}
