//! What an opening asks for, and the typed answer no: their types and their encoding.

use std::net::IpAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest host name, in bytes (RFC 1035 allows 255 octets on the wire).
pub const MAX_NAME: usize = 255;
/// The longest application path, in bytes; longer ones are cut (PATH_MAX of Linux).
pub const MAX_APPLICATION: usize = 4096;
/// The longest detail of a refusal and of a goodbye, in bytes; longer ones are cut.
pub const MAX_DETAIL: usize = 512;

const HOST_NAME: u8 = 1;
const HOST_V4: u8 = 4;
const HOST_V6: u8 = 6;

/// Where a stream leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address, dialled as it is.
    Address(IpAddr),
    /// A name that the gateway resolves: 1 to 255 bytes of printable ASCII without blanks.
    Name(String),
}

/// The first thing on a stream: what to dial and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenHeader {
    /// Whom to dial.
    pub host: Host,
    /// At which TCP port.
    pub port: u16,
    /// Path of the application's binary, advisory. On the way, control characters become U+FFFD
    /// and what exceeds [`MAX_APPLICATION`] is cut.
    pub application: Option<String>,
}

/// A header that can't be sent or was not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Ends before its fields do.
    #[error("the header is cut short")]
    Short,
    /// A kind of host that this version does not know.
    #[error("unknown kind of host {0}")]
    HostKind(u8),
    /// The name is empty, too long, or has bytes that no host name has.
    #[error("not a host name")]
    Name,
    /// The application's path is too long or not printable UTF-8.
    #[error("not an application's path")]
    Application,
}

impl OpenHeader {
    /// Whether it can be asked for.
    ///
    /// # Errors
    /// When the name can't be a name.
    pub fn check(&self) -> Result<(), HeaderError> {
        match &self.host {
            Host::Name(name) => check_name(name.as_bytes()),
            Host::Address(_) => Ok(()),
        }
    }

    pub(crate) fn encode(&self) -> Result<BytesMut, HeaderError> {
        self.check()?;
        let mut out = BytesMut::with_capacity(64);
        match &self.host {
            Host::Address(IpAddr::V4(address)) => {
                out.put_u8(HOST_V4);
                out.put_u16(self.port);
                out.put_slice(&address.octets());
            }
            Host::Address(IpAddr::V6(address)) => {
                out.put_u8(HOST_V6);
                out.put_u16(self.port);
                out.put_slice(&address.octets());
            }
            Host::Name(name) => {
                let length = u8::try_from(name.len()).map_err(|_| HeaderError::Name)?;
                out.put_u8(HOST_NAME);
                out.put_u16(self.port);
                out.put_u8(length);
                out.put_slice(name.as_bytes());
            }
        }
        let application = self
            .application
            .as_deref()
            .map(printable)
            .unwrap_or_default();
        let application = cut(&application, MAX_APPLICATION);
        out.put_u16(u16::try_from(application.len()).unwrap_or(0));
        out.put_slice(application.as_bytes());
        Ok(out)
    }

    /// Bytes after the last field belong to a later version and are ignored.
    pub(crate) fn decode(mut body: &[u8]) -> Result<Self, HeaderError> {
        let kind = body.try_get_u8().map_err(|_| HeaderError::Short)?;
        let port = body.try_get_u16().map_err(|_| HeaderError::Short)?;
        let host = match kind {
            HOST_V4 => Host::Address(IpAddr::from(take_array::<4>(&mut body)?)),
            HOST_V6 => Host::Address(IpAddr::from(take_array::<16>(&mut body)?)),
            HOST_NAME => {
                let length = body.try_get_u8().map_err(|_| HeaderError::Short)?;
                let name = take(&mut body, usize::from(length))?;
                check_name(name)?;
                Host::Name(String::from_utf8_lossy(name).into_owned())
            }
            unknown => return Err(HeaderError::HostKind(unknown)),
        };
        let length = usize::from(body.try_get_u16().map_err(|_| HeaderError::Short)?);
        if length > MAX_APPLICATION {
            return Err(HeaderError::Application);
        }
        let application =
            std::str::from_utf8(take(&mut body, length)?).map_err(|_| HeaderError::Application)?;
        if application.contains(char::is_control) {
            return Err(HeaderError::Application);
        }
        let application = (!application.is_empty()).then(|| application.to_owned());
        Ok(Self {
            host,
            port,
            application,
        })
    }
}

/// Why a gateway said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// The gateway's policy does not allow it.
    Denied,
    /// The destination refused the connection (ECONNREFUSED).
    Refused,
    /// No route to the host (EHOSTUNREACH).
    HostUnreachable,
    /// No route to the network (ENETUNREACH).
    NetworkUnreachable,
    /// The name has no address.
    Unresolvable,
    /// The destination did not answer in time.
    TimedOut,
    /// Too much is going on already, or the gateway is about to stop.
    Busy,
    /// Anything else; reasons of later versions arrive as this one.
    Failed,
}

impl RefusalReason {
    fn code(self) -> u8 {
        match self {
            Self::Denied => 1,
            Self::Refused => 2,
            Self::HostUnreachable => 3,
            Self::NetworkUnreachable => 4,
            Self::Unresolvable => 5,
            Self::TimedOut => 6,
            Self::Busy => 7,
            Self::Failed => 8,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Denied,
            2 => Self::Refused,
            3 => Self::HostUnreachable,
            4 => Self::NetworkUnreachable,
            5 => Self::Unresolvable,
            6 => Self::TimedOut,
            7 => Self::Busy,
            _ => Self::Failed,
        }
    }
}

