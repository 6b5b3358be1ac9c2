//! Certificates that are taken back while their sessions live.
use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::destinations::echo;
use crate::forwards::{Client, connect, echoes, free_port, is_refused};
use crate::logins::{keygen, sign};
use crate::sessions::{done, extra, sessions};
use crate::site::{PATIENCE, Running, Site};

const POLICY: &str = r#"[{name: loopback, users: [alice], allow: ["127.0.0.1:*"]}]"#;

/// A client that came in by this certificate, with one flow.
async fn by_certificate(site: &Site, gateway: &Running, name: &str) -> (Client, TcpStream) {
    let (port, at) = (free_port(), echo().await);
    let certificate = format!("CertificateFile={}", site.path(name).display());
    let forward = format!("127.0.0.1:{port}:{at}");
    let client = Client::start(site, gateway, &["-o", &certificate, "-L", &forward]);
    let mut socket = connect(port);
    echoes(&mut socket, b"here");
    (client, socket)
}

fn configured(site: &Site, authorities: &str) -> String {
    let revoked = site.path("revoked");
    let revoked = format!("revoked_keys: [{}]", revoked.display());
    format!("{}\n{revoked}\nuser_ca: [{authorities}]", extra(site))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_the_sessions_whose_certificate_is_taken_back() {
    let site = Site::new();
    site.keygen("ca", "");
    site.keygen("other", "");
    for (name, serial) in [("one", "1"), ("two", "2")] {
        sign(&site, name, &["-n", "alice", "-z", serial]);
    }
    site.authorize("alice", "");
    site.write("revoked", "");
    let authority = site.path("ca.pub").display().to_string();
    let gateway = site.start(POLICY, &configured(&site, &authority));
    let (mut first, of_first) = by_certificate(&site, &gateway, "one").await;
    let (mut second, mut of_second) = by_certificate(&site, &gateway, "two").await;

    // A list of OpenSSH's that names one of the two.
    site.write("specification", "serial: 1\n");
    keygen(&site, &["-k", "-f", "new", "-s", "ca.pub", "specification"]);
    fs::rename(site.path("new"), site.path("revoked")).expect("rename");
    let closed = done(&site, &["reload"]).await;
    assert!(closed.contains("1 sessions"), "{closed}");
    is_refused(of_first);
    assert!(!first.ended().success());
    echoes(&mut of_second, b"still");
    assert_eq!(sessions(&site).await.len(), 1);

    // Whoever signed the other is an authority no longer.
    let other = site.path("other.pub").display().to_string();
    site.config(POLICY, &configured(&site, &other));
    let closed = done(&site, &["reload"]).await;
    assert!(closed.contains("1 sessions"), "{closed}");
    is_refused(of_second);
    assert!(!second.ended().success());
    assert!(sessions(&site).await.is_empty());
}

/// As in OpenSSH's sshd, whoever is in stays in; what is judged again has to be good at that time.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_the_sessions_whose_validity_is_over() {
    let site = Site::new();
    site.keygen("ca", "");
    sign(&site, "short", &["-n", "alice", "-V", "-1h:+10s"]);
    sign(&site, "long", &["-n", "alice", "-V", "-1h:+1h"]);
    site.authorize("alice", "");
    site.write("revoked", "");
    let authority = site.path("ca.pub").display().to_string();
    let gateway = site.start(POLICY, &configured(&site, &authority));
    let (mut short, of_short) = by_certificate(&site, &gateway, "short").await;
    let (_long, mut of_long) = by_certificate(&site, &gateway, "long").await;
    let until = Instant::now() + Duration::from_secs(10) + PATIENCE;
    while !done(&site, &["reload"]).await.contains("1 sessions") {
        assert!(Instant::now() < until, "still in");
    }
    is_refused(of_short);
    assert!(!short.ended().success());
    echoes(&mut of_long, b"still");
    let why = "not valid now";
    gateway.wait_log(|line| {
        line["message"] == "session closed"
            && line["why"].as_str().is_some_and(|said| said.contains(why))
    });
}

/// A certificate by the gateway's authority and by one of the user's own is the same login, but the second gives no principals.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_the_principals_of_what_was_an_authority_of_the_gateway() {
    let site = Site::new();
    site.keygen("ca", "");
    site.keygen("other", "");
    sign(&site, "one", &["-n", "alice,dba"]);
    site.authorize(
        "alice",
        &format!("cert-authority {}", site.public_key("ca")),
    );
    site.write("revoked", "");
    let policy = r#"[{name: databases, principals: [dba], allow: ["127.0.0.1:*"]},
  {name: known, users: [alice], allow: ["127.0.0.2:*"]}]"#;
    let authority = site.path("ca.pub").display().to_string();
    let gateway = site.start(policy, &configured(&site, &authority));
    let (_client, flow) = by_certificate(&site, &gateway, "one").await;
    let other = site.path("other.pub").display().to_string();
    site.config(policy, &configured(&site, &other));
    let closed = done(&site, &["reload"]).await;
    assert!(closed.contains("0 sessions, 1 flows"), "{closed}");
    is_refused(flow);
    assert_eq!(sessions(&site).await.len(), 1);
}
