//! Conditions of the policy beside users, and that a name is looked up once.
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use adit_link::RefusalReason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::destinations::echo;
use crate::flows::{Broker, flow};
use crate::logins::sign;
use crate::site::{PATIENCE, Running, Site, output};

async fn is_denied(broker: &Broker, at: SocketAddr) -> bool {
    let refusal = broker.refusal(&at.ip().to_string(), at.port()).await;
    refusal.reason == RefusalReason::Denied && refusal.detail.contains("no entry")
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_for_sources_applications_and_times() {
    let site = Site::new();
    let at = echo().await;
    let entry =
        |more: &str| format!("[{{name: e, users: [alice], allow: [\"127.0.0.1:*\"], {more}}}]");
    let start = |more: &str| site.start(&entry(more), "");
    for (more, allowed) in [
        ("from: [127.0.0.0/8]", true),
        ("from: [10.0.0.0/8, \"2001:db8::/32\"]", false),
        // What the test's broker says that it is.
        ("applications: [psql, test]", true),
        ("applications: [\"/usr/*/test\"]", true),
        ("applications: [psql]", false),
        ("when: 00:00-24:00", true),
        (
            "when: mon-sun, from: [127.0.0.1], applications: [test]",
            true,
        ),
        (
            "when: mon-sun, from: [127.0.0.2], applications: [test]",
            false,
        ),
    ] {
        let gateway = start(more);
        let broker = Broker::connect(&site, gateway.address).await;
        match allowed {
            true => drop(broker.flow(at).await),
            false => assert!(is_denied(&broker, at).await, "{more}"),
        }
    }
    // At no hour of this day nor the next.
    let today = jiff::Zoned::now().weekday();
    let other_days = [today.next().next(), today.next().next().next()];
    let names = other_days.map(|day| format!("{day:?}")[..3].to_ascii_lowercase());
    let gateway = start(&format!("when: \"{}\"", names.join(",")));
    let broker = Broker::connect(&site, gateway.address).await;
    assert!(is_denied(&broker, at).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_of_a_certificate_is_enough() {
    let site = Site::new();
    site.keygen("ca", "");
    let at = echo().await;
    let sign = |principals: &str| {
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args(["-q", "-s", "ca", "-I", "x", "-n", principals, "alice.pub"])
            .current_dir(site.path(""));
        assert!(output(keygen).status.success());
    };
    let policy = r#"[{name: databases, principals: [dba], allow: ["127.0.0.1:*"]}]"#;
    let gateway = site.start(
        policy,
        &format!("user_ca: [{}]", site.path("ca.pub").display()),
    );
    let forwards_to = |user: &str, to: &str| {
        let mut ssh = site.ssh(gateway.address, user, "alice");
        ssh.arg("-o").arg(format!(
            "CertificateFile={}",
            site.path("alice-cert.pub").display()
        ));
        ssh.args(["-W", to]);
        let output = tokio::task::block_in_place(|| output(ssh));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), stderr)
    };
    let forwards = |user: &str| forwards_to(user, &at.to_string());
    sign("alice,dba");
    assert!(forwards("alice").0, "{}", forwards("alice").1);
    let open = gateway.wait_log(|line| line["event"] == "open");
    assert_eq!(open["entry"], "databases");
    assert!(!forwards_to("alice", "127.0.0.2:1").0);
    let refuse = gateway.wait_log(|line| line["event"] == "refuse");
    let mut keygen = Command::new("ssh-keygen");
    keygen.arg("-lf").arg(site.path("ca.pub"));
    let said = String::from_utf8(output(keygen).stdout).expect("text");
    let authority = said.split(' ').nth(1).expect("a fingerprint");
    let certificate = format!("ID \"x\" serial 0 CA {authority}");
    assert_eq!(
        (&open["certificate"], &refuse["certificate"]),
        (&certificate.as_str().into(), &certificate.as_str().into())
    );
    // Nobody by that name is in the file: without the principal she is no user.
    sign("alice,ops");
    assert!(forwards("alice").1.contains("Permission denied"));
    // The name has to be in it as well.
    sign("dba");
    assert!(forwards("alice").1.contains("Permission denied"));
}

/// Whoever has an authority in a file of one's own signs for oneself alone: it gives no principals, and
/// makes no user of a name that the policy does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_principal_by_an_authority_of_a_users_own_counts_for_nothing() {
    let site = Site::new();
    for name in ["ca", "gateways"] {
        site.keygen(name, "");
    }
    sign(&site, "cert", &["-n", "alice,ghost,dba"]);
    let own = format!(
        "cert-authority,principals=\"dba\" {}",
        site.public_key("ca")
    );
    site.authorize("alice", &own);
    site.authorize("ghost", &own);
    let policy = r#"[{name: databases, principals: [dba], allow: ["127.0.0.1:*"]},
  {name: other, users: [alice], allow: ["127.0.0.2:*"]}]"#;
    let at = echo().await.to_string();
    let says = |gateway: &Running, user: &str| {
        let mut ssh = site.ssh(gateway.address, user, "alice");
        let certificate = site.path("cert");
        ssh.arg("-o")
            .arg(format!("CertificateFile={}", certificate.display()));
        ssh.args(["-W", &at]);
        let output = tokio::task::block_in_place(|| output(ssh));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let authority = site.path("gateways.pub");
    for extra in ["", &format!("user_ca: [{}]", authority.display())] {
        let gateway = site.start(policy, extra);
        let alice = says(&gateway, "alice");
        assert!(alice.contains("administratively prohibited"), "{alice}");
        let ghost = says(&gateway, "ghost");
        assert!(ghost.contains("Permission denied"), "{ghost}");
        let unknown = "no entry or group of the policy names";
        gateway.wait_log(|line| {
            line["event"] == "login_refused"
                && line["method"] == "certificate"
                && line["why"]
                    .as_str()
                    .is_some_and(|why| why.contains(unknown))
        });
    }
}