/// A gateway's typed no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason:?}: {detail}")]
pub struct Refusal {
    /// Which no it is.
    pub reason: RefusalReason,
    /// Words for a human; at most [`MAX_DETAIL`] bytes arrive.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(3 + self.detail.len().min(MAX_DETAIL));
        out.put_u8(self.reason.code());
        put_text(&mut out, &self.detail);
        out
    }

    pub(crate) fn decode(mut body: &[u8]) -> Result<Self, HeaderError> {
        let reason = RefusalReason::from_code(body.try_get_u8().map_err(|_| HeaderError::Short)?);
        Ok(Self {
            reason,
            detail: take_text(&mut body)?,
        })
    }
}

/// Appends words for a human: their length (u16), then at most [`MAX_DETAIL`] bytes.
pub(crate) fn put_text(out: &mut BytesMut, text: &str) {
    let text = printable(text);
    let text = cut(&text, MAX_DETAIL);
    out.put_u16(u16::try_from(text.len()).unwrap_or(0));
    out.put_slice(text.as_bytes());
}

/// Reads what [`put_text`] wrote. Words are only ever shown, so bad UTF-8 and control characters
/// are replaced rather than fatal.
pub(crate) fn take_text(body: &mut &[u8]) -> Result<String, HeaderError> {
    let length = usize::from(body.try_get_u16().map_err(|_| HeaderError::Short)?);
    let text = take(body, length)?;
    let text = printable(&String::from_utf8_lossy(text));
    Ok(cut(&text, MAX_DETAIL).to_owned())
}

fn take<'a>(body: &mut &'a [u8], length: usize) -> Result<&'a [u8], HeaderError> {
    let (taken, rest) = body.split_at_checked(length).ok_or(HeaderError::Short)?;
    *body = rest;
    Ok(taken)
}

fn take_array<const N: usize>(body: &mut &[u8]) -> Result<[u8; N], HeaderError> {
    take(body, N)?.try_into().map_err(|_| HeaderError::Short)
}

fn check_name(name: &[u8]) -> Result<(), HeaderError> {
    let good = !name.is_empty() && name.len() <= MAX_NAME;
    (good && name.iter().all(u8::is_ascii_graphic))
        .then_some(())
        .ok_or(HeaderError::Name)
}

fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

/// The body of a WINDOW frame.
pub(crate) fn decode_window(body: &Bytes) -> Result<u32, HeaderError> {
    body.as_ref().try_get_u32().map_err(|_| HeaderError::Short)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = OpenHeader> {
        let host = prop_oneof![
            any::<std::net::Ipv4Addr>().prop_map(|a| Host::Address(a.into())),
            any::<std::net::Ipv6Addr>().prop_map(|a| Host::Address(a.into())),
            "[!-~]{1,255}".prop_map(Host::Name),
        ];
        let application = prop::option::of("[^\\pC]{1,300}");
        (host, any::<u16>(), application).prop_map(|(host, port, application)| OpenHeader {
            host,
            port,
            application,
        })
    }

    proptest! {
        #[test]
        fn headers_survive_the_way(header in headers(), later in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut body = header.encode().unwrap();
            let length = body.len();
            body.extend_from_slice(&later);
            prop_assert_eq!(OpenHeader::decode(&body), Ok(header));
            for cut in 0..length {
                prop_assert!(OpenHeader::decode(&body[..cut]).is_err());
            }
        }

        #[test]
        fn bent_headers_are_told_or_sound(header in headers(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut body = header.encode().unwrap();
            let at = at.index(body.len());
            body[at] = to;
            if let Ok(bent) = OpenHeader::decode(&body) {
                prop_assert!(bent.encode().is_ok());
            }
        }

        #[test]
        fn any_bytes_are_a_header_or_not(body in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(header) = OpenHeader::decode(&body) {
                prop_assert_eq!(OpenHeader::decode(&header.encode().unwrap()), Ok(header));
            }
            let _ = Refusal::decode(&body);
        }

        #[test]
        fn refusals_arrive_within_their_bounds(detail in any::<String>()) {
            let refusal = Refusal { reason: RefusalReason::TimedOut, detail };
            let arrived = Refusal::decode(&refusal.encode()).unwrap();
            prop_assert_eq!(arrived.reason, RefusalReason::TimedOut);
            prop_assert!(arrived.detail.len() <= MAX_DETAIL);
            prop_assert!(!arrived.detail.contains(char::is_control));
        }
    }

    #[test]
    fn what_is_no_name_is_not_sent() {
        for name in ["", "a b", "a\nb", "zoé", &"a".repeat(256)] {
            let host = Host::Name(name.to_owned());
            let header = OpenHeader {
                host,
                port: 1,
                application: None,
            };
            assert_eq!(header.encode(), Err(HeaderError::Name), "{name:?}");
        }
    }

    #[test]
    fn long_applications_are_cut_between_characters() {
        let host = Host::Name(String::from("h"));
        let application = Some("é".repeat(MAX_APPLICATION));
        let body = OpenHeader {
            host,
            port: 1,
            application,
        }
        .encode()
        .unwrap();
        let arrived = OpenHeader::decode(&body).unwrap().application.unwrap();
        assert_eq!(arrived, "é".repeat(MAX_APPLICATION / 2));
    }
}
