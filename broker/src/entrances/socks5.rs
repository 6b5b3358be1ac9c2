//! SOCKS 5 (RFC 1928) as an entry speaks it: no authentication, CONNECT, and addresses or names.
//!
//! No socket here: bytes go in, and out comes how many are to be read next.

use adit_rules::Destination;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::dispatch::Cause;

/// Bytes that are read at once.
pub(super) const LONGEST: usize = 257;
/// A version and a number of methods.
pub(super) const FIRST: Next = Next::Read(2);

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Replies (section 6).
const SUCCEEDED: u8 = 0;
const FAILED: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const NETWORK_UNREACHABLE: u8 = 3;
const HOST_UNREACHABLE: u8 = 4;
const REFUSED: u8 = 5;
const TIMED_OUT: u8 = 6;
const NO_SUCH_COMMAND: u8 = 7;
const NO_SUCH_ADDRESS: u8 = 8;

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Read so many bytes, at least one, and give them to [`Handshake::take`].
    Read(usize),
    /// Write these, and then the same.
    Answer([u8; 2], usize),
    /// All is said.
    Asked(Destination),
}

/// Why a program is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    /// It speaks something else.
    #[error("this is not SOCKS 5: it begins with {0:#04x}")]
    Version(u8),
    /// It will not come without authentication.
    #[error("the program wants to authenticate itself")]
    Methods,
    /// It asks for something else than a connection.
    #[error("the command {0} is not served: only CONNECT is")]
    Command(u8),
    /// Its destination is of no known kind.
    #[error("an address of the unknown kind {0}")]
    AddressKind(u8),
    /// Its destination can't be one.
    #[error("{0}")]
    Destination(String),
}

/// How far a program has got.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    stage: Stage,
}

#[derive(Debug, Clone, Copy, Default)]
enum Stage {
    #[default]
    Greeting,
    Methods,
    Request,
    NameLength,
    /// The address, of this kind, and the port.
    Address(u8),
}

impl Handshake {
    /// Takes what was to be read.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Next, Wrong> {
        match (self.stage, bytes) {
            (Stage::Greeting, &[version, methods]) => {
                is_version(version)?;
                self.go_on(Stage::Methods, usize::from(methods))
                    .ok_or(Wrong::Methods)
            }
            (Stage::Methods, methods) => {
                if !methods.contains(&NO_AUTHENTICATION) {
                    return Err(Wrong::Methods);
                }
                self.stage = Stage::Request;
                Ok(Next::Answer([VERSION, NO_AUTHENTICATION], 4))
            }
            (Stage::Request, &[version, command, _, kind]) => {
                is_version(version)?;
                if command != CONNECT {
                    return Err(Wrong::Command(command));
                }
                let (stage, length) = match kind {
                    IPV4 => (Stage::Address(kind), 4 + 2),
                    IPV6 => (Stage::Address(kind), 16 + 2),
                    NAME => (Stage::NameLength, 1),
                    other => return Err(Wrong::AddressKind(other)),
                };
                self.go_on(stage, length).ok_or(Wrong::AddressKind(kind))
            }
            (Stage::NameLength, &[length]) => {
                let length = usize::from(length) + 2;
                self.go_on(Stage::Address(NAME), length)
                    .ok_or(Wrong::AddressKind(NAME))
            }
            (Stage::Address(kind), bytes) => destination(kind, bytes).map(Next::Asked),
            (Stage::Greeting | Stage::Request | Stage::NameLength, _) => {
                Err(Wrong::Destination("as many bytes as asked for".to_owned()))
            }
        }
    }

    /// `None`: there is nothing to read.
    fn go_on(&mut self, stage: Stage, length: usize) -> Option<Next> {
        self.stage = stage;
        (length > 0).then_some(Next::Read(length))
    }
}

fn is_version(version: u8) -> Result<(), Wrong> {
    match version {
        VERSION => Ok(()),
        other => Err(Wrong::Version(other)),
    }
}