/// A name server that says `127.0.0.1` once, and `127.0.0.2` from then on.
fn rebinding(address: Ipv4Addr) -> Arc<AtomicU32> {
    let socket = UdpSocket::bind((address, 53)).expect("bind");
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let question = &question[..length];
            // RFC 1035 4.1: the name begins after 12 bytes and ends with a 0; type and class follow.
            let name_end = question[12..].iter().position(|b| *b == 0).expect("a name") + 13;
            let is_a = question[name_end..name_end + 2] == [0, 1];
            let mut answer = question[..name_end + 4].to_vec();
            answer[2..12].copy_from_slice(&[0x84, 0, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                let last = match counted.fetch_add(1, Ordering::Relaxed) {
                    0 => 1,
                    _ => 2,
                };
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, last]);
            }
            socket.send_to(&answer, from).expect("send");
        }
    });
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_looked_up_once_and_that_address_is_dialled() {
    let site = Site::new();
    // Of this process alone.
    let [.., high, low] = std::process::id().to_be_bytes();
    let server = Ipv4Addr::new(127, 53, high, low.max(1));
    let asked = rebinding(server);
    site.write(
        "resolv.conf",
        &format!("nameserver {server}\noptions timeout:5 attempts:1\n"),
    );
    let policy = r#"[{name: one, users: [alice], allow: ["127.0.0.1:*", "*.rebind.test:*"]}]"#;
    let gateway = site.start(policy, "");
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    // Whoever looked it up a second time would get here.
    let trap = tokio::net::TcpListener::bind(("127.0.0.2", at.port()))
        .await
        .expect("bind");
    let mut program = flow(&broker.link, "db.rebind.test", at.port()).await;
    program.write_all(b"!").await.expect("write");
    assert_eq!(program.read_u8().await.expect("read"), b'!');
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // The second time the answer is not allowed.
    let refusal = broker.refusal("db.rebind.test", at.port()).await;
    assert_eq!(refusal.reason, RefusalReason::Denied, "{refusal}");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let none = tokio::time::timeout(Duration::ZERO, trap.accept()).await;
    assert!(none.is_err(), "the trap was connected to");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_have_limits_of_their_own() {
    let site = Site::new();
    site.authorize("bob", &site.public_key("alice"));
    let policy = r#"[{name: e, users: [alice, bob], allow: ["127.0.0.1:*"]}]"#;
    let at = echo().await;
    let start = |limits: &str| {
        site.start(
            policy,
            &format!("groups: {{few: [alice]}}\nlimits: [{{users: [\"@few\"], {limits}}}]"),
        )
    };
    let refused = async |broker: &Broker, words: &str| {
        let refusal = broker.refusal("127.0.0.1", at.port()).await;
        assert_eq!(refusal.reason, RefusalReason::Busy, "{refusal}");
        assert!(refusal.detail.contains(words), "{refusal}");
    };

    let gateway = start("flows: 2");
    let broker = Broker::connect(&site, gateway.address).await;
    let held = [broker.flow(at).await, broker.flow(at).await];
    refused(&broker, "this user has 2 already").await;
    drop(held);

    let gateway = start("sessions: 1");
    let _first = Broker::connect(&site, gateway.address).await;
    let second = crate::flows::log_in(&site, gateway.address).await;
    assert!(second.channel_open_session().await.is_err());
    let mut bobs = Vec::new();
    for _ in 0..2 {
        let (bob, success) = crate::flows::try_log_in(&site, gateway.address, "bob").await;
        assert!(success && bob.channel_open_session().await.is_ok());
        bobs.push(bob);
    }

    let gateway = start("opens_per_second: 1");
    let broker = Broker::connect(&site, gateway.address).await;
    drop(broker.flow(at).await);
    // What was unused before may be used at once; no more than that, however fast it goes.
    let opened = async {
        loop {
            let refusal = broker.refusal("127.0.0.2", 1).await;
            if refusal.reason == RefusalReason::Busy {
                return refusal;
            }
        }
    };
    let refusal = tokio::time::timeout(PATIENCE, opened)
        .await
        .expect("in time");
    assert!(
        refusal.detail.contains("too many streams a second"),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_reload_count_for_what_is_opened_from_then_on() {
    let site = Site::new();
    let policy = r#"[{name: e, users: [alice], allow: ["127.0.0.1:*"]}]"#;
    let limits = |own: &str| {
        let control = crate::sessions::extra(&site);
        format!("{control}\nlimits: [{{users: [alice], {own}}}]")
    };
    let gateway = site.start(policy, &limits("flows: 1"));
    let at = echo().await;
    let broker = Broker::connect(&site, gateway.address).await;
    let reload = async |own: &str| {
        site.config(policy, &limits(own));
        crate::sessions::done(&site, &["reload"]).await;
    };
    let busy = async |words: &str| {
        let refusal = broker.refusal("127.0.0.1", at.port()).await;
        assert_eq!(refusal.reason, RefusalReason::Busy, "{refusal}");
        assert!(refusal.detail.contains(words), "{refusal}");
    };
    let mut first = broker.flow(at).await;
    busy("this user has 1 already").await;
    reload("flows: 2").await;
    let second = broker.flow(at).await;
    busy("this user has 2 already").await;
    // Fewer than there are: those go on.
    reload("flows: 1").await;
    first.write_all(b"!").await.expect("write");
    assert_eq!(first.read_u8().await.expect("read"), b'!');
    drop(second);

    reload("opens_per_second: 1").await;
    let opened =
        async { while broker.refusal("127.0.0.2", 1).await.reason != RefusalReason::Busy {} };
    tokio::time::timeout(PATIENCE, opened)
        .await
        .expect("too fast");
    reload("bytes_per_second: 1000000").await;
    let took = there_and_back(&broker, at).await;
    assert!(took >= SLOWEST, "{took:?}");
}

/// Bytes that go there and back, at a million a second: a second's worth of both directions is a burst, and what is under way when
/// the rate is used up is little beside that.
const BYTES: usize = 1_500_000;
const SLOWEST: Duration = Duration::from_millis(1_500);

/// How long they take on a flow of their own.
async fn there_and_back(broker: &Broker, at: SocketAddr) -> Duration {
    let sent = vec![7; BYTES];
    let since = Instant::now();
    let (mut read, mut write) = broker.flow(at).await.into_split();
    let writing = sent.clone();
    tokio::spawn(async move {
        write.write_all(&writing).await.expect("write");
        write.shutdown().await.expect("shutdown");
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.expect("read");
    assert!(back == sent);
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_goes_no_faster_than_allowed() {
    let site = Site::new();
    let policy = r#"[{name: e, users: [alice], allow: ["127.0.0.1:*"]}]"#;
    let gateway = site.start(
        policy,
        "limits: [{users: [alice], bytes_per_second: 1000000}]",
    );
    let at = echo().await;
    let broker = Broker::connect(&site, gateway.address).await;
    let took = there_and_back(&broker, at).await;
    assert!(took >= SLOWEST, "a link: {took:?}");

    // The same through `ssh -W`, which reads no more once its input has ended.
    let mut ssh = site.ssh(gateway.address, "alice", "alice");
    let input = std::fs::File::open(site.write("input", &"x".repeat(BYTES))).expect("open");
    ssh.args(["-W", &at.to_string()])
        .stdin(input)
        .stdout(std::process::Stdio::piped());
    let since = Instant::now();
    let got = tokio::task::spawn_blocking(move || ssh.output().expect("ssh"));
    assert_eq!(got.await.expect("joined").stdout.len(), BYTES);
    assert!(
        since.elapsed() >= SLOWEST,
        "a forwarded port: {:?}",
        since.elapsed()
    );
}
