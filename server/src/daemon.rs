//! The Secure Shell server as a service: starts, answers the control socket, reads its file again, ends.
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::audit;
use crate::config::{Config, LogOverrides, Serving};
use crate::control::protocol::{Answer, Request, SessionView};
use crate::control::server::{ControlError, ControlSocket};
use crate::faults;
use crate::gateway::Gateway;
use crate::host_key::{self, HostKeyError};
use crate::listener::{Drained, ListenError, Server, listen};
use crate::logging::Flush;
use crate::login::Logins;
use crate::metrics;
use crate::reload::{Reloading, Reply};
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

/// The way of what the control socket asks of the service as a whole.
#[derive(Clone)]
struct Orders {
    reloads: mpsc::Sender<Reply>,
    /// Time until the end.
    drains: mpsc::Sender<Duration>,
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
    let gateway = Gateway::new(config.policy.clone(), config.limits);
    gateway.replace_allowances(config.allowances.clone());
    gateway.replace_banner(config.banner.clone());
    gateway.replace_motd(config.motd.clone());
    let (logins, drained) = start(&gateway, &serving)?;
    let (reloads, reloads_ordered) = mpsc::channel(ORDERS);
    let (drains, drains_ordered) = mpsc::channel(ORDERS);
    let orders = Orders { reloads, drains };
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
        running: config,
        gateway: Arc::clone(&gateway),
        logins,
    };
    let hangups = signal(SignalKind::hangup())?;
    service::notify("READY=1");
    let drained = tokio::select! {
        left = until_the_end(&gateway, drains_ordered, drained) => left?,
        never = reloading.serve(reloads_ordered, hangups, log) => match never {},
    };
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

async fn answer(request: Request, gateway: Arc<Gateway>, orders: Orders) -> Answer {
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
            match orders.drains.send(deadline).await {
                Ok(()) => Answer::Done,
                Err(_) => ending(),
            }
        }
        Request::Reload {} => {
            let (reply, replied) = oneshot::channel();
            if orders.reloads.send(reply).await.is_err() {
                return ending();
            }
            match replied.await {
                Ok(Ok(reloaded)) => Answer::Reloaded(reloaded),
                Ok(Err(why)) => Answer::Error(why),
                Err(_) => ending(),
            }
        }
    }
}

/// Returns when the service has to end; with nothing to wait for when everything is over already.
/// Nothing else is held up meanwhile: a reload counts, and the log is opened anew, also in a drain.
async fn until_the_end(
    gateway: &Gateway,
    mut drains: mpsc::Receiver<Duration>,
    drained: Drained,
) -> io::Result<Option<Drained>> {
    let mut stop = Stop::new()?;
    tokio::select! {
        () = stop.wanted() => {
            tracing::info!("stopping");
            Ok(Some(drained))
        }
        Some(deadline) = drains.recv() => {
            // Whoever asks for another is told that it ends.
            drop(drains);
            Ok(drain(gateway, drained, deadline, &mut stop).await)
        }
    }
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
