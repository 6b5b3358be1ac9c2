//! How flows of stock clients end: what either side said before is heard by the other.
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use russh::Disconnect;

use crate::destinations::closed_port;
use crate::flows::log_in;
use crate::forwards::{POLICY, connect, forwarded};
use crate::sessions::{done, extra};
use crate::site::{Kept, PATIENCE, Site, wait};

/// More than the socket buffers between gateway and destination hold, and less than may wait for it.
const MUCH: usize = 12 << 20;

/// A destination with little room, and what its first connection does.
fn destination<T: Send + 'static>(
    act: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    socket2::SockRef::from(&listener)
        .set_recv_buffer_size(64 << 10)
        .expect("buffer");
    let address = listener.local_addr().expect("address");
    let acting = std::thread::spawn(move || {
        let (socket, _) = listener.accept().expect("accept");
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        act(socket)
    });
    (address, acting)
}

/// Reads to the end, more slowly than anybody sends.
fn read_slowly(mut socket: TcpStream) -> std::io::Result<usize> {
    let (mut buffer, mut total) = (vec![0; 256 << 10], 0);
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(total),
            read => total += read,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_a_client_sent_before_it_closed_arrives() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    // Ended first, so that ssh closes its channel right behind its end.
    let (at, reading) = destination(|socket| {
        socket.shutdown(Shutdown::Write).expect("shutdown");
        read_slowly(socket)
    });
    let (_client, port) = forwarded(&site, &gateway, &at.to_string());
    let mut socket = connect(port);
    assert_eq!(socket.read(&mut [0]).expect("the end"), 0);
    socket.write_all(&vec![7; MUCH]).expect("write");
    drop(socket);
    assert_eq!(reading.join().expect("joined").expect("read"), MUCH);
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert_eq!(
        (&end["sent"], &end["end"]),
        (&MUCH.into(), &"finished".into())
    );
}

/// As clients in Go do: a close is all they say at the end (RFC 4254 section 5.3).
#[tokio::test(flavor = "multi_thread")]
async fn a_close_without_an_end_loses_nothing_either() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    // Goes on sending, which nobody hears any more.
    let (at, reading) = destination(|mut socket| {
        let reading = socket.try_clone().expect("clone");
        let reading = std::thread::spawn(move || read_slowly(reading));
        while !reading.is_finished() && socket.write_all(&[0; 4096]).is_ok() {}
        (reading.join().expect("joined"), socket)
    });
    let session = log_in(&site, gateway.address).await;
    let port = u32::from(at.port());
    let opening = session.channel_open_direct_tcpip("127.0.0.1", port, "127.0.0.1", 1);
    let (mut heard, said) = opening.await.expect("opened").split();
    tokio::spawn(async move { while heard.wait().await.is_some() {} });
    said.data_bytes(vec![7; MUCH]).await.expect("data");
    said.close().await.expect("close");
    let read = tokio::task::spawn_blocking(|| reading.join().expect("joined"));
    let (read, _open) = read.await.expect("joined");
    assert_eq!(read.expect("read"), MUCH);
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert_eq!(
        (&end["sent"], &end["end"]),
        (
            &MUCH.into(),
            &"closed: its client left before the destination had ended".into()
        )
    );
}

/// Also when the connection is gone, which is listed and counts until then, and a drain waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sent_before_it_went_arrives() {
    let site = Site::new();
    let gateway = site.start(POLICY, &extra(&site));
    let (read, reading) = std::sync::mpsc::channel();
    let (at, reader) = destination(move |socket| {
        reading.recv().expect("a word");
        read_slowly(socket)
    });
    let session = log_in(&site, gateway.address).await;
    let port = u32::from(at.port());
    let opening = session.channel_open_direct_tcpip("127.0.0.1", port, "127.0.0.1", 1);
    let (_heard, said) = opening.await.expect("opened").split();
    said.data_bytes(vec![7; MUCH]).await.expect("data");
    said.close().await.expect("close");
    // Answered behind all of it, so that nothing is on its way when the client goes.
    let nowhere = u32::from(closed_port());
    let refused = session.channel_open_direct_tcpip("127.0.0.1", nowhere, "127.0.0.1", 1);
    assert!(refused.await.is_err());
    let goodbye = session.disconnect(Disconnect::ByApplication, "", "");
    goodbye.await.expect("goodbye");
    // Its end, which is an error for having been said.
    let _ = session.await;
    done(&site, &["drain", "--deadline", "600"]).await;
    gateway.wait_log(|line| line["event"] == "drain");
    let lines = gateway.log_lines();
    assert!(
        lines.iter().all(|line| line["event"] != "logout"),
        "{lines:#?}"
    );
    read.send(()).expect("reads");
    let total = tokio::task::spawn_blocking(|| reader.join().expect("joined"));
    assert_eq!(total.await.expect("joined").expect("read"), MUCH);
    gateway.wait_log(|line| line["event"] == "logout");
    let ended = tokio::task::spawn_blocking(move || gateway.ended());
    assert!(ended.await.expect("ended").success());
}

#[test]
fn what_a_destination_said_before_it_reset_is_heard() {
    const ANSWER: usize = 20_000;
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    for _ in 0..10 {
        let (at, answering) = destination(|mut socket| {
            // Has read none of the rest when it closes, which is a reset then.
            socket.read_exact(&mut [0]).expect("a beginning");
            socket.write_all(&[7; ANSWER]).expect("write");
        });
        let (_client, port) = forwarded(&site, &gateway, &at.to_string());
        let mut socket = connect(port);
        let mut sending = socket.try_clone().expect("clone");
        let sending = std::thread::spawn(move || sending.write_all(&vec![7; MUCH]));
        answering.join().expect("joined");
        let mut heard = Vec::new();
        // Whether it is called an end or a reset.
        let _ = socket.read_to_end(&mut heard);
        assert_eq!(heard.len(), ANSWER);
        // Nobody takes the rest.
        let _ = sending.join().expect("joined");
    }
}

#[test]
fn a_flow_on_standard_input_and_output_ends_when_both_have() {
    let site = Site::new();
    let gateway = site.start(POLICY, "");
    let (at, echoing) = destination(|mut socket| {
        let mut said = Vec::new();
        socket.read_to_end(&mut said).expect("read");
        socket.write_all(&said).expect("write");
    });
    let mut ssh = site.ssh(gateway.address, "alice", "alice");
    ssh.args(["-W", &at.to_string()]);
    let ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut ssh = Kept(ssh.expect("ssh starts"));
    let mut stdin = ssh.0.stdin.take().expect("stdin");
    stdin.write_all(b"hi").expect("write");
    drop(stdin);
    echoing.join().expect("joined");
    let since = Instant::now();
    let mut heard = Vec::new();
    let mut stdout = ssh.0.stdout.take().expect("stdout");
    stdout.read_to_end(&mut heard).expect("read");
    assert!(wait(&mut ssh.0).success());
    let took = since.elapsed();
    assert_eq!(heard, b"hi");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert_eq!(end["end"], "finished");
    assert!(end["seconds"].as_f64() < Some(5.0), "{end}");
}
