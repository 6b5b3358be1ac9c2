//! A zone's gateway as it is written: one Secure Shell server, or with `%h` the host that a connection is for.

use std::fmt;
use std::str::FromStr;

use crate::destination::Destination;
use crate::diagnostics::Fault;
use crate::gateway::{self, Gateway};
use crate::name;

/// What stands for the host that was asked for, as in ssh_config(5), TOKENS.
const HOST: &str = "%h";
/// Any host, to see whether a name around one is a name.
const ANY_HOST: &str = "h";

/// Where a zone is entered, `[USER@]HOST[:PORT]`, in whose HOST `%h` may stand for the host of a flow's destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewayPattern {
    /// With any host in the place of `%h`.
    gateway: Gateway,
    /// What stands before and behind it.
    around: Option<(String, String)>,
}

impl GatewayPattern {
    /// Whether `%h` is in it.
    pub fn is_from_destination(&self) -> bool {
        self.around.is_some()
    }

    /// The gateway for flows to `host`: an address without brackets, or a name.
    ///
    /// # Errors
    /// In one sentence, when that is no name of a host.
    pub fn for_host(&self, host: &str) -> Result<Gateway, String> {
        let Some((before, after)) = &self.around else {
            return Ok(self.gateway.clone());
        };
        let host = match before.is_empty() && after.is_empty() {
            true => host.to_owned(),
            false => {
                let name = format!("{before}{host}{after}");
                name::parse(&name)
                    .map_err(|fault| format!("there is no gateway {self}: {fault}"))?
            }
        };
        Ok(Gateway {
            host,
            ..self.gateway.clone()
        })
    }
}

impl Destination {
    /// What `%h` stands for: the name, if it is known, else the address.
    pub fn host(&self) -> Option<String> {
        let address = || self.address.map(|address| address.to_string());
        self.name.clone().or_else(address)
    }
}

/// The one gateway.
impl From<Gateway> for GatewayPattern {
    fn from(gateway: Gateway) -> Self {
        Self {
            gateway,
            around: None,
        }
    }
}

impl FromStr for GatewayPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map_err(|fault| fault.to_string())
    }
}

/// As it is written.
impl fmt::Display for GatewayPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.around {
            None => self.gateway.fmt(f),
            Some((before, after)) => Gateway {
                host: format!("{before}{HOST}{after}"),
                ..self.gateway.clone()
            }
            .fmt(f),
        }
    }
}

/// See [`GatewayPattern`].
pub(crate) fn parse(text: &str) -> Result<GatewayPattern, Fault> {
    let (user, host_port) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, text),
    };
    if user.is_some_and(|user| user.contains(HOST)) {
        return Err(Fault::new(format!(
            "`{HOST}` stands for a host, and {text:?} has it in the user's name"
        ))
        .hint("write USER@%h"));
    }
    let Some((before, after)) = host_port.split_once(HOST) else {
        no_other_percent(host_port, text)?;
        return gateway::parse(text).map(GatewayPattern::from);
    };
    no_other_percent(before, text)?;
    if after.contains(HOST) {
        return Err(Fault::new(format!("`{HOST}` is twice in {text:?}")));
    }
    no_other_percent(after, text)?;
    if before == "[" && after.starts_with(']') {
        return Err(Fault::new(format!("{text:?} has brackets around `{HOST}`"))
            .hint("leave them out: an IPv6 address is told from its port all the same"));
    }
    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    let gateway = gateway::parse(&format!("{user}{before}{ANY_HOST}{after}"))?;
    let after = after.split(':').next().unwrap_or_default();
    // As names are kept: without a dot at the end.
    let after = after.strip_suffix('.').unwrap_or(after);
    Ok(GatewayPattern {
        gateway,
        around: Some((before.to_ascii_lowercase(), after.to_ascii_lowercase())),
    })
}

fn no_other_percent(part: &str, text: &str) -> Result<(), Fault> {
    let Some(at) = part.find('%') else {
        return Ok(());
    };
    let token: String = part[at..].chars().take(2).collect();
    let fault = Fault::new(format!("`{token}` in {text:?} stands for nothing"));
    Err(fault.hint("only `%h` stands for something: the host that a connection is for"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, host: &str, expected: Result<&str, &str>) {
        let pattern: GatewayPattern = text.parse().unwrap();
        let gateway = pattern.for_host(host).map(|gateway| gateway.to_string());
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(gateway, expected, "{text} for {host}");
    }

    #[test]
    fn stands_for_the_host() {
        check("%h", "10.1.2.3", Ok("10.1.2.3"));
        check("adit@%h:22", "db.corp", Ok("adit@db.corp:22"));
        check("adit@%h:443", "2001:db8::7", Ok("adit@[2001:db8::7]:443"));
        check("%h.GW.example.", "db", Ok("db.gw.example"));
        check(
            "gw-%h.example:443",
            "10.1.2.3",
            Ok("gw-10.1.2.3.example:443"),
        );
        check("adit@gw.example", "10.1.2.3", Ok("adit@gw.example"));
        check(
            "%h.example",
            "2001:db8::7",
            Err(
                "there is no gateway %h.example: \"2001:db8::7.example\" is not the name of a host; \
                 \"2001:db8::7\" is not a label: 1 to 63 letters, digits, - and _, no - first or last",
            ),
        );
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let refused = text.parse::<GatewayPattern>();
        assert_eq!(refused, Err(expected.to_owned()), "{text}");
    }

    #[test]
    fn nothing_else_stands_for_anything() {
        let only = "only `%h` stands for something: the host that a connection is for";
        refused("%p", &format!("`%p` in \"%p\" stands for nothing; {only}"));
        refused(
            "%h:%p",
            &format!("`%p` in \"%h:%p\" stands for nothing; {only}"),
        );
        refused("gw%", &format!("`%` in \"gw%\" stands for nothing; {only}"));
        refused("%h.%h", "`%h` is twice in \"%h.%h\"");
        refused(
            "%h@gw",
            "`%h` stands for a host, and \"%h@gw\" has it in the user's name; write USER@%h",
        );
        refused(
            "[%h]:443",
            "\"[%h]:443\" has brackets around `%h`; leave them out: an IPv6 address is told from its port all the same",
        );
        refused(
            "-%h",
            "\"-h\" is not the name of a host; \"-h\" is not a label: 1 to 63 letters, digits, - and _, no - first or last",
        );
    }

    #[test]
    fn a_name_goes_before_an_address() {
        let mut destination = Destination::parse("db.corp:5432").unwrap();
        assert_eq!(destination.host().as_deref(), Some("db.corp"));
        destination.address = Some([10, 0, 0, 1].into());
        assert_eq!(destination.host().as_deref(), Some("db.corp"));
        destination.name = None;
        assert_eq!(destination.host().as_deref(), Some("10.0.0.1"));
    }

    proptest! {
        #[test]
        fn shows_what_it_read(text in "([a-z@.]{1,6}@)?([a-zA-Z0-9.-]{0,4}%h)?[a-zA-Z0-9.-]{0,12}(:[0-9]{1,6})?") {
            if let Ok(pattern) = text.parse::<GatewayPattern>() {
                prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
            }
        }

        #[test]
        fn never_panics(text in "(.|%h){0,40}", host in ".{0,20}") {
            if let Ok(pattern) = text.parse::<GatewayPattern>() {
                let _ = pattern.for_host(&host);
            }
        }
    }
}
