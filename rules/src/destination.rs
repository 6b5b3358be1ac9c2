//! Where a flow wants to go.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::diagnostics::Fault;
use crate::{address, name, port};

/// Where a flow wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Original address. `None` only where a name is asked about: in `explain` and in tests.
    pub address: Option<IpAddr>,
    /// Name that the application asked for, when known (lower case, no trailing dot).
    pub name: Option<String>,
    /// TCP port.
    pub port: u16,
}

impl Destination {
    /// Reads `HOST:PORT`: an address (IPv6 in brackets) or a name.
    ///
    /// # Errors
    ///
    /// In one sentence, when `text` is not that.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse(text).map_err(|fault| fault.to_string())
    }

    /// Of a host and a port as a program gives them: an address without brackets, or a name.
    ///
    /// # Errors
    ///
    /// In one sentence, when `host` is neither.
    pub fn of_host(host: &str, port: u16) -> Result<Self, String> {
        let (address, name) = match host.parse::<IpAddr>() {
            Ok(address) => (Some(address.to_canonical()), None),
            Err(_) => host_of(host).map_err(|fault| fault.to_string())?,
        };
        if name.as_deref().is_some_and(ends_in_a_number) {
            return Err(format!(
                "{host:?} is neither an address nor the name of a host"
            ));
        }
        Ok(Self {
            address,
            name,
            port,
        })
    }

    /// The same with the address and the name in the form in which rules compare them: an IPv4-mapped address as
    /// IPv4, the name in lower case without a trailing dot.
    pub(crate) fn normalized(&self) -> Self {
        Self {
            address: self.address.map(|address| address.to_canonical()),
            name: self
                .name
                .as_deref()
                .map(|name| name::normalize(name).into_owned()),
            port: self.port,
        }
    }
}

/// `HOST:PORT`; with name and address: `NAME (ADDRESS):PORT`.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.address) {
            (Some(name), Some(address)) => write!(f, "{name} ({address})")?,
            (Some(name), None) => f.write_str(name)?,
            (None, Some(IpAddr::V6(address))) => write!(f, "[{address}]")?,
            (None, Some(IpAddr::V4(address))) => address.fmt(f)?,
            (None, None) => f.write_str("?")?,
        }
        write!(f, ":{}", self.port)
    }
}

/// A host, all of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    address: Option<IpAddr>,
    name: Option<String>,
}

impl Host {
    /// Reads an address (IPv6 in brackets) or a name.
    ///
    /// # Errors
    ///
    /// In one sentence, when `text` is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, name) = host_of(text).map_err(|fault| fault.to_string())?;
        Ok(Self { address, name })
    }

    /// One port of it.
    pub(crate) fn at(&self, port: u16) -> Destination {
        Destination {
            address: self.address,
            name: self.name.clone(),
            port,
        }
    }
}

/// As it is written in front of a port.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.address) {
            (Some(name), _) => f.write_str(name),
            (None, Some(IpAddr::V6(address))) => write!(f, "[{address}]"),
            (None, Some(IpAddr::V4(address))) => address.fmt(f),
            (None, None) => f.write_str("?"),
        }
    }
}

/// Resolvers take such a name for an address (inet_aton(3)), which it would then be without having been judged as one.
fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let digits = last.strip_prefix("0x").unwrap_or(last);
    let is_hex = digits.len() < last.len();
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || is_hex && byte.is_ascii_hexdigit())
}

/// See [`Destination::parse`].
pub(crate) fn parse(text: &str) -> Result<Destination, Fault> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Fault::new(format!("{text:?} has no port"))
            .hint("write HOST:PORT, such as 10.20.1.1:443"));
    };
    let (address, name) = host_of(host)?;
    Ok(Destination {
        address,
        name,
        port: port::single(port)?,
    })
}

