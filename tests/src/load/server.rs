//! The server at the end of the path.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{CHUNK, port};

/// How often the sink tells what it has read: seldom enough to cost nothing.
const TELL: Duration = Duration::from_millis(10);
/// Longer than any measure beside it.
const STALL: Duration = Duration::from_secs(5);
/// As much as the kernel lets wait to be accepted (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Serves at `address` until the process is ended; calls `ready` when all ports listen.
///
/// # Errors
/// When it can't listen.
pub fn serve(address: IpAddr, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let echo = listen(address, port::ECHO)?;
    let other_echo = listen(address, port::OTHER_ECHO)?;
    for (port, act) in [
        (port::SINK, sink as fn(TcpStream) -> io::Result<()>),
        (port::SOURCE, source),
        (port::STALL, stall),
    ] {
        let listener = listen(address, port)?;
        thread::spawn(move || accept(&listener, act));
    }
    ready()?;
    // Thousands of flows at once: no thread for each.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async { tokio::try_join!(echo_all(echo), echo_all(other_echo)).map(|_| ()) })
}

fn listen(address: IpAddr, port: u16) -> Result<TcpListener> {
    let to = SocketAddr::new(address, port);
    let listen = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&to.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    listen().with_context(|| format!("listening at {to}"))
}

async fn echo_all(listener: TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        // A flow that fails is its client's to tell.
        tokio::spawn(async move { echo(stream).await.unwrap_or_default() });
    }
}

async fn echo(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A gateway that closed first gets a reset for its FIN, so that its port does not rest in TIME-WAIT.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    let mut buffer = [0; 512];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream
            .write_all(buffer.get(..read).unwrap_or_default())
            .await?;
    }
}

fn accept(listener: &TcpListener, act: fn(TcpStream) -> io::Result<()>) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || act(stream).unwrap_or_default());
    }
}

fn sink(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    let mut bytes = stream.read(&mut buffer)? as u64;
    let began = Instant::now();
    let mut told = began;
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        bytes += read as u64;
        let now = Instant::now();
        if now - told >= TELL {
            told = now;
            stream.write_all(&Progress::since(began, bytes).to_bytes())?;
        }
    }
}

fn source(mut stream: TcpStream) -> io::Result<()> {
    let buffer = vec![0x5a; CHUNK];
    loop {
        stream.write_all(&buffer)?;
    }
}

fn stall(stream: TcpStream) -> io::Result<()> {
    // Who does not pass the client's reset on would hold this flow, and what waits in it, for ever.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    thread::sleep(STALL);
    Ok(())
}

/// What a receiver has read by when, on the receiver's clock: what still waits in buffers does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) bytes: u64,
    pub(crate) micros: u64,
}

impl Progress {
    pub(crate) const LENGTH: usize = 16;

    pub(crate) fn since(began: Instant, bytes: u64) -> Progress {
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Progress { bytes, micros }
    }

    fn to_bytes(self) -> [u8; Self::LENGTH] {
        let both = u128::from(self.bytes) << 64 | u128::from(self.micros);
        both.to_be_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::LENGTH]) -> Progress {
        let both = u128::from_be_bytes(bytes);
        Progress {
            bytes: (both >> 64) as u64,
            micros: both as u64,
        }
    }
}
