//! A broker and a gateway, each a thread with a runtime of its own, joined by a real SSH session
//! over loopback. What connects to an entrance comes out at its destination.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails where its rig does")]

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use adit_link::ssh::{self, Backlog, BufferedSocket, Rekey};
use adit_link::{
    Counters, Host, Incoming, Limits, Link, OpenHeader, Refusal, RefusalReason, RelayEnd, Request,
    relay,
};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, client, server};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};

/// How the rig is set up.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) rekey: Rekey,
    /// By what the timers of both sessions are divided, unless 0.
    pub(crate) hurry: u32,
}

impl Settings {
    fn hurried(&self, timer: Option<Duration>) -> Option<Duration> {
        timer.map(|timer| timer / self.hurry.max(1))
    }
}

/// The joined pair. Dropped, both threads end.
pub(crate) struct Rig {
    broker: Handle,
    pub(crate) link: Link,
    /// SSH key exchanges so far.
    pub(crate) exchanges: Arc<AtomicUsize>,
    /// Where the gateway listens.
    pub(crate) gateway: SocketAddr,
    /// One for each SSH session that has ended at the gateway.
    pub(crate) sessions: mpsc::UnboundedReceiver<()>,
    /// How each relay of the broker's side ended.
    pub(crate) ends: mpsc::UnboundedReceiver<RelayEnd>,
    ends_sender: mpsc::UnboundedSender<RelayEnd>,
    threads: Vec<Running>,
}

impl Rig {
    pub(crate) fn start() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let (gateway, gateway_thread) = thread("gateway");
        let config = gateway_config(&settings);
        let limits = settings.limits.clone();
        let (session_ended, sessions) = mpsc::unbounded_channel();
        let address = block_on(&gateway, async move {
            let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, Arc::new(config), limits, session_ended));
            address
        });
        let (broker, broker_thread) = thread("broker");
        let exchanges = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&exchanges);
        let link = block_on(&broker, async move {
            let (link, session) = connect(address, &settings, counted).await;
            // Keeps the session as long as the runtime.
            tokio::spawn(async move { drop(session.await) });
            link
        });
        let (ends_sender, ends) = mpsc::unbounded_channel();
        let threads = vec![broker_thread, gateway_thread];
        Self {
            broker,
            link,
            exchanges,
            gateway: address,
            sessions,
            ends,
            ends_sender,
            threads,
        }
    }

    /// An address that leads to `destination`.
    pub(crate) fn entrance(&self, destination: SocketAddr) -> SocketAddr {
        let host = Host::Address(destination.ip());
        let (link, ends) = (self.link.clone(), self.ends_sender.clone());
        block_on(&self.broker, async move {
            let listener = TcpListener::bind(SocketAddr::new(destination.ip(), 0))
                .await
                .unwrap();
            let address = listener.local_addr().unwrap();
            let header = OpenHeader {
                host,
                port: destination.port(),
                application: None,
            };
            tokio::spawn(enter(listener, link, header, ends));
            address
        })
    }

    /// Runs something on the broker's thread.
    pub(crate) fn on_broker<F>(&self, work: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        block_on(&self.broker, work)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for (stop, thread) in &mut self.threads {
            drop(stop.take());
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

async fn enter(
    listener: TcpListener,
    link: Link,
    header: OpenHeader,
    ends: mpsc::UnboundedSender<RelayEnd>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        let Ok(stream) = link.open(&header) else {
            return adit_link::reset(tcp);
        };
        let ends = ends.clone();
        tokio::spawn(async move {
            let _ = ends.send(relay(tcp, stream, &Counters::default()).await);
        });
    }
}

/// What stops a thread, and the thread.
type Running = (Option<oneshot::Sender<()>>, Option<JoinHandle<()>>);

/// A thread with a runtime, until the sender is dropped.
fn thread(name: &str) -> (Handle, Running) {
    let runtime: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = move || drop(runtime.block_on(stopped));
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .unwrap();
    (handle, (Some(stop), Some(thread)))
}

fn block_on<F>(on: &Handle, work: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (done, result) = std::sync::mpsc::channel();
    on.spawn(async move { done.send(work.await) });
    result.recv().unwrap()
}

/// Counts the key exchanges.
struct Client(Arc<AtomicUsize>);

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }

    async fn kex_done(
        &mut self,
        _: Option<&[u8]>,
        _: &russh::Names,
        _: &mut client::Session,
    ) -> Result<(), Self::Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

