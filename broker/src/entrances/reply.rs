//! What a program is told that asked for its destination in words.

use std::io;
use std::time::Duration;

use adit_rules::EntryProtocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{http, socks5};
use crate::dispatch::Cause;

/// How long a program may take to take a reply that fits into its socket many times.
const TAKING: Duration = Duration::from_secs(5);
/// How long, after its last reply, it is listened to.
const LINGER: Duration = Duration::from_secs(2);
/// How much it may say then.
const LAST_WORDS: u64 = 64 * 1024;

/// That the way is open.
pub(crate) fn opened(protocol: EntryProtocol) -> Vec<u8> {
    match protocol {
        EntryProtocol::Socks5 => socks5::opened(),
        EntryProtocol::Http => http::opened(),
    }
}

/// That it is not, and why.
pub(crate) fn refused(protocol: EntryProtocol, cause: Cause, reason: &str) -> Vec<u8> {
    match protocol {
        EntryProtocol::Socks5 => socks5::refused(cause),
        EntryProtocol::Http => http::refused(cause, reason),
    }
}

/// Says something behind which payload follows.
pub(crate) async fn first(tcp: &mut TcpStream, words: &[u8]) -> io::Result<()> {
    let said = timeout(TAKING, tcp.write_all(words)).await;
    said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Says something and hangs up. A socket closed with unread bytes in it sends a reset, which could overtake the words: so
/// what the program still says is heard for a moment.
pub(crate) async fn last(mut tcp: TcpStream, words: &[u8]) {
    let heard = async {
        tcp.write_all(words).await?;
        tcp.shutdown().await?;
        let mut rest = (&mut tcp).take(LAST_WORDS);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // It is over, whatever became of it.
    let _ = timeout(LINGER, heard).await;
}
