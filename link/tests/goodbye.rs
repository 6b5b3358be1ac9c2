//! The last words of a link reach a peer that is in the middle of sending.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::time::Duration;

use adit_link::{Limits, LinkEnd, ReadChunks, WriteChunks, initiate};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::timeout;

struct Reader(mpsc::Receiver<Bytes>);

impl ReadChunks for Reader {
    async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.0.recv().await)
    }
}

struct Writer(mpsc::Sender<Bytes>);

impl WriteChunks for Writer {
    async fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        self.0.send(chunk).await.map_err(io::Error::other)
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.write_chunk(Bytes::new()).await
    }
}

/// docs/PROTOCOL.link.md, "Hello".
fn hello() -> Bytes {
    let mut hello = BytesMut::from(&b"ADIT\x01\x00\x00\x18\x00\x01\x00\x01"[..]);
    hello.put_u64(0);
    for bound in [32 << 10, 65_535, 100] {
        hello.put_u32(bound);
    }
    hello.freeze()
}

#[tokio::test]
async fn a_goodbye_goes_out_while_the_peer_keeps_sending() {
    let (to_link, from_peer) = mpsc::channel(1);
    let (to_peer, mut from_link) = mpsc::channel(1);
    to_link.send(hello()).await.unwrap();
    let (link, driver) = initiate(Reader(from_peer), Writer(to_peer), Limits::default())
        .await
        .unwrap();
    // As an SSH session does: it takes nothing from the link while it has something for it.
    let session = tokio::spawn(async move {
        from_link.recv().await.unwrap();
        let skipped = Bytes::from_static(&[0x80, 0, 0, 0, 0, 0, 0, 0]);
        for _ in 0..50 {
            to_link.send(skipped.clone()).await.unwrap();
        }
        let last = from_link.recv().await.unwrap();
        assert!(from_link.recv().await.unwrap().is_empty(), "the end");
        last
    });
    link.close();
    assert_eq!(driver.run().await, LinkEnd::Closed);
    let last = session.await.unwrap();
    assert_eq!(last[0], 0x0a, "GOODBYE");
}

#[tokio::test]
async fn a_peer_that_does_not_take_the_goodbye_is_not_waited_for() {
    let (to_link, from_peer) = mpsc::channel(1);
    let (to_peer, _from_link) = mpsc::channel(1);
    to_link.send(hello()).await.unwrap();
    let (link, driver) = initiate(Reader(from_peer), Writer(to_peer), Limits::default())
        .await
        .unwrap();
    let running = tokio::spawn(driver.run());
    yield_now().await;
    link.close();
    let end = timeout(Duration::from_secs(20), running).await;
    assert_eq!(end.unwrap().unwrap(), LinkEnd::Closed);
}
