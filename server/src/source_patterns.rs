//! Where a client may come from: the lists of `from=` in files of keys and of `source-address` in
//! certificates.
//!
//! Addresses only. A name would have to be looked up backwards, and whoever owns the address owns the
//! answer (OpenSSH does not ask either, unless `UseDNS` is on).
use std::net::IpAddr;

use ipnet::IpNet;

use crate::wildcard;

/// Addresses, networks and patterns on an address as it is written, some of them excluded with `!`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePatterns(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    excludes: bool,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Network(IpNet),
    Text(String),
}

/// A list that cannot be kept as it was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSource {
    /// A name, or a network whose address has bits that its length leaves out.
    #[error(
        "a source has to be an address, a network such as 10.0.0.0/8, or such a pattern as 192.0.2.*"
    )]
    Pattern,
    /// Nobody could come from anywhere.
    #[error("there is no source in the list")]
    Empty,
}

impl std::str::FromStr for SourcePatterns {
    type Err = BadSource;

    /// The list of `from=`.
    fn from_str(list: &str) -> Result<Self, BadSource> {
        list.split(',')
            .map(Pattern::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl SourcePatterns {
    /// The list of a certificate's `source-address`: nothing but addresses and networks.
    ///
    /// # Errors
    /// It is none.
    pub fn networks(list: &str) -> Result<Self, BadSource> {
        let network = |text: &str| {
            let network = network(text).ok_or(BadSource::Pattern)?;
            Ok(Pattern {
                excludes: false,
                what: What::Network(network),
            })
        };
        list.split(',')
            .map(network)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// May a client come from here? What is excluded may not, whatever else fits.
    pub fn allow(&self, from: IpAddr) -> bool {
        let from = from.to_canonical();
        let text = from.to_string();
        let fitting = || self.0.iter().filter(|pattern| pattern.fits(from, &text));
        fitting().next().is_some() && !fitting().any(|pattern| pattern.excludes)
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, BadSource> {
        let (excludes, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let what = match network(text) {
            Some(network) => What::Network(network),
            None if text.is_empty() => return Err(BadSource::Empty),
            None if is_address_pattern(text) => What::Text(text.to_owned()),
            None => return Err(BadSource::Pattern),
        };
        Ok(Self { excludes, what })
    }

    fn fits(&self, from: IpAddr, text: &str) -> bool {
        match &self.what {
            What::Network(network) => network.contains(&from),
            What::Text(pattern) => wildcard::fits(pattern, text),
        }
    }
}

/// An address is the network of it alone.
fn network(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical().into());
    }
    let network = text.parse::<IpNet>().ok()?;
    (network.trunc() == network).then_some(network)
}

fn is_address_pattern(text: &str) -> bool {
    let v4 = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'*' | b'?');
    let v6 = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'*' | b'?');
    let has_wildcard = text.contains(['*', '?']);
    has_wildcard && (text.bytes().all(v4) || text.contains(':') && text.bytes().all(v6))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(list: &str, from: &str, allowed: bool) {
        let patterns: SourcePatterns = list.parse().expect(list);
        let from = from.parse().expect("address");
        assert_eq!(patterns.allow(from), allowed, "{list} {from}");
    }

    #[test]
    fn lists_allow_and_exclude() {
        check("10.0.0.0/8", "10.1.2.3", true);
        check("10.0.0.0/8", "11.1.2.3", false);
        check("10.0.0.0/8", "::ffff:10.1.2.3", true);
        check("192.0.2.7,2001:db8::/32", "2001:db8:1::1", true);
        check("192.0.2.*", "192.0.2.200", true);
        check("192.0.2.?", "192.0.2.200", false);
        check("2001:db8:*", "2001:db8::1", true);
        check("!10.1.0.0/16,10.0.0.0/8", "10.1.2.3", false);
        check("10.0.0.0/8,!10.1.0.0/16", "10.1.2.3", false);
        check("10.0.0.0/8,!10.1.0.0/16", "10.2.2.3", true);
        // An exclusion alone lets nobody in.
        check("!10.1.0.0/16", "192.0.2.1", false);
        check("*", "192.0.2.1", true);
    }

    #[test]
    fn what_cannot_be_kept_is_no_list() {
        for bad in [
            "",
            "10.0.0.0/8,",
            "!",
            "10.0.0.1/8",
            "host.example",
            "!*.example",
            "10.0.0.0/33",
        ] {
            assert!(bad.parse::<SourcePatterns>().is_err(), "{bad:?}");
        }
        for bad in ["", "!10.0.0.0/8", "192.0.2.*", "10.0.0.1/8", "10.0.0.0/8,,"] {
            assert!(SourcePatterns::networks(bad).is_err(), "{bad:?}");
        }
        assert!(SourcePatterns::networks("10.0.0.0/8,192.0.2.1,2001:db8::/32").is_ok());
    }

    proptest! {
        #[test]
        fn any_list_is_read_or_refused(list in "[0-9a-f.:*?!,/]{0,40}") {
            if let Ok(patterns) = list.parse::<SourcePatterns>() {
                patterns.allow(IpAddr::from([192, 0, 2, 1]));
            }
        }
    }
}
