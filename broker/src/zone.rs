//! A zone's link, kept up: the next gateway when one is down, again and again, with patience that grows.

use std::sync::Arc;
use std::time::Duration;

use adit_link::Link;
use adit_rules::Gateway;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::capture_session::MarkedSockets;
use crate::gateway::{ConnectError, Connection, Target, connect};

const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A flow that finds the zone down makes it try at once, but not more often than this.
const NUDGE_SPACING: Duration = Duration::from_millis(500);
/// How long a flow waits for an attempt that is under way.
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(20);
/// How long a flow of a zone with `on_down: hold` waits for a gateway.
const HOLD_PATIENCE: Duration = Duration::from_secs(60);

/// Where a zone's link stands.
#[derive(Clone)]
pub enum ZoneState {
    /// An attempt is under way.
    Connecting {
        /// What was wrong with the last one.
        last: Option<String>,
    },
    /// Streams can be opened.
    Up {
        /// Opens them.
        link: Link,
        /// Through which gateway.
        gateway: Gateway,
    },
    /// No gateway answered.
    Down {
        /// Why, each gateway.
        reason: String,
        /// Trying again can't help before someone changes something.
        lasting: bool,
        /// The next attempt.
        retry_at: Instant,
    },
}

impl std::fmt::Debug for ZoneState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connecting { last } => write!(f, "Connecting({last:?})"),
            Self::Up { gateway, .. } => write!(f, "Up({gateway})"),
            Self::Down { reason, .. } => write!(f, "Down({reason})"),
        }
    }
}

/// No gateway of the zone answers.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no gateway of zone {zone} answers: {reason}")]
pub struct ZoneDown {
    /// The zone.
    pub zone: String,
    /// Why, each gateway.
    pub reason: String,
}

/// A zone and the task that keeps its link.
#[derive(Debug)]
pub struct Zone {
    /// Its name in the rules.
    pub name: String,
    state: watch::Receiver<ZoneState>,
    nudge: Arc<Notify>,
    ending: watch::Sender<bool>,
}

impl Zone {
    /// Starts connecting. `targets` are the gateways in the order to try them.
    pub fn start(name: String, targets: Vec<Target>, sockets: MarkedSockets) -> Self {
        let (sender, state) = watch::channel(ZoneState::Connecting { last: None });
        let nudge = Arc::new(Notify::new());
        let (ending, ends) = watch::channel(false);
        let keeper = Keeper {
            zone: name.clone(),
            targets,
            sockets,
            state: sender,
            nudge: nudge.clone(),
            ends,
        };
        tokio::spawn(keeper.keep());
        Self {
            name,
            state,
            nudge,
            ending,
        }
    }

    /// Says goodbye to the gateway once the zone's flows are gone. Resolves when that is done.
    pub async fn close(&self) {
        self.ending.send_replace(true);
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }

    /// Where the link stands.
    pub fn state(&self) -> watch::Receiver<ZoneState> {
        self.state.clone()
    }

    /// The link; waits for an attempt that is under way, and fails at once when the last one failed.
    pub async fn link(&self) -> Result<Link, ZoneDown> {
        self.settled(
            |state| !matches!(state, ZoneState::Connecting { .. }),
            ATTEMPT_PATIENCE,
        )
        .await
    }

    /// The link; waits for a gateway to come back (`on_down: hold`).
    pub async fn link_held(&self) -> Result<Link, ZoneDown> {
        self.settled(|state| matches!(state, ZoneState::Up { .. }), HOLD_PATIENCE)
            .await
    }

    async fn settled(
        &self,
        is_settled: impl Fn(&ZoneState) -> bool,
        patience: Duration,
    ) -> Result<Link, ZoneDown> {
        let mut state = self.state.clone();
        // The common case takes no timer.
        if let ZoneState::Up { link, .. } = &*state.borrow() {
            return Ok(link.clone());
        }
        self.nudge.notify_one();
        let settled = timeout(patience, state.wait_for(|state| is_settled(state))).await;
        let reason = match settled {
            Ok(Ok(state)) => match &*state {
                ZoneState::Up { link, .. } => return Ok(link.clone()),
                ZoneState::Down { reason, .. } => reason.clone(),
                ZoneState::Connecting { .. } => "still connecting".to_owned(),
            },
            Ok(Err(_)) => "the broker is ending".to_owned(),
            Err(_) => format!("not within {} s", patience.as_secs()),
        };
        Err(ZoneDown {
            zone: self.name.clone(),
            reason,
        })
    }
}

