//! The options before a key in a file of authorized keys (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
//!
//! An option limits what a key may do, so that one that is not known, or cannot be kept as it is meant,
//! makes its line useless.
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::permissions::{BadHostPort, Permissions};
use crate::source_patterns::{BadSource, SourcePatterns};

/// What the options of one line say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOptions {
    /// The key signs certificates of this user, and is none to log in with.
    pub cert_authority: bool,
    /// Of which such a certificate has to name one; otherwise the user's own name.
    pub principals: Option<Vec<String>>,
    /// Where the client may come from.
    pub from: Option<SourcePatterns>,
    /// The last moment at which the key is good.
    pub expires: Option<Timestamp>,
    /// What it leaves.
    pub permissions: Permissions,
}

/// Why options are not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOptions {
    /// One that this server does not know how to keep; `command` above all.
    #[error("it has the option {0:?}, which this server does not know how to keep")]
    Unknown(String),
    /// A quote that does not end, no value where one has to be, or two that contradict each other.
    #[error("its option {0:?} is not written as sshd(8) says")]
    Form(&'static str),
    /// A value in quotes that does not end, or something behind it.
    #[error("its options do not end")]
    Quotes,
    /// `from`.
    #[error("from: {0}")]
    From(#[from] BadSource),
    /// `permitopen`, `permitlisten`.
    #[error("permitopen or permitlisten: {0}")]
    HostPort(#[from] BadHostPort),
    /// `expiry-time`.
    #[error("expiry-time: not YYYYMMDD[HHMM[SS]][Z]")]
    Time,
}

impl Default for KeyOptions {
    fn default() -> Self {
        Self {
            cert_authority: false,
            principals: None,
            from: None,
            expires: None,
            permissions: Permissions::all(),
        }
    }
}

impl KeyOptions {
    /// Options at the beginning of a line, and the rest of it. Times without a `Z` are in `zone`.
    ///
    /// # Errors
    /// One of them cannot be kept.
    pub fn parse<'a>(line: &'a str, zone: &TimeZone) -> Result<(Self, &'a str), BadOptions> {
        let mut options = Self::default();
        let mut rest = line;
        loop {
            let (name, value, behind) = next(rest)?;
            options.apply(name, value.as_deref(), zone)?;
            match behind.strip_prefix(',') {
                Some(more) => rest = more,
                None if options.principals.is_some() && !options.cert_authority => {
                    return Err(BadOptions::Form("principals"));
                }
                None => return Ok((options, behind)),
            }
        }
    }

    fn apply(
        &mut self,
        name: &str,
        value: Option<&str>,
        zone: &TimeZone,
    ) -> Result<(), BadOptions> {
        let lower = name.to_ascii_lowercase();
        let permissions = &mut self.permissions;
        match (lower.as_str(), value) {
            ("restrict" | "no-port-forwarding", None) => permissions.forwarding = false,
            ("port-forwarding", None) => permissions.forwarding = true,
            // Of things that this server offers to nobody.
            (
                "no-agent-forwarding"
                | "no-x11-forwarding"
                | "no-pty"
                | "no-user-rc"
                | "agent-forwarding"
                | "x11-forwarding"
                | "pty"
                | "user-rc",
                None,
            ) => {}
            ("cert-authority", None) => self.cert_authority = true,
            ("principals", Some(names)) => {
                once("principals", &mut self.principals, principals(names)?)?;
            }
            ("from", Some(sources)) => once("from", &mut self.from, sources.parse()?)?,
            ("expiry-time", Some(time)) => {
                let time = expiry(time, zone).ok_or(BadOptions::Time)?;
                // The earliest counts, as for OpenSSH.
                self.expires = Some(self.expires.map_or(time, |other| other.min(time)));
            }
            ("permitopen", Some(permit)) => {
                let open = permissions.open.get_or_insert_default();
                open.push(permit.parse()?);
            }
            ("permitlisten", Some(permit)) => permissions.listen.push(permit.parse()?),
            _ => return Err(BadOptions::Unknown(name.chars().take(64).collect())),
        }
        Ok(())
    }
}

fn once<T>(name: &'static str, place: &mut Option<T>, value: T) -> Result<(), BadOptions> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(BadOptions::Form(name)),
    }
}

fn principals(names: &str) -> Result<Vec<String>, BadOptions> {
    let names: Vec<String> = names.split(',').map(str::to_owned).collect();
    match names.iter().any(String::is_empty) {
        true => Err(BadOptions::Form("principals")),
        false => Ok(names),
    }
}

/// The first option's name and value, and what follows it: a comma, or the end of all options.
fn next(text: &str) -> Result<(&str, Option<String>, &str), BadOptions> {
    let end = text.find(['=', ',', ' ', '\t']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let Some(quoted) = rest.strip_prefix('=') else {
        return Ok((name, None, rest));
    };
    let inner = quoted.strip_prefix('"').ok_or(BadOptions::Quotes)?;
    let mut value = String::new();
    let mut characters = inner.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let rest = inner.get(at + 1..).unwrap_or_default();
                return match rest.is_empty() || rest.starts_with([',', ' ', '\t']) {
                    true => Ok((name, Some(value), rest)),
                    false => Err(BadOptions::Quotes),
                };
            }
            // `\"` is a quote; every other backslash stands for itself.
            '\\' if inner
                .get(at + 1..)
                .is_some_and(|next| next.starts_with('"')) =>
            {
                characters.next();
                value.push('"');
            }
            other => value.push(other),
        }
    }
    Err(BadOptions::Quotes)
}

