//! One connection to a gateway, from its name to a link that opens streams.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use adit_link::ssh::Rekey;
use adit_link::{HandshakeError, Limits, Link, LinkEnd};
use adit_rules::{Engine, Gateway, HostKeys, Identity, Method, Proxy};
use russh::client::{self, Handle, Msg};
use russh::{ChannelMsg, ChannelOpenFailure};
use tokio::time::timeout;

use super::agent;
use super::authentication::AuthenticationError;
use super::bare;
use super::dial::dial;
use super::far_end::FarEnd;
use super::host_key::{HostKeyCheck, HostKeyRejection, SessionError};
use super::known_hosts::{KnownHost, KnownHostsError};
use super::master;
use super::more_host_keys::MoreHostKeys;
use super::mux::Handing;
use super::openssh::{self, OpenSsh, OpenSshError};
use super::proxy::ProxyError;
use super::questions::Questions;
use super::session::{Session, pass_back, pass_jumps};
use super::ssh_config::{Completed, SshConfigError, Unsaid, completed};
use super::way::{EngineInUse, Way};
use crate::behind::Behind;
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
    /// Whether connections that were accepted early are handed over to `ssh`, where it forwards a port for each.
    pub hands_over: bool,
    /// What is left to the configuration of the system's `ssh`; `None`: nothing.
    pub unsaid: Option<Unsaid>,
    /// What its host keys are known by instead of its name (ssh_config(5), HostKeyAlias).
    pub host_key_alias: Option<String>,
    /// What it leads to.
    pub behind: Behind,
}

impl Target {
    /// The gateway as files of known hosts name it: an alias stands without a port (sshconnect.c, `check_host_key`).
    pub(super) fn as_known(&self) -> Gateway {
        match &self.host_key_alias {
            None => self.gateway.clone(),
            Some(alias) => Gateway {
                user: None,
                host: alias.clone(),
                port: 22,
                has_port: false,
            },
        }
    }
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
    /// Takes connections whole, if they may be given to what carries the link.
    pub handing: Option<Handing>,
    driver: adit_link::Driver,
    carried_by: CarriedBy,
}

/// What the link runs in. Dropping it ends it.
enum CarriedBy {
    Embedded(Box<Session>, Option<MoreHostKeys>),
    /// One connection a flow.
    Bare(FarEnd),
    OpenSsh {
        ssh: Box<OpenSsh>,
        /// The sessions with jump hosts, the first one's first.
        jumps: Vec<Handle<HostKeyCheck>>,
    },
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Carries the link until it ends.
    pub async fn run(self) -> LinkEnd {
        match self.carried_by {
            CarriedBy::Embedded(session, more) => {
                let noting = async {
                    if let Some(more) = more {
                        more.note(&session.ssh).await;
                    }
                    std::future::pending::<LinkEnd>().await
                };
                let end = tokio::select! {
                    end = self.driver.run() => end,
                    end = noting => end,
                };
                session.close().await;
                end
            }
            CarriedBy::Bare(_bare) => self.driver.run().await,
            CarriedBy::OpenSsh { ssh, jumps } => {
                let end = ssh.ended(self.driver.run().await).await;
                pass_back(&jumps).await;
                end
            }
        }
    }
}