fn destination(kind: u8, bytes: &[u8]) -> Result<Destination, Wrong> {
    let no_host = || Wrong::Destination("not a host".to_owned());
    let (host, port) = bytes.split_last_chunk::<2>().ok_or_else(no_host)?;
    let port = u16::from_be_bytes(*port);
    if port == 0 {
        return Err(Wrong::Destination("there is no port 0".to_owned()));
    }
    let address: IpAddr = match kind {
        IPV4 => <[u8; 4]>::try_from(host)
            .map(Ipv4Addr::from)
            .map_err(|_| no_host())?
            .into(),
        IPV6 => <[u8; 16]>::try_from(host)
            .map(Ipv6Addr::from)
            .map_err(|_| no_host())?
            .to_canonical(),
        _ => {
            let name = str::from_utf8(host).map_err(|_| no_host())?;
            return Destination::of_host(name, port).map_err(Wrong::Destination);
        }
    };
    Ok(Destination {
        address: Some(address),
        name: None,
        port,
    })
}

impl Wrong {
    /// What the program is told.
    pub(super) fn reply(&self) -> Vec<u8> {
        match self {
            // Whatever it speaks, it would not understand.
            Self::Version(_) => Vec::new(),
            Self::Methods => vec![VERSION, NO_METHOD],
            Self::Command(_) => reply(NO_SUCH_COMMAND),
            Self::AddressKind(_) => reply(NO_SUCH_ADDRESS),
            Self::Destination(_) => reply(HOST_UNREACHABLE),
        }
    }
}

/// The reply to a request that was carried out.
pub(super) fn opened() -> Vec<u8> {
    reply(SUCCEEDED)
}

/// The reply to one that was not.
pub(super) fn refused(cause: Cause) -> Vec<u8> {
    reply(match cause {
        Cause::Blocked(_) | Cause::Denied => NOT_ALLOWED,
        Cause::Refused => REFUSED,
        Cause::HostUnreachable | Cause::Unresolvable => HOST_UNREACHABLE,
        Cause::NetworkUnreachable => NETWORK_UNREACHABLE,
        Cause::TimedOut => TIMED_OUT,
        Cause::Busy
        | Cause::NoGateway
        | Cause::NoGatewayYet
        | Cause::Broken
        | Cause::Direct
        | Cause::Over => FAILED,
    })
}

