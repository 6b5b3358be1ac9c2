//! The Secure Shell server as a service: starts, answers the control socket, reads its file again, ends.
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::audit;
use crate::config::{Config, Limits, LogOverrides, Serving};
use crate::control::protocol::{Answer, Request, SessionView};
use crate::control::server::{ControlError, ControlSocket};
use crate::faults;
use crate::gateway::Gateway;
use crate::host_key::{self, HostKeyError};
use crate::listener::{Drained, ListenError, Server, listen};
use crate::logging::Flush;
use crate::login::Logins;
use crate::metrics;
use crate::rejudge::{self, Closed};
use crate::service;

/// Time for all connections to end after the word to stop; each has its own limits within it.
const STOPPING: Duration = Duration::from_secs(6);
/// Orders that wait: there are no more connections to the control socket.
const ORDERS: usize = 16;

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The file names one that cannot be used.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Signals, or the address of a listener.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// What the control socket asks of the service as a whole.
enum Order {
    Reload(oneshot::Sender<Result<Closed, String>>),
    Drain(Duration),
}

/// What a reload needs.
struct Reloading {
    file: PathBuf,
    overrides: LogOverrides,
    serving: Serving,
    limits: Limits,
    gateway: Arc<Gateway>,
    logins: Logins,
}

/// Runs until a signal or a drain ends it.
///
/// # Errors
/// It could not start.
pub async fn run(
    file: &Path,
    overrides: LogOverrides,
    config: Config,
    serving: Serving,
    log: &Flush,
) -> Result<(), DaemonError> {
    let gateway = Gateway::new(config.policy, config.limits);
    gateway.replace_allowances(config.allowances);
    gateway.replace_banner(config.banner);
    gateway.replace_motd(config.motd);
    let (logins, drained) = start(&gateway, &serving)?;
    let (orders, ordered) = mpsc::channel(ORDERS);
    let control = serving.control.clone().or_else(service::control_socket);
    let socket = control.map(|path| ControlSocket::bind(&path)).transpose()?;
    let answering = socket.map(|socket| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            let answer = move |request| answer(request, Arc::clone(&gateway), orders.clone());
            socket.serve(answer).await;
        })
    });
    if let Some(address) = serving.metrics {
        let listener = listen(address)?;
        tracing::info!(at = %listener.local_addr()?, "metrics");
        tokio::spawn(metrics::serve(listener, Arc::clone(&gateway)));
    }
    let reloading = Reloading {
        file: file.to_owned(),
        overrides,
        serving,
        limits: config.limits,
        gateway: Arc::clone(&gateway),
        logins,
    };
    service::notify("READY=1");
    let drained = obey(&reloading, ordered, drained, log).await?;
    service::notify("STOPPING=1");
    gateway.stop();
    if let Some(drained) = drained
        && timeout(STOPPING, drained.wait()).await.is_err()
    {
        tracing::warn!("connections that did not end in time are cut off");
    }
    if let Some(answering) = answering {
        answering.abort();
        // Its end removes the socket.
        let _ = answering.await;
    }
    Ok(())
}

fn start(gateway: &Arc<Gateway>, serving: &Serving) -> Result<(Logins, Drained), DaemonError> {
    let host_keys = serving
        .host_keys
        .iter()
        .map(|path| host_key::load(path))
        .collect::<Result<Vec<_>, _>>()?;
    for key in &host_keys {
        let public = key.public_key();
        let fingerprint = public.fingerprint(Default::default()).to_string();
        tracing::info!(kind = public.algorithm().as_str(), fingerprint, "host key");
    }
    for fault in faults::of_login(&serving.login) {
        tracing::error!(%fault, "a file that the gateway's file names");
    }
    let (server, drained) = Server::new(
        Arc::clone(gateway),
        serving.login.clone(),
        host_keys,
        serving.penalty_exempt.clone(),
    );
    for address in &serving.listen {
        let listener = listen(*address)?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        tokio::spawn(server.clone().accept_all(listener));
    }
    Ok((server.logins().clone(), drained))
}

