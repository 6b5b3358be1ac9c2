//! The byte stream that a link runs on, in chunks.

use std::io;

use bytes::Bytes;

/// Where chunks of an ordered, reliable byte stream come from (SSH channel, pipe).
///
/// Chunk boundaries mean nothing; a frame may begin and end anywhere.
pub trait ReadChunks: Send + 'static {
    /// The next bytes; `None` at the end of the stream. Not cancelled before it is ready.
    fn read_chunk(&mut self) -> impl Future<Output = io::Result<Option<Bytes>>> + Send;
}

/// Where they go. One chunk should become one SSH packet: see [`Limits::max_chunk`].
///
/// [`Limits::max_chunk`]: crate::Limits::max_chunk
pub trait WriteChunks: Send + 'static {
    /// Hands the chunk over; waits while the transport has too much already.
    fn write_chunk(&mut self, chunk: Bytes) -> impl Future<Output = io::Result<()>> + Send;
    /// No more chunks: everything handed over is delivered, then the stream ends.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}
