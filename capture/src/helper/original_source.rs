//! Where a redirected connection came from: the original tuple of its conntrack entry.
//!
//! A redirect rewrites the destination, and where the rewritten connection would be like one that conntrack still lists, the
//! source port as well. The listener then sees a port that the client's socket does not have.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit_capture::netfilter::{
    ERROR, Header, INET, INET6, Malformed, Message, REQUEST, attribute, fixed, message, value,
};
use adit_capture::wire::{ErrorCode, MAX_SOURCES, Redirected, Reply};
use netlink_packet_core::NLA_F_NESTED;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use socket2::SockRef;

use super::program::Ports;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET` (linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h).
const GET: u16 = 1 << 8 | 1;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: an entry, also as an answer.
const ENTRY: u16 = 1 << 8;
/// `ENOENT`: no such entry.
const NO_ENTRY: i32 = 2;

/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY` of `enum ctattr_type` (nfnetlink_conntrack.h).
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
/// `CTA_TUPLE_IP`, `CTA_TUPLE_PROTO` of `enum ctattr_tuple`.
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
/// `CTA_IP_V4_SRC` and so on, of `enum ctattr_ip`.
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
/// `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT`, `CTA_PROTO_DST_PORT` of `enum ctattr_l4proto`.
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// The kernel answers while the request is being sent; this only bounds what cannot happen.
const DEADLINE: Duration = Duration::from_secs(1);
/// Answers that belong to other requests, before we give up.
const STRAYS: usize = 16;

/// A lookup that failed. Not finding an entry is no failure.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    #[error("netlink: {0}")]
    Exchange(#[from] io::Error),
    #[error("the kernel refused to look into conntrack: {0}")]
    Refused(#[source] io::Error),
    #[error("conntrack: {0}")]
    Form(#[from] Malformed),
    #[error("conntrack gave no answer")]
    NoAnswer,
}

/// One direction of a connection, as conntrack sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tuple {
    source: SocketAddr,
    destination: SocketAddr,
}

/// What one netlink message says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Entry { original: Tuple, reply: Tuple },
    Error(i32),
    Other,
}

/// What one session may ask of conntrack: its own listeners' connections, and nobody else's.
#[derive(Debug, Default)]
pub(crate) struct OriginalSources {
    ports: Ports,
    conntrack: Option<Conntrack>,
}

impl OriginalSources {
    /// The listeners of the session's claim from now on.
    pub(crate) fn claimed(&mut self, ports: Ports) {
        self.ports = ports;
    }

    pub(crate) fn answer(&mut self, of: &[Redirected]) -> Reply {
        if of.len() > MAX_SOURCES {
            let text = format!("at most {MAX_SOURCES} connections may be asked about at once");
            return Reply::refusal(ErrorCode::Protocol, text);
        }
        if let Some(foreign) = of.iter().find(|one| !self.is_ours(**one)) {
            let text = format!(
                "{} is not a listener of this session's claim",
                foreign.listener
            );
            return Reply::refusal(ErrorCode::BadListener, text);
        }
        let found: Result<_, _> = of
            .iter()
            .map(|one| self.look_up(one.listener, one.peer))
            .collect();
        match found {
            Ok(sources) => Reply::Sources { sources },
            Err(error) => {
                // A late answer in it must not meet the next question.
                self.conntrack = None;
                Reply::refusal(ErrorCode::Kernel, error.to_string())
            }
        }
    }

    fn is_ours(&self, Redirected { listener, peer }: Redirected) -> bool {
        let ours = |ip: IpAddr, port: Option<u16>| {
            port.is_some_and(|port| listener == SocketAddr::new(ip, port))
        };
        listener.is_ipv4() == peer.is_ipv4()
            && (ours(Ipv4Addr::LOCALHOST.into(), self.ports.v4)
                || ours(Ipv6Addr::LOCALHOST.into(), self.ports.v6))
    }

    fn look_up(
        &mut self,
        listener: SocketAddr,
        peer: SocketAddr,
    ) -> Result<Option<SocketAddr>, LookupError> {
        let conntrack = match &mut self.conntrack {
            Some(open) => open,
            none => none.insert(Conntrack::open()?),
        };
        conntrack.original_source(listener, peer)
    }
}

/// A netlink socket for lookups. Needs CAP_NET_ADMIN at every use.
#[derive(Debug)]
struct Conntrack {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conntrack {
    fn open() -> Result<Conntrack, LookupError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(LookupError::Open)?;
        socket.bind_auto().map_err(LookupError::Open)?;
        socket
            .connect(&NetlinkAddr::new(0, 0))
            .map_err(LookupError::Open)?;
        SockRef::from(&socket)
            .set_read_timeout(Some(DEADLINE))
            .map_err(LookupError::Open)?;
        Ok(Conntrack {
            socket,
            sequence: 0,
            buffer: vec![0; 8192],
        })
    }

