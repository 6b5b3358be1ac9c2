//! HTTP's CONNECT (RFC 9110, section 9.3.6) as an entry understands it: HTTP/1 and nothing else.
//!
//! No socket here: the head of a request goes in, and a destination or a reply come out.

use adit_rules::Destination;

use crate::dispatch::Cause;

/// Bytes of a request's head; some more may have been read when it is told.
pub(super) const LONGEST_HEAD: usize = 8 * 1024;

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    /// It does not end.
    #[error("the head of a request has at most {LONGEST_HEAD} bytes")]
    TooLong,
    /// It is no HTTP.
    #[error("this is not a request of HTTP/1")]
    NotHttp,
    /// It is one of a later version, or of none.
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    /// It asks for something else.
    #[error("only CONNECT is served here")]
    Method,
    /// Its destination can't be one.
    #[error("the target is not HOST:PORT: {0}")]
    Target(String),
}

/// Where the head ends: behind its first empty line. Lines may end without CR (RFC 9112, section 2.2).
pub(super) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(length) = bytes.get(start..)?.iter().position(|byte| *byte == b'\n') {
        let end = start + length + 1;
        if matches!(bytes.get(start..end), Some(b"\n" | b"\r\n")) {
            return Some(end);
        }
        start = end;
    }
    None
}

/// Where a request wants to go, by its first line. What else is in its head is for servers of content.
pub(super) fn destination(head: &[u8]) -> Result<Destination, Wrong> {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = str::from_utf8(line).map_err(|_| Wrong::NotHttp)?;
    let line = line.strip_suffix('\r').unwrap_or(line);
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    let [method, target, version] = words[..] else {
        return Err(Wrong::NotHttp);
    };
    match version {
        "HTTP/1.1" | "HTTP/1.0" => {}
        other if other.starts_with("HTTP/") => return Err(Wrong::Version),
        _ => return Err(Wrong::NotHttp),
    }
    if method != "CONNECT" {
        return Err(Wrong::Method);
    }
    let no_port = || Wrong::Target("it has no port".to_owned());
    let (host, port) = target.rsplit_once(':').ok_or_else(no_port)?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port > 0);
    let port = port.ok_or_else(|| Wrong::Target("there is no such port".to_owned()))?;
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = match bare {
        Some(bare) if bare.contains(':') => bare,
        None if !host.contains(':') => host,
        Some(_) | None => return Err(Wrong::Target("brackets are for IPv6".to_owned())),
    };
    Destination::of_host(host, port).map_err(Wrong::Target)
}

impl Wrong {
    /// What the program is told.
    pub(super) fn reply(&self) -> Vec<u8> {
        let (status, more) = match self {
            Self::TooLong => ("431 Request Header Fields Too Large", ""),
            Self::NotHttp | Self::Target(_) => ("400 Bad Request", ""),
            Self::Version => ("505 HTTP Version Not Supported", ""),
            Self::Method => ("405 Method Not Allowed", "Allow: CONNECT\r\n"),
        };
        reply(status, more, &self.to_string())
    }
}

/// The reply to a request that was carried out.
pub(super) fn opened() -> Vec<u8> {
    b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec()
}

/// The reply to one that was not; `Proxy-Status` (RFC 9209) says why to programs.
pub(super) fn refused(cause: Cause, reason: &str) -> Vec<u8> {
    let (status, error) = match cause {
        Cause::Blocked(_) | Cause::Denied => ("403 Forbidden", "http_request_denied"),
        Cause::Refused => ("502 Bad Gateway", "connection_refused"),
        Cause::HostUnreachable | Cause::NetworkUnreachable => {
            ("502 Bad Gateway", "destination_ip_unroutable")
        }
        Cause::Unresolvable => ("502 Bad Gateway", "dns_error"),
        Cause::TimedOut => ("504 Gateway Timeout", "connection_timeout"),
        Cause::NoGateway | Cause::NoGatewayYet => ("502 Bad Gateway", "destination_unavailable"),
        Cause::Busy | Cause::Broken | Cause::Direct | Cause::Over => {
            ("502 Bad Gateway", "proxy_internal_error")
        }
    };
    let more = format!("Proxy-Status: adit; error={error}\r\n");
    reply(status, &more, reason)
}

