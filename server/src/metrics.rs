//! Numbers for Prometheus, on a loopback address (its text format 0.0.4).
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::gateway::Gateway;
use crate::log_queue;

/// Connections served at once; more wait in the backlog.
const AT_ONCE: usize = 8;
/// Longest first line of a request, in bytes.
const MAX_REQUEST: u64 = 1024;
/// A client that asks or listens more slowly is hung up on.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was counted since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) logins: AtomicU64,
    pub(crate) logins_refused: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Of flows that ended.
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

impl Metrics {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it as text.
    pub(crate) fn text(gateway: &Gateway) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (metrics, sessions) = (gateway.metrics(), gateway.sessions().all());
        let flows: Vec<_> = sessions
            .iter()
            .flat_map(|session| session.flows())
            .collect();
        let (mut sent, mut received) = (of(&metrics.sent), of(&metrics.received));
        for flow in &flows {
            let bytes = flow.bytes();
            (sent, received) = (sent + bytes.0, received + bytes.1);
        }
        let rows = [
            (
                "sessions",
                "gauge",
                "Who is logged in.",
                sessions.len() as u64,
            ),
            ("flows", "gauge", "What is open.", flows.len() as u64),
            (
                "draining",
                "gauge",
                "1 when nothing new is taken.",
                u64::from(gateway.is_draining()),
            ),
            ("logins_total", "counter", "Logins.", of(&metrics.logins)),
            (
                "logins_refused_total",
                "counter",
                "Keys and certificates that were refused.",
                of(&metrics.logins_refused),
            ),
            (
                "flows_opened_total",
                "counter",
                "Flows that were opened.",
                of(&metrics.opened),
            ),
            (
                "flows_refused_total",
                "counter",
                "Flows that were not.",
                of(&metrics.refused),
            ),
            (
                "sent_bytes_total",
                "counter",
                "Bytes to destinations.",
                sent,
            ),
            (
                "received_bytes_total",
                "counter",
                "Bytes from destinations.",
                received,
            ),
            (
                "audit_lost_lines_total",
                "counter",
                "Lines of log and audit that were lost.",
                log_queue::lost_in_all(),
            ),
            (
                "audit_writable",
                "gauge",
                "0 when no flow is opened for want of an audit.",
                u64::from(log_queue::has_room()),
            ),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in rows {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "# HELP adit_{name} {help}\n# TYPE adit_{name} {kind}\nadit_{name} {value}\n"
            );
        }
        text
    }
}

/// Answers until dropped.
pub(crate) async fn serve(listener: TcpListener, gateway: Arc<Gateway>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((socket, _)) => {
                let gateway = Arc::clone(&gateway);
                tokio::spawn(async move {
                    // Whoever asks so slowly, or goes, gets nothing.
                    let _ = timeout(PATIENCE, answer(socket, &gateway)).await;
                    drop(place);
                });
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut socket: TcpStream, gateway: &Gateway) -> io::Result<()> {
    let (read, mut write) = socket.split();
    let mut request = String::new();
    let mut read = BufReader::new(read.take(MAX_REQUEST));
    read.read_line(&mut request).await?;
    let (status, body) = match request.split(' ').collect::<Vec<_>>()[..] {
        ["GET", "/metrics", _] => ("200 OK", Metrics::text(gateway)),
        _ => ("404 Not Found", "GET /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    write.write_all(head.as_bytes()).await?;
    write.write_all(body.as_bytes()).await?;
    write.shutdown().await?;
    // What else was sent is read, lest its loss resets the connection before the answer is taken.
    let mut rest = read.into_inner().into_inner().take(MAX_REQUEST * 16);
    tokio::io::copy(&mut rest, &mut tokio::io::sink())
        .await
        .map(drop)
}
