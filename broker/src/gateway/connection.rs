//! One connection to a gateway, from its name to a link that opens streams.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_link::ssh::{Backlog, Rekey};
use adit_link::{HandshakeError, Limits, Link, LinkEnd};
use adit_rules::{Engine, Gateway, HostKeys, Identity, Method, Proxy};
use russh::ChannelMsg;
use russh::client::{self, Handle, Msg};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::authentication::{AuthenticationError, authenticate};
use super::carrier::Carrier;
use super::dial::dial;
use super::host_key::{HostKeyCheck, HostKeyRejection, SessionError};
use super::known_hosts::{KnownHost, KnownHostsError};
use super::more_host_keys::{Announced, MoreHostKeys};
use super::openssh::{self, OpenSsh, OpenSshError};
use super::proxy::ProxyError;
use super::questions::Questions;
use super::ssh_config::{Completed, SshConfigError, Unsaid, completed};
use super::way::{EngineInUse, Way};
use crate::capture_session::{MarkedSockets, NoSocket};

/// For each of the steps on a connection that stands.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// A gateway and how to get into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub gateway: Gateway,
    /// Jump hosts in the order in which they are passed; each is one without any of its own.
    pub via: Vec<Target>,
    /// What connects to the first host for us.
    pub proxy: Option<Proxy>,
    /// The name to log in with, when the gateway's line has none.
    pub login: String,
    /// What to authenticate with; `None`: the agent, then the usual files.
    pub identity: Option<Identity>,
    /// The certificate for the key, absolute; `None`: the one beside it.
    pub certificate: Option<PathBuf>,
    /// How to log in, in this order.
    pub methods: Vec<Method>,
    /// Files of known hosts, absolute.
    pub known_hosts: Vec<PathBuf>,
    /// What becomes of a host key that no file knows.
    pub host_keys: HostKeys,
    /// The user's home.
    pub home: PathBuf,
    /// What speaks SSH to it; for a jump host always ours.
    pub engine: Engine,
    /// What is left to the configuration of the system's `ssh`; `None`: nothing.
    pub unsaid: Option<Unsaid>,
}

/// Why there is no link to a gateway. What happened is in the variant; the source says more.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The gateway's name has no address.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        reason: String,
    },
    /// The capture helper gave no socket to dial with.
    #[error(transparent)]
    Socket(#[from] NoSocket),
    /// TCP did not get through.
    #[error("cannot reach {address}: {source}")]
    Dial {
        /// The last address tried.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// Something went wrong at a jump host or a proxy.
    #[error("{place}: {error}")]
    OnTheWay {
        /// Which.
        place: String,
        /// What.
        error: Box<ConnectError>,
    },
    /// The proxy does not connect us.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A jump host does not connect us.
    #[error("it gives no connection to {to}: {}", if *denied {
        "it does not allow that (AllowTcpForwarding and PermitOpen in its sshd_config, or the key's options)"
    } else {
        "it could not connect, or does not know the name"
    })]
    Onwards {
        /// Where to.
        to: String,
        /// By what it is told to, and not because it failed.
        denied: bool,
    },
    /// The configuration of the system's `ssh` can't be followed.
    #[error(transparent)]
    SshConfig(#[from] SshConfigError),
    /// It can, but not by our own engine.
    #[error(
        "the configuration of ssh reaches it by a ProxyCommand, which the embedded engine does not run: write `engine: openssh`, or `via` or `proxy`"
    )]
    ByCommand,
    /// No descriptor for it.
    #[error("cannot prepare a connection for ssh: {0}")]
    Descriptor(#[from] std::io::Error),
    /// The system's `ssh` made no connection.
    #[error(transparent)]
    OpenSsh(#[from] OpenSshError),
    /// A step took too long.
    #[error("no answer in {} s while {step}", after.as_secs())]
    TimedOut {
        /// What was being done.
        step: &'static str,
        /// The bound.
        after: Duration,
    },
    /// The known hosts could not be read.
    #[error(transparent)]
    KnownHosts(#[from] KnownHostsError),
    /// The host key is not to be trusted.
    #[error(transparent)]
    HostKey(#[from] HostKeyRejection),
    /// The SSH handshake failed.
    #[error("SSH with the gateway failed: {0}")]
    Ssh(#[from] russh::Error),
    /// Not let in.
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
    /// The server does not know our subsystem.
    #[error(
        "the gateway has no `adit-link` subsystem: neither adit-server nor `adit-server --stdio` runs there"
    )]
    NoSubsystem,
    /// The link's own greeting failed.
    #[error("the link could not be opened: {0}")]
    Link(#[from] HandshakeError),
}

impl ConnectError {
    /// Whether the user has to say something first: until then it is not even tried.
    pub fn is_locked(&self) -> bool {
        match self {
            Self::OnTheWay { error, .. } => error.is_locked(),
            Self::Authentication(error) => matches!(error, AuthenticationError::Locked { .. }),
            Self::Resolve { .. }
            | Self::Socket(_)
            | Self::Dial { .. }
            | Self::Proxy(_)
            | Self::Onwards { .. }
            | Self::TimedOut { .. }
            | Self::KnownHosts(_)
            | Self::HostKey(_)
            | Self::Ssh(_)
            | Self::NoSubsystem
            | Self::SshConfig(_)
            | Self::ByCommand
            | Self::Descriptor(_)
            | Self::OpenSsh(_)
            | Self::Link(_) => false,
        }
    }

    /// Whether trying again can't help before someone changes something.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::KnownHosts(_)
            | Self::HostKey(_)
            | Self::NoSubsystem
            | Self::SshConfig(_)
            | Self::ByCommand => true,
            Self::OpenSsh(error) => !matches!(error, OpenSshError::Ended(_)),
            Self::Authentication(error) => error.is_lasting(),
            Self::OnTheWay { error, .. } => error.is_lasting(),
            Self::Proxy(error) => error.is_lasting(),
            Self::Onwards { denied, .. } => *denied,
            Self::Resolve { .. }
            | Self::Socket(_)
            | Self::Dial { .. }
            | Self::Descriptor(_)
            | Self::TimedOut { .. }
            | Self::Ssh(_)
            | Self::Link(_) => false,
        }
    }

    /// Whether it is for a host key that is not to be trusted, of the gateway or on the way to it.
    pub fn is_untrusted(&self) -> bool {
        match self {
            Self::HostKey(_) | Self::OpenSsh(OpenSshError::Untrusted(_)) => true,
            Self::OnTheWay { error, .. } => error.is_untrusted(),
            Self::Resolve { .. }
            | Self::Socket(_)
            | Self::Dial { .. }
            | Self::Proxy(_)
            | Self::Onwards { .. }
            | Self::TimedOut { .. }
            | Self::KnownHosts(_)
            | Self::Ssh(_)
            | Self::Authentication(_)
            | Self::NoSubsystem
            | Self::SshConfig(_)
            | Self::ByCommand
            | Self::Descriptor(_)
            | Self::OpenSsh(_)
            | Self::Link(_) => false,
        }
    }
}

impl From<SessionError> for ConnectError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Ssh(error) => Self::Ssh(error),
            SessionError::HostKey(rejection) => Self::HostKey(rejection),
        }
    }
}

