//! Connects to what the policy authorized, and to nothing else.
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use adit_link::RefusalReason;
use nix::errno::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::policy::Authorized;

/// The program's own keepalive ends at the broker, so the gateway has to notice by itself that a
/// destination is gone for good.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Why no address could be connected to: of the last one tried.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {source}")]
pub struct DialError {
    /// Where it was tried.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

impl DialError {
    /// As the link says it, so that the program sees what its own connect() would have given.
    pub fn reason(&self) -> RefusalReason {
        if self.source.kind() == io::ErrorKind::TimedOut {
            return RefusalReason::TimedOut;
        }
        let Some(errno) = self.source.raw_os_error().map(Errno::from_raw) else {
            return RefusalReason::Failed;
        };
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the errors of connect(2) that have a reason of their own"
        )]
        match errno {
            // Who is reset before it was seen to be connected has been turned away as well.
            Errno::ECONNREFUSED | Errno::ECONNRESET => RefusalReason::Refused,
            Errno::EHOSTUNREACH | Errno::EHOSTDOWN => RefusalReason::HostUnreachable,
            Errno::ENETUNREACH | Errno::ENETDOWN => RefusalReason::NetworkUnreachable,
            // No port, descriptor or memory left here.
            Errno::EADDRNOTAVAIL
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOBUFS
            | Errno::ENOMEM => RefusalReason::Busy,
            _ => RefusalReason::Failed,
        }
    }
}

/// Tries the addresses in order, all within one limit; each gets an equal share of the time that is
/// left, so that a silent one does not take it all.
///
/// # Errors
/// No address answered. `authorized` empty: as if it had timed out.
pub async fn dial(
    authorized: &[Authorized],
    within: Duration,
) -> Result<(TcpStream, &Authorized), DialError> {
    let deadline = Instant::now() + within;
    let mut failure = DialError {
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        source: io::ErrorKind::TimedOut.into(),
    };
    let mut left = u32::try_from(authorized.len()).unwrap_or(u32::MAX);
    for permit in authorized {
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        left -= 1;
        match timeout_at(Instant::now() + share, TcpStream::connect(permit.address())).await {
            Ok(Ok(connected)) => {
                tune(&connected);
                return Ok((connected, permit));
            }
            Ok(Err(source)) => {
                failure = DialError {
                    address: permit.address(),
                    source,
                }
            }
            Err(_) => {
                failure = DialError {
                    address: permit.address(),
                    source: io::ErrorKind::TimedOut.into(),
                }
            }
        }
    }
    Err(failure)
}

/// Not worth refusing a flow for when the system will not set it. That nothing is held back
/// (TCP_NODELAY) is the relay's own matter.
fn tune(connected: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    if let Err(error) = SockRef::from(connected).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "socket options of a dialled connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: io::Error, expected: RefusalReason) {
        let shown = format!("{source:?}");
        let error = DialError {
            address: SocketAddr::from(([10, 0, 0, 1], 1)),
            source,
        };
        assert_eq!(error.reason(), expected, "{shown}");
    }

    #[test]
    fn errors_of_connect_become_the_refusal_that_a_program_would_have_seen() {
        // Numbers of Linux's errno(3), so that they do not come from the table under test.
        for (errno, expected) in [
            (111, RefusalReason::Refused),
            (104, RefusalReason::Refused),
            (113, RefusalReason::HostUnreachable),
            (112, RefusalReason::HostUnreachable),
            (101, RefusalReason::NetworkUnreachable),
            (100, RefusalReason::NetworkUnreachable),
            (110, RefusalReason::TimedOut),
            (24, RefusalReason::Busy),
            (99, RefusalReason::Busy),
            (13, RefusalReason::Failed),
        ] {
            check(io::Error::from_raw_os_error(errno), expected);
        }
        check(io::ErrorKind::TimedOut.into(), RefusalReason::TimedOut);
    }
}
