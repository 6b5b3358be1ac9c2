//! Real servers on loopback for flows to reach.
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// With room for many at once: tokio's own has 128, and whoever comes then has to ask again after a
/// second.
pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("socket");
    socket
        .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("bind");
    let listener = socket.listen(1024).expect("listen");
    let address = listener.local_addr().expect("address");
    (listener, address)
}

/// Sends back what comes, and the end after the end.
pub(crate) async fn echo() -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("accept");
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
                write.shutdown().await.ok();
            });
        }
    });
    address
}

/// A port that nothing listens on, and nobody else gets. It never was listened at: a program that another test is just starting has
/// all descriptors of ours until its execve.
pub(crate) fn closed_port() -> u16 {
    let socket = TcpSocket::new_v4().expect("socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(any).expect("bind");
    Box::leak(Box::new(socket))
        .local_addr()
        .expect("address")
        .port()
}

/// Does one thing with the first connection.
pub(crate) async fn once<T, F>(
    act: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinHandle<T>)
where
    F: Future<Output = T> + Send,
    T: Send + 'static,
{
    let (listener, address) = listener().await;
    let done = tokio::spawn(async move { act(listener.accept().await.expect("accept").0).await });
    (address, done)
}

/// An address whose queue of connections is full, so that it answers no more; keep what is
/// returned.
pub(crate) async fn silent() -> (SocketAddr, impl Sized) {
    let (address, listener, waiting) = crowded().await;
    (address, (listener, waiting))
}

/// The same until what waits there is accepted.
pub(crate) async fn crowded() -> (SocketAddr, std::net::TcpListener, Vec<TcpStream>) {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .expect("bind");
    socket.listen(0).expect("listen");
    let listener = std::net::TcpListener::from(socket);
    let address = listener.local_addr().expect("address");
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let connect = TcpStream::connect(address);
        let connected = tokio::time::timeout(std::time::Duration::from_millis(300), connect).await;
        waiting.extend(connected.map(|connected| connected.expect("connect")));
    }
    (address, listener, waiting)
}

pub(crate) async fn read_all(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    socket.read_to_end(&mut all).await.map(|_| all)
}

/// Closes with a reset.
pub(crate) fn reset(socket: TcpStream) {
    SockRef::from(&socket)
        .set_linger(Some(std::time::Duration::ZERO))
        .expect("linger");
}
