//! Asking an entry of a broker for a connection, in the words of RFC 1928 and RFC 9110, as a program would.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::str::FromStr;

/// A longer reply is none.
const LONGEST_REPLY: usize = 4096;

/// A listener that asks where to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// SOCKS 5.
    Socks5(SocketAddr),
    /// HTTP's CONNECT.
    Http(SocketAddr),
}

/// `socks5=ADDRESS:PORT` or `http=ADDRESS:PORT`.
impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, address) = text.split_once('=').ok_or("no `=`")?;
        let address = address.parse().map_err(|_| "no address")?;
        match protocol {
            "socks5" => Ok(Entry::Socks5(address)),
            "http" => Ok(Entry::Http(address)),
            other => Err(format!("no such protocol: {other}")),
        }
    }
}

impl Entry {
    /// Where it listens.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        match self {
            Entry::Socks5(address) | Entry::Http(address) => address,
        }
    }

    /// Asks on a connection to it.
    ///
    /// # Errors
    /// With its words, when it says no.
    pub fn ask(self, stream: &TcpStream, to: SocketAddr) -> io::Result<()> {
        match self {
            Entry::Socks5(_) => ask_socks5(stream, to),
            Entry::Http(_) => ask_http(stream, to),
        }
    }
}

fn ask_socks5(mut stream: &TcpStream, to: SocketAddr) -> io::Result<()> {
    stream.write_all(&[5, 1, 0])?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    let mut request = vec![5, 1, 0];
    match to.ip() {
        IpAddr::V4(address) => {
            request.push(1);
            request.extend(address.octets());
        }
        IpAddr::V6(address) => {
            request.push(4);
            request.extend(address.octets());
        }
    }
    request.extend(to.port().to_be_bytes());
    stream.write_all(&request)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    match reply[1] {
        0 => Ok(()),
        code => Err(io::Error::other(format!("reply {code}"))),
    }
}

fn ask_http(mut stream: &TcpStream, to: SocketAddr) -> io::Result<()> {
    write!(stream, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        reply.push(byte[0]);
        if reply.len() > LONGEST_REPLY {
            return Err(io::Error::other("a reply without end"));
        }
    }
    let reply = String::from_utf8_lossy(&reply);
    match reply.split(' ').nth(1) {
        Some("200") => Ok(()),
        code => Err(io::Error::other(format!("status {code:?}"))),
    }
}