    /// The client's own address of the connection that `listener` accepted from `peer`. `None`: conntrack lists no such
    /// connection.
    fn original_source(
        &mut self,
        listener: SocketAddr,
        peer: SocketAddr,
    ) -> Result<Option<SocketAddr>, LookupError> {
        let wanted = Tuple {
            source: listener,
            destination: peer,
        };
        match self.ask(wanted)? {
            // The kernel looks in both directions. Only our side's answers are what was asked for.
            Answer::Entry { original, reply } if same(reply, wanted) => {
                Ok(Some(scoped(original.source, peer)))
            }
            Answer::Entry { .. } => Ok(None),
            Answer::Error(code) if code == -NO_ENTRY => Ok(None),
            Answer::Error(code) => Err(LookupError::Refused(io::Error::from_raw_os_error(
                code.saturating_neg(),
            ))),
            Answer::Other => Err(LookupError::NoAnswer),
        }
    }

    fn ask(&mut self, wanted: Tuple) -> Result<Answer, LookupError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(self.sequence, wanted), 0)?;
        for _ in 0..STRAYS {
            let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let bytes = self
                .buffer
                .get(..length)
                .ok_or(LookupError::Form(Malformed))?;
            let (sequence, answer) = decode(bytes)?;
            if sequence == self.sequence {
                return Ok(answer);
            }
        }
        Err(LookupError::NoAnswer)
    }
}

/// Conntrack knows no scopes; a link-local client's is that of its peer address.
fn scoped(address: SocketAddr, like: SocketAddr) -> SocketAddr {
    match (address, like) {
        (SocketAddr::V6(mut address), SocketAddr::V6(like)) => {
            address.set_scope_id(like.scope_id());
            address.into()
        }
        (SocketAddr::V4(_), _) | (SocketAddr::V6(_), SocketAddr::V4(_)) => address,
    }
}

fn same(one: Tuple, other: Tuple) -> bool {
    let plain = |tuple: Tuple| {
        [tuple.source, tuple.destination].map(|address| (address.ip(), address.port()))
    };
    plain(one) == plain(other)
}

fn request(sequence: u32, wanted: Tuple) -> Vec<u8> {
    let family = match wanted.source {
        SocketAddr::V4(_) => INET,
        SocketAddr::V6(_) => INET6,
    };
    let header = Header {
        kind: GET,
        flags: REQUEST,
        sequence,
        family,
        resource: 0,
    };
    message(header, &tuple(REPLY, wanted))
}

fn tuple(kind: u16, tuple: Tuple) -> Vec<u8> {
    let (source, destination) = (tuple.source, tuple.destination);
    let addresses = [
        address(source.ip(), V4_SOURCE, V6_SOURCE),
        address(destination.ip(), V4_DESTINATION, V6_DESTINATION),
    ];
    let protocol = [
        attribute(NUMBER, &[TCP]),
        attribute(SOURCE_PORT, &source.port().to_be_bytes()),
        attribute(DESTINATION_PORT, &destination.port().to_be_bytes()),
    ];
    let both = [
        attribute(ADDRESSES | NLA_F_NESTED, &addresses.concat()),
        attribute(PROTOCOL | NLA_F_NESTED, &protocol.concat()),
    ];
    attribute(kind | NLA_F_NESTED, &both.concat())
}

fn address(ip: IpAddr, v4: u16, v6: u16) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => attribute(v4, &ip.octets()),
        IpAddr::V6(ip) => attribute(v6, &ip.octets()),
    }
}

/// The sequence number of the first message, and what it says.
fn decode(bytes: &[u8]) -> Result<(u32, Answer), LookupError> {
    let message = Message::decode(bytes)?;
    let answer = match message.kind {
        ENTRY => entry(message.attributes()?)?,
        ERROR => Answer::Error(message.error()?),
        _ => Answer::Other,
    };
    Ok((message.sequence, answer))
}

fn entry(attributes: &[u8]) -> Result<Answer, LookupError> {
    let original = tuple_of(value(attributes, ORIGINAL)?)?;
    let reply = tuple_of(value(attributes, REPLY)?)?;
    Ok(Answer::Entry { original, reply })
}