struct Keeper {
    zone: String,
    targets: Vec<Target>,
    sockets: MarkedSockets,
    state: watch::Sender<ZoneState>,
    nudge: Arc<Notify>,
    ends: watch::Receiver<bool>,
}

impl Keeper {
    async fn keep(self) {
        let mut backoff = FIRST_BACKOFF;
        let mut last = None;
        loop {
            self.state
                .send_replace(ZoneState::Connecting { last: last.take() });
            let attempted = tokio::select! {
                attempted = self.attempt() => attempted,
                () = self.ended() => return,
            };
            match attempted {
                Ok((connection, gateway)) => {
                    backoff = FIRST_BACKOFF;
                    let Some(reason) = self.carry(connection, gateway).await else {
                        return;
                    };
                    last = Some(reason);
                    // A gateway that accepts and then hangs up at once must not make us spin.
                    sleep(FIRST_BACKOFF / 5).await;
                }
                Err((reason, lasting)) => {
                    tracing::warn!(zone = self.zone, "no gateway answers: {reason}");
                    last = Some(reason.clone());
                    if !self.wait(reason, lasting, backoff).await {
                        return;
                    }
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
            }
        }
    }

    /// Resolves when nobody needs the zone any more.
    async fn ended(&self) {
        let mut ends = self.ends.clone();
        // An error says that the zone itself is gone.
        let _ = ends.wait_for(|ends| *ends).await;
    }

    /// Tries each gateway once, in order.
    async fn attempt(&self) -> Result<(Connection, Gateway), (String, bool)> {
        let mut reasons = Vec::new();
        let mut lasting = true;
        for target in &self.targets {
            match connect(target, &self.sockets).await {
                Ok(connection) => return Ok((connection, target.gateway.clone())),
                Err(error) => {
                    lasting &= error.is_lasting();
                    if let ConnectError::HostKey(rejection) = &error {
                        tracing::error!(zone = self.zone, gateway = %target.gateway, "{rejection}");
                    }
                    reasons.push(format!("{}: {error}", target.gateway));
                }
            }
        }
        Err((reasons.join("; "), lasting))
    }

    /// Carries a link until it ends, and says why; `None` when nobody needs the zone any more.
    async fn carry(&self, connection: Connection, gateway: Gateway) -> Option<String> {
        tracing::info!(zone = self.zone, %gateway, "link up");
        let link = connection.link.clone();
        self.state.send_replace(ZoneState::Up {
            link: link.clone(),
            gateway: gateway.clone(),
        });
        let mut running = std::pin::pin!(connection.run());
        let end = tokio::select! {
            end = &mut running => end,
            () = self.ended() => {
                link.close();
                running.await;
                return None;
            }
        };
        tracing::warn!(zone = self.zone, %gateway, "link lost: {end}");
        Some(end.to_string())
    }

    /// Waits until it is time to try again; false when nobody needs the zone any more.
    async fn wait(&self, reason: String, lasting: bool, backoff: Duration) -> bool {
        let failed_at = Instant::now();
        let retry_at = failed_at + if lasting { LONGEST_BACKOFF } else { backoff };
        // Flows that waited for the attempt that just failed asked before it did.
        let asked_before = self.nudge.notified();
        let _ = timeout(Duration::ZERO, asked_before).await;
        self.state.send_replace(ZoneState::Down {
            reason,
            lasting,
            retry_at,
        });
        let nudged = async {
            self.nudge.notified().await;
            sleep_until(failed_at + NUDGE_SPACING.min(backoff)).await;
        };
        tokio::select! {
            () = sleep_until(retry_at) => true,
            () = nudged => true,
            () = self.ended() => false,
        }
    }
}
