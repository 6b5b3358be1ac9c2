//! What a broker asked for, before anything is known about it.
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use adit_link::{Host, OpenHeader};
use adit_rules::Destination;

use crate::special::canonical;

/// RFC 1035 2.3.4: a name has at most 255 octets on the wire, which leaves 253 characters in
/// writing.
const MAX_NAME: usize = 253;
/// RFC 1035 2.3.4.
const MAX_LABEL: usize = 63;

/// The destination of a stream as its broker asked for it, in the one form that the policy
/// compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// An address. Never an IPv4-mapped one.
    Address(SocketAddr),
    /// A name to resolve here: lower case, no trailing dot, not an address in disguise.
    Name {
        /// The name.
        name: String,
        /// TCP port, never 0.
        port: u16,
    },
}

/// Why a destination is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotADestination {
    /// Port 0 cannot be connected to.
    #[error("port 0 cannot be connected to")]
    PortZero,
    /// There are 65,535 of them.
    #[error("not a port")]
    Port,
    /// Too long, an empty label, characters that no host name has, or a number that a resolver would
    /// take for an address.
    #[error("not a host name")]
    Name,
}

impl Asked {
    /// Reads what a stream's header or a channel request says.
    ///
    /// # Errors
    /// Port 0, or a host that is neither an address nor a host name.
    pub fn new(host: &Host, port: u16) -> Result<Self, NotADestination> {
        if port == 0 {
            return Err(NotADestination::PortZero);
        }
        match host {
            Host::Address(address) => Ok(Self::at(*address, port)),
            Host::Name(name) => Self::named(name, port),
        }
    }

    /// See [`Asked::new`].
    ///
    /// # Errors
    /// See [`Asked::new`].
    pub fn from_header(header: &OpenHeader) -> Result<Self, NotADestination> {
        Self::new(&header.host, header.port)
    }

    fn at(address: IpAddr, port: u16) -> Self {
        Self::Address(SocketAddr::new(canonical(address), port))
    }

    fn named(written: &str, port: u16) -> Result<Self, NotADestination> {
        let name = written.strip_suffix('.').unwrap_or(written);
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Self::at(address, port));
        }
        let labels_fit = name
            .split('.')
            .all(|label| (1..=MAX_LABEL).contains(&label.len()));
        // Underscores are in no host name of RFC 952, but in many that resolve.
        let characters_fit = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if name.len() > MAX_NAME || !labels_fit || !characters_fit || is_number(name) {
            return Err(NotADestination::Name);
        }
        Ok(Self::Name {
            name: name.to_ascii_lowercase(),
            port,
        })
    }

    /// As the patterns of the policy see it, without what resolution adds.
    pub(crate) fn destination(&self) -> Destination {
        match self {
            Self::Address(at) => Destination {
                address: Some(at.ip()),
                name: None,
                port: at.port(),
            },
            Self::Name { name, port } => Destination {
                address: None,
                name: Some(name.clone()),
                port: *port,
            },
        }
    }
}

/// `127.1`, `0x7f000001` and the like: inet_aton(3) and the resolver that uses it read them as
/// addresses. No top-level domain is a number (RFC 3696 section 2).
fn is_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let all_digits = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    let hexadecimal = last
        .get(..2)
        .is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    all_digits || hexadecimal
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(at) => at.fmt(f),
            Self::Name { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(name: &str, expected: Result<&str, NotADestination>) {
        let asked = Asked::new(&Host::Name(name.to_owned()), 443).map(|asked| asked.to_string());
        assert_eq!(asked.as_deref().map_err(|e| *e), expected, "{name:?}");
    }

    #[test]
    fn names_are_brought_to_one_form() {
        check("Erp.Finance.CORP.", Ok("erp.finance.corp:443"));
        check("_ldap._tcp.corp", Ok("_ldap._tcp.corp:443"));
        check("10.0.0.1", Ok("10.0.0.1:443"));
        check("1.2.3.4.", Ok("1.2.3.4:443"));
        for number in [
            "127.1",
            "127.1.",
            "2130706433",
            "0x7f000001",
            "10.0X1",
            "a.7",
        ] {
            check(number, Err(NotADestination::Name));
        }
        check("0x.corp", Ok("0x.corp:443"));
        check("7of9", Ok("7of9:443"));
        check("::ffff:127.0.0.1", Ok("127.0.0.1:443"));
        check("::1", Ok("[::1]:443"));
        check("", Err(NotADestination::Name));
        check(".", Err(NotADestination::Name));
        check("a..b", Err(NotADestination::Name));
        check("a b", Err(NotADestination::Name));
        check("a\0b", Err(NotADestination::Name));
        check("bücher.example", Err(NotADestination::Name));
        check(&"a".repeat(64), Err(NotADestination::Name));
        check(&["a"; 128].join("."), Err(NotADestination::Name));
    }

    #[test]
    fn port_zero_is_no_destination() {
        let host = Host::Address("10.0.0.1".parse().expect("address"));
        assert_eq!(Asked::new(&host, 0), Err(NotADestination::PortZero));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(name in ".{0,300}", port in 1_u16..) {
            if let Ok(Asked::Name { name, .. }) = Asked::new(&Host::Name(name), port) {
                prop_assert!(name.len() <= 253 && name.parse::<IpAddr>().is_err());
                prop_assert_eq!(name.to_ascii_lowercase(), name);
            }
        }
    }
}
