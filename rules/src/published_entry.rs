//! Texts of documents that vendors publish: which are entries of a set, and which were to be some.

use std::net::{IpAddr, Ipv6Addr};

use crate::address;
use crate::diagnostics::Fault;
use crate::name::NamePattern;

/// Bytes of a text that is looked at; no entry is longer, and what is said of one stays short.
const LONGEST: usize = 512;

/// What a text of such a document is.
#[derive(Debug)]
pub(crate) enum PublishedEntry {
    /// An address, a network, a range, or a name with a dot, also with `*`.
    Host,
    /// It was surely to be one of these. A list with a hole is no list to rely on, so it is said why.
    LeftOut(Fault),
    /// Something else that the document says, a date or a description.
    Other,
}

impl PublishedEntry {
    /// Of a text without blanks around it.
    pub(crate) fn of(text: &str) -> Self {
        if text.is_empty() || text.len() > LONGEST {
            return Self::Other;
        }
        match address::parse(text) {
            Some(Ok(_)) => return Self::Host,
            Some(Err(fault)) if begins_as_network(text) || is_four_numbers(text) => {
                return left_out(fault.message);
            }
            None if is_name(text) => return Self::Host,
            Some(Err(_)) | None => {}
        }
        if text.contains(char::is_whitespace) {
            return Self::Other;
        }
        if let Some((_, rest)) = text.split_once("://") {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let host = rest[..end].rsplit('@').next().unwrap_or_default();
            return match has_host(host) || host_before_port(host).is_some() {
                true => left_out(format!("{text:?} is a URL")),
                false => Self::Other,
            };
        }
        if host_before_port(text).is_some() {
            return left_out(format!("{text:?} has a port"));
        }
        if text.split_once('/').is_some_and(|(host, _)| is_name(host)) {
            return left_out(format!("{text:?} has a path"));
        }
        if text.contains('*') && text.contains('.') {
            return left_out(format!("{text:?} looks like a wildcard"));
        }
        Self::Other
    }
}

fn left_out(message: String) -> PublishedEntry {
    let fault = Fault::new(format!("{message}: it is left out of the set"));
    PublishedEntry::LeftOut(fault.hint("write what is meant into a set of your own"))
}

fn is_name(text: &str) -> bool {
    text.trim_end_matches('.').contains('.')
        && address::parse(text).is_none()
        && NamePattern::parse_glob(text).is_ok()
}

fn has_host(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    bare.unwrap_or(text).parse::<IpAddr>().is_ok() || is_name(text)
}

fn host_before_port(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    let is_port = port == "*" || port.parse::<u16>().is_ok_and(|port| port > 0);
    // Without brackets the last part of an IPv6 address is no port.
    let is_host = has_host(host) && host.parse::<Ipv6Addr>().is_err();
    (is_port && is_host).then_some(host)
}

fn begins_as_network(text: &str) -> bool {
    let address = text.split('/').next().unwrap_or_default().trim();
    text.contains('/') && (address.parse::<IpAddr>().is_ok() || is_four_numbers(address))
}

fn is_four_numbers(text: &str) -> bool {
    let is_number = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    text.split('.').count() == 4 && text.split('.').all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let shown = match PublishedEntry::of(text) {
            PublishedEntry::Host => "host".to_owned(),
            PublishedEntry::Other => "other".to_owned(),
            PublishedEntry::LeftOut(fault) => fault.message,
        };
        assert_eq!(
            shown
                .strip_suffix(": it is left out of the set")
                .unwrap_or(&shown),
            expected,
            "{text}"
        );
    }

    #[test]
    fn entries_are_told_from_all_else() {
        for host in [
            "10.0.0.1",
            "10.1.0.0/16",
            "2001:db8::/48",
            "10.0.0.1 - 10.0.0.9",
            "erp.corp",
            "*.erp.corp",
            "*-x.erp.corp.",
        ] {
            check(host, "host");
        }
        for other in [
            "",
            "Mail",
            "80,443",
            "2.4",
            "2.4.1",
            "2024-05-01T10:00:00.5",
            "2024-05-01T10:00",
            "10:30",
            "text/html",
            "Uses * and .",
            "see erp.corp:443 for more",
            "file:///etc/hosts",
            "10.0.0.1.5",
        ] {
            check(other, "other");
        }
        check(&format!("{}.corp:443", "a".repeat(600)), "other");
    }

    #[test]
    fn what_was_to_be_an_entry_is_said() {
        check(
            "10.0.0.5/8",
            "10.0.0.5/8 has bits set behind the network's length",
        );
        check(
            "10.3.0.0/255.255.0.0",
            "\"255.255.0.0\" is not the length of a network",
        );
        check(
            "10.3.0.0 /16",
            "\"10.3.0.0 \" is not an address, so 10.3.0.0 /16 is not a network",
        );
        check("10.0.0.300", "\"10.0.0.300\" is not an address");
        check(
            "10.0.0.300/24",
            "\"10.0.0.300\" is not an address, so 10.0.0.300/24 is not a network",
        );
        check("https://erp.corp/", "\"https://erp.corp/\" is a URL");
        check(
            "https://[2001:db8::1]:8443?x",
            "\"https://[2001:db8::1]:8443?x\" is a URL",
        );
        check("erp.corp:443", "\"erp.corp:443\" has a port");
        check("10.0.0.1:443", "\"10.0.0.1:443\" has a port");
        check("[2001:db8::1]:443", "\"[2001:db8::1]:443\" has a port");
        check("*.erp.corp:*", "\"*.erp.corp:*\" has a port");
        check("erp.corp/login", "\"erp.corp/login\" has a path");
        check(
            "cdn[0-9]*.erp.corp",
            "\"cdn[0-9]*.erp.corp\" looks like a wildcard",
        );
    }
}
