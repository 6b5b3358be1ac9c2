//! Reads the gateway's file again, and closes what would not be allowed any more.
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};

use crate::audit;
use crate::config::{Config, LogOverrides, Serving, waiting_for_a_start};
use crate::control::protocol::Reloaded;
use crate::faults;
use crate::gateway::Gateway;
use crate::logging::Flush;
use crate::login::Logins;
use crate::rejudge::{self, Closed};

/// Who waits for a reload.
pub(crate) type Reply = oneshot::Sender<Result<Reloaded, String>>;

/// What a reload needs.
pub(crate) struct Reloading {
    pub(crate) file: PathBuf,
    pub(crate) overrides: LogOverrides,
    /// As the service was started.
    pub(crate) running: Config,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) logins: Logins,
}

impl Reloading {
    /// One after another, for whoever asks and for each hangup, as long as it is polled.
    pub(crate) async fn serve(
        &self,
        mut asked: mpsc::Receiver<Reply>,
        mut hangups: Signal,
        log: &Flush,
    ) -> Infallible {
        loop {
            tokio::select! {
                _ = hangups.recv() => {
                    // The log may have been moved away: that is what the signal is for as well.
                    log.reopen();
                    let _ = self.reload().await;
                }
                Some(reply) = asked.recv() => {
                    let _ = reply.send(self.reload().await);
                }
            }
        }
    }

    async fn reload(&self) -> Result<Reloaded, String> {
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
        let at_next_start = waiting_for_a_start(&self.running, &config);
        if !at_next_start.is_empty() {
            let keys = at_next_start.join(", ");
            tracing::warn!(keys, "what was changed here takes effect at the next start");
        }
        self.gateway.replace_policy(config.policy);
        self.gateway.replace_allowances(config.allowances);
        self.gateway.replace_banner(config.banner);
        self.gateway.replace_motd(config.motd);
        self.logins.replace_files(serving.login);
        let closed = rejudge::all(&self.gateway, &self.logins).await;
        let Closed { sessions, flows } = closed;
        audit::reloaded(sessions, flows);
        Ok(Reloaded {
            closed,
            at_next_start: at_next_start.into_iter().map(str::to_owned).collect(),
        })
    }
}

/// The file, which counts only when all the files that it names can be used: what cannot be read now
/// lets nobody in and would end every session.
fn read_again(file: &Path) -> Result<(Serving, Config), String> {
    let config = Config::load(file).map_err(|error| error.to_string())?;
    let serving = config.for_server().map_err(|error| error.to_string())?;
    let faults = faults::of(serving, config.audit.as_deref());
    match faults.is_empty() {
        true => Ok((serving.clone(), config)),
        false => Err(faults::in_words(&faults)),
    }
}