async fn answer(request: Request, gateway: Arc<Gateway>, orders: mpsc::Sender<Order>) -> Answer {
    let ending = || Answer::Error("the gateway is ending".to_owned());
    match request {
        Request::Sessions {} => {
            let sessions = gateway.sessions().all();
            let views = sessions.iter().map(|session| SessionView::of(session));
            Answer::Sessions(views.collect())
        }
        Request::Kill { id } => match gateway.sessions().get(id) {
            Some(session) => {
                audit::killed(&session.who);
                session.ending.end("ended by the administrator");
                Answer::Done
            }
            None => Answer::Error(format!("there is no session {id}")),
        },
        Request::Drain { deadline } => {
            let deadline = Duration::from_secs(deadline);
            match orders.send(Order::Drain(deadline)).await {
                Ok(()) => Answer::Done,
                Err(_) => ending(),
            }
        }
        Request::Reload {} => {
            let (reply, replied) = oneshot::channel();
            if orders.send(Order::Reload(reply)).await.is_err() {
                return ending();
            }
            match replied.await {
                Ok(Ok(closed)) => Answer::Reloaded(closed),
                Ok(Err(why)) => Answer::Error(why),
                Err(_) => ending(),
            }
        }
    }
}

/// Returns when the service has to end; with nothing to wait for when everything is over already.
async fn obey(
    reloading: &Reloading,
    mut orders: mpsc::Receiver<Order>,
    drained: Drained,
    log: &Flush,
) -> io::Result<Option<Drained>> {
    let mut stop = Stop::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            () = stop.wanted() => break,
            _ = hangup.recv() => {
                // The log may have been moved away: that is what the signal is for as well.
                log.reopen();
                let _ = reloading.reload().await;
            }
            Some(order) = orders.recv() => match order {
                Order::Reload(reply) => {
                    let _ = reply.send(reloading.reload().await);
                }
                Order::Drain(deadline) => {
                    return Ok(drain(&reloading.gateway, drained, deadline, &mut stop).await);
                }
            },
        }
    }
    tracing::info!("stopping");
    Ok(Some(drained))
}

async fn drain(
    gateway: &Gateway,
    drained: Drained,
    deadline: Duration,
    stop: &mut Stop,
) -> Option<Drained> {
    audit::draining(deadline.as_secs());
    gateway.drain(deadline);
    let deadline = async {
        tokio::select! {
            () = sleep(deadline) => {}
            () = stop.wanted() => {}
        }
    };
    let left = drained.over_or(deadline).await;
    match left {
        None => tracing::info!("drained"),
        Some(_) => tracing::info!("stopping before all was over"),
    }
    left
}

/// The signals that end it.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Reloading {
    /// Reads the file again, and closes what would not be allowed any more.
    async fn reload(&self) -> Result<Closed, String> {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || read_again(&file)).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        let (serving, mut config) = match read {
            Ok(usable) => usable,
            Err(error) => {
                tracing::error!(%error, "the file is not used, the old policy stays");
                return Err(error);
            }
        };
        self.overrides.apply(&mut config.log);
        let same = Serving {
            login: self.serving.login.clone(),
            ..serving.clone()
        };
        if same != self.serving || config.limits != self.limits {
            tracing::warn!(
                "changes of addresses, host keys and limits take effect at the next start"
            );
        }
        self.gateway.replace_policy(config.policy);
        self.gateway.replace_allowances(config.allowances);
        self.gateway.replace_banner(config.banner);
        self.gateway.replace_motd(config.motd);
        self.logins.replace_files(serving.login);
        let closed = rejudge::all(&self.gateway, &self.logins).await;
        let Closed { sessions, flows } = closed;
        audit::reloaded(sessions, flows);
        Ok(closed)
    }
}

/// The file, which counts only when all the files that it names can be used: what cannot be read now
/// lets nobody in and would end every session.
fn read_again(file: &Path) -> Result<(Serving, Config), String> {
    let config = Config::load(file).map_err(|error| error.to_string())?;
    let serving = config.for_server().map_err(|error| error.to_string())?;
    let faults = faults::of(serving);
    match faults.is_empty() {
        true => Ok((serving.clone(), config)),
        false => Err(faults::in_words(&faults)),
    }
}