/// An authenticated SSH connection with a link in it.
pub struct Connection {
    /// Opens streams.
    pub link: Link,
    /// How it came about.
    pub way: Way,
    driver: adit_link::Driver,
    carried_by: CarriedBy,
    // Dropping a handle would end its session.
    /// The sessions with jump hosts, the first one's first.
    jumps: Vec<Handle<HostKeyCheck>>,
}

/// What the link runs in.
enum CarriedBy {
    Embedded(Handle<HostKeyCheck>, Option<MoreHostKeys>),
    OpenSsh(Box<OpenSsh>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Carries the link until it ends.
    pub async fn run(self) -> LinkEnd {
        let end = match self.carried_by {
            CarriedBy::Embedded(ssh, more) => {
                let noting = async {
                    if let Some(more) = more {
                        more.note(&ssh).await;
                    }
                    std::future::pending::<LinkEnd>().await
                };
                let end = tokio::select! {
                    end = self.driver.run() => end,
                    end = noting => end,
                };
                say_goodbye(&ssh).await;
                end
            }
            CarriedBy::OpenSsh(ssh) => ssh.ended(self.driver.run().await).await,
        };
        for ssh in self.jumps.iter().rev() {
            say_goodbye(ssh).await;
        }
        end
    }
}

async fn say_goodbye(ssh: &Handle<HostKeyCheck>) {
    let goodbye = ssh.disconnect(russh::Disconnect::ByApplication, "the link has ended", "en");
    // The peer may be gone already; a goodbye that can't be said changes nothing.
    let _ = timeout(Duration::from_secs(1), goodbye).await;
}

/// Dials, passes jump hosts, checks host keys, authenticates and opens the link.
pub async fn connect(
    asked_for: &Target,
    sockets: &MarkedSockets,
    questions: &Questions,
) -> Result<Connection, ConnectError> {
    let Completed { target, by_command } = completed(asked_for).await?;
    let (engine, because) = EngineInUse::of(target.engine, by_command);
    let way = Way::of(&target, engine, because);
    match engine {
        EngineInUse::Embedded if by_command => Err(ConnectError::ByCommand),
        EngineInUse::Embedded => {
            let (carrier, jumps) = pass_jumps(&target, sockets, questions).await?;
            let (announced, more) = MoreHostKeys::of(&target).unzip();
            let (ssh, backlog) = enter(&target, sockets, questions, carrier, announced).await?;
            let opened = timeout(HANDSHAKE_TIMEOUT, open_link(&ssh, backlog)).await;
            let (link, driver) = opened.map_err(|_| ConnectError::TimedOut {
                step: "opening the link",
                after: HANDSHAKE_TIMEOUT,
            })??;
            Ok(Connection {
                link,
                way,
                driver,
                carried_by: CarriedBy::Embedded(ssh, more),
                jumps,
            })
        }
        EngineInUse::OpenSsh => {
            let (connection, jumps) = match by_command {
                true => (None, Vec::new()),
                false => connection_for_ssh(&target, sockets, questions).await?,
            };
            let (link, driver, ssh) = openssh::open(&target, asked_for, connection).await?;
            Ok(Connection {
                link,
                way,
                driver,
                carried_by: CarriedBy::OpenSsh(Box::new(ssh)),
                jumps,
            })
        }
    }
}

/// The connection that `ssh` is to run on.
async fn connection_for_ssh(
    target: &Target,
    sockets: &MarkedSockets,
    questions: &Questions,
) -> Result<(Option<OwnedFd>, Vec<Handle<HostKeyCheck>>), ConnectError> {
    let (carrier, jumps) = pass_jumps(target, sockets, questions).await?;
    let connection = match carrier {
        Some(carrier) => carrier.into_descriptor()?,
        None => dial(target, sockets).await?.into_std()?.into(),
    };
    Ok((Some(connection), jumps))
}

/// Sessions with the jump hosts, and what leads on from the last one.
async fn pass_jumps(
    target: &Target,
    sockets: &MarkedSockets,
    questions: &Questions,
) -> Result<(Option<Carrier>, Vec<Handle<HostKeyCheck>>), ConnectError> {
    let mut jumps = Vec::new();
    let mut carrier = None;
    for (index, jump) in target.via.iter().enumerate() {
        let at_jump = |error| ConnectError::OnTheWay {
            place: format!("jump host {}", jump.gateway),
            error: Box::new(error),
        };
        let next = target.via.get(index + 1).unwrap_or(target);
        let passed = async {
            let (ssh, backlog) = enter(jump, sockets, questions, carrier.take(), None).await?;
            let onwards = Carrier::onwards(&ssh, backlog, next).await?;
            Ok((ssh, onwards))
        };
        let (ssh, onwards) = passed.await.map_err(at_jump)?;
        jumps.push(ssh);
        carrier = Some(onwards);
    }
    Ok((carrier, jumps))
}

/// A session with `target` on a carrier that leads there, or else dialled.
async fn enter(
    target: &Target,
    sockets: &MarkedSockets,
    questions: &Questions,
    carrier: Option<Carrier>,
    announced: Option<Announced>,
) -> Result<(Handle<HostKeyCheck>, Backlog), ConnectError> {
    let carrier = match carrier {
        Some(carrier) => carrier,
        None => Carrier::of(dial(target, sockets).await?),
    };
    let backlog = carrier.backlog();
    let mut ssh = match carrier {
        Carrier::Tcp(socket) => handshake(target, socket, questions, announced).await?,
        Carrier::Channel(socket) => handshake(target, socket, questions, announced).await?,
    };
    authenticate(&mut ssh, target, questions).await?;
    Ok((ssh, backlog))
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    target: &Target,
    socket: S,
    questions: &Questions,
    announced: Option<Announced>,
) -> Result<Handle<HostKeyCheck>, ConnectError> {
    let gateway = &target.gateway;
    let known = KnownHost::read(&target.known_hosts, &gateway.host, gateway.port)?;
    let config = Arc::new(client_config(&known));
    let check = HostKeyCheck {
        gateway: gateway.clone(),
        files: target.known_hosts.clone(),
        known,
        unknown_is: target.host_keys,
        questions: questions.clone(),
        announced,
    };
    let connecting = client::connect_stream(config, socket, check);
    let connected = timeout(HANDSHAKE_TIMEOUT, connecting).await;
    let timed_out = ConnectError::TimedOut {
        step: "exchanging keys",
        after: HANDSHAKE_TIMEOUT,
    };
    Ok(connected.map_err(|_| timed_out)??)
}

pub(super) fn client_config(known: &KnownHost) -> client::Config {
    let mut config = client::Config::default();
    adit_link::ssh::tune_client(&mut config, Rekey::default());
    let offered = config.preferred.key.to_vec();
    let (mut first, rest): (Vec<_>, Vec<_>) = offered
        .into_iter()
        .partition(|algorithm| known.algorithms().contains(algorithm));
    first.extend(rest);
    config.preferred.key = first.into();
    // Where an authority is known its certificates go first, as ssh would have it.
    if known.has_authorities() {
        config.preferred.host_key_certificates = config.preferred.key.clone();
    }
    config
}

async fn open_link(
    ssh: &Handle<HostKeyCheck>,
    backlog: Backlog,
) -> Result<(Link, adit_link::Driver), ConnectError> {
    let mut channel = ssh.channel_open_session().await?;
    channel
        .request_subsystem(true, adit_link::ssh::SUBSYSTEM)
        .await?;
    accepted(&mut channel).await?;
    let (reader, writer) = adit_link::ssh::split(channel);
    let writer = writer.paced_by(backlog);
    Ok(adit_link::initiate(reader, writer, Limits::default()).await?)
}

/// Waits for the answer to the subsystem request. The gateway's side of the link speaks after it.
async fn accepted(channel: &mut russh::Channel<Msg>) -> Result<(), ConnectError> {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(()),
            Some(ChannelMsg::WindowAdjusted { .. }) => {}
            Some(_) => return Err(ConnectError::NoSubsystem),
            None => return Err(russh::Error::Disconnect.into()),
        }
    }
}
