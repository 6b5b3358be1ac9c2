//! What is said on a control socket: PROTOCOL.mux of OpenSSH until one is let in, then messages of the SSH connection protocol (RFC 4254).

use std::io;

use adit_link::{Host, OpenHeader};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::unix::OwnedReadHalf;

use super::MuxError;

/// Of PROTOCOL.mux.
pub(super) const HELLO: u32 = 1;
pub(super) const VERSION: u32 = 4;
pub(super) const PROXY: u32 = 0x1000_000f;
pub(super) const IS_PROXY: u32 = 0x8000_000f;
pub(super) const ALIVE_CHECK: u32 = 0x1000_0004;
pub(super) const IS_ALIVE: u32 = 0x8000_0005;
pub(super) const STDIO_FORWARD: u32 = 0x1000_0008;
pub(super) const SESSION_OPENED: u32 = 0x8000_0006;

/// RFC 4250, section 4.1.2.
pub(super) mod message {
    pub(in super::super) const CHANNEL_OPEN: u8 = 90;
    pub(in super::super) const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
    pub(in super::super) const CHANNEL_OPEN_FAILURE: u8 = 92;
    pub(in super::super) const CHANNEL_WINDOW_ADJUST: u8 = 93;
    pub(in super::super) const CHANNEL_DATA: u8 = 94;
    pub(in super::super) const CHANNEL_EXTENDED_DATA: u8 = 95;
    pub(in super::super) const CHANNEL_EOF: u8 = 96;
    pub(in super::super) const CHANNEL_CLOSE: u8 = 97;
    pub(in super::super) const CHANNEL_REQUEST: u8 = 98;
    pub(in super::super) const CHANNEL_FAILURE: u8 = 100;
}

/// SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254, section 5.1).
pub(super) const PROHIBITED: u32 = 1;
/// Bytes that stand before the payload of a `CHANNEL_DATA`: the lengths of the message and of its padding, its number, the channel's, and
/// the length of the payload.
pub(super) const DATA_HEADER: usize = 14;
/// Bytes of a message: as much payload as there can be, and what stands around it.
const LONGEST: u32 = 256 << 10;

/// A message: behind its length and the length of its padding, as in packets without encryption.
pub(super) fn packet(kind: u8, payload: &[u8]) -> Bytes {
    let length = 2 + payload.len();
    let mut packet = BytesMut::with_capacity(4 + length);
    packet.put_u32(u32::try_from(length).unwrap_or(LONGEST));
    packet.put_u8(0);
    packet.put_u8(kind);
    packet.put_slice(payload);
    packet.freeze()
}

/// What stands before so many bytes of payload.
pub(super) fn data_header(channel: u32, payload: usize) -> [u8; DATA_HEADER] {
    let payload = u32::try_from(payload).unwrap_or(LONGEST);
    let mut header = [0; DATA_HEADER];
    let mut rest = &mut header[..];
    rest.put_u32(payload + 10);
    rest.put_u8(0);
    rest.put_u8(message::CHANNEL_DATA);
    rest.put_u32(channel);
    rest.put_u32(payload);
    header
}

/// The next message, without its length.
pub(super) async fn next_message(read: &mut BufReader<OwnedReadHalf>) -> Result<Bytes, MuxError> {
    let length = read.read_u32().await?;
    if length > LONGEST {
        return Err(MuxError::Nonsense);
    }
    let mut message = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
    let mut rest = read.take(u64::from(length));
    while rest.limit() > 0 {
        if rest.read_buf(&mut message).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(message.freeze())
}

pub(super) fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|it| it.to_be_bytes()).collect()
}

/// A message of PROTOCOL.mux.
pub(super) fn framed(numbers: &[u32]) -> Vec<u8> {
    framed_bytes(&words(numbers))
}

/// The same of anything.
pub(super) fn framed_bytes(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0);
    [&words(&[length]), payload].concat()
}

/// Where a stream is to lead, as a server is told.
pub(super) fn host(header: &OpenHeader) -> String {
    match &header.host {
        Host::Address(address) => address.to_string(),
        Host::Name(name) => name.clone(),
    }
}

pub(super) fn put_string(to: &mut BytesMut, text: &[u8]) {
    to.put_u32(u32::try_from(text.len()).unwrap_or(0));
    to.put_slice(text);
}

pub(super) fn take_string(message: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(message.try_get_u32().ok()?).ok()?;
    (length <= message.len()).then(|| message.split_to(length))
}
