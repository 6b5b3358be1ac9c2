//! The first step of the way: a TCP connection from a marked socket, which is never captured, through a proxy if there is one.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use adit_capture::Family;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::connection::{ConnectError, Target};
use super::proxy;
use crate::capture_session::MarkedSockets;

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 8;

/// Connects to `target`, not looking at what it is reached over.
pub(super) async fn dial(
    target: &Target,
    sockets: &MarkedSockets,
) -> Result<TcpStream, ConnectError> {
    let gateway = &target.gateway;
    let Some(proxy) = &target.proxy else {
        return connected(&gateway.host, gateway.port, sockets).await;
    };
    let at_proxy = |error| ConnectError::OnTheWay {
        place: format!("proxy {proxy}"),
        error: Box::new(error),
    };
    let tcp = connected(&proxy.host, proxy.port, sockets).await;
    let mut tcp = tcp.map_err(at_proxy)?;
    let asked = proxy::ask(proxy, &target.home, &mut tcp, &gateway.host, gateway.port).await;
    asked.map_err(|error| at_proxy(error.into()))?;
    Ok(tcp)
}

async fn connected(
    host: &str,
    port: u16,
    sockets: &MarkedSockets,
) -> Result<TcpStream, ConnectError> {
    let mut last = None;
    for address in resolve(host, port).await? {
        let family = if address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let socket = sockets.get(family).await?;
        match dial_address(socket, address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ConnectError::Resolve {
        host: host.to_owned(),
        reason: "the name has no address".to_owned(),
    }))
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
    let failed = |reason: String| ConnectError::Resolve {
        host: host.to_owned(),
        reason,
    };
    let looked_up = tokio::net::lookup_host((host, port));
    match timeout(RESOLVE_TIMEOUT, looked_up).await {
        Ok(Ok(addresses)) => Ok(addresses.take(MOST_ADDRESSES).collect()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!(
            "no answer in {} s",
            RESOLVE_TIMEOUT.as_secs()
        ))),
    }
}

async fn dial_address(socket: OwnedFd, address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Dial { address, source };
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    let connected = timeout(DIAL_TIMEOUT, socket.connect(address)).await;
    let timed_out = |_| failed(std::io::ErrorKind::TimedOut.into());
    let tcp = connected.map_err(timed_out)?.map_err(failed)?;
    Ok(tcp)
}
