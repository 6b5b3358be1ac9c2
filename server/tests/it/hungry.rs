//! What strangers can make the gateway hold: a bounded piece of memory for each of a bounded number.
use std::io::Write;
use std::net::TcpStream;

use crate::destinations::echo;
use crate::flows::Broker;
use crate::hostile::{HELLO, POLICY, begun, connect_from, is_well, packet};
use crate::site::{Running, Site};

const STRANGERS: usize = 120;
/// On average: the longest packet that is read as a whole is 256 KiB (russh), and most kinds come to much less.
const EACH_KIB: usize = 256;
/// Far more than anybody can have to say before a login.
const SAID: usize = 4 << 20;

/// The most memory that it had so far: proc_pid_status(5).
fn most_kib(gateway: &Running) -> usize {
    let file = format!("/proc/{}/status", gateway.pid());
    let status = std::fs::read_to_string(file).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.expect("VmHWM").parse().expect("a number")
}

/// Says this and then so many noughts, or as many as are taken.
fn says(mut socket: TcpStream, begin: &[u8], noughts: usize) -> TcpStream {
    // Closed before all was said is one way to take little.
    let _ = socket.write_all(begin).and_then(|()| {
        let piece = [0; 4096];
        (0..noughts / piece.len()).try_for_each(|_| socket.write_all(&piece))
    });
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_a_bounded_piece_of_memory_each() {
    let site = Site::new();
    let gateway = site.start(
        POLICY,
        "max_unauthenticated: 256\nmax_unauthenticated_per_source: 256",
    );
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    broker.flow(at).await;
    let before = most_kib(&gateway);
    // Lines and packets without an end, and such as stop just before it; in clear and, with their length in clear, encrypted.
    let mut kinds = vec![(Vec::new(), SAID), (b"SSH-2.0-".to_vec(), SAID)];
    for (length, noughts) in [
        (35_000_u32, 34_000),
        (255 << 10, 254 << 10),
        (1 << 20, SAID),
        (0x7fff_fff0, SAID),
    ] {
        let length = length.to_be_bytes();
        kinds.push(([HELLO, &length].concat(), noughts));
        kinds.push(([&begun()[..], &packet(&[21]), &length].concat(), noughts));
    }
    let address = gateway.address;
    let strangers: Vec<_> = (0..STRANGERS)
        .map(|number| {
            let (begin, noughts) = kinds[number % kinds.len()].clone();
            std::thread::spawn(move || says(connect_from(1, address), &begin, noughts))
        })
        .collect();
    let join = |thread: std::thread::JoinHandle<_>| thread.join().expect("joined");
    let held: Vec<TcpStream> =
        tokio::task::block_in_place(|| strangers.into_iter().map(join).collect());
    // Many turns for whoever has something to read.
    is_well(&site, &gateway, &broker, at).await;
    let more = most_kib(&gateway).saturating_sub(before);
    assert!(more < STRANGERS * EACH_KIB, "{more} KiB for {STRANGERS}");
    drop(held);
}
