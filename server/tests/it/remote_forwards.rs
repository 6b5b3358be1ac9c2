//! `ssh -R`: where a key lets its client listen, and until when.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::destinations::echo;
use crate::forwards::{Client, POLICY, connect, echoes, finishes, free_port, is_refused};
use crate::sessions::{done, extra};
use crate::site::{PATIENCE, Site, output};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_listen_where_its_key_permits_it() {
    let site = Site::new();
    let port = free_port();
    let key = site.public_key("alice");
    site.authorize("alice", &format!("permitlisten=\"localhost:{port}\" {key}"));
    let gateway = site.start(POLICY, "");
    let near = echo().await;
    let client = Client::start(&site, &gateway, &["-R", &format!("{port}:{near}")]);
    let mut socket = connect(port);
    echoes(&mut socket, b"seven b");
    let from = socket.local_addr().expect("address").to_string();
    finishes(socket);
    let place = format!("localhost:{port}");
    gateway.wait_log(|line| line["event"] == "listen" && line["place"] == place.as_str());
    let open = gateway.wait_log(|line| line["event"] == "open" && line["asked"] == place.as_str());
    assert_eq!(
        (&open["dialled"], &open["entry"]),
        (&from.as_str().into(), &"permitlisten".into())
    );
    gateway.wait_log(|line| line["event"] == "end" && line["received"] == 7 && line["sent"] == 7);

    let refused = |forward: String| {
        let mut ssh = site.ssh(gateway.address, "alice", "alice");
        ssh.args(["-N", "-o", "ExitOnForwardFailure=yes", "-R", &forward]);
        let output = output(ssh);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains("remote port forwarding failed"),
            "{forward}: {stderr}"
        );
    };
    refused(format!("{}:127.0.0.1:1", free_port()));
    refused(format!("*:{port}:127.0.0.1:1"));
    refused("0:127.0.0.1:1".to_owned());
    // The place is free again when its client is gone.
    drop(client);
    gateway.wait_log(|line| line["event"] == "unlisten");
    let since = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_ok() {
        assert!(since.elapsed() < PATIENCE, "still listened at");
    }
    // Without the option nobody listens.
    site.authorize("alice", &key);
    refused(format!("{port}:127.0.0.1:1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_closes_a_place_that_is_not_permitted_any_more() {
    let site = Site::new();
    let (taken, left) = (free_port(), free_port());
    let key = site.public_key("alice");
    let permit = |port: u16| format!("permitlisten=\"localhost:{port}\"");
    let both = format!("{},{} {key}", permit(taken), permit(left));
    site.authorize("alice", &both);
    let gateway = site.start(POLICY, "");
    let near = echo().await;
    let forwards = [taken, left].map(|port| format!("{port}:{near}"));
    let _client = Client::start(&site, &gateway, &["-R", &forwards[0], "-R", &forwards[1]]);
    let (mut closed, mut kept) = (connect(taken), connect(left));
    echoes(&mut closed, b"before");
    echoes(&mut kept, b"before");

    site.authorize("alice", &format!("{} {key}", permit(left)));
    gateway.signal(Signal::SIGHUP);
    let place = format!("localhost:{taken}");
    gateway.wait_log(|line| line["event"] == "unlisten" && line["place"] == place.as_str());
    let refused = TcpStream::connect(("127.0.0.1", taken)).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    is_refused(closed);
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert_eq!(
        (&end["asked"], &end["end"]),
        (
            &place.as_str().into(),
            &"closed: not allowed any more".into()
        )
    );
    echoes(&mut kept, b"and after");
    echoes(&mut connect(left), b"also a new one");
    let unlistened = gateway.log_lines();
    let unlistened = unlistened.iter().filter(|line| line["event"] == "unlisten");
    assert_eq!(unlistened.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_what_came_in_finish() {
    let site = Site::new();
    let port = free_port();
    let key = site.public_key("alice");
    site.authorize("alice", &format!("permitlisten=\"localhost:{port}\" {key}"));
    let gateway = site.start(POLICY, &extra(&site));
    let near = echo().await;
    let mut client = Client::start(&site, &gateway, &["-R", &format!("{port}:{near}")]);
    let mut socket = connect(port);
    echoes(&mut socket, b"before");
    done(&site, &["drain", "--deadline", "600"]).await;
    gateway.wait_log(|line| line["event"] == "unlisten");
    echoes(&mut socket, b"and after");
    finishes(socket);
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert_eq!(end["end"], "finished");
    assert!(!client.ended().success());
    assert!(gateway.ended().success());
}

/// Where a client listens and what comes in there are flows like others: they are bounded together.
#[tokio::test(flavor = "multi_thread")]
async fn places_and_what_comes_in_count_as_flows() {
    let site = Site::new();
    let (port, other) = (free_port(), free_port());
    let permit = |port: u16| format!("permitlisten=\"127.0.0.1:{port}\"");
    let key = site.public_key("alice");
    site.authorize(
        "alice",
        &format!("{},{} {key}", permit(port), permit(other)),
    );
    let gateway = site.start(POLICY, "max_streams_per_user: 2");
    let near = echo().await;
    let forward = |port: u16| format!("127.0.0.1:{port}:{near}");
    let _client = Client::start(&site, &gateway, &["-R", &forward(port)]);
    let mut first = connect(port);
    echoes(&mut first, b"the second of two");
    is_refused(connect(port));
    let why = "too many streams: this user has 2 already";
    gateway.wait_log(|line| line["event"] == "refuse" && line["why"] == why);
    let mut ssh = site.ssh(gateway.address, "alice", "alice");
    ssh.args([
        "-N",
        "-o",
        "ExitOnForwardFailure=yes",
        "-R",
        &forward(other),
    ]);
    let refused = output(ssh);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("remote port forwarding failed"), "{stderr}");
    // The place is free again once the first has gone.
    finishes(first);
    let since = Instant::now();
    loop {
        let mut socket = connect(port);
        if socket.write_all(b"x").is_ok() && socket.read_exact(&mut [0]).is_ok() {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "no place");
    }
}
