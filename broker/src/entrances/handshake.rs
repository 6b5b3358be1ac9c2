//! Hears where a program wants to go, and takes not a byte more from it than that: what follows is its payload.

use std::io;

use adit_rules::{Destination, EntryProtocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{http, socks5};

/// Why a program is not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    /// It went away, or ended within a word.
    #[error("{0}")]
    Gone(#[from] io::Error),
    /// It speaks no SOCKS 5, or asks for what is not there.
    #[error(transparent)]
    Socks5(#[from] socks5::Wrong),
    /// It speaks no HTTP, or asks for what is not there.
    #[error(transparent)]
    Http(#[from] http::Wrong),
}

impl Wrong {
    /// What it is told.
    pub(super) fn reply(&self) -> Vec<u8> {
        match self {
            Self::Gone(_) => Vec::new(),
            Self::Socks5(wrong) => wrong.reply(),
            Self::Http(wrong) => wrong.reply(),
        }
    }
}

/// Hears it out.
pub(super) async fn shake(
    tcp: &mut TcpStream,
    protocol: EntryProtocol,
) -> Result<Destination, Wrong> {
    match protocol {
        EntryProtocol::Socks5 => shake_socks5(tcp).await,
        EntryProtocol::Http => shake_http(tcp).await,
    }
}

async fn shake_socks5(tcp: &mut TcpStream) -> Result<Destination, Wrong> {
    let mut handshake = socks5::Handshake::default();
    let mut next = socks5::FIRST;
    let mut buffer = [0; socks5::LONGEST];
    loop {
        let length = match next {
            socks5::Next::Read(length) => length,
            socks5::Next::Answer(answer, length) => {
                tcp.write_all(&answer).await?;
                length
            }
            socks5::Next::Asked(destination) => return Ok(destination),
        };
        let wanted = &mut buffer[..length.min(socks5::LONGEST)];
        tcp.read_exact(wanted).await?;
        next = handshake.take(wanted)?;
    }
}

async fn shake_http(tcp: &mut TcpStream) -> Result<Destination, Wrong> {
    let mut head = Vec::new();
    let mut waiting = [0; 1024];
    loop {
        let seen = tcp.peek(&mut waiting).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let before = head.len();
        head.extend_from_slice(&waiting[..seen]);
        let end = http::end_of_head(&head);
        head.truncate(end.unwrap_or(head.len()));
        // All of it is of the head: it can be taken.
        let taken = head.len() - before;
        tcp.read_exact(&mut waiting[..taken]).await?;
        if end.is_some() {
            return Ok(http::destination(&head)?);
        }
        if head.len() > http::LONGEST_HEAD {
            return Err(http::Wrong::TooLong.into());
        }
    }
}
