//! Sessions of stock clients (`ssh -N -L`): how they are listed, and all that ends one.
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::Value;

use crate::destinations::echo;
use crate::forwards::{Client, connect, echoes, finishes, forwarded, free_port, is_refused};
use crate::sessions::{done, extra, sessions};
use crate::site::{PATIENCE, Running, Site, output};

const POLICY: &str = r#"[{name: loopback, users: [alice], allow: ["127.0.0.1:*"]}]"#;

/// A client with one flow.
async fn busy(site: &Site, gateway: &Running, at: SocketAddr) -> (Client, u16, TcpStream) {
    let (client, port) = forwarded(site, gateway, &at.to_string());
    let mut socket = connect(port);
    echoes(&mut socket, b"seven b");
    (client, port, socket)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_the_times_are_listed() {
    let site = Site::new();
    site.keygen("ca", "");
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args([
            "-q",
            "-s",
            "ca",
            "-I",
            "badge",
            "-z",
            "7",
            "-n",
            "alice",
            "alice.pub",
        ])
        .current_dir(site.path(""));
    assert!(output(keygen).status.success());
    site.authorize("alice", "");
    let authorities = format!("user_ca: [{}]", site.path("ca.pub").display());
    let before = Timestamp::now();
    let gateway = site.start(POLICY, &format!("{}\n{authorities}", extra(&site)));
    let (port, at) = (free_port(), echo().await);
    let certificate = format!("CertificateFile={}", site.path("alice-cert.pub").display());
    let forward = format!("127.0.0.1:{port}:{at}");
    let _client = Client::start(&site, &gateway, &["-o", &certificate, "-L", &forward]);
    let mut socket = connect(port);
    echoes(&mut socket, b"seven b");

    let login = gateway.wait_log(|line| line["event"] == "login");
    let listed = sessions(&site).await;
    let [session] = &listed[..] else {
        panic!("{listed:#?}");
    };
    assert_eq!(
        (&session["proof"], &login["how"]),
        (&"certificate".into(), &"certificate".into())
    );
    let certificate = session["certificate"].as_str().unwrap_or_default();
    assert!(
        certificate.starts_with("ID \"badge\" serial 7 CA SHA256:"),
        "{session:#}"
    );
    assert_eq!(session["certificate"], login["certificate"]);
    let moment = |value: &Value| -> Timestamp {
        let text = value.as_str().expect("a time");
        text.parse().expect("a time")
    };
    let since = moment(&session["since"]);
    assert!(before <= since && since <= moment(&login["timestamp"]));
    let age = |listed: &[Value]| listed[0]["flows"][0]["age_ms"].as_u64().expect("an age");
    let most = Timestamp::now().duration_since(since).as_millis();
    assert!(i128::from(age(&listed)) <= most, "{most}: {listed:#?}");
    // It grows with the time that passes.
    let asked = Instant::now();
    while age(&sessions(&site).await) <= age(&listed) {
        assert!(asked.elapsed() < PATIENCE, "{listed:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_a_stock_client() {
    let site = Site::new();
    let gateway = site.start(POLICY, &extra(&site));
    let at = echo().await;
    let (mut killed, _, socket) = busy(&site, &gateway, at).await;
    let (_other, port, mut beside) = busy(&site, &gateway, at).await;
    let id = sessions(&site).await[0]["id"].to_string();
    done(&site, &["kill", &id]).await;
    is_refused(socket);
    assert!(!killed.ended().success());
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert_eq!(
        (&end["session"].to_string(), &end["end"]),
        (&id, &"closed: ended by the administrator".into())
    );
    gateway.wait_log(|line| line["event"] == "logout" && line["session"] == end["session"]);
    echoes(&mut beside, b"and after");
    echoes(&mut connect(port), b"also a new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_lasts_as_long_as_it_may() {
    let site = Site::new();
    let gateway = site.start(POLICY, "session_timeout_seconds: 2");
    let (mut client, _, socket) = busy(&site, &gateway, echo().await).await;
    is_refused(socket);
    assert!(!client.ended().success());
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert_eq!(
        end["end"],
        "closed: the session has lasted as long as it may"
    );
    let logout = gateway.wait_log(|line| line["event"] == "logout");
    assert!(
        logout["seconds"].as_f64().is_some_and(|long| long >= 2.0),
        "{logout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_a_stock_client_finish() {
    let site = Site::new();
    let gateway = site.start(POLICY, &extra(&site));
    let (mut client, port, mut socket) = busy(&site, &gateway, echo().await).await;
    done(&site, &["drain", "--deadline", "600"]).await;
    gateway.wait_log(|line| line["event"] == "drain");
    is_refused(connect(port));
    let refuse = gateway.wait_log(|line| line["event"] == "refuse");
    assert_eq!(
        (&refuse["reason"], &refuse["why"]),
        (&"Busy".into(), &"the gateway takes nothing new".into())
    );
    echoes(&mut socket, b"and after");
    finishes(socket);
    assert!(!client.ended().success());
    let ended = tokio::task::spawn_blocking(move || gateway.ended());
    assert!(ended.await.expect("ended").success());
}
