//! Where a rule tunnels to instead of where the program wanted to go.

use std::net::{IpAddr, Ipv6Addr};

use crate::address;
use crate::destination::Destination;
use crate::diagnostics::Fault;
use crate::name;

/// `destination:` and `port:` of a rule; at least one of them was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    /// `None`: the host that was asked for.
    pub(crate) host: Option<Host>,
    /// `None`: the port that was asked for.
    pub(crate) port: Option<u16>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    /// Normalized.
    Name(String),
}

impl Elsewhere {
    /// What is dialled of a flow that asked for `asked`.
    pub(crate) fn instead_of(&self, asked: Destination) -> Destination {
        let port = self.port.unwrap_or(asked.port);
        let (address, name) = match &self.host {
            None => (asked.address, asked.name),
            Some(Host::Address(address)) => (Some(*address), None),
            Some(Host::Name(name)) => (None, Some(name.clone())),
        };
        Destination {
            address,
            name,
            port,
        }
    }
}

/// Reads one host: an address, with or without brackets around IPv6, or a name.
pub(crate) fn host(text: &str) -> Result<Host, Fault> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse::<Ipv6Addr>() {
        return Ok(Host::Address(IpAddr::V6(address).to_canonical()));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Host::Address(address));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(Fault::new(format!("{text:?} is a host with a port"))
                .hint(format!("write `destination: {host}` and `port: {port}`")))
        }
        Some(_) | None => match address::parse(text) {
            Some(Ok(_)) => Err(Fault::new(format!("{text:?} is not one host"))),
            Some(Err(fault)) => Err(fault),
            None => name::parse(text).map(Host::Name),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let read = match host(text) {
            Ok(Host::Address(address)) => Ok(address.to_string()),
            Ok(Host::Name(name)) => Ok(format!("name {name}")),
            Err(fault) => Err(fault.to_string()),
        };
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(read, expected, "{text}");
    }

    #[test]
    fn reads_one_host() {
        check("10.1.2.3", Ok("10.1.2.3"));
        check("2001:db8::7", Ok("2001:db8::7"));
        check("[2001:db8::7]", Ok("2001:db8::7"));
        check("::ffff:10.1.2.3", Ok("10.1.2.3"));
        check("DB.corp.", Ok("name db.corp"));
        check(
            "db.corp:5432",
            Err(
                "\"db.corp:5432\" is a host with a port; write `destination: db.corp` and `port: 5432`",
            ),
        );
        check("10.0.0.0/8", Err("\"10.0.0.0/8\" is not one host"));
        check("10.0.0.256", Err("\"10.0.0.256\" is not an address"));
        check(
            "*.corp",
            Err(
                "\"*.corp\" is not the name of a host; `*.` may only stand in front; else use {regex: …}",
            ),
        );
    }

    #[test]
    fn puts_in_place_what_was_written() {
        let asked = || Destination::parse("10.0.0.1:443").unwrap();
        let check = |host, port, expected: &str| {
            let dialled = Elsewhere { host, port }.instead_of(asked());
            assert_eq!(dialled, Destination::parse(expected).unwrap());
        };
        check(None, Some(8443), "10.0.0.1:8443");
        check(Some(Host::Name("db.corp".to_owned())), None, "db.corp:443");
        let address = Host::Address([10, 0, 0, 2].into());
        check(Some(address), Some(1), "10.0.0.2:1");
    }
}