/// `YYYYMMDD[Z]` or `YYYYMMDDHHMM[SS][Z]`.
fn expiry(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let (digits, zone) = match text.strip_suffix(['Z', 'z']) {
        Some(digits) => (digits, &TimeZone::UTC),
        None => (text, zone),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) || !matches!(digits.len(), 8 | 12 | 14) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| digits.get(range).map_or(Ok(0), str::parse::<i8>);
    let year = digits.get(..4)?.parse().ok()?;
    let at = DateTime::new(
        year,
        number(4..6).ok()?,
        number(6..8).ok()?,
        number(8..10).ok()?,
        number(10..12).ok()?,
        number(12..14).ok()?,
        0,
    );
    Some(at.ok()?.to_zoned(zone.clone()).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Result<KeyOptions, BadOptions> {
        let (options, rest) = KeyOptions::parse(line, &TimeZone::UTC)?;
        assert_eq!(rest, " ssh-ed25519 A", "{line}");
        Ok(options)
    }

    fn check(options: &str, fits: impl Fn(&KeyOptions) -> bool) {
        let parsed = parse(&format!("{options} ssh-ed25519 A"));
        assert!(parsed.as_ref().is_ok_and(fits), "{options}: {parsed:?}");
    }

    #[test]
    fn options_say_what_a_key_may() {
        check("restrict", |o| !o.permissions.forwarding);
        check("RESTRICT,port-forwarding", |o| o.permissions.forwarding);
        // In their order, as for OpenSSH.
        check("port-forwarding,restrict", |o| !o.permissions.forwarding);
        check("no-port-forwarding,no-pty,no-X11-forwarding", |o| {
            !o.permissions.forwarding
        });
        check("pty", |o| *o == KeyOptions::default());
        check("permitopen=\"192.0.2.1:80\",permitopen=\"[::1]:25\"", |o| {
            o.permissions
                .open
                .as_ref()
                .is_some_and(|open| open.len() == 2)
        });
        check("permitlisten=\"8080\"", |o| o.permissions.listen.len() == 1);
        check("cert-authority,principals=\"alice,dba\"", |o| {
            o.cert_authority && o.principals.as_deref() == Some(&["alice".into(), "dba".into()])
        });
        check("from=\"10.0.0.0/8,!10.1.0.0/16\"", |o| o.from.is_some());
    }

    #[test]
    fn times_are_those_of_sshd() {
        // Seconds by `date -ud …+%s`.
        let check_time = |text: &str, seconds: i64| {
            check(&format!("expiry-time=\"{text}\""), |o| {
                o.expires.is_some_and(|time| time.as_second() == seconds)
            });
        };
        check_time("20260102Z", 1_767_312_000);
        check_time("202601020304Z", 1_767_323_040);
        check_time("20260102030405Z", 1_767_323_045);
        check("expiry-time=\"20260102Z\",expiry-time=\"20250102Z\"", |o| {
            o.expires
                .is_some_and(|time| time.as_second() == 1_735_776_000)
        });
        let tokyo = TimeZone::fixed(jiff::tz::offset(9));
        let seconds = |text| expiry(text, &tokyo).map(Timestamp::as_second);
        assert_eq!(seconds("202601021204"), Some(1_767_323_040));
        for bad in [
            "",
            "2026",
            "20261301",
            "20260102T0304",
            "2026010203",
            "20260102+Z",
            "202601022560",
        ] {
            assert_eq!(expiry(bad, &TimeZone::UTC), None, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_an_error() {
        for bad in [
            "command=\"/bin/a b\"",
            "restrict,command=\"x\"",
            "environment=\"A=b\"",
            "tunnel=\"0\"",
            "no-touch-required",
            "permit-everything",
            "restrict=\"yes\"",
            "from",
            "from=10.0.0.0/8",
            "from=\"\"",
            "from=\"10.0.0.1",
            "from=\"10.0.0.1\"x",
            "from=\"10.0.0.1\",from=\"10.0.0.2\"",
            "from=\"*.example.com\"",
            "permitopen=\"host\"",
            "permitlisten=\"host:\"",
            "expiry-time=\"tomorrow\"",
            "principals=\"alice\"",
            "cert-authority,principals=\"alice,\"",
            "restrict,",
            "",
        ] {
            assert!(
                KeyOptions::parse(&format!("{bad} ssh-ed25519 A"), &TimeZone::UTC).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn quotes_can_be_in_a_value() {
        let (name, value, rest) = next("from=\"a\\\"b\\c, d\" rest").expect("option");
        assert_eq!(
            (name, value.as_deref(), rest),
            ("from", Some("a\"b\\c, d"), " rest")
        );
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "\\PC{0,100}") {
            let _ = KeyOptions::parse(&line, &TimeZone::UTC);
        }

        #[test]
        fn any_options_are_read_or_refused(
            line in "((restrict|from|permitopen|expiry-time|cert-authority|principals)(=\"[0-9.:*,\\\\\"]{0,8}\"?)?,?){0,4} ?"
        ) {
            if let Ok((_, rest)) = KeyOptions::parse(&line, &TimeZone::UTC) {
                prop_assert!(line.ends_with(rest));
            }
        }
    }
}
