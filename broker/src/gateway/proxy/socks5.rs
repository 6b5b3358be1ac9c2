//! SOCKS 5 (RFC 1928) with a user and a password (RFC 1929). Names are the proxy's to resolve.

use std::net::IpAddr;

use adit_rules::Secret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{Credentials, ProxyError};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// Of the negotiation of RFC 1929.
const PASSWORD_VERSION: u8 = 1;

pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    tcp: &mut S,
    host: &str,
    port: u16,
    credentials: Option<&Credentials<'_>>,
) -> Result<(), ProxyError> {
    let methods: &[u8] = match credentials {
        None => &[VERSION, 1, NO_AUTHENTICATION],
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
    };
    tcp.write_all(methods).await?;
    let [version, method] = read(tcp).await?;
    spoken(version)?;
    match (method, credentials) {
        (NO_AUTHENTICATION, _) => {}
        (USER_AND_PASSWORD, Some(credentials)) => authenticate(tcp, credentials).await?,
        (NO_METHOD, Some(_)) => return Err(ProxyError::PasswordRefused),
        (NO_METHOD, None) => return Err(ProxyError::AsksForPassword),
        (other, _) => {
            let reason = format!("it chose the method {other}, which was not offered");
            return Err(ProxyError::NotSpoken(reason));
        }
    }
    tcp.write_all(&request(host, port)?).await?;
    answered(tcp, host, port).await
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    tcp: &mut S,
    Credentials { user, password }: &Credentials<'_>,
) -> Result<(), ProxyError> {
    let mut message = Zeroizing::new(Vec::with_capacity(3 + 2 * usize::from(u8::MAX)));
    message.push(PASSWORD_VERSION);
    push(&mut message, user)?;
    push_secret(&mut message, password)?;
    tcp.write_all(&message).await?;
    match read(tcp).await? {
        [_, 0] => Ok(()),
        [_, _] => Err(ProxyError::PasswordRefused),
    }
}

fn request(host: &str, port: u16) -> Result<Vec<u8>, ProxyError> {
    let mut message = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            message.push(IPV4);
            message.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            message.push(IPV6);
            message.extend(address.octets());
        }
        Err(_) => {
            message.push(NAME);
            push(&mut message, host)?;
        }
    }
    message.extend(port.to_be_bytes());
    Ok(message)
}

fn push_secret(message: &mut Vec<u8>, text: &Secret) -> Result<(), ProxyError> {
    push(message, text.expose())
}

/// A text behind its length.
fn push(message: &mut Vec<u8>, text: &str) -> Result<(), ProxyError> {
    let too_long = |_| {
        ProxyError::NotSpoken("SOCKS 5 has no room for a name of more than 255 bytes".to_owned())
    };
    message.push(u8::try_from(text.len()).map_err(too_long)?);
    message.extend(text.as_bytes());
    Ok(())
}

async fn answered<S: AsyncRead + Unpin>(
    tcp: &mut S,
    host: &str,
    port: u16,
) -> Result<(), ProxyError> {
    let [version, reply, _, kind] = read(tcp).await?;
    spoken(version)?;
    if reply != 0 {
        return Err(ProxyError::Refused {
            to: format!("{host} port {port}"),
            reason: words_for(reply),
        });
    }
    // Where it connects from is of no use to us.
    let address = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(tcp.read_u8().await?),
        other => {
            let reason = format!("it names an address of the unknown kind {other}");
            return Err(ProxyError::NotSpoken(reason));
        }
    };
    let mut rest = [0; 255 + 2];
    tcp.read_exact(&mut rest[..address + 2]).await?;
    Ok(())
}

/// RFC 1928, section 6.
fn words_for(reply: u8) -> String {
    let words = match reply {
        1 => "it failed",
        2 => "its rules do not allow it",
        3 => "the network is unreachable",
        4 => "the host is unreachable",
        5 => "the connection was refused",
        6 => "it took too long",
        7 => "it does not serve CONNECT",
        8 => "it does not know this kind of address",
        other => return format!("it answered {other}"),
    };
    words.to_owned()
}

fn spoken(version: u8) -> Result<(), ProxyError> {
    if version == VERSION {
        return Ok(());
    }
    let reason = format!("it does not answer as SOCKS 5 does, but with {version:#04x}");
    Err(ProxyError::NotSpoken(reason))
}

async fn read<const N: usize, S: AsyncRead + Unpin>(tcp: &mut S) -> Result<[u8; N], ProxyError> {
    let mut bytes = [0; N];
    tcp.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// What is asked of a proxy that answers `answer`, what came of it, and what is left of it.
    async fn asked(
        host: &str,
        answer: &[u8],
        credentials: Option<(&str, &str)>,
    ) -> (Vec<u8>, Result<(), String>, Vec<u8>) {
        let (mut near, mut far) = duplex(64 << 10);
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let credentials = credentials.map(|(user, password)| Credentials {
            user,
            password: Secret::new(password.to_owned()),
        });
        let result = ask(&mut near, host, 258, credentials.as_ref()).await;
        let mut left = Vec::new();
        near.read_to_end(&mut left).await.unwrap();
        drop(near);
        let mut request = Vec::new();
        far.read_to_end(&mut request).await.unwrap();
        (request, result.map_err(|error| error.to_string()), left)
    }

    #[tokio::test]
    async fn asks_as_the_standards_say() {
        let answer = b"\x05\x02\x01\x00\x05\x00\x00\x01\x01\x02\x03\x04\x05\x06SSH";
        let (request, result, left) = asked("gw", answer, Some(("me", "pw"))).await;
        assert_eq!(
            request,
            b"\x05\x02\x00\x02\x01\x02me\x02pw\x05\x01\x00\x03\x02gw\x01\x02"
        );
        assert_eq!((result, &left[..]), (Ok(()), &b"SSH"[..]));
        let answer = b"\x05\x00\x05\x00\x00\x03\x01x\x05\x06SSH";
        let (request, result, left) = asked("192.0.2.1", answer, None).await;
        assert_eq!(
            request,
            b"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x01\x02"
        );
        assert_eq!((result, &left[..]), (Ok(()), &b"SSH"[..]));
        let answer = [&b"\x05\x00\x05\x00\x00\x04"[..], &[0; 18], b"SSH"].concat();
        let (request, result, left) = asked("2001:db8::1", &answer, None).await;
        assert_eq!(request.len(), 3 + 4 + 16 + 2);
        assert_eq!((result, &left[..]), (Ok(()), &b"SSH"[..]));
    }

    #[tokio::test]
    async fn what_it_answers_is_told_in_words() {
        let check = async |answer: &[u8], credentials, expected: &str| {
            let said = asked("gw", answer, credentials).await.1.unwrap_err();
            assert!(said.contains(expected), "{said}");
        };
        check(b"\x05\xff", None, "proxy_password_file").await;
        check(b"\x05\xff", Some(("a", "b")), "does not take this user").await;
        check(
            b"\x05\x02\x01\x01",
            Some(("a", "b")),
            "does not take this user",
        )
        .await;
        check(b"\x05\x01", None, "which was not offered").await;
        check(
            b"HTTP/1.1 400",
            None,
            "does not answer as SOCKS 5 does, but with 0x48",
        )
        .await;
        check(
            b"\x05\x00\x05\x02\x00\x01",
            None,
            "its rules do not allow it",
        )
        .await;
        check(b"\x05\x00\x05\x63\x00\x01", None, "it answered 99").await;
        check(b"\x05\x00\x05\x00\x00\x07", None, "unknown kind 7").await;
        check(b"\x05", None, "connection to it failed").await;
    }
}