fn reply(status: &str, more: &str, reason: &str) -> Vec<u8> {
    let length = reason.len() + 1;
    let head = format!(
        "HTTP/1.1 {status}\r\n{more}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    format!("{head}{reason}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_rules::Refusal;
    use proptest::prelude::*;

    #[track_caller]
    fn check(head: &str, expected: Result<&str, Wrong>) {
        let read = destination(head.as_bytes()).map(|it| it.to_string());
        assert_eq!(read, expected.map(str::to_owned), "{head}");
    }

    #[test]
    fn reads_where_to_go() {
        let curl = "CONNECT DB.fin.Test:5432 HTTP/1.1\r\nHost: db.fin.test:5432\r\nUser-Agent: curl/8\r\n\r\n";
        check(curl, Ok("db.fin.test:5432"));
        check("CONNECT 10.0.0.1:80 HTTP/1.0\n\n", Ok("10.0.0.1:80"));
        check(
            "CONNECT [2001:db8::7]:443 HTTP/1.1\r\n\r\n",
            Ok("[2001:db8::7]:443"),
        );
        for method in ["GET", "connect", "POST"] {
            let head = format!("{method} db.test:80 HTTP/1.1\r\n\r\n");
            check(&head, Err(Wrong::Method));
        }
        check("CONNECT a.test:1 HTTP/2.0\r\n\r\n", Err(Wrong::Version));
        for head in [
            "\r\n",
            "CONNECT a.test:1\r\n\r\n",
            "CONNECT  a.test:1 HTTP/1.1\r\n\r\n",
            "CONNECT a.test:1 HTTP/1.1 x\r\n\r\n",
            "CONNECT a.test:1 SPDY/1\r\n\r\n",
        ] {
            check(head, Err(Wrong::NotHttp));
        }
        for target in [
            "a.test",
            "a.test:",
            "a.test:0",
            "a.test:70000",
            "a.test:+1",
            ":80",
            "[a.test]:80",
            "2001:db8::7:443",
            "a@b:80",
            "127.1:80",
            "a.test:80:80",
        ] {
            let head = format!("CONNECT {target} HTTP/1.1\r\n\r\n");
            let read = destination(head.as_bytes());
            assert!(matches!(read, Err(Wrong::Target(_))), "{target}: {read:?}");
        }
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        for (bytes, expected) in [
            ("", None),
            ("CONNECT a:1 HTTP/1.1\r\n", None),
            ("a\r\nb\r\n\r\npayload", Some(8)),
            ("a\nb\n\npayload\n\n", Some(5)),
            ("a\r\n\npayload", Some(4)),
            ("a\r\n\r", None),
            ("\r\n", Some(2)),
        ] {
            assert_eq!(end_of_head(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }

    #[track_caller]
    fn check_refused(cause: Cause, status: &str, error: &str) {
        let said = String::from_utf8(refused(cause, "because")).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{head}"
        );
        assert!(head.contains(&format!("\r\nProxy-Status: adit; error={error}\r\n")));
        assert!(head.contains("\r\nContent-Length: 8\r\n"), "{head}");
        assert_eq!(body, "because\n");
    }

    #[test]
    fn replies_tell_the_truth() {
        let denied = "http_request_denied";
        check_refused(Cause::Blocked(Refusal::Drop), "403 Forbidden", denied);
        check_refused(Cause::Denied, "403 Forbidden", denied);
        check_refused(Cause::Refused, "502 Bad Gateway", "connection_refused");
        check_refused(Cause::Unresolvable, "502 Bad Gateway", "dns_error");
        check_refused(
            Cause::NoGatewayYet,
            "502 Bad Gateway",
            "destination_unavailable",
        );
        check_refused(Cause::TimedOut, "504 Gateway Timeout", "connection_timeout");
        let method = String::from_utf8(Wrong::Method.reply()).unwrap();
        assert!(method.starts_with("HTTP/1.1 405 "), "{method}");
        assert!(method.contains("\r\nAllow: CONNECT\r\n"), "{method}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = end_of_head(&bytes);
            let _ = destination(&bytes);
            let _ = destination(&[b"CONNECT ", bytes.as_slice(), b" HTTP/1.1\r\n\r\n"].concat());
        }

        /// However the bytes come in, the head ends where it ends.
        #[test]
        fn an_end_stays_where_it_is(bytes in "[a\r\n]{0,40}", cut: prop::sample::Index) {
            let bytes = bytes.as_bytes();
            let part = &bytes[..cut.index(bytes.len() + 1)];
            if let Some(end) = end_of_head(part) {
                prop_assert_eq!(end_of_head(bytes), Some(end));
            }
            if let Some(end) = end_of_head(bytes) {
                prop_assert_eq!(end_of_head(&bytes[..end - 1]), None);
            }
        }

        #[test]
        fn names_come_back(name in "[a-z][a-z0-9]{0,20}(\\.[a-z][a-z0-9-]{0,20}[a-z]){0,5}", port in 1u16..) {
            let head = format!("CONNECT {name}:{port} HTTP/1.1\r\n\r\n");
            let expected = Destination { address: None, name: Some(name), port };
            prop_assert_eq!(destination(head.as_bytes()), Ok(expected));
        }
    }
}
