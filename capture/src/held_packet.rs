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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A SYN from 10.0.0.1:40000 to 192.0.2.7:443, by RFC 791 and RFC 9293: 20 bytes of header, 20 of TCP.
    const V4: [u8; 40] = [
        0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7, //
        0x9c, 0x40, 0x01, 0xbb, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0,
        0,
    ];

    /// The same from fd00::1 to 2001:db8::7, by RFC 8200.
    fn v6() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
        packet.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(&V4[20..]);
        packet
    }

    /// As the kernel writes it (`nfqnl_build_packet_message`): in the machine's own order but for what linux/netfilter's
    /// headers call big-endian.
    fn notice(out: u32, packet: &[u8]) -> Vec<u8> {
        let mut body = vec![2, 0, 0xad, 0x05];
        // NFQA_PACKET_HDR: number 7, ETH_P_IP, NF_INET_LOCAL_OUT.
        body.extend(attribute(1, &[0, 0, 0, 7, 8, 0, 3]));
        body.extend(attribute(6, &out.to_be_bytes()));
        // NFQA_UID and NFQA_TIMESTAMP are none of ours.
        body.extend(attribute(16, &[0, 0, 3, 0xe8]));
        body.extend(attribute(10, packet));
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(0x0300_u16.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn check(out: u32, packet: &[u8], expected: Result<(&str, &str, bool), NotAQuestion>) {
        let expected = expected.map(|(source, destination, routed)| Question {
            id: 7,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            sequence: 0xdead_beef,
            routed,
        });
        assert_eq!(decode(&notice(out, packet)), expected, "{packet:02x?}");
    }

    #[test]
    fn a_held_syn_is_a_question() {
        let (from, to) = ("10.0.0.1:40000", "192.0.2.7:443");
        check(3, &V4, Ok((from, to, true)));
        check(1, &V4, Ok((from, to, false)));
        check(3, &v6(), Ok(("[fd00::1]:40000", "[2001:db8::7]:443", true)));
        // Four bytes of options.
        let mut options = V4.to_vec();
        options[0] = 0x46;
        options.splice(20..20, [1, 1, 1, 0]);
        check(3, &options, Ok((from, to, true)));
        // What has no place for a sequence number, is no TCP, or of no version that there is.
        let (mut udp, mut fifth) = (V4, V4);
        udp[9] = 17;
        fifth[0] = 0x55;
        let mut udp_of_six = v6();
        udp_of_six[6] = 17;
        for packet in [&V4[..27], &v6()[..47], &udp[..], &udp_of_six, &fifth, &[]] {
            check(3, packet, Err(NotAQuestion::Packet(7)));
        }
    }

    #[test]
    fn other_messages_are_no_questions() {
        let mut other = notice(3, &V4);
        // NLMSG_ERROR, as of an answer about nobody.
        other[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(decode(&other), Err(NotAQuestion::Kind(2)));
        let whole = notice(3, &V4);
        for length in 0..whole.len() {
            let cut = decode(&whole[..length]);
            assert_eq!(cut, Err(NotAQuestion::Malformed(Malformed)), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200), packet in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
            let _ = ends(&packet);
            let _ = decode(&notice(2, &packet));
        }

        /// A notice with some bytes changed: a question, or none.
        #[test]
        fn changed_notices_are_taken(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut bytes = notice(2, &V4);
            for (index, byte) in changes {
                *index.get_mut(&mut bytes[..]) = byte;
            }
            let _ = decode(&bytes);
        }
    }
}
