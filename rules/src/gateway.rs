//! Where a zone is entered: `USER@HOST[:PORT]`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::diagnostics::Fault;
use crate::{address, name, port};

/// The port of Secure Shell (RFC 4251, section 10 as registered with IANA).
const SSH_PORT: u16 = 22;
/// Longer than any user name of Linux (32) or of a directory service in use.
const LONGEST_USER: usize = 256;

/// A Secure Shell server at a zone's edge.
///
/// Read from `[USER@]HOST[:PORT]`; an IPv6 address stands in brackets: `adit@[2001:db8::1]:443`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// Who to log in as; `None` is the user that runs the broker.
    pub user: Option<String>,
    /// Name in lower case, or address without brackets.
    pub host: String,
    /// TCP port, 22 when not written.
    pub port: u16,
    /// Whether the port is written.
    pub has_port: bool,
}

impl FromStr for Gateway {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map_err(|fault| fault.to_string())
    }
}

/// As it is written.
impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if self.has_port {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

/// See [`Gateway`].
pub(crate) fn parse(text: &str) -> Result<Gateway, Fault> {
    let (user, host_port) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(self::user(user)?), rest),
        None => (None, text),
    };
    let (host, port) = split_port(host_port)?;
    Ok(Gateway {
        user,
        host,
        port: port.map_or(Ok(SSH_PORT), port::single)?,
        has_port: port.is_some(),
    })
}

/// A user name goes to the peer and, for a system `ssh`, onto a command line: no option, nothing invisible,
/// and neither of the marks of a URL.
fn user(text: &str) -> Result<String, Fault> {
    let is_plain = |character: char| {
        !character.is_control() && !character.is_whitespace() && !"/:".contains(character)
    };
    let is_user = (1..=LONGEST_USER).contains(&text.len())
        && !text.starts_with('-')
        && text.chars().all(is_plain);
    if is_user {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("{text:?} is not the name of a user"))
        .hint("a gateway is written USER@HOST or USER@HOST:PORT"))
}

pub(crate) fn split_port(text: &str) -> Result<(String, Option<&str>), Fault> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return Err(Fault::new(format!(
                "the bracket of {text:?} is never closed"
            )));
        };
        let Ok(host) = host.parse::<Ipv6Addr>() else {
            return Err(Fault::new(format!("{host:?} is not an IPv6 address"))
                .hint("brackets are only for those"));
        };
        let host = IpAddr::V6(host).to_canonical().to_string();
        return match rest.strip_prefix(':') {
            None if rest.is_empty() => Ok((host, None)),
            Some(port) => Ok((host, Some(port))),
            None => Err(Fault::new(format!("{rest:?} follows the bracket"))
                .hint("a port follows a colon: [2001:db8::1]:443")),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(Fault::new(format!("{text} stands without brackets"))
            .hint(format!("write [{text}] or [{text}]:PORT")));
    }
    match text.split_once(':') {
        Some((host, port)) => Ok((host_name(host)?, Some(port))),
        None => Ok((host_name(text)?, None)),
    }
}

fn host_name(text: &str) -> Result<String, Fault> {
    match address::parse(text) {
        Some(Err(fault)) => Err(fault),
        Some(Ok(_)) if text.parse::<IpAddr>().is_ok() => Ok(text.to_owned()),
        Some(Ok(_)) => Err(Fault::new(format!("{text:?} is not one host"))),
        None => name::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, user: Option<&str>, host: &str, port: u16) {
        let expected = Gateway {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
            has_port: text.ends_with(&format!(":{port}")),
        };
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }

    #[test]
    fn reads_what_is_written() {
        check("adit@gw1.example:443", Some("adit"), "gw1.example", 443);
        check("adit@GW1.Example", Some("adit"), "gw1.example", 22);
        check("gw1", None, "gw1", 22);
        check("eve@corp@gw1", Some("eve@corp"), "gw1", 22);
        check("adit@10.0.0.1:2222", Some("adit"), "10.0.0.1", 2222);
        check("adit@[2001:DB8:0::1]", Some("adit"), "2001:db8::1", 22);
        check("adit@[2001:db8::1]:443", Some("adit"), "2001:db8::1", 443);
        check("[::ffff:10.0.0.1]:1", None, "10.0.0.1", 1);
        check("my_gw", None, "my_gw", 22);
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        assert_eq!(text.parse::<Gateway>(), Err(expected.to_owned()), "{text}");
    }

    #[test]
    fn refuses_what_is_none() {
        let user = "a gateway is written USER@HOST or USER@HOST:PORT";
        refused("@gw", &format!("\"\" is not the name of a user; {user}"));
        refused(
            "-oX@gw",
            &format!("\"-oX\" is not the name of a user; {user}"),
        );
        refused(
            "a b@gw",
            &format!("\"a b\" is not the name of a user; {user}"),
        );
        refused(
            "a@2001:db8::1",
            "2001:db8::1 stands without brackets; write [2001:db8::1] or [2001:db8::1]:PORT",
        );
        refused("a@[::1", "the bracket of \"[::1\" is never closed");
        refused(
            "a@[gw]",
            "\"gw\" is not an IPv6 address; brackets are only for those",
        );
        refused(
            "a@[::1]22",
            "\"22\" follows the bracket; a port follows a colon: [2001:db8::1]:443",
        );
        refused(
            "a@gw:70000",
            "there is no port 70000; ports go from 1 to 65535",
        );
        refused("a@gw:0", "there is no port 0; ports go from 1 to 65535");
        refused(
            "a@gw:",
            "\"\" is not a port; write a number, or a range such as 8000-8100",
        );
        refused(
            "a@10.0.0.1-10.0.0.2",
            "\"10.0.0.1-10.0.0.2\" is not one host",
        );
        refused("a@10.0.0.300", "\"10.0.0.300\" is not an address");
        refused(
            "a@-oProxyCommand=x",
            "\"-oProxyCommand=x\" is not the name of a host; \"-oproxycommand=x\" is not a label: \
             1 to 63 letters, digits, - and _, no - first or last",
        );
        refused(
            "",
            "\"\" is not the name of a host; there is nothing between two dots, or no name at all",
        );
        refused(
            "ssh://a@gw",
            "\"ssh://a\" is not the name of a user; a gateway is written USER@HOST or USER@HOST:PORT",
        );
    }

    proptest! {
        #[test]
        fn shows_what_it_read(text in "([a-z@.]{1,6}@)?([a-zA-Z0-9.-]{1,12}|\\[[0-9a-f:.]{2,20}\\])(:[0-9]{1,6})?") {
            if let Ok(gateway) = text.parse::<Gateway>() {
                prop_assert_eq!(gateway.to_string().parse(), Ok(gateway));
            }
        }

        #[test]
        fn never_panics(text in ".{0,60}") {
            let _ = text.parse::<Gateway>();
        }
    }
}
