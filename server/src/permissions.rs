//! What the key or certificate of a login leaves of what the policy allows, and the principals by which
//! the policy may know it. Judged anew at each reload.
use std::net::IpAddr;

use crate::asked::Asked;
use crate::wildcard;

/// What a login may do beside links, and where it may go at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Forwarding of ports (`ssh -L`, `-D`, `-W`, `-R`). Links are no such: they are what the server is
    /// for, and have the policy.
    pub forwarding: bool,
    /// The only destinations, also of links; `None`: those of the policy.
    pub open: Option<Vec<PermitOpen>>,
    /// Where `ssh -R` may listen; nowhere when empty.
    pub listen: Vec<PermitListen>,
    /// Whom a certificate names that an authority of the gateway signed. One that a user's own file
    /// names gives none: whoever writes that file would choose what the policy allows.
    pub principals: Vec<String>,
}

/// How a destination is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A stream of a link.
    Link,
    /// A port that a stock client forwards.
    Forward,
}

impl Permissions {
    /// Takes nothing away, and gives no place to listen.
    pub fn all() -> Self {
        Self {
            forwarding: true,
            open: None,
            listen: Vec::new(),
            principals: Vec::new(),
        }
    }

    /// May `ssh -R` listen there? Port 0 is any that is free.
    pub fn listens(&self, host: &str, port: u16) -> bool {
        self.forwarding && self.listen.iter().any(|permit| permit.fits(host, port))
    }

    /// May this be asked for, in this way?
    ///
    /// # Errors
    /// Why not.
    pub fn opens(&self, way: Way, asked: &Asked) -> Result<(), NotPermitted> {
        if way == Way::Forward && !self.forwarding {
            return Err(NotPermitted::Forwarding);
        }
        let open = self.open.as_ref();
        match open.is_none_or(|open| open.iter().any(|permit| permit.fits(asked))) {
            true => Ok(()),
            false => Err(NotPermitted::Destination(asked.clone())),
        }
    }
}

/// The key's or certificate's no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPermitted {
    /// Links only.
    #[error("the key or certificate permits no port forwarding")]
    Forwarding,
    /// None of its destinations.
    #[error("the key or certificate does not permit {0}")]
    Destination(Asked),
}

/// A destination of `permitopen`, compared with what is asked for: nothing is looked up for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermitOpen {
    host: Host,
    /// `None` for any.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    Address(IpAddr),
    Name(String),
}

/// A place to listen of `permitlisten`: a pattern on the host as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermitListen {
    host: String,
    /// `None` for any.
    port: Option<u16>,
}

/// Not `HOST:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not HOST:PORT, with an IPv6 address in brackets and a port from 1 to 65535 or *")]
pub struct BadHostPort;

impl std::str::FromStr for PermitOpen {
    type Err = BadHostPort;

    fn from_str(text: &str) -> Result<Self, BadHostPort> {
        let (host, port) = split(text)?;
        let host = match host.parse::<IpAddr>() {
            _ if host == "*" => Host::Any,
            Ok(address) => Host::Address(address.to_canonical()),
            // Nobody would ask for such a name.
            Err(_) if host.contains(['*', '?']) => return Err(BadHostPort),
            Err(_) => {
                let name = host.strip_suffix('.').unwrap_or(host);
                Host::Name(name.to_ascii_lowercase())
            }
        };
        Ok(Self { host, port })
    }
}

impl PermitOpen {
    fn fits(&self, asked: &Asked) -> bool {
        let (host_fits, port) = match (&self.host, asked) {
            (Host::Any, Asked::Address(at)) => (true, at.port()),
            (Host::Any, Asked::Name { port, .. }) => (true, *port),
            (Host::Address(address), Asked::Address(at)) => (*address == at.ip(), at.port()),
            (Host::Name(permitted), Asked::Name { name, port }) => (permitted == name, *port),
            (Host::Address(_), Asked::Name { .. }) | (Host::Name(_), Asked::Address(_)) => {
                return false;
            }
        };
        host_fits && self.port.is_none_or(|permitted| permitted == port)
    }
}