/// The address from which the destination was dialled is the gateway's, and nobody's business: as of old, nothing.
fn reply(code: u8) -> Vec<u8> {
    vec![VERSION, code, 0, IPV4, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_rules::Refusal;
    use proptest::prelude::*;

    /// Gives `bytes` as they are asked for; what was answered, what came out, and what was left.
    fn run(mut bytes: &[u8]) -> (Vec<u8>, Option<Result<Destination, Wrong>>, &[u8]) {
        let (mut handshake, mut next) = (Handshake::default(), FIRST);
        let mut answered = Vec::new();
        loop {
            let length = match next {
                Next::Asked(destination) => return (answered, Some(Ok(destination)), bytes),
                Next::Read(length) => length,
                Next::Answer(answer, length) => {
                    answered.extend(answer);
                    length
                }
            };
            assert!((1..=LONGEST).contains(&length), "{length}");
            let Some((taken, rest)) = bytes.split_at_checked(length) else {
                return (answered, None, bytes);
            };
            bytes = rest;
            next = match handshake.take(taken) {
                Ok(next) => next,
                Err(wrong) => return (answered, Some(Err(wrong)), bytes),
            };
        }
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        let (answered, asked, rest) = run(bytes);
        assert_eq!(answered, [5, 0]);
        let asked = asked.map(|asked| asked.map(|it| it.to_string()));
        assert_eq!(asked, Some(Ok(expected.to_owned())));
        assert_eq!(rest, b"payload");
    }

    /// Bytes as in RFC 1928, sections 3 and 4.
    #[test]
    fn hears_addresses_and_names() {
        check(
            b"\x05\x01\x00\x05\x01\x00\x01\xc6\x33\x64\x0a\x01\xbbpayload",
            "198.51.100.10:443",
        );
        check(
            b"\x05\x03\x02\x01\x00\x05\x01\x00\x03\x0bDB.fin.Test\x15\x38payload",
            "db.fin.test:5432",
        );
        check(
            b"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\0\x16payload",
            "[2001:db8::7]:22",
        );
        // A name that is an address, and an address within another.
        check(
            b"\x05\x01\x00\x05\x01\x00\x03\x0810.0.0.1\0\x50payload",
            "10.0.0.1:80",
        );
        check(
            b"\x05\x01\x00\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01\0\x50payload",
            "10.0.0.1:80",
        );
    }

    #[track_caller]
    fn check_wrong(bytes: &[u8], expected: Wrong, reply: &[u8]) {
        let (_, asked, _) = run(bytes);
        assert_eq!(asked, Some(Err(expected)));
        let Some(Err(wrong)) = asked else {
            unreachable!("it is as expected");
        };
        assert_eq!(wrong.reply().get(..2).unwrap_or_default(), reply);
    }

    #[test]
    fn says_what_it_does_not_serve() {
        check_wrong(b"\x04\x01\x00\x50", Wrong::Version(4), b"");
        check_wrong(b"GET / HTTP/1.1", Wrong::Version(b'G'), b"");
        check_wrong(b"\x05\x00", Wrong::Methods, b"\x05\xff");
        check_wrong(b"\x05\x01\x02", Wrong::Methods, b"\x05\xff");
        let greeting = |request: &[u8]| [b"\x05\x01\x00", request].concat();
        let bind = greeting(b"\x05\x02\x00\x01\0\0\0\0\0\x50");
        check_wrong(&bind, Wrong::Command(2), b"\x05\x07");
        let kind = greeting(b"\x05\x01\x00\x02\0\0\0\0\0\x50");
        check_wrong(&kind, Wrong::AddressKind(2), b"\x05\x08");
        let port = greeting(b"\x05\x01\x00\x01\x0a\0\0\x01\0\0");
        let no_port = Wrong::Destination("there is no port 0".to_owned());
        check_wrong(&port, no_port, b"\x05\x04");
        let empty = greeting(b"\x05\x01\x00\x03\0\0\x50");
        assert!(matches!(run(&empty).1, Some(Err(Wrong::Destination(_)))));
    }

    #[test]
    fn replies_tell_the_truth() {
        // Codes of RFC 1928, section 6.
        for (cause, code) in [
            (Cause::Blocked(Refusal::Reset), 2),
            (Cause::Denied, 2),
            (Cause::NetworkUnreachable, 3),
            (Cause::HostUnreachable, 4),
            (Cause::Unresolvable, 4),
            (Cause::Refused, 5),
            (Cause::TimedOut, 6),
            (Cause::NoGateway, 1),
            (Cause::Broken, 1),
        ] {
            let expected = [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
            assert_eq!(refused(cause), expected, "{cause:?}");
        }
        assert_eq!(opened(), [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = run(&bytes);
            let _ = run(&[b"\x05\x01\x00\x05\x01\x00", bytes.as_slice()].concat());
            let _ = run(&[b"\x05\x01\x00\x05\x01\x00\x03", bytes.as_slice()].concat());
        }

        #[test]
        fn addresses_come_back(address: [u8; 4], port in 1u16.., more in "[a-z]{0,9}") {
            let request = [b"\x05\x01\x00\x05\x01\x00\x01".as_slice(), &address, &port.to_be_bytes(), more.as_bytes()].concat();
            let (_, asked, rest) = run(&request);
            let expected = Destination { address: Some(address.into()), name: None, port };
            prop_assert_eq!(asked, Some(Ok(expected)));
            prop_assert_eq!(rest, more.as_bytes());
        }

        #[test]
        fn names_come_back(name in "[a-z][a-z0-9]{0,20}(\\.[a-z][a-z0-9-]{0,20}[a-z]){0,5}", port in 1u16..) {
            let length = u8::try_from(name.len()).unwrap();
            let request = [b"\x05\x01\x00\x05\x01\x00\x03".as_slice(), &[length], name.as_bytes(), &port.to_be_bytes()].concat();
            let expected = Destination { address: None, name: Some(name), port };
            prop_assert_eq!(run(&request).1, Some(Ok(expected)));
        }
    }
}