fn host_of(host: &str) -> Result<(Option<IpAddr>, Option<String>), Fault> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(bare) = bare {
        return match bare.parse::<Ipv6Addr>() {
            Ok(address) => Ok((Some(IpAddr::V6(address).to_canonical()), None)),
            Err(_) => Err(Fault::new(format!("{bare:?} is not an IPv6 address"))),
        };
    }
    match (host.parse::<IpAddr>(), address::parse(host)) {
        (Ok(IpAddr::V4(address)), _) => Ok((Some(address.into()), None)),
        (Ok(IpAddr::V6(_)), _) | (Err(_), Some(Err(_))) if host.contains(':') => {
            Err(Fault::new(format!("{host:?} needs brackets"))
                .hint("an IPv6 address stands in brackets: [2001:db8::1]:443"))
        }
        (_, Some(Err(fault))) => Err(fault),
        (_, Some(Ok(_))) => Err(Fault::new(format!("{host:?} is not one host"))),
        (_, None) => Ok((None, Some(name::parse(host)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(Option<&str>, Option<&str>, u16), &str>) {
        let expected = expected.map(|(address, name, port)| Destination {
            address: address.map(|address| address.parse().unwrap()),
            name: name.map(str::to_owned),
            port,
        });
        let expected = expected.map_err(str::to_owned);
        assert_eq!(Destination::parse(text), expected, "{text}");
    }

    #[test]
    fn reads_host_and_port() {
        check("10.20.1.1:443", Ok((Some("10.20.1.1"), None, 443)));
        check("[2001:db8::1]:443", Ok((Some("2001:db8::1"), None, 443)));
        check("[::ffff:10.0.0.1]:80", Ok((Some("10.0.0.1"), None, 80)));
        check("ERP.corp.:80", Ok((None, Some("erp.corp"), 80)));
        check(
            "10.20.1.1",
            Err("\"10.20.1.1\" has no port; write HOST:PORT, such as 10.20.1.1:443"),
        );
        check(
            "2001:db8::1",
            Err(
                "\"2001:db8:\" needs brackets; an IPv6 address stands in brackets: [2001:db8::1]:443",
            ),
        );
        check("[gw]:1", Err("\"gw\" is not an IPv6 address"));
        check("10.0.0.0/8:1", Err("\"10.0.0.0/8\" is not one host"));
        check("10.0.0.256:1", Err("\"10.0.0.256\" is not an address"));
        check(
            "a:70000",
            Err("there is no port 70000; ports go from 1 to 65535"),
        );
    }

    #[track_caller]
    fn check_host(host: &str, expected: Option<(Option<&str>, Option<&str>)>) {
        let read = Destination::of_host(host, 443).ok();
        let expected = expected.map(|(address, name)| Destination {
            address: address.map(|address| address.parse().unwrap()),
            name: name.map(str::to_owned),
            port: 443,
        });
        assert_eq!(read, expected, "{host}");
    }

    #[test]
    fn takes_a_host_as_programs_give_it() {
        check_host("10.20.1.1", Some((Some("10.20.1.1"), None)));
        check_host("2001:db8::1", Some((Some("2001:db8::1"), None)));
        check_host("::ffff:10.0.0.1", Some((Some("10.0.0.1"), None)));
        check_host("ERP.corp.", Some((None, Some("erp.corp"))));
        check_host("a.b2", Some((None, Some("a.b2"))));
        check_host("0xfeed.example", Some((None, Some("0xfeed.example"))));
        // What inet_aton(3) takes for an address.
        for number in [
            "167772161",
            "10.1",
            "0x0a000001",
            "10.0.0.0x1",
            "127.1",
            "0x",
            "a.7",
        ] {
            check_host(number, None);
        }
        for wrong in [
            "",
            "a b",
            "a..b",
            "-a",
            "*.a",
            "a/b",
            "http://a",
            "é.example",
        ] {
            check_host(wrong, None);
        }
    }

    #[test]
    fn shows_what_it_read() {
        for text in ["10.20.1.1:443", "[2001:db8::1]:443", "erp.corp:80"] {
            assert_eq!(Destination::parse(text).unwrap().to_string(), text);
        }
    }
}
