//! Any AsyncRead/AsyncWrite pair (stdio of `adit-server --stdio`, a child's pipes, tests) as chunks.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::chunks::{ReadChunks, WriteChunks};

/// Bytes read at once.
const READ: usize = 64 << 10;

/// A pair of halves as chunks.
pub fn split<R, W>(read: R, write: W) -> (PipeReader<R>, PipeWriter<W>)
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    (
        PipeReader {
            read,
            buffer: BytesMut::new(),
        },
        PipeWriter { write },
    )
}

/// Reads chunks.
pub struct PipeReader<R> {
    read: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin + Send + 'static> ReadChunks for PipeReader<R> {
    async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.buffer.reserve(READ);
        let read = self.read.read_buf(&mut self.buffer).await?;
        if read >= READ / 2 {
            return Ok(Some(self.buffer.split().freeze()));
        }
        // A slice of it would keep all of the buffer.
        let chunk = Bytes::copy_from_slice(&self.buffer);
        self.buffer.clear();
        Ok((read > 0).then_some(chunk))
    }
}

/// Writes chunks.
pub struct PipeWriter<W> {
    write: W,
}

impl<W: AsyncWrite + Unpin + Send + 'static> WriteChunks for PipeWriter<W> {
    async fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        self.write.write_all(&chunk).await?;
        self.write.flush().await
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.write.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_small_chunk_keeps_no_large_buffer() {
        let (near, mut far) = tokio::io::duplex(READ);
        let (read, write) = tokio::io::split(near);
        let (mut read, _write) = split(read, write);
        far.write_all(b"?").await.unwrap();
        let chunk = read.read_chunk().await.unwrap().unwrap();
        let memory = chunk.try_into_mut().map(|chunk| chunk.capacity());
        assert_eq!(memory, Ok(1), "all of it is its own");
    }
}
