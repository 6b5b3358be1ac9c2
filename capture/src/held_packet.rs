//! What the kernel's queue says of a packet that it holds (linux/netfilter/nfnetlink_queue.h), as far as it is a question.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::netfilter::{Malformed, Message, fixed, value};
use crate::questions::Question;

/// `NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET`.
const PACKET: u16 = 3 << 8;
/// `NFQA_PACKET_HDR`, `NFQA_IFINDEX_OUTDEV`, `NFQA_PAYLOAD` of `enum nfqnl_attr_type`.
const PACKET_HEADER: u16 = 1;
const OUT_INTERFACE: u16 = 6;
const PAYLOAD: u16 = 10;
/// The index of `lo` in every network namespace (`LOOPBACK_IFINDEX` of the kernel's net_namespace.h).
const LOOPBACK: u32 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// Lengths of the headers without options (RFC 791, RFC 8200).
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// A message of the queue's socket that asks nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAQuestion {
    /// No message, or one without what a question needs.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Another kind of message.
    #[error("a message of kind {0:#06x}")]
    Kind(u16),
    /// A packet that is no TCP packet, or cut off before its sequence number.
    #[error("packet {0} is not the beginning of a TCP connection")]
    Packet(u32),
}

/// Reads one message.
///
/// # Errors
/// When it is no question.
pub fn decode(bytes: &[u8]) -> Result<Question, NotAQuestion> {
    let message = Message::decode(bytes)?;
    if message.kind != PACKET {
        return Err(NotAQuestion::Kind(message.kind));
    }
    let attributes = message.attributes()?;
    // struct nfqnl_msg_packet_hdr: number, protocol, hook.
    let [a, b, c, d, ..] = fixed::<7>(attributes, PACKET_HEADER)?;
    let id = u32::from_be_bytes([a, b, c, d]);
    let interface = fixed(attributes, OUT_INTERFACE).map(u32::from_be_bytes);
    let (source, destination, sequence) =
        ends(value(attributes, PAYLOAD)?).ok_or(NotAQuestion::Packet(id))?;
    Ok(Question {
        id,
        source,
        destination,
        sequence,
        routed: interface != Ok(LOOPBACK),
    })
}

/// From its IP header on: source, destination, sequence number.
pub(crate) fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, u32)> {
    match packet.first()? >> 4 {
        4 => v4(packet),
        6 => v6(packet),
        _ => None,
    }
}

fn v4(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, u32)> {
    let header = packet.first_chunk::<V4_HEADER>()?;
    let [
        first,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        protocol,
        _,
        _,
        addresses @ ..,
    ] = *header;
    let [a, b, c, d, e, f, g, h] = addresses;
    let (source, destination) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
    let length = usize::from(first & 0x0f) * 4;
    let (from, to, sequence) = tcp(protocol, packet.get(length.max(V4_HEADER)..)?)?;
    Some(((source, from).into(), (destination, to).into(), sequence))
}

fn v6(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, u32)> {
    let (header, rest) = packet.split_first_chunk::<V6_HEADER>()?;
    let source: [u8; 16] = header.get(8..24)?.try_into().ok()?;
    let destination: [u8; 16] = header.get(24..40)?.try_into().ok()?;
    let (from, to, sequence) = tcp(*header.get(6)?, rest)?;
    Some((
        (Ipv6Addr::from(source), from).into(),
        (Ipv6Addr::from(destination), to).into(),
        sequence,
    ))
}

/// The ports and the sequence number (RFC 9293, 3.1).
fn tcp(protocol: u8, segment: &[u8]) -> Option<(u16, u16, u32)> {
    let [a, b, c, d, e, f, g, h] = *segment.first_chunk()?;
    (protocol == TCP).then_some((
        u16::from_be_bytes([a, b]),
        u16::from_be_bytes([c, d]),
        u32::from_be_bytes([e, f, g, h]),
    ))
}
