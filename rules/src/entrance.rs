//! Where programs connect to on purpose: entries that ask them where to go, and static tunnels that lead to one place.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::decision::{Decision, TunnelPermit};
use crate::destination::Destination;
use crate::diagnostics::Fault;
use crate::port;
use crate::rule::Rule;

/// All that listens by a policy's word.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entrances {
    pub(crate) entries: Vec<Entry>,
    pub(crate) tunnels: Vec<StaticTunnel>,
}

/// A listener that programs are pointed at, and that asks them where they want to go. Their flows are judged as any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// How it asks.
    pub protocol: EntryProtocol,
    /// Where it listens.
    pub listen: Listen,
}

/// How a program says where it wants to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryProtocol {
    /// SOCKS, version 5 (RFC 1928).
    Socks5,
    /// The method CONNECT of HTTP (RFC 9110, section 9.3.6).
    Http,
}

/// A listener that leads through one zone to one destination.
#[derive(Debug, Clone)]
pub struct StaticTunnel {
    pub(crate) listen: Listen,
    pub(crate) to: Destination,
    /// What it gives, as a rule for everything.
    pub(crate) word: Rule,
    /// How many rules of earlier layers there are: it stands behind those.
    pub(crate) behind: usize,
}

/// Where on this host something listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Listen {
    /// At this port of both loopback addresses.
    Loopback(u16),
    /// At this loopback address.
    At(SocketAddr),
}

impl EntryProtocol {
    /// As the rule file calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Socks5 => "socks5",
            Self::Http => "http",
        }
    }
}

impl StaticTunnel {
    /// What tables and messages call it.
    pub fn name(&self) -> &str {
        &self.word.label
    }

    /// Where it listens.
    pub fn listen(&self) -> Listen {
        self.listen
    }

    /// Where it leads.
    pub fn to(&self) -> &Destination {
        &self.to
    }

    pub(crate) fn permit(&self) -> Option<TunnelPermit> {
        match self.word.decide(self.to.clone()) {
            Decision::Tunnel(permit) => Some(permit),
            Decision::Pass(_) | Decision::Block(_) => None,
        }
    }
}

impl Listen {
    /// Reads a port, or a loopback address with a port.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return port::single(text).map(Self::Loopback);
        }
        let address = text.parse::<SocketAddr>().map_err(|_| {
            Fault::new(format!("{text:?} is not an address to listen at")).hint(
                "write a port, for both loopback addresses, or 127.0.0.1:PORT or \"[::1]:PORT\"",
            )
        })?;
        port::single(&address.port().to_string())?;
        let ip = address.ip().to_canonical();
        if !ip.is_loopback() {
            let fault = Fault::new(format!("{ip} is not a loopback address"));
            return Err(fault.hint(
                "only programs of this host can be told apart by their user: listen at 127.0.0.1 or \"[::1]\"",
            ));
        }
        Ok(Self::At(SocketAddr::new(ip, address.port())))
    }

    /// The addresses that it means; of more than one, IPv6 may be missing on the host.
    pub fn addresses(self) -> Vec<SocketAddr> {
        match self {
            Self::Loopback(port) => {
                let both = [
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ];
                both.map(|ip| SocketAddr::new(ip, port)).to_vec()
            }
            Self::At(address) => vec![address],
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(port) => port.fmt(f),
            Self::At(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&[&str], &str>) {
        let read = Listen::parse(text);
        let shown = read.map(|listen| {
            let addresses = listen.addresses();
            addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        });
        let expected = expected.map(|list| list.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(
            shown.map_err(|fault| fault.message),
            expected.map_err(str::to_owned),
            "{text}"
        );
    }

    #[test]
    fn reads_where_to_listen() {
        check("1080", Ok(&["127.0.0.1:1080", "[::1]:1080"]));
        check("127.0.0.1:1080", Ok(&["127.0.0.1:1080"]));
        check("127.8.0.1:1080", Ok(&["127.8.0.1:1080"]));
        check("[::1]:1080", Ok(&["[::1]:1080"]));
        check("[::ffff:127.0.0.1]:1080", Ok(&["127.0.0.1:1080"]));
        check("0", Err("there is no port 0"));
        check("127.0.0.1:0", Err("there is no port 0"));
        check("70000", Err("there is no port 70000"));
        check("0.0.0.0:1080", Err("0.0.0.0 is not a loopback address"));
        check("192.0.2.1:1080", Err("192.0.2.1 is not a loopback address"));
        for text in ["localhost:1080", "127.0.0.1", "::1:1080", "*:1080", ""] {
            check(
                text,
                Err(&format!("{text:?} is not an address to listen at")),
            );
        }
    }
}
