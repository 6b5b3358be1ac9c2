//! The first message each way: versions, features, bounds; or a refusal with words.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::chunks::{ReadChunks, WriteChunks};
use crate::header::{put_text, take_text};
use crate::limits::Limits;

/// The versions that this build speaks.
pub const LOWEST_VERSION: u16 = 1;
/// See [`LOWEST_VERSION`].
pub const HIGHEST_VERSION: u16 = 1;

/// Feature: the gateway may send NOTICE.
pub(crate) const NOTICES: u64 = 1;

const MAGIC: [u8; 4] = *b"ADIT";
const KIND_HELLO: u8 = 1;
const KIND_REFUSAL: u8 = 2;
const PREFIX: usize = 8;
const MAX_BODY: usize = 1024;

/// What the peer announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) lowest: u16,
    pub(crate) highest: u16,
    pub(crate) features: u64,
    pub(crate) early_window: u32,
    pub(crate) max_frame: u32,
    pub(crate) max_streams: u32,
}

/// Why no link came to be.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The transport failed, or ended before the peer's hello was complete.
    #[error("the transport failed during the hello")]
    Transport(#[source] io::Error),
    /// What answered does not speak this protocol; its first bytes are shown.
    #[error("the peer does not speak the link protocol, it said {0:?}")]
    NotALink(String),
    /// The peer's hello does not follow the protocol.
    #[error("the peer's hello is malformed: {0}")]
    Malformed(&'static str),
    /// No version in common.
    #[error(
        "no common version: the peer speaks {lowest} to {highest}, this is {LOWEST_VERSION} to {HIGHEST_VERSION}"
    )]
    Version {
        /// The lowest version that the peer speaks.
        lowest: u16,
        /// The highest version that the peer speaks.
        highest: u16,
    },
    /// The peer refused, in its own words.
    #[error("the peer refused the link: {0}")]
    Refused(String),
}

impl Hello {
    pub(crate) fn ours(limits: &Limits) -> Self {
        Self {
            lowest: LOWEST_VERSION,
            highest: HIGHEST_VERSION,
            features: NOTICES,
            early_window: limits.early_window,
            max_frame: crate::frame::MAX_DATA_BODY,
            max_streams: limits.max_streams,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(32);
        body.put_u16(self.lowest);
        body.put_u16(self.highest);
        body.put_u64(self.features);
        body.put_u32(self.early_window);
        body.put_u32(self.max_frame);
        body.put_u32(self.max_streams);
        message(KIND_HELLO, &body)
    }

    fn decode(mut body: &[u8]) -> Result<Self, HandshakeError> {
        let short = |_| HandshakeError::Malformed("cut short");
        let hello = Self {
            lowest: body.try_get_u16().map_err(short)?,
            highest: body.try_get_u16().map_err(short)?,
            features: body.try_get_u64().map_err(short)?,
            early_window: body.try_get_u32().map_err(short)?,
            max_frame: body.try_get_u32().map_err(short)?,
            max_streams: body.try_get_u32().map_err(short)?,
        };
        if hello.lowest > hello.highest {
            return Err(HandshakeError::Malformed(
                "its lowest version is above its highest",
            ));
        }
        if hello.early_window > crate::core::MAX_CREDIT {
            return Err(HandshakeError::Malformed("its window is too large"));
        }
        if hello.max_frame == 0 {
            return Err(HandshakeError::Malformed("it takes no data"));
        }
        Ok(hello)
    }

    fn check_version(&self) -> Result<(), HandshakeError> {
        let Self {
            lowest, highest, ..
        } = *self;
        if lowest > HIGHEST_VERSION || highest < LOWEST_VERSION {
            return Err(HandshakeError::Version { lowest, highest });
        }
        Ok(())
    }
}

/// Sends our hello and waits for the peer's. Also gives what came after it.
pub(crate) async fn exchange<R: ReadChunks, W: WriteChunks>(
    read: &mut R,
    write: &mut W,
    limits: &Limits,
) -> Result<(Hello, Bytes), HandshakeError> {
    write
        .write_chunk(Hello::ours(limits).encode())
        .await
        .map_err(HandshakeError::Transport)?;
    let outcome = receive(read).await.and_then(|(hello, rest)| {
        hello.check_version()?;
        Ok((hello, rest))
    });
    if let Err(error @ (HandshakeError::Malformed(_) | HandshakeError::Version { .. })) = &outcome {
        let mut body = BytesMut::new();
        put_text(&mut body, &error.to_string());
        // The link has failed already; that the words also can't be sent changes nothing.
        let _ = write.write_chunk(message(KIND_REFUSAL, &body)).await;
        let _ = write.finish().await;
    }
    outcome
}

async fn receive<R: ReadChunks>(read: &mut R) -> Result<(Hello, Bytes), HandshakeError> {
    let mut gathered = BytesMut::new();
    loop {
        if let Some(length) = parse(&gathered)? {
            let mut message = gathered.split_to(PREFIX + length);
            let body = message.split_off(PREFIX);
            return match message.get(4) {
                Some(&KIND_HELLO) => Ok((Hello::decode(&body)?, gathered.freeze())),
                _ => Err(HandshakeError::Refused(
                    take_text(&mut &body[..])
                        .map_err(|_| HandshakeError::Malformed("cut short"))?,
                )),
            };
        }
        let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let chunk = read.read_chunk().await.map_err(HandshakeError::Transport)?;
        gathered.extend_from_slice(&chunk.ok_or_else(|| HandshakeError::Transport(end()))?);
    }
}

/// The length of the body, once the whole message is there.
fn parse(bytes: &[u8]) -> Result<Option<usize>, HandshakeError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        return Err(HandshakeError::NotALink(shown));
    }
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let [.., kind, _reserved, l0, l1] = *prefix;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if !matches!(kind, KIND_HELLO | KIND_REFUSAL) {
        return Err(HandshakeError::Malformed("unknown kind of hello"));
    }
    if length > MAX_BODY {
        return Err(HandshakeError::Malformed("too long"));
    }
    Ok((rest.len() >= length).then_some(length))
}

fn message(kind: u8, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + body.len());
    out.put_slice(&MAGIC);
    out.put_u8(kind);
    out.put_u8(0);
    out.put_u16(u16::try_from(body.len()).unwrap_or(0));
    out.put_slice(body);
    out.freeze()
}