fn tuple_of(bytes: &[u8]) -> Result<Tuple, LookupError> {
    let (addresses, protocol) = (value(bytes, ADDRESSES)?, value(bytes, PROTOCOL)?);
    let end = |v4, v6, port| -> Result<SocketAddr, LookupError> {
        let ip = match fixed::<4>(addresses, v4) {
            Ok(octets) => IpAddr::from(Ipv4Addr::from(octets)),
            Err(_other_family) => Ipv6Addr::from(fixed::<16>(addresses, v6)?).into(),
        };
        let port = u16::from_be_bytes(fixed(protocol, port)?);
        Ok(SocketAddr::new(ip, port))
    };
    if fixed(protocol, NUMBER)? != [TCP] {
        return Err(LookupError::NoAnswer);
    }
    Ok(Tuple {
        source: end(V4_SOURCE, V6_SOURCE, SOURCE_PORT)?,
        destination: end(V4_DESTINATION, V6_DESTINATION, DESTINATION_PORT)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(kind: u16, sequence: u32, attributes: &[u8]) -> Vec<u8> {
        let header = Header {
            kind,
            flags: 0,
            sequence,
            family: INET,
            resource: 0,
        };
        message(header, attributes)
    }

    fn of(source: &str, destination: &str) -> Tuple {
        Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// By hand from nfnetlink_conntrack.h, as a little-endian machine has it.
    #[cfg(target_endian = "little")]
    #[test]
    fn a_request_is_what_the_kernel_headers_say() {
        let expected = [
            &[72, 0, 0, 0, 1, 1, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0][..],
            &[2, 0, 0, 0],
            &[52, 0, 2, 0x80],
            &[20, 0, 1, 0x80],
            &[8, 0, 1, 0, 127, 0, 0, 1],
            &[8, 0, 2, 0, 192, 0, 2, 2],
            &[28, 0, 2, 0x80],
            &[5, 0, 1, 0, 6, 0, 0, 0],
            &[6, 0, 2, 0, 0x1e, 0x61, 0, 0],
            &[6, 0, 3, 0, 0x9c, 0x40, 0, 0],
        ]
        .concat();
        let wanted = of("127.0.0.1:7777", "192.0.2.2:40000");
        assert_eq!(request(7, wanted), expected);
    }

    #[test]
    fn only_the_claims_own_listeners() {
        let mut sources = OriginalSources::default();
        sources.claimed(Ports {
            v4: Some(7777),
            v6: None,
        });
        for (listener, expected) in [
            ("127.0.0.1:7777", true),
            ("127.0.0.1:7778", false),
            ("127.0.0.2:7777", false),
            ("[::1]:7777", false),
            ("[::1]:0", false),
        ] {
            assert_eq!(
                {
                    let listener: SocketAddr = listener.parse().unwrap();
                    let peer = SocketAddr::new(listener.ip(), 50_123);
                    sources.is_ours(Redirected { listener, peer })
                },
                expected,
                "{listener}"
            );
        }
    }

    #[test]
    fn errors_and_other_messages() {
        for (kind, body, expected) in [
            (ERROR, (-2_i32).to_ne_bytes(), Answer::Error(-2)),
            (3, [0; 4], Answer::Other),
        ] {
            let bytes = [&written(kind, 9, &[])[..16], &body].concat();
            assert_eq!(decode(&bytes).unwrap(), (9, expected));
        }
    }

    #[test]
    fn a_link_local_client_keeps_its_scope() {
        let peer = "[fe80::1%3]:5".parse().unwrap();
        let source = scoped("[fe80::1]:4".parse().unwrap(), peer);
        assert_eq!(source, "[fe80::1%3]:4".parse().unwrap());
    }

    fn tuples() -> impl Strategy<Value = Tuple> {
        let v4 = any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(a, b, c, d)| Tuple {
            source: (a, b).into(),
            destination: (c, d).into(),
        });
        let v6 = any::<([u8; 16], u16, [u8; 16], u16)>().prop_map(|(a, b, c, d)| Tuple {
            source: (a, b).into(),
            destination: (c, d).into(),
        });
        prop_oneof![v4, v6]
    }

    prop_compose! {
        fn entries()(
            sequence: u32, original in tuples(), reply in tuples(),
            others in prop::collection::vec((3_u16..40, prop::collection::vec(any::<u8>(), 0..9)), 0..5),
            reply_first: bool,
        ) -> (u32, Tuple, Tuple, Vec<u8>) {
            let mut parts = vec![tuple(ORIGINAL, original), tuple(REPLY, reply)];
            if reply_first {
                parts.reverse();
            }
            let others = others.iter().map(|(kind, value)| attribute(*kind, value));
            parts.splice(1..1, others);
            let bytes = written(ENTRY, sequence, &parts.concat());
            (sequence, original, reply, bytes)
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read((sequence, original, reply, bytes) in entries()) {
            let read = decode(&bytes).unwrap();
            prop_assert_eq!(read, (sequence, Answer::Entry { original, reply }));
        }

        #[test]
        fn broken_ones_are_taken((_, _, _, mut bytes) in entries(), at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..cut.index(bytes.len())]);
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let _ = entry(&bytes);
        }
    }
}
