//! Listening at many ports, and saying who came.

use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, Socket, Type};

/// What everyone who connects is told.
const GREETING: &[u8] = b"adit\n";
/// Connections that wait to be accepted.
const CROWD: i32 = 4096;

/// Listens at every port of `addresses` after `after`, greets who comes, and writes a line of `address of the peer`,
/// `address of ours` for each. Says `listening` first.
///
/// # Errors
/// When a port is taken.
pub fn listen(addresses: &[IpAddr], ports: &[u16], after: Duration) -> Result<()> {
    thread::sleep(after);
    let mut threads = Vec::new();
    for (address, port) in addresses
        .iter()
        .flat_map(|address| ports.iter().map(move |port| (*address, *port)))
    {
        let listener = bind(SocketAddr::new(address, port))?;
        threads.push(
            thread::Builder::new()
                .stack_size(128 << 10)
                .spawn(move || {
                    loop {
                        let Ok((stream, peer)) = listener.accept() else {
                            continue;
                        };
                        let _ = greet(stream, peer);
                    }
                })?,
        );
    }
    say("listening")?;
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// With room for a crowd: with less, the kernel answers by cookies (tcp(7), `tcp_syncookies`), and who is let in so may never be accepted.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(CROWD)?;
    Ok(socket.into())
}

fn greet(mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let own = stream.local_addr()?;
    say(&format!("{peer} {own}"))?;
    stream.write_all(GREETING)?;
    stream.shutdown(Shutdown::Write)
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
