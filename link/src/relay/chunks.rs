//! The relay between a stream and a byte stream in chunks: a flow that goes on in an SSH channel of its own.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;

use bytes::{Bytes, BytesMut};

use super::{Counters, RelayEnd};
use crate::chunks::{ReadChunks, WriteChunks};
use crate::core::Received;
use crate::stream::Stream;

/// Relays until both directions are done. An end stays an end; what breaks resets the other side. The peer may send as much more as
/// was handed to `write`.
///
/// Dropping the future resets the stream.
pub async fn relay_chunks<R: ReadChunks, W: WriteChunks>(
    mut read: R,
    mut write: W,
    stream: Stream,
    counters: &Counters,
) -> RelayEnd {
    let both = async {
        tokio::try_join!(
            inwards(&mut read, &stream, counters),
            outwards(&mut write, &stream, counters),
        )
    };
    match both.await {
        Ok(_) => RelayEnd::Finished,
        Err(end) => {
            if matches!(end, RelayEnd::ResetHere(_)) {
                stream.reset_after_data();
            }
            end
        }
    }
}

async fn inwards<R: ReadChunks>(
    read: &mut R,
    stream: &Stream,
    counters: &Counters,
) -> Result<(), RelayEnd> {
    // It ends no sooner than this direction does, unless it breaks.
    let mut broken = pin!(stream.broken());
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = read.read_chunk() => chunk.map_err(RelayEnd::ResetHere)?,
            error = &mut broken => return Err(error.into()),
        };
        let Some(mut chunk) = chunk else {
            break;
        };
        while !chunk.is_empty() {
            let room = poll_fn(|cx| stream.poll_room(cx)).await?;
            let payload = chunk.split_to(room.min(chunk.len()));
            let headroom = stream.headroom();
            let mut frame = BytesMut::with_capacity(headroom + payload.len());
            frame.resize(headroom, 0);
            frame.extend_from_slice(&payload);
            Counters::count(&counters.up, payload.len());
            stream.send(frame);
        }
    }
    stream.finish();
    Ok(())
}

async fn outwards<W: WriteChunks>(
    write: &mut W,
    stream: &Stream,
    counters: &Counters,
) -> Result<(), RelayEnd> {
    let mut batch: VecDeque<Bytes> = VecDeque::new();
    loop {
        let received = poll_fn(|cx| stream.poll_receive(cx, &mut batch)).await?;
        for chunk in batch.drain(..) {
            let bytes = chunk.len();
            write
                .write_chunk(chunk)
                .await
                .map_err(RelayEnd::ResetHere)?;
            Counters::count(&counters.down, bytes);
            stream.consumed(bytes);
        }
        if received == Received::Fin {
            return write.finish().await.map_err(RelayEnd::ResetHere);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};

    use super::*;
    use crate::header::{Host, OpenHeader};
    use crate::{Limits, accept, initiate, pipe};

    #[tokio::test]
    async fn bytes_and_ends_arrive_both_ways_each_by_itself() {
        let (near, far) = duplex(100_000);
        let halves = |stream| {
            let (read, write) = split(stream);
            pipe::split(read, write)
        };
        let ((near_read, near_write), (far_read, far_write)) = (halves(near), halves(far));
        let (initiated, accepted) = tokio::join!(
            initiate(near_read, near_write, Limits::default()),
            accept(far_read, far_write, Limits::default()),
        );
        let ((link, driver), (mut incoming, other)) = (initiated.unwrap(), accepted.unwrap());
        tokio::spawn(driver.run());
        tokio::spawn(other.run());
        let header = OpenHeader {
            host: Host::Name("far".to_owned()),
            port: 1,
            application: None,
        };
        let stream = link.open(&header).unwrap();
        let accepted = incoming.next().await.unwrap().accept();
        let mut ends = Vec::new();
        for stream in [stream, accepted] {
            let (mut program, outer) = duplex(1000);
            tokio::spawn(async move {
                let (read, write) = halves(outer);
                relay_chunks(read, write, stream, &Counters::default()).await
            });
            ends.push(tokio::spawn(async move {
                program.write_all(&[7; 10]).await.unwrap();
                program.shutdown().await.unwrap();
                let mut got = Vec::new();
                program.read_to_end(&mut got).await.unwrap();
                got
            }));
        }
        for end in ends {
            assert_eq!(end.await.unwrap(), [7; 10]);
        }
    }
}