async fn connect(
    address: SocketAddr,
    settings: &Settings,
    exchanges: Arc<AtomicUsize>,
) -> (Link, client::Handle<Client>) {
    let mut config = client::Config::default();
    ssh::tune_client(&mut config, settings.rekey);
    config.inactivity_timeout = settings.hurried(config.inactivity_timeout);
    config.keepalive_interval = settings.hurried(config.keepalive_interval);
    let socket = BufferedSocket::new(TcpStream::connect(address).await.unwrap());
    let backlog = socket.backlog();
    let mut session = client::connect_stream(Arc::new(config), socket, Client(exchanges))
        .await
        .unwrap();
    assert!(session.authenticate_none("user").await.unwrap().success());
    let channel = session.channel_open_session().await.unwrap();
    channel
        .request_subsystem(false, ssh::SUBSYSTEM)
        .await
        .unwrap();
    let (read, write) = ssh::split(channel);
    let (link, driver) =
        adit_link::initiate(read, write.paced_by(backlog), settings.limits.clone())
            .await
            .unwrap();
    tokio::spawn(driver.run());
    (link, session)
}

fn gateway_config(settings: &Settings) -> server::Config {
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]));
    let mut config = server::Config {
        keys: vec![key],
        ..server::Config::default()
    };
    config.methods = (&[russh::MethodKind::None][..]).into();
    ssh::tune_server(&mut config, settings.rekey);
    config.inactivity_timeout = settings.hurried(config.inactivity_timeout);
    config.keepalive_interval = settings.hurried(config.keepalive_interval);
    config
}

async fn serve(
    listener: TcpListener,
    config: Arc<server::Config>,
    limits: Limits,
    session_ended: mpsc::UnboundedSender<()>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        let socket = BufferedSocket::new(tcp);
        let backlog = socket.backlog();
        let handler = Gateway {
            channel: None,
            backlog,
            limits: limits.clone(),
        };
        let config = Arc::clone(&config);
        let session_ended = session_ended.clone();
        tokio::spawn(async move {
            if let Ok(session) = server::run_stream(config, socket, handler).await {
                let _ = session.await;
            }
            let _ = session_ended.send(());
        });
    }
}

struct Gateway {
    channel: Option<Channel<server::Msg>>,
    backlog: Backlog,
    limits: Limits,
}

impl server::Handler for Gateway {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<server::Auth, Self::Error> {
        Ok(server::Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<server::Msg>,
        reply: server::ChannelOpenHandle,
        _: &mut server::Session,
    ) -> Result<(), Self::Error> {
        self.channel = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        _: ChannelId,
        name: &str,
        _: &mut server::Session,
    ) -> Result<(), Self::Error> {
        assert_eq!(name, ssh::SUBSYSTEM);
        let (read, write) = ssh::split(self.channel.take().unwrap());
        let write = write.paced_by(self.backlog.clone());
        let limits = self.limits.clone();
        tokio::spawn(async move {
            let (incoming, driver) = adit_link::accept(read, write, limits).await.unwrap();
            tokio::spawn(driver.run());
            answer_all(incoming).await;
        });
        Ok(())
    }
}

pub(crate) async fn answer_all(mut incoming: Incoming) {
    while let Some(request) = incoming.next().await {
        tokio::spawn(answer(request));
    }
}

async fn answer(request: Request) {
    let OpenHeader { host, port, .. } = request.header().clone();
    let Host::Address(address) = host else {
        let detail = String::from("no names here");
        return request.refuse(Refusal {
            reason: RefusalReason::Unresolvable,
            detail,
        });
    };
    match TcpStream::connect((address, port)).await {
        Ok(tcp) => drop(relay(tcp, request.accept(), &Counters::default()).await),
        Err(error) => {
            let reason = RefusalReason::Refused;
            request.refuse(Refusal {
                reason,
                detail: error.to_string(),
            });
        }
    }
}
