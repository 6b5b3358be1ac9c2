//! A connection of the load's client.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// How the load calls what it fails at when `connect()` itself fails.
pub const CONNECTING: &str = "connect";
/// No single wait of a measure may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A connected socket, and when its `connect()` began.
///
/// It is closed by a reset: neither end keeps the connection in TIME-WAIT, where tens of thousands of them
/// would make later `connect()` calls search for a free port.
pub(crate) fn dial(to: IpAddr, port: u16) -> Result<(TcpStream, Instant)> {
    let to = SocketAddr::new(to, port);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).context("socket")?;
    socket.set_linger(Some(Duration::ZERO)).context("linger")?;
    socket.set_tcp_nodelay(true).context("nodelay")?;
    // A blocking connect() obeys the time-out of writes (socket(7)).
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let began = Instant::now();
    if let Err(error) = socket.connect(&to.into()) {
        // Who is reset had been accepted: its program was too slow to see that.
        let was_accepted = error.kind() == ErrorKind::ConnectionReset;
        let at = if was_accepted {
            "once accepted"
        } else {
            CONNECTING
        };
        return Err(error).context(at);
    }
    Ok((socket.into(), began))
}