impl std::str::FromStr for PermitListen {
    type Err = BadHostPort;

    /// A port alone is that port on any host.
    fn from_str(text: &str) -> Result<Self, BadHostPort> {
        let (host, port) = match text.contains(':') {
            true => split(text)?,
            false => ("*", port(text)?),
        };
        let host = host.to_owned();
        Ok(Self { host, port })
    }
}

impl PermitListen {
    /// `host` as the client wrote it: `localhost`, an address, `*`, or nothing for all addresses.
    pub fn fits(&self, host: &str, port: u16) -> bool {
        wildcard::fits(&self.host, host) && self.port.is_none_or(|permitted| permitted == port)
    }
}

fn split(text: &str) -> Result<(&str, Option<u16>), BadHostPort> {
    let (host, number) = text.rsplit_once(':').ok_or(BadHostPort)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(host) => host,
        // An IPv6 address whose last group was taken for a port.
        None if host.contains([':', '[', ']']) => return Err(BadHostPort),
        None => host,
    };
    match host.is_empty() {
        true => Err(BadHostPort),
        false => Ok((host, port(number)?)),
    }
}

fn port(text: &str) -> Result<Option<u16>, BadHostPort> {
    if text == "*" {
        return Ok(None);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(BadHostPort),
        Ok(port) => Ok(Some(port)),
    }
}

#[cfg(test)]
mod tests {
    use adit_link::Host as Written;
    use proptest::prelude::*;

    use super::*;

    fn check_open(permit: &str, host: &str, port: u16, fits: bool) {
        let permit: PermitOpen = permit.parse().expect(permit);
        let asked = Asked::new(&Written::Name(host.to_owned()), port).expect(host);
        assert_eq!(permit.fits(&asked), fits, "{permit:?} {host}:{port}");
    }

    #[test]
    fn a_destination_fits_as_it_is_written() {
        check_open("192.0.2.1:80", "192.0.2.1", 80, true);
        check_open("192.0.2.1:80", "192.0.2.1", 81, false);
        check_open("192.0.2.1:80", "192.0.2.2", 80, false);
        check_open("192.0.2.1:*", "192.0.2.1", 81, true);
        check_open("[2001:db8::1]:25", "2001:db8:0::1", 25, true);
        check_open("[::ffff:192.0.2.1]:80", "192.0.2.1", 80, true);
        check_open("db.Corp.example:5432", "DB.corp.example.", 5432, true);
        check_open("*:443", "anything.example", 443, true);
        check_open("*:443", "192.0.2.1", 22, false);
        // No pattern, no name lookup: sshd(8).
        check_open("db.corp.example:5432", "192.0.2.1", 5432, false);
        for bad in [
            "",
            "80",
            "host",
            "host:",
            ":80",
            "host:0",
            "host:65536",
            "2001:db8::1:25",
            "*.corp:1",
        ] {
            assert_eq!(bad.parse::<PermitOpen>(), Err(BadHostPort), "{bad:?}");
        }
    }

    #[test]
    fn a_place_to_listen_is_a_pattern() {
        let check = |permit: &str, host, port, fits| {
            let parsed: PermitListen = permit.parse().expect(permit);
            assert_eq!(parsed.fits(host, port), fits, "{permit} {host:?}:{port}");
        };
        check("8080", "localhost", 8080, true);
        check("8080", "", 8080, true);
        check("8080", "localhost", 8081, false);
        check("localhost:8080", "localhost", 8080, true);
        // Different from the explicit addresses: sshd(8).
        check("localhost:8080", "127.0.0.1", 8080, false);
        check("[::1]:22000", "::1", 22000, true);
        check("192.0.2.*:*", "192.0.2.9", 7, true);
        check("192.0.2.*:*", "", 7, false);
        assert_eq!("0".parse::<PermitListen>(), Err(BadHostPort));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c0-9.:*?\\[\\]]{0,20}") {
            let _ = text.parse::<PermitOpen>();
            let _ = text.parse::<PermitListen>();
        }
    }
}
