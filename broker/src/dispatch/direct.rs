//! From leave to pass to a connection of ours that the capture rules let through.

use std::net::SocketAddr;
use std::time::Duration;

use adit_capture::Family;
use adit_rules::{Destination, PassPermit};
use tokio::net::{TcpSocket, TcpStream};

use super::Dispatcher;
use super::ending::{Cause, Ending};
use crate::stage::Stage;

/// The kernel's own patience with an unanswered SYN is about two minutes (tcp_syn_retries, tcp(7)); a
/// program that waits longer than this has its own time-out.
const PASS_DIAL_TIMEOUT: Duration = Duration::from_secs(130);

impl Dispatcher {
    /// Dials the one address that may be dialled.
    pub(super) async fn dial(&self, permit: &PassPermit) -> Result<TcpStream, Ending> {
        let Destination {
            address: Some(ip),
            port,
            ..
        } = *permit.destination()
        else {
            return Err(Ending::failed(Cause::Broken, "no address to dial").at(Stage::Unreachable));
        };
        let address = SocketAddr::new(ip, port);
        let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        let socket = self.sockets.get(family).await;
        let socket = socket
            .map_err(|error| Ending::failed(Cause::Broken, error.to_string()).at(Stage::Helper))?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        match tokio::time::timeout(PASS_DIAL_TIMEOUT, socket.connect(address)).await {
            Ok(Ok(far)) => Ok(far),
            Ok(Err(error)) => {
                let cause = Cause::of_connect(&error);
                Err(Ending::refused(cause, format!("direct: {error}")))
            }
            Err(_) => Err(Ending::refused(Cause::TimedOut, "direct: timed out")),
        }
    }
}
