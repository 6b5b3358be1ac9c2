//! Links over Secure Shell: what is opened, what is refused, and that flows behave like direct
//! connections.
use std::io::ErrorKind;
use std::process::Command;
use std::sync::Arc;

use adit_link::{ReadChunks, RefusalReason, StreamError};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::destinations::{closed_port, echo, once, read_all, reset, silent};
use crate::flows::{Broker, flow};
use crate::site::{PATIENCE, Site, output};

const POLICY: &str = r#"[
  {name: this host, users: ["@staff"], allow: ["127.0.0.1:*"]},
  {name: names, users: [alice], allow: ["*.zone.test:*"]},
  {name: wide, users: [alice], allow: ["*.open.test:443", "0.0.0.0/1:443", "[::/0]:443"]},
  {name: for another, users: [bob], allow: ["127.0.0.2:*"]}]"#;
const GROUPS: &str = "groups: {staff: [alice]}\ndial_timeout_seconds: 1";

async fn check(broker: &Broker, host: &str, port: u16, reason: RefusalReason, words: &str) {
    let refusal = broker.refusal(host, port).await;
    assert_eq!(refusal.reason, reason, "{host}:{port}: {refusal}");
    assert!(refusal.detail.contains(words), "{host}:{port}: {refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_the_program_would_have_seen() {
    let site = Site::new();
    let gateway = site.start(POLICY, GROUPS);
    let broker = Broker::connect(&site, gateway.address).await;
    let (silent_address, _full) = silent().await;
    check(
        &broker,
        "127.0.0.1",
        closed_port(),
        RefusalReason::Refused,
        "",
    )
    .await;
    check(
        &broker,
        "db.zone.test",
        closed_port(),
        RefusalReason::Refused,
        "",
    )
    .await;
    check(
        &broker,
        "no-such-host.zone.test",
        443,
        RefusalReason::Unresolvable,
        "no-such-host.zone.test",
    )
    .await;
    check(
        &broker,
        "127.0.0.1",
        silent_address.port(),
        RefusalReason::TimedOut,
        "",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_entry_allows_is_denied_with_few_words_and_audited_with_all() {
    let site = Site::new();
    let gateway = site.start(POLICY, GROUPS);
    let broker = Broker::connect(&site, gateway.address).await;
    let no_entry = "denied by policy of the gateway: no entry allows it";
    let own = "denied by policy of the gateway: entry \"wide\" does not reach the gateway's own addresses";
    check(&broker, "127.0.0.2", 80, RefusalReason::Denied, no_entry).await;
    check(&broker, "10.1.2.3", 80, RefusalReason::Denied, no_entry).await;
    check(&broker, "::1", 443, RefusalReason::Denied, own).await;
    check(&broker, "::ffff:127.0.0.2", 443, RefusalReason::Denied, own).await;
    check(&broker, "127.0.0.2", 443, RefusalReason::Denied, own).await;
    check(&broker, "0.0.0.0", 443, RefusalReason::Denied, own).await;
    check(&broker, "fe80::1", 443, RefusalReason::Denied, own).await;
    check(&broker, "fd00:ec2::254", 443, RefusalReason::Denied, own).await;
    let line = gateway
        .wait_log(|line| line["event"] == "refuse" && line["asked"] == "[fd00:ec2::254]:443");
    assert_eq!(
        (&line["target"], &line["user"], &line["reason"]),
        (&"audit".into(), &"alice".into(), &"Denied".into())
    );
    assert!(
        line["why"]
            .as_str()
            .is_some_and(|why| why.contains("cloud metadata") && why.contains("wide")),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_leads_to_no_special_address_and_is_not_looked_up_for_nothing() {
    let site = Site::new();
    let gateway = site.start(
        r#"[{name: open, users: [alice], allow: ["*.open.test:443"]}]"#,
        "",
    );
    let broker = Broker::connect(&site, gateway.address).await;
    check(
        &broker,
        "rebound.open.test",
        443,
        RefusalReason::Denied,
        "own addresses",
    )
    .await;
    check(&broker, "localhost", 443, RefusalReason::Denied, "no entry").await;
    // Does not resolve, which would be another answer.
    check(
        &broker,
        "no-such-host.open.test",
        80,
        RefusalReason::Denied,
        "no entry",
    )
    .await;
    let line = gateway
        .wait_log(|line| line["event"] == "refuse" && line["asked"] == "rebound.open.test:443");
    assert!(
        line["why"]
            .as_str()
            .is_some_and(|why| why.contains("127.0.0.1 is loopback")),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_says_who_reached_what_and_how_much() {
    let site = Site::new();
    let gateway = site.start(POLICY, GROUPS);
    let broker = Broker::connect(&site, gateway.address).await;
    let port = echo().await.port();
    let mut program = flow(&broker.link, "Both.Zone.TEST.", port).await;
    program.write_all(b"seven b").await.expect("write");
    program.shutdown().await.expect("shutdown");
    assert_eq!(read_all(&mut program).await.expect("read"), b"seven b");

    let asked = format!("both.zone.test:{port}");
    let open = gateway.wait_log(|line| line["event"] == "open" && line["asked"] == asked.as_str());
    let end = gateway.wait_log(|line| line["event"] == "end" && line["stream"] == open["stream"]);
    let mut keygen = Command::new("ssh-keygen");
    keygen.arg("-lf").arg(site.path("alice.pub"));
    let fingerprint = String::from_utf8(output(keygen).stdout).expect("text");
    assert_eq!(open["key"].as_str(), fingerprint.split(' ').nth(1));
    assert_eq!(
        (&open["user"], &open["application"]),
        (&"alice".into(), &"/usr/bin/test".into())
    );
    // The name has ::1 too, which no entry allows.
    assert_eq!(open["dialled"], format!("127.0.0.1:{port}"));
    assert_eq!(
        (&end["sent"], &end["received"], &end["end"]),
        (&7.into(), &7.into(), &"finished".into())
    );
    let everything = format!("{:?}", gateway.log_lines());
    assert!(!everything.contains("seven b"), "payload in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_an_end_in_one_direction_only() {
    let site = Site::new();
    let gateway = site.start(POLICY, GROUPS);
    let broker = Broker::connect(&site, gateway.address).await;
    let (at, served) = once(|mut socket| async move {
        let asked = read_all(&mut socket).await.expect("question");
        socket.write_all(b"answer").await.expect("write");
        asked
    })
    .await;
    let mut program = broker.flow(at).await;
    program.write_all(b"question").await.expect("write");
    program.shutdown().await.expect("shutdown");
    assert_eq!(read_all(&mut program).await.expect("read"), b"answer");
    assert_eq!(served.await.expect("server"), b"question");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_end_first_and_still_be_written_to() {
    let site = Site::new();
    let gateway = site.start(POLICY, GROUPS);
    let broker = Broker::connect(&site, gateway.address).await;
    let (at, served) = once(|mut socket| async move {
        socket.write_all(b"hello").await.expect("write");
        socket.shutdown().await.expect("shutdown");
        read_all(&mut socket).await.expect("upload").len()
    })
    .await;
    let mut program = broker.flow(at).await;
    assert_eq!(read_all(&mut program).await.expect("read"), b"hello");
    program.write_all(&vec![7; 1 << 20]).await.expect("upload");
    program.shutdown().await.expect("shutdown");
    assert_eq!(served.await.expect("server"), 1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_a_reset_on_the_other_side() {
    let site = Site::new();
    let gateway = site.start(POLICY, GROUPS);
    let broker = Broker::connect(&site, gateway.address).await;

    let (at, _served) = once(|mut socket| async move {
        socket.read_u8().await.expect("a byte");
        reset(socket);
    })
    .await;
    let mut program = broker.flow(at).await;
    program.write_u8(1).await.expect("write");
    let seen = timeout(PATIENCE, program.read_u8()).await.expect("in time");
    assert_eq!(
        seen.expect_err("a reset").kind(),
        ErrorKind::ConnectionReset
    );
    gateway.wait_log(|line| {
        line["event"] == "end"
            && line["end"]
                .as_str()
                .is_some_and(|end| end.contains("destination"))
    });

    let (at, served) = once(|mut socket| async move {
        socket.read_u8().await.expect("a byte");
        socket.read_u8().await.expect_err("a reset").kind()
    })
    .await;
    let mut program = broker.flow(at).await;
    program.write_u8(1).await.expect("write");
    gateway.wait_log(|line| line["event"] == "open" && line["dialled"] == at.to_string());
    reset(program);
    assert_eq!(
        timeout(PATIENCE, served)
            .await
            .expect("in time")
            .expect("server"),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_flows_at_once_get_their_own_bytes() {
    let site = Site::new();
    let gateway = site.start(POLICY, GROUPS);
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let mut flows = tokio::task::JoinSet::new();
    for number in 0..200_u32 {
        let link = broker.link.clone();
        flows.spawn(async move {
            let mut program = flow(&link, "127.0.0.1", at.port()).await;
            let sent: Vec<u8> = (0..number * 501)
                .map(|i| (i.wrapping_mul(number + 7) >> 3) as u8)
                .collect();
            let (mut read, mut write) = program.split();
            let send = async {
                write.write_all(&sent).await.expect("write");
                write.shutdown().await.expect("shutdown");
            };
            let mut got = Vec::new();
            let ((), read) = tokio::join!(send, read.read_to_end(&mut got));
            read.expect("read");
            assert!(
                got == sent,
                "flow {number}: {} bytes sent, {} came back",
                sent.len(),
                got.len()
            );
        });
    }
    let all = async {
        while let Some(done) = flows.join_next().await {
            done.expect("flow")
        }
    };
    timeout(PATIENCE * 2, all).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_a_bounded_number_of_streams() {
    let site = Site::new();
    let gateway = site.start(POLICY, "groups: {staff: [alice]}\nmax_streams_per_user: 2");
    let broker = Broker::connect(&site, gateway.address).await;
    let second = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let held = (broker.flow(at).await, second.flow(at).await);
    check(
        &broker,
        "127.0.0.1",
        at.port(),
        RefusalReason::Busy,
        "this user has 2",
    )
    .await;
    drop(held.0);
    gateway.wait_log(|line| line["event"] == "end");
    broker.flow(at).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_a_bounded_number_of_channels_and_one_link_in_each() {
    let site = Site::new();
    let gateway = site.start(POLICY, GROUPS);
    let session = crate::flows::log_in(&site, gateway.address).await;
    let mut channels = Vec::new();
    for _ in 0..4 {
        channels.push(session.channel_open_session().await.expect("channel"));
    }
    assert!(
        session.channel_open_session().await.is_err(),
        "a fifth channel"
    );
    let mut first = channels.remove(0);
    for expected in ["Success", "Failure"] {
        first
            .request_subsystem(true, "adit-link")
            .await
            .expect("request");
        loop {
            let message = timeout(PATIENCE, first.wait())
                .await
                .expect("in time")
                .expect("a message");
            let name = format!("{message:?}");
            if name == "Success" || name == "Failure" {
                assert_eq!(name, expected);
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_keys_under_load_lose_nothing() {
    let site = Site::new();
    let gateway = site.start(POLICY, "groups: {staff: [alice]}\nrekey_bytes: 1048576");
    let broker = Broker::connect(&site, gateway.address).await;
    let mut program = broker.flow(echo().await).await;
    let sent: Vec<u8> = (0..48_u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (mut read, mut write) = program.split();
    let send = async {
        write.write_all(&sent).await.expect("write");
        write.shutdown().await.expect("shutdown");
    };
    let mut got = Vec::new();
    let both = async { tokio::join!(send, read.read_to_end(&mut got)) };
    timeout(PATIENCE * 2, both)
        .await
        .expect("in time")
        .1
        .expect("read");
    assert!(
        got == sent,
        "{} bytes sent, {} came back",
        sent.len(),
        got.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_keeps_asking_for_channels_is_ended() {
    let site = Site::new();
    let gateway = site.start(POLICY, GROUPS);
    for kind in ["session", "direct-streamlocal"] {
        let session = crate::flows::log_in(&site, gateway.address).await;
        let mut answered = 0;
        // 64 are answered; one more ends the connection.
        while answered < 100 {
            let asked = async {
                match kind {
                    "session" => session.channel_open_session().await,
                    _ => session.channel_open_direct_streamlocal("/run/x").await,
                }
            };
            match timeout(PATIENCE, asked).await.expect("in time") {
                Ok(channel) => channel.close().await.expect("close"),
                Err(russh::Error::ChannelOpenFailure(_)) => {}
                Err(_) => break,
            }
            answered += 1;
        }
        assert_eq!(answered, 64, "{kind}");
        gateway.wait_log(|line| {
            line["error"]
                .as_str()
                .is_some_and(|error| error.contains("more than 64 channels"))
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_given_up_at_once_is_in_the_audit() {
    let site = Site::new();
    let gateway = site.start(POLICY, GROUPS);
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let header = adit_link::OpenHeader {
        host: adit_link::Host::Address(at.ip()),
        port: at.port(),
        application: None,
    };
    for _ in 0..50 {
        drop(broker.link.open(&header).expect("open"));
    }
    broker.flow(at).await;
    broker.link.close();
    gateway.wait_log(|line| line["message"] == "link ended");
    let lines = gateway.log_lines();
    let answers = lines
        .iter()
        .filter(|line| line["event"] == "open" || line["event"] == "refuse");
    assert_eq!(answers.count(), 51, "{lines:#?}");
}

/// What a broker reads, held back while `held` says so; `came` tells that there is something.
struct Held<R> {
    read: R,
    held: watch::Receiver<bool>,
    came: Arc<Notify>,
}

impl<R: ReadChunks> ReadChunks for Held<R> {
    async fn read_chunk(&mut self) -> std::io::Result<Option<Bytes>> {
        let chunk = self.read.read_chunk().await;
        if *self.held.borrow_and_update() {
            self.came.notify_one();
        }
        self.held.wait_for(|held| !held).await.expect("a test");
        chunk
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_link_refuses_by_itself_is_counted_in_the_audit() {
    let site = Site::new();
    let control = crate::sessions::extra(&site);
    let gateway = site.start(POLICY, &format!("groups: {{staff: [alice]}}\n{control}"));
    let session = crate::flows::log_in(&site, gateway.address).await;
    let channel = session.channel_open_session().await.expect("channel");
    channel
        .request_subsystem(true, "adit-link")
        .await
        .expect("subsystem");
    let (read, write) = adit_link::ssh::split(channel);
    let (hold, held) = watch::channel(false);
    let came = Arc::new(Notify::new());
    let read = Held {
        read,
        held,
        came: Arc::clone(&came),
    };
    let link = crate::flows::begin(read, write).await;
    let at = echo().await;
    let program = flow(&link, "127.0.0.1", at.port()).await;
    // The gateway has said that it takes no more, and the broker has not heard it yet.
    hold.send_replace(true);
    crate::sessions::done(&site, &["drain", "--deadline", "600"]).await;
    timeout(PATIENCE, came.notified()).await.expect("a word");
    let header = adit_link::OpenHeader {
        host: adit_link::Host::Address(at.ip()),
        port: at.port(),
        application: None,
    };
    let mut late: Vec<_> = (0..3).map(|_| link.open(&header).expect("open")).collect();
    hold.send_replace(false);
    for stream in &mut late {
        let refused = timeout(PATIENCE, stream.opened()).await.expect("in time");
        assert!(
            matches!(&refused, Err(StreamError::Refused(refusal)) if refusal.reason == RefusalReason::Busy),
            "{refused:?}"
        );
    }
    drop(program);
    let surplus = gateway.wait_log(|line| line["event"] == "surplus");
    let login = gateway.wait_log(|line| line["event"] == "login");
    assert_eq!(
        (&surplus["id"], &surplus["streams"]),
        (&203.into(), &3.into())
    );
    for name in ["session", "user", "from", "key"] {
        assert!(surplus[name] == login[name] && !surplus[name].is_null());
    }
}
