//! A proxy in front of a zone: `http://[USER[:PASSWORD]@]HOST:PORT` or `socks5://…`.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::diagnostics::Fault;
use crate::gateway;
use crate::port;

/// What RFC 1929 has room for, of a user as of a password.
const LONGEST_CREDENTIAL: usize = 255;
const FORM: &str = "write `http://HOST:PORT` or `socks5://HOST:PORT`, `USER@` or `USER:PASSWORD@` before the host if it asks for them";

/// What makes the first connection for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub protocol: ProxyProtocol,
    /// Name in lower case, or address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Who we are there, if it asks.
    pub user: Option<String>,
    /// How we show it.
    pub password: Option<ProxyPassword>,
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// HTTP with the method CONNECT (RFC 9110, section 9.3.6).
    Http,
    /// SOCKS 5 (RFC 1928).
    Socks5,
}

/// How we show a proxy who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyPassword {
    /// By what stands in the rules.
    Written(Secret),
    /// By the first line of a file, as written: `~` not expanded.
    File(std::path::PathBuf),
}

/// Text that is never shown, and overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// What it is, for whom it is meant.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map_err(|fault| fault.to_string())
    }
}

/// Without who we are there.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            ProxyProtocol::Http => "http",
            ProxyProtocol::Socks5 => "socks5",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// See [`Proxy`]. No fault repeats what was written: a password may be in it.
pub(crate) fn parse(text: &str) -> Result<Proxy, Fault> {
    let no_proxy = || Fault::new("this is not a proxy").hint(FORM);
    let (scheme, rest) = text.split_once("://").ok_or_else(no_proxy)?;
    let protocol = match scheme {
        "http" => ProxyProtocol::Http,
        "socks5" => ProxyProtocol::Socks5,
        "https" => {
            return Err(Fault::new("proxies are not spoken to over TLS")
                .hint("if it also listens without, write that port as `http://HOST:PORT`"));
        }
        _ => return Err(no_proxy()),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let (host, port) = gateway::split_port(place).map_err(|_| no_proxy())?;
    let Some(port) = port else {
        return Err(Fault::new("the proxy has no port").hint(FORM));
    };
    let port = port::single(port).map_err(|_| no_proxy())?;
    let (user, password) = match credentials.map(|both| both.split_once(':').unwrap_or((both, "")))
    {
        Some((user, password)) => (Some(user_of(user)?), password_of(password)?),
        None => (None, None),
    };
    Ok(Proxy {
        protocol,
        host,
        port,
        user,
        password,
    })
}

/// RFC 7617 has no colon in a user's name.
fn user_of(written: &str) -> Result<String, Fault> {
    let user = decoded(written)?;
    if user.is_empty() || user.contains(':') {
        return Err(Fault::new("the proxy's user is none: it is empty, or has a colon").hint(FORM));
    }
    Ok(user.as_str().to_owned())
}

fn password_of(written: &str) -> Result<Option<ProxyPassword>, Fault> {
    let password = decoded(written)?;
    let kept = (!password.is_empty()).then(|| ProxyPassword::Written(Secret(password)));
    Ok(kept)
}

/// What `%40` and its like stand for (RFC 3986, section 2.1).
fn decoded(written: &str) -> Result<Zeroizing<String>, Fault> {
    let wrong = || {
        let fault =
            "a `%` in the proxy's user or password is not followed by two hexadecimal digits";
        Fault::new(fault).hint("write `%25` for `%`, `%40` for `@`, `%3A` for `:`")
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(written.len()));
    let mut rest = written.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else {
            return Err(wrong());
        };
        rest = after;
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(wrong);
        let value = digit(*high)? * 16 + digit(*low)?;
        bytes.push(u8::try_from(value).map_err(|_| wrong())?);
    }
    let text = String::from_utf8(bytes.to_vec()).map(Zeroizing::new);
    match text {
        Ok(text) if text.len() <= LONGEST_CREDENTIAL && !text.contains(char::is_control) => {
            Ok(text)
        }
        Ok(_) | Err(_) => Err(Fault::new(format!(
            "a proxy's user and password have at most {LONGEST_CREDENTIAL} bytes of text on one line"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str, user: Option<&str>, password: Option<&str>) {
        let proxy = parse(text).expect("a proxy");
        assert_eq!(proxy.to_string(), shown);
        assert_eq!(proxy.user.as_deref(), user);
        let secret = password.map(|text| ProxyPassword::Written(Secret::new(text.to_owned())));
        assert_eq!(proxy.password, secret);
    }

    #[test]
    fn reads_what_is_written() {
        check("http://proxy:3128", "http://proxy:3128", None, None);
        check(
            "http://Proxy.Example:8080/",
            "http://proxy.example:8080",
            None,
            None,
        );
        check(
            "socks5://192.0.2.7:1080",
            "socks5://192.0.2.7:1080",
            None,
            None,
        );
        check(
            "socks5://[2001:db8::7]:1080",
            "socks5://[2001:db8::7]:1080",
            None,
            None,
        );
        check("http://alice@p:1", "http://p:1", Some("alice"), None);
        check(
            "http://alice:s%3Ae%40c%25@p:1",
            "http://p:1",
            Some("alice"),
            Some("s:e@c%"),
        );
        check(
            "socks5://a:b:c@d@p:1",
            "socks5://p:1",
            Some("a"),
            Some("b:c@d"),
        );
    }

    #[test]
    fn shows_no_password() {
        let proxy = parse("http://alice:secret@p:1").expect("a proxy");
        assert!(!format!("{proxy:?} {proxy}").contains("secret"));
    }

    #[test]
    fn refuses_what_is_none_without_repeating_it() {
        for text in [
            "",
            "proxy:3128",
            "https://alice:secret@p:1",
            "ftp://alice:secret@p:1",
            "http://alice:secret@p",
            "http://alice:secret@p:0",
            "http://alice:secret",
            "http://:secret@p:1",
            "http://alice:secret%4@p:1",
            "http://alice:secret%0a@p:1",
            "http://alice:secret@:1",
        ] {
            let fault = parse(text).expect_err(text).to_string();
            assert!(!fault.contains("secret"), "{fault}");
        }
        assert!(parse(&format!("http://{}:x@p:1", "u".repeat(256))).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "(http|socks5)?(://)?.{0,40}") {
            let _ = parse(&text);
        }
    }
}
