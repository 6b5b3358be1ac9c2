//! CONNECT (RFC 9110, section 9.3.6) with Basic authentication (RFC 7617).

use adit_rules::Secret;
use data_encoding::BASE64;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Credentials, ProxyError};

/// Bytes of an answer's head.
const LONGEST_HEAD: usize = 8 << 10;
/// Characters of a reason that are told.
const LONGEST_REASON: usize = 80;

pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    tcp: &mut S,
    host: &str,
    port: u16,
    credentials: Option<&Credentials<'_>>,
) -> Result<(), ProxyError> {
    let to = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let request = request(&to, credentials);
    tcp.write_all(request.expose().as_bytes()).await?;
    loop {
        let answer = Answer::of(&read_head(tcp).await?)?;
        match answer.code {
            // Interim ones come before the answer (RFC 9110, section 15.2).
            100..200 => {}
            200..300 => return Ok(()),
            // Tinyproxy answers a wrong password with 401.
            401 | 407 if credentials.is_some() => return Err(ProxyError::PasswordRefused),
            401 | 407 => return Err(ProxyError::AsksForPassword),
            code => {
                let reason = format!("{code} {}", answer.reason).trim_end().to_owned();
                return Err(ProxyError::Refused { to, reason });
            }
        }
    }
}

fn request(to: &str, credentials: Option<&Credentials<'_>>) -> Secret {
    let mut lines = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
    if let Some(Credentials { user, password }) = credentials {
        let both = Secret::new(format!("{user}:{}", password.expose()));
        let encoded = Secret::new(BASE64.encode(both.expose().as_bytes()));
        // In one piece, so that nothing of it stays where the text was before it grew.
        let size = lines.len() + encoded.expose().len() + 40;
        lines.reserve_exact(size);
        lines.push_str("Proxy-Authorization: Basic ");
        lines.push_str(encoded.expose());
        lines.push_str("\r\n");
    }
    lines.push_str("\r\n");
    Secret::new(lines)
}

/// Up to its empty line, and not a byte more: what follows is the Secure Shell server's.
async fn read_head<S: AsyncRead + Unpin>(tcp: &mut S) -> Result<Vec<u8>, ProxyError> {
    let mut head = Vec::new();
    while !(head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n")) {
        if head.len() == LONGEST_HEAD {
            let reason = format!("its answer has more than {LONGEST_HEAD} bytes");
            return Err(ProxyError::NotSpoken(reason));
        }
        head.push(tcp.read_u8().await?);
    }
    Ok(head)
}

/// A status line (RFC 9112, section 4).
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: u16,
    reason: String,
}

impl Answer {
    fn of(head: &[u8]) -> Result<Self, ProxyError> {
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let not_spoken = || ProxyError::NotSpoken("it does not answer as HTTP/1 does".to_owned());
        let mut words = line.trim_end().splitn(3, ' ');
        let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
        let code = words.next().unwrap_or_default();
        if !is_http || code.len() != 3 {
            return Err(not_spoken());
        }
        let reason = words.next().unwrap_or_default().chars();
        Ok(Self {
            code: code.parse().map_err(|_| not_spoken())?,
            reason: reason
                .filter(|it| !it.is_control())
                .take(LONGEST_REASON)
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    /// What is asked with the answer `answer`, what came of it, and what is left of it.
    async fn asked(
        answer: &[u8],
        credentials: Option<(&str, &str)>,
    ) -> (String, Result<(), String>, Vec<u8>) {
        let (mut near, mut far) = duplex(64 << 10);
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let credentials = credentials.map(|(user, password)| Credentials {
            user,
            password: Secret::new(password.to_owned()),
        });
        let result = ask(&mut near, "2001:db8::1", 22, credentials.as_ref()).await;
        let mut left = Vec::new();
        near.read_to_end(&mut left).await.unwrap();
        drop(near);
        let mut request = String::new();
        far.read_to_string(&mut request).await.unwrap();
        (request, result.map_err(|error| error.to_string()), left)
    }

    #[tokio::test]
    async fn asks_as_the_standards_say() {
        let (request, result, left) = asked(
            b"HTTP/1.1 100 Wait\r\n\r\nHTTP/1.0 200 OK\r\nVia: x\r\n\r\nSSH-2.0-x",
            // The example of RFC 7617, section 2.
            Some(("Aladdin", "open sesame")),
        )
        .await;
        assert_eq!(
            request,
            "CONNECT [2001:db8::1]:22 HTTP/1.1\r\nHost: [2001:db8::1]:22\r\n\
             Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
        );
        assert_eq!(result, Ok(()));
        assert_eq!(left, b"SSH-2.0-x");
    }

    #[tokio::test]
    async fn what_it_answers_is_told_in_words() {
        let check = async |answer: &[u8], credentials, expected: &str| {
            let said = asked(answer, credentials).await.1.unwrap_err();
            assert!(said.contains(expected), "{said}");
        };
        let needs = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
        check(needs, None, "proxy_password_file").await;
        check(
            needs,
            Some(("a", "b")),
            "does not take this user and password",
        )
        .await;
        check(
            b"HTTP/1.1 403 No\x1b[1m way\r\n\r\n",
            None,
            "to [2001:db8::1]:22: 403 No[1m way",
        )
        .await;
        check(
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            None,
            "does not answer as HTTP",
        )
        .await;
        check(b"HTTP/1.1 20\r\n\r\n", None, "does not answer as HTTP").await;
        check(b"HTTP/1.1 200 OK\r\n", None, "connection to it failed").await;
        check(&[b'x'; LONGEST_HEAD + 1], None, "more than 8192 bytes").await;
    }

    proptest! {
        #[test]
        fn never_panics(head in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Answer::of(&head);
        }
    }
}
