//! An audit that cannot be written: no flow without its line.
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use adit_link::{Refusal, RefusalReason, StreamError};
use serde_json::Value;
use tokio::time::timeout;

use crate::destinations::{crowded, echo};
use crate::flows::{Broker, asked};
use crate::forwards::{Client, POLICY, connect, echoes, free_port, is_refused};
use crate::site::{Kept, PATIENCE, Running, Site, output};

#[tokio::test(flavor = "multi_thread")]
async fn without_an_audit_no_flow_is_opened() {
    let site = Site::new();
    // full(4): each write fails as on a full disk.
    let gateway = site.start(POLICY, "audit: /dev/full");
    let broker = Broker::connect(&site, gateway.address).await;
    gateway.wait_log(is_unwritable);
    let refusal = broker.refusal("127.0.0.1", echo().await.port()).await;
    assert_eq!(refusal.reason, RefusalReason::Busy, "{refusal}");
    assert!(
        refusal.detail.contains("the audit cannot be written"),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_audit_no_stock_client_gets_through_either() {
    let site = Site::new();
    let port = free_port();
    let key = site.public_key("alice");
    site.authorize("alice", &format!("permitlisten=\"localhost:{port}\" {key}"));
    let gateway = site.start(POLICY, "audit: /dev/full");
    let near = echo().await;
    let _client = Client::start(&site, &gateway, &["-R", &format!("{port}:{near}")]);
    gateway.wait_log(|line| line["event"] == "listen");
    gateway.wait_log(is_unwritable);
    let mut ssh = site.ssh(gateway.address, "alice", "alice");
    ssh.args(["-W", &near.to_string()]);
    let through = output(ssh);
    let stderr = String::from_utf8_lossy(&through.stderr);
    assert!(
        !through.status.success() && stderr.contains("open failed: resource shortage"),
        "{stderr}"
    );
    is_refused(connect(port));
    let lines = gateway.log_lines();
    assert!(
        lines.iter().all(|line| line["event"] != "open"),
        "{lines:#?}"
    );
}

/// Without a file of its own it goes where the log goes.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_no_flow_is_opened_either() {
    let site = Site::new();
    let (port, metrics) = (free_port(), free_port());
    let config = site.config(POLICY, &format!("metrics: \"127.0.0.1:{metrics}\""));
    let text = std::fs::read_to_string(&config).expect("file");
    let text = text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    std::fs::write(&config, text).expect("write");
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_adit-server"));
    gateway
        .arg("--config")
        .arg(config)
        .args(["--log-to", "stderr"]);
    let gateway = gateway.stderr(full.expect("full(4)")).spawn();
    let _gateway = Kept(gateway.expect("the gateway starts"));
    drop(connect(port));
    let near = echo().await;
    let mut ssh = site.ssh(SocketAddr::from(([127, 0, 0, 1], port)), "alice", "alice");
    ssh.args(["-W", &near.to_string()]);
    let through = output(ssh);
    let stderr = String::from_utf8_lossy(&through.stderr);
    assert!(
        !through.status.success() && stderr.contains("open failed: resource shortage"),
        "{stderr}"
    );
    let mut said = String::new();
    let mut asking = connect(metrics);
    asking
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .expect("write");
    asking.read_to_string(&mut said).expect("read");
    assert!(said.contains("\nadit_audit_writable 0\n"), "{said}");
}

/// With its audit on a disk that only the gateway has, in its mount namespace; and where we see it.
fn with_a_small_disk(site: &Site) -> (Running, PathBuf) {
    std::fs::create_dir(site.path("disk")).expect("directory");
    let audit = format!("audit: {}", site.path("disk/audit").display());
    let config = site.config(POLICY, &audit);
    let script = "mount -t tmpfs -o size=64k tmpfs \"$1\" && shift && exec \"$@\"";
    let mut command = site.with_names(Path::new("sh"));
    command
        .args(["-ec", script, "sh"])
        .arg(site.path("disk"))
        .arg(env!("CARGO_BIN_EXE_adit-server"))
        .arg("--config")
        .arg(config)
        .args(["--log-format", "json"]);
    let gateway = Running::of(command);
    let root = PathBuf::from(format!("/proc/{}/root", gateway.pid()));
    let disk = format!("{}{}", root.display(), site.path("disk").display());
    (gateway, disk.into())
}

/// What is left of the file's last page takes a few lines more.
async fn until_busy(broker: &Broker) -> Refusal {
    let busy = async {
        loop {
            let refusal = broker.refusal("127.0.0.2", 1).await;
            if refusal.reason == RefusalReason::Busy {
                return refusal;
            }
        }
    };
    timeout(PATIENCE, busy).await.expect("in time")
}

/// Makes each write to a disk fail, by a file of its own.
fn fill(disk: &Path) {
    let mut filler = std::fs::File::create(disk.join("filler")).expect("create");
    loop {
        match filler.write(&[0; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_opened_again_once_the_disk_has_room() {
    let site = Site::new();
    let (gateway, disk) = with_a_small_disk(&site);
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    drop(broker.flow(at).await);
    fill(&disk);
    let refusal = until_busy(&broker).await;
    assert!(
        refusal.detail.contains("the audit cannot be written"),
        "{refusal}"
    );
    gateway.wait_log(is_unwritable);

    std::fs::remove_file(disk.join("filler")).expect("remove");
    gateway.wait_log(|line| line["message"] == "the audit is written again");
    let _flow = broker.flow(at).await;
    let (_client, port) = crate::forwards::forwarded(&site, &gateway, &at.to_string());
    echoes(&mut connect(port), b"seven b");
    // The line that was cut by the end of the disk is whole as well.
    let since = Instant::now();
    loop {
        let text = std::fs::read_to_string(disk.join("audit")).expect("audit");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let read = whole.lines().map(serde_json::from_str);
        let lines: Vec<Value> = read.collect::<Result<_, _>>().expect("JSON");
        if lines.iter().filter(|line| line["id"] == 200).count() == 3 {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "{lines:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dialled_when_the_audit_stops_is_not_opened() {
    let site = Site::new();
    let (gateway, disk) = with_a_small_disk(&site);
    let broker = Broker::connect(&site, gateway.address).await;
    let (at, listener, full) = crowded().await;
    let mut dialling = asked(&broker.link, &at.ip().to_string(), at.port());
    // Its queue is in order: this one was asked for later.
    broker.refusal("127.0.0.2", 1).await;
    fill(&disk);
    until_busy(&broker).await;
    gateway.wait_log(is_unwritable);
    drop(full);
    let answering = std::thread::spawn(move || {
        let accepted = std::iter::from_fn(|| listener.accept().ok());
        accepted.for_each(|(socket, _)| drop(socket));
    });
    let opened = timeout(PATIENCE, dialling.opened()).await.expect("in time");
    match opened {
        Err(StreamError::Refused(refusal)) => assert_eq!(refusal.reason, RefusalReason::Busy),
        other => panic!("{other:?}"),
    }
    drop(answering);
}

fn is_unwritable(line: &Value) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    message.starts_with("the audit cannot be written")
}
