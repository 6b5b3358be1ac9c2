//! A broker's half: a link over russh, and flows on it as programs see them.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use adit_link::ssh::{BufferedSocket, SUBSYSTEM};
use adit_link::{Counters, Host, Link, OpenHeader, Refusal, StreamError};
use russh::client::{self, Config, Handler};
use russh::keys::{PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate, load_secret_key};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::destinations::listener;
use crate::site::{PATIENCE, Site};

/// Accepts the one host key that `ssh-keygen` wrote down.
pub(crate) struct KnowsHost(PublicKey);

impl Handler for KnowsHost {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(
            matches!(key, PublicKeyOrCertificate::PublicKey { key, .. } if key.key_data() == self.0.key_data()),
        )
    }
}

/// A logged-in connection with one link.
pub(crate) struct Broker {
    pub(crate) _session: client::Handle<KnowsHost>,
    pub(crate) link: Link,
}

/// Connects and logs in as `alice`.
pub(crate) async fn log_in(site: &Site, gateway: SocketAddr) -> client::Handle<KnowsHost> {
    let (session, success) = try_log_in(site, gateway, "alice").await;
    assert!(success);
    session
}

/// Connects, and has not logged in yet.
pub(crate) async fn greet(site: &Site, gateway: SocketAddr) -> client::Handle<KnowsHost> {
    let mut config = Config::default();
    adit_link::ssh::tune_client(&mut config, adit_link::ssh::Rekey::default());
    let host_key = PublicKey::from_openssh(&site.public_key("host")).expect("host key");
    let socket = BufferedSocket::new(TcpStream::connect(gateway).await.expect("connect"));
    let session = client::connect_stream(Arc::new(config), socket, KnowsHost(host_key));
    let session = timeout(PATIENCE, session).await;
    session.expect("in time").expect("session")
}

/// Connects and tries to log in with alice's key, under any name.
pub(crate) async fn try_log_in(
    site: &Site,
    gateway: SocketAddr,
    user: &str,
) -> (client::Handle<KnowsHost>, bool) {
    let mut session = greet(site, gateway).await;
    let key = Arc::new(load_secret_key(site.path("alice"), None).expect("key"));
    let login = session.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key, None));
    let login = timeout(PATIENCE, login)
        .await
        .expect("in time")
        .expect("login");
    (session, login.success())
}

impl Broker {
    pub(crate) async fn connect(site: &Site, gateway: SocketAddr) -> Self {
        Self::over(log_in(site, gateway).await).await
    }

    /// Begins a link on a connection that is logged in.
    pub(crate) async fn over(session: client::Handle<KnowsHost>) -> Self {
        let channel = session.channel_open_session().await.expect("channel");
        channel
            .request_subsystem(true, SUBSYSTEM)
            .await
            .expect("subsystem");
        let (read, write) = adit_link::ssh::split(channel);
        Self {
            _session: session,
            link: begin(read, write).await,
        }
    }

    pub(crate) async fn refusal(&self, host: &str, port: u16) -> Refusal {
        refusal(&self.link, host, port).await
    }

    pub(crate) async fn flow(&self, at: SocketAddr) -> TcpStream {
        flow(&self.link, &at.ip().to_string(), at.port()).await
    }
}

/// Begins a link on any stream and runs it.
pub(crate) async fn begin<R: adit_link::ReadChunks, W: adit_link::WriteChunks>(
    read: R,
    write: W,
) -> Link {
    let begun = adit_link::initiate(read, write, adit_link::Limits::default());
    let (link, driver) = timeout(PATIENCE, begun)
        .await
        .expect("in time")
        .expect("a link");
    tokio::spawn(driver.run());
    link
}

/// Asks for a stream and waits for nothing. `host` is an address or a name.
pub(crate) fn asked(link: &Link, host: &str, port: u16) -> adit_link::Stream {
    let host = host
        .parse::<IpAddr>()
        .map_or_else(|_| Host::Name(host.to_owned()), Host::Address);
    let header = OpenHeader {
        host,
        port,
        application: Some("/usr/bin/test".to_owned()),
    };
    link.open(&header).expect("open")
}

/// Asks for a stream and waits for the answer.
pub(crate) async fn open(
    link: &Link,
    host: &str,
    port: u16,
) -> Result<adit_link::Stream, StreamError> {
    let mut stream = asked(link, host, port);
    timeout(PATIENCE, stream.opened())
        .await
        .expect("answered in time")?;
    Ok(stream)
}

/// Opens a stream that the gateway has to refuse.
pub(crate) async fn refusal(link: &Link, host: &str, port: u16) -> Refusal {
    match open(link, host, port).await {
        Err(StreamError::Refused(refusal)) => refusal,
        Err(other) => panic!("{host}:{port}: {other}"),
        Ok(_) => panic!("{host}:{port} was opened"),
    }
}

/// Opens a stream and relays it: what is returned is the program's socket.
pub(crate) async fn flow(link: &Link, host: &str, port: u16) -> TcpStream {
    let stream = open(link, host, port)
        .await
        .unwrap_or_else(|error| panic!("{host}:{port}: {error}"));
    let (listener, address) = listener().await;
    let (program, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let near = accepted.expect("accept").0;
    tokio::spawn(async move { adit_link::relay(near, stream, &Counters::default()).await });
    program.expect("connect")
}