/// Dials, passes jump hosts, checks host keys, authenticates and opens the link.
pub(super) async fn connect(
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
            let (announced, more) = MoreHostKeys::of(&target).unzip();
            let session = Session::open(&target, sockets, questions, announced).await?;
            let opened = timeout(HANDSHAKE_TIMEOUT, open_link(&session)).await;
            let opened = opened.map_err(|_| ConnectError::TimedOut {
                step: "opening the link",
                after: HANDSHAKE_TIMEOUT,
            })?;
            if let Err(ConnectError::NoSubsystem) = opened {
                if let Some(more) = more {
                    more.note_what_came(&session.ssh).await;
                }
                let without_ssh = if !matches!(target.engine, Engine::Auto) {
                    "the rules want no ssh".to_owned()
                } else if !master::asks_nothing(&target) {
                    "ssh could not ask for what may be asked here".to_owned()
                } else {
                    match over_a_master(&target, asked_for, by_command, sockets, questions).await {
                        Ok(connection) => {
                            session.close().await;
                            return Ok(connection);
                        }
                        Err(error) if error.is_untrusted() => return Err(error),
                        Err(error) => format!("ssh does not get there: {error}"),
                    }
                };
                let way = way.one_connection_a_flow(&without_ssh);
                let (link, driver, bare) = bare::open(&target, session, sockets, questions).await?;
                let carried_by = CarriedBy::Bare(bare);
                return Ok(Connection {
                    link,
                    way,
                    handing: None,
                    driver,
                    carried_by,
                });
            }
            let (link, driver) = opened?;
            let carried_by = CarriedBy::Embedded(Box::new(session), more);
            Ok(Connection {
                link,
                way,
                handing: None,
                driver,
                carried_by,
            })
        }
        EngineInUse::OpenSsh => {
            let (connection, jumps) =
                connection_for_ssh(&target, by_command, sockets, questions).await?;
            match openssh::open(&target, asked_for, connection).await {
                Ok((link, driver, ssh)) => {
                    let carried_by = CarriedBy::OpenSsh {
                        ssh: Box::new(ssh),
                        jumps,
                    };
                    Ok(Connection {
                        link,
                        way,
                        handing: None,
                        driver,
                        carried_by,
                    })
                }
                Err(ConnectError::NoSubsystem) => {
                    pass_back(&jumps).await;
                    over_a_master(&target, asked_for, by_command, sockets, questions).await
                }
                Err(error) => Err(error),
            }
        }
    }
}

/// A link over ports that the system's `ssh` forwards, all in one connection.
async fn over_a_master(
    target: &Target,
    asked_for: &Target,
    by_command: bool,
    sockets: &MarkedSockets,
    questions: &Questions,
) -> Result<Connection, ConnectError> {
    // The same key is ssh's, which tells nobody that it waits for its user.
    let touched = questions.unlocking.touched();
    let (connection, jumps) = connection_for_ssh(target, by_command, sockets, questions).await?;
    let touching = touched.map(|key| questions.unlocking.touching(key));
    let patience = match &touching {
        Some(_) => agent::PATIENCE,
        None => openssh::PATIENCE,
    };
    let opened = openssh::open_master(target, asked_for, connection, patience).await;
    drop(touching);
    let (link, driver, ssh, handing) = opened?;
    let carried_by = CarriedBy::OpenSsh {
        ssh: Box::new(ssh),
        jumps,
    };
    Ok(Connection {
        link,
        way: Way::over_a_master(target),
        handing,
        driver,
        carried_by,
    })
}

/// The connection that `ssh` is to run on; none where its own configuration has a command for that.
async fn connection_for_ssh(
    target: &Target,
    by_command: bool,
    sockets: &MarkedSockets,
    questions: &Questions,
) -> Result<(Option<OwnedFd>, Vec<Handle<HostKeyCheck>>), ConnectError> {
    if by_command {
        return Ok((None, Vec::new()));
    }
    let (carrier, jumps) = pass_jumps(target, sockets, questions).await?;
    let connection = match carrier {
        Some(carrier) => carrier.into_descriptor()?,
        None => {
            let tcp = dial(target, sockets).await?;
            // ssh leaves it as it is for what it does not take for a person's session.
            tcp.set_nodelay(true)?;
            tcp.into_std()?.into()
        }
    };
    Ok((Some(connection), jumps))
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

async fn open_link(session: &Session) -> Result<(Link, adit_link::Driver), ConnectError> {
    let mut channel = session_channel(session).await?;
    channel
        .request_subsystem(true, adit_link::ssh::SUBSYSTEM)
        .await?;
    accepted(&mut channel).await?;
    let (reader, writer) = adit_link::ssh::split(channel);
    let writer = writer.paced_by(session.backlog.clone());
    Ok(adit_link::initiate(reader, writer, Limits::default()).await?)
}

/// A server that has no sessions at all has no subsystem either.
async fn session_channel(session: &Session) -> Result<russh::Channel<Msg>, ConnectError> {
    match session.ssh.channel_open_session().await {
        Ok(channel) => Ok(channel),
        Err(russh::Error::ChannelOpenFailure(
            ChannelOpenFailure::AdministrativelyProhibited
            | ChannelOpenFailure::ConnectFailed
            | ChannelOpenFailure::UnknownChannelType,
        )) => Err(ConnectError::NoSubsystem),
        Err(error) => Err(error.into()),
    }
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
