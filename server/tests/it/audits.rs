//! The audit in a file of its own, and the numbers for Prometheus.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use adit_link::RefusalReason;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::destinations::echo;
use crate::flows::Broker;
use crate::site::{PATIENCE, Site};

const POLICY: &str = r#"[{name: loopback, users: [alice], allow: ["127.0.0.1:*"]}]"#;

/// The lines of a file, once there are so many.
fn lines(site: &Site, name: &str, number: usize) -> Vec<Value> {
    let since = Instant::now();
    loop {
        let text = std::fs::read_to_string(site.path(name)).unwrap_or_default();
        let read = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let found: Vec<Value> = read.collect();
        if found.len() >= number {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "{found:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ids(lines: &[Value]) -> Vec<u64> {
    lines
        .iter()
        .map(|line| line["id"].as_u64().expect("a number"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_in_a_file_that_can_be_moved_away() {
    let site = Site::new();
    let gateway = site.start(POLICY, &format!("audit: {}", site.path("audit").display()));
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let flow = broker.flow(at).await;
    let first = lines(&site, "audit", 2);
    assert_eq!(ids(&first), [100, 200], "{first:#?}");
    let (login, open) = (&first[0], &first[1]);
    assert_eq!(
        (&login["event"], &open["event"]),
        (&"login".into(), &"open".into())
    );
    assert!(
        login["session"].is_u64() && login["session"] == open["session"],
        "{first:#?}"
    );
    assert_eq!(open["dialled"], at.to_string());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(site.path("audit"))
            .expect("file")
            .permissions(),
    );
    assert_eq!(mode & 0o007, 0);

    std::fs::rename(site.path("audit"), site.path("audit.1")).expect("rename");
    gateway.signal(Signal::SIGHUP);
    let reloaded = lines(&site, "audit", 1);
    assert_eq!(reloaded[0]["id"], 300);
    drop(flow);
    drop(broker);
    let rest = lines(&site, "audit", 3);
    let mut after = ids(&rest[1..]);
    after.sort_unstable();
    assert_eq!(after, [101, 202], "{rest:#?}");
    assert_eq!(ids(&lines(&site, "audit.1", 2)), [100, 200]);
    // The log has it all as well.
    gateway.wait_log(|line| line["id"] == 202 && line["target"] == "audit");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_audit_no_flow_is_opened() {
    let site = Site::new();
    // full(4): each write fails as on a full disk.
    let gateway = site.start(POLICY, "audit: /dev/full");
    let broker = Broker::connect(&site, gateway.address).await;
    gateway.wait_log(|line| {
        line["message"]
            .as_str()
            .is_some_and(|m| m.starts_with("the audit cannot be written"))
    });
    let refusal = broker.refusal("127.0.0.1", echo().await.port()).await;
    assert_eq!(refusal.reason, RefusalReason::Busy, "{refusal}");
    assert!(
        refusal.detail.contains("the audit cannot be written"),
        "{refusal}"
    );
}

#[test]
fn a_file_that_cannot_be_opened_is_no_audit() {
    let site = Site::new();
    let config = site.config(POLICY, "audit: /nonexistent/audit");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_adit-server"));
    command.arg("--config").arg(config);
    let output = crate::site::output(command);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("the audit cannot be written to /nonexistent/audit")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_told_on_loopback() {
    let site = Site::new();
    let gateway = site.start(POLICY, "metrics: \"127.0.0.1:0\"");
    let said = gateway.wait_log(|line| line["message"] == "metrics");
    let address: std::net::SocketAddr = said["at"]
        .as_str()
        .and_then(|at| at.parse().ok())
        .expect("address");
    let get = |path: &str| {
        let mut socket = TcpStream::connect(address).expect("connect");
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
        socket
            .shutdown(std::net::Shutdown::Write)
            .expect("shutdown");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("read");
        text
    };
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let mut flow = broker.flow(at).await;
    tokio::io::AsyncWriteExt::write_all(&mut flow, b"seven b")
        .await
        .expect("write");
    tokio::io::AsyncReadExt::read_exact(&mut flow, &mut [0; 7])
        .await
        .expect("read");
    broker.refusal("127.0.0.2", 1).await;
    let text = tokio::task::block_in_place(|| get("/metrics"));
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for expected in [
        "adit_sessions 1",
        "adit_flows 1",
        "adit_logins_total 1",
        "adit_flows_opened_total 1",
        "adit_flows_refused_total 1",
        "adit_sent_bytes_total 7",
        "adit_received_bytes_total 7",
        "adit_audit_writable 1",
        "adit_draining 0",
    ] {
        assert!(
            text.lines().any(|line| line == expected),
            "{expected}: {text}"
        );
    }
    assert!(tokio::task::block_in_place(|| get("/")).starts_with("HTTP/1.1 404"));
}
