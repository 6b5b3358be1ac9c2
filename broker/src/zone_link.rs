//! One link of a zone, kept up: the next gateway when one is down, again and again, with patience that grows.

use std::sync::Arc;
use std::time::Duration;

use adit_link::Link;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::attempt::{Attempts, Unreached};
use crate::capture_session::MarkedSockets;
use crate::gateway::{Connection, Handing, Questions, Target, Way};

const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A link that lived so long was a good one: the next failure is a first one again.
const STABLE: Duration = Duration::from_secs(10);
/// A flow that finds the zone down makes it try at once, but not more often than this.
const NUDGE_SPACING: Duration = Duration::from_millis(500);
/// How long a flow waits for an attempt that is under way.
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(20);
/// Why a link is given up that works.
const OTHER_GATEWAYS: &str = "the zone has other gateways now";

/// Where a link stands.
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
        target: Arc<Target>,
        /// How that is reached.
        way: Way,
        /// Takes connections whole, if they may be given to what carries the link.
        handing: Option<Handing>,
    },
    /// No gateway answered.
    Down {
        /// Why, each gateway.
        reason: String,
        /// Some gateway showed a host key that is not to be trusted: nothing may go around it.
        untrusted: bool,
        /// Some gateway waits for a word of the user.
        locked: bool,
        /// Trying again can't help before someone changes something.
        lasting: bool,
        /// The next attempt; `None`: once the user has said that word.
        retry_at: Option<Instant>,
    },
}

impl ZoneState {
    /// The link, as long as it takes new streams.
    fn open_link(&self) -> Option<OpenLink> {
        match self {
            Self::Up {
                link,
                target,
                handing,
                ..
            } if !link.is_closing() => Some(OpenLink {
                link: link.clone(),
                target: target.clone(),
                handing: handing.clone(),
            }),
            Self::Up { .. } | Self::Connecting { .. } | Self::Down { .. } => None,
        }
    }
}

impl std::fmt::Debug for ZoneState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connecting { last } => write!(f, "Connecting({last:?})"),
            Self::Up { target, .. } => write!(f, "Up({})", target.gateway),
            Self::Down { reason, .. } => write!(f, "Down({reason})"),
        }
    }
}

/// A link that takes new streams, and where it leads through.
#[derive(Clone)]
pub struct OpenLink {
    /// Opens them.
    pub link: Link,
    /// The gateway at its end.
    pub target: Arc<Target>,
    /// Takes connections whole, if they may be given to what carries the link.
    pub handing: Option<Handing>,
}

/// What a gateway said of its own accord, for people.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Which one.
    pub gateway: String,
    /// At most [`adit_link::MAX_DETAIL`] bytes without control characters.
    pub words: Arc<str>,
    /// When.
    pub at: Instant,
}

/// No gateway of the zone answers.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no gateway of zone {zone} answers: {reason}")]
pub struct ZoneDown {
    /// The zone.
    pub zone: String,
    /// Why, each gateway.
    pub reason: String,
    /// Whether a flow may go direct if its rule says so: no gateway answered, rather than one that can't be trusted.
    pub may_pass: bool,
    /// Whether one showed a host key that is not to be trusted: waiting does not help.
    pub untrusted: bool,
}

/// A link of a zone, and the task that keeps it.
#[derive(Debug)]
pub struct ZoneLink {
    zone: String,
    state: watch::Receiver<ZoneState>,
    nudge: Arc<Notify>,
    ending: watch::Sender<bool>,
    targets: watch::Sender<Arc<[Arc<Target>]>>,
    /// What its gateways want to know from the user.
    pub questions: Questions,
    heard: watch::Receiver<Option<Heard>>,
}

impl ZoneLink {
    /// Starts connecting for a zone. `targets` are the gateways in the order to try them.
    pub fn start(
        zone: String,
        targets: Vec<Target>,
        sockets: MarkedSockets,
        questions: Questions,
    ) -> Self {
        let (sender, state) = watch::channel(ZoneState::Connecting { last: None });
        let nudge = Arc::new(Notify::new());
        let (ending, ends) = watch::channel(false);
        let (targets, wanted) = watch::channel(shared(targets));
        let (hears, heard) = watch::channel(None);
        let keeper = Keeper {
            zone: zone.clone(),
            targets: wanted,
            sockets,
            questions: questions.clone(),
            state: sender,
            hears,
            nudge: nudge.clone(),
            ends,
        };
        tokio::spawn(keeper.keep());
        Self {
            zone,
            state,
            nudge,
            ending,
            targets,
            questions,
            heard,
        }
    }

    /// From now on these are its gateways. A link through one that still is goes on; any other takes no new streams, and the next
    /// one is made at once. Who waits for a link waits for that.
    pub fn lead_to(&self, targets: Vec<Target>) {
        self.questions.forget();
        self.targets.send_replace(shared(targets));
    }

    /// Says goodbye to the gateway once its flows are gone. Resolves when that is done.
    pub async fn close(&self) {
        self.ending.send_replace(true);
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }

    /// Where the link stands.
    pub fn state(&self) -> watch::Receiver<ZoneState> {
        self.state.clone()
    }

    /// Streams that are open now.
    pub fn streams(&self) -> usize {
        match &*self.state.borrow() {
            ZoneState::Up { link, .. } => link.streams(),
            ZoneState::Connecting { .. } | ZoneState::Down { .. } => 0,
        }
    }

    /// Whether it stands, or waits for a word of the user.
    pub fn is_worth_keeping(&self) -> bool {
        match &*self.state.borrow() {
            ZoneState::Up { .. } => true,
            ZoneState::Connecting { .. } => false,
            ZoneState::Down { locked, .. } => *locked || !self.questions.unknown_keys().is_empty(),
        }
    }

    /// What one of its gateways said last and did not take back.
    pub fn heard(&self) -> Option<Heard> {
        self.heard.borrow().clone()
    }

    /// The link; waits for an attempt that is under way, and fails at once when the last one failed.
    pub async fn link(&self) -> Result<OpenLink, ZoneDown> {
        self.settled(ATTEMPT_PATIENCE, |state| {
            matches!(state, ZoneState::Down { .. })
        })
        .await
    }

    /// The link; waits for a gateway to come back (`on_down: hold`), unless one can't be trusted.
    pub async fn link_held(&self, patience: Duration) -> Result<OpenLink, ZoneDown> {
        self.settled(patience, |state| {
            matches!(
                state,
                ZoneState::Down {
                    untrusted: true,
                    ..
                }
            )
        })
        .await
    }

    async fn settled(
        &self,
        patience: Duration,
        gives_up: impl Fn(&ZoneState) -> bool,
    ) -> Result<OpenLink, ZoneDown> {
        let mut state = self.state.clone();
        // The common case takes no timer.
        if let Some(link) = state.borrow().open_link() {
            return Ok(link);
        }
        self.nudge.notify_one();
        let settled = state.wait_for(|state| state.open_link().is_some() || gives_up(state));
        let settled = timeout(patience, settled).await;
        let (reason, may_pass, untrusted) = match settled {
            Ok(Ok(state)) => match (state.open_link(), &*state) {
                (Some(link), _) => return Ok(link),
                (
                    None,
                    ZoneState::Down {
                        reason, untrusted, ..
                    },
                ) => (reason.clone(), !untrusted, *untrusted),
                (None, ZoneState::Up { .. } | ZoneState::Connecting { .. }) => {
                    ("the link was lost at once".to_owned(), false, false)
                }
            },
            Ok(Err(_)) => ("the broker is ending".to_owned(), false, false),
            Err(_) => {
                let reason = format!("not within {} s", patience.as_secs());
                (reason, self.may_pass(), false)
            }
        };
        Err(ZoneDown {
            zone: self.zone.clone(),
            reason,
            may_pass,
            untrusted,
        })
    }

    fn may_pass(&self) -> bool {
        match &*self.state.borrow() {
            ZoneState::Connecting { .. } => !self.questions.distrust.stands(),
            ZoneState::Up { .. } => false,
            ZoneState::Down { untrusted, .. } => !untrusted,
        }
    }
}

fn shared(targets: Vec<Target>) -> Arc<[Arc<Target>]> {
    targets.into_iter().map(Arc::new).collect()
}

type Targets = watch::Receiver<Arc<[Arc<Target>]>>;

struct Keeper {
    zone: String,
    targets: Targets,
    sockets: MarkedSockets,
    questions: Questions,
    state: watch::Sender<ZoneState>,
    hears: watch::Sender<Option<Heard>>,
    nudge: Arc<Notify>,
    ends: watch::Receiver<bool>,
}

/// What has come since no gateway could be reached.
enum Since {
    /// It was time.
    NothingWasSaid,
    /// What may open a gateway that is locked: a word of the user, a key in the agent, another gateway.
    SomethingWasSaid,
}

impl Keeper {
    async fn keep(self) {
        tokio::select! {
            () = self.keep_up() => {}
            () = self.ended() => {}
        }
    }

    async fn keep_up(&self) {
        let mut backoff = FIRST_BACKOFF;
        let mut targets = self.targets.clone();
        let mut attempts = Attempts::new(
            self.zone.clone(),
            self.sockets.clone(),
            self.questions.clone(),
        );
        loop {
            let now = targets.borrow_and_update().clone();
            let attempted = tokio::select! {
                attempted = attempts.make(&now) => Some(attempted),
                () = changed(&mut targets) => None,
            };
            let last = match attempted {
                Some(Ok((connection, target))) => {
                    let since = Instant::now();
                    let reason = self.carry(connection, target, &mut targets).await;
                    if since.elapsed() > STABLE {
                        backoff = FIRST_BACKOFF;
                    }
                    self.connecting(Some(reason.clone()));
                    // A gateway that lets us in and then hangs up must not make us spin.
                    self.rest(backoff, &mut targets).await;
                    reason
                }
                Some(Err(unreached)) => {
                    tracing::warn!(zone = self.zone, "no gateway answers: {}", unreached.reason);
                    match self.wait(&unreached, backoff, &mut targets).await {
                        Since::NothingWasSaid => {}
                        Since::SomethingWasSaid => attempts.try_all(),
                    }
                    unreached.reason
                }
                None => {
                    attempts.try_all();
                    targets.mark_changed();
                    OTHER_GATEWAYS.to_owned()
                }
            };
            if targets.has_changed().unwrap_or(false) {
                backoff = FIRST_BACKOFF;
                self.connecting(Some(last));
                continue;
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
            self.connecting(Some(last));
        }
    }

    fn connecting(&self, last: Option<String>) {
        self.state.send_replace(ZoneState::Connecting { last });
    }

    /// Resolves when nobody needs the link any more, once its gateway has been told.
    async fn ended(&self) {
        let mut ends = self.ends.clone();
        // An error says that it is itself gone.
        let _ = ends.wait_for(|ends| *ends).await;
        let open = self.state.borrow().open_link();
        if let Some(OpenLink { link, .. }) = open {
            link.close();
            link.ended().await;
        }
    }

    /// Carries a link until it ends, or takes no new streams; says why.
    async fn carry(
        &self,
        connection: Connection,
        target: Arc<Target>,
        targets: &mut Targets,
    ) -> String {
        let gateway = &target.gateway;
        tracing::info!(zone = self.zone, %gateway, "link up");
        let link = connection.link.clone();
        self.state.send_replace(ZoneState::Up {
            link: link.clone(),
            target: target.clone(),
            way: connection.way.clone(),
            handing: connection.handing.clone(),
        });
        // A task of its own: when the gateway takes no new streams, the old ones go on beside the next link.
        let mut running = tokio::spawn(connection.run());
        let mut notices = 0;
        loop {
            tokio::select! {
                notice = link.notice_after(notices) => {
                    notices = notice.number;
                    self.hear(&target, notice.words);
                }
                end = &mut running => {
                    let end = end.map_or_else(|_| "its task ended".to_owned(), |end| end.to_string());
                    tracing::warn!(zone = self.zone, %gateway, "link lost: {end}");
                    return end;
                }
                () = self.nudge.notified() => {
                    if link.is_closing() {
                        let end = "the gateway takes no new flows";
                        tracing::info!(zone = self.zone, %gateway, "{end}");
                        return end.to_owned();
                    }
                }
                () = changed(targets) => {
                    if !targets.borrow_and_update().contains(&target) {
                        tracing::info!(zone = self.zone, %gateway, "{OTHER_GATEWAYS}");
                        targets.mark_changed();
                        link.close();
                        return OTHER_GATEWAYS.to_owned();
                    }
                }
            }
        }
    }

    fn hear(&self, target: &Target, words: Arc<str>) {
        let heard = (!words.is_empty()).then(|| Heard {
            gateway: target.gateway.to_string(),
            words,
            at: Instant::now(),
        });
        self.hears.send_replace(heard);
    }

    async fn rest(&self, backoff: Duration, targets: &mut Targets) {
        tokio::select! {
            () = sleep(backoff) => {}
            () = changed(targets) => targets.mark_changed(),
        }
    }

    /// Waits until it is time to try again: a while, or until a flow asks. What lasts is not asked again for flows.
    async fn wait(&self, unreached: &Unreached, backoff: Duration, targets: &mut Targets) -> Since {
        let failed_at = Instant::now();
        let retry_at = failed_at
            + if unreached.lasting {
                LONGEST_BACKOFF
            } else {
                backoff
            };
        // Flows that waited for the attempt that just failed asked before it did.
        let _ = timeout(Duration::ZERO, self.nudge.notified()).await;
        self.state.send_replace(ZoneState::Down {
            reason: unreached.reason.clone(),
            untrusted: unreached.untrusted,
            locked: unreached.locked,
            lasting: unreached.lasting,
            retry_at: (!unreached.all_locked).then_some(retry_at),
        });
        let nudged = async {
            self.nudge.notified().await;
            sleep_until(failed_at + NUDGE_SPACING.min(backoff)).await;
        };
        tokio::select! {
            () = sleep_until(retry_at), if !unreached.all_locked => Since::NothingWasSaid,
            () = nudged, if !unreached.lasting && !unreached.all_locked => Since::NothingWasSaid,
            () = self.questions.answered() => Since::SomethingWasSaid,
            () = self.questions.unlocking.agent_holds_more(), if unreached.locked => {
                Since::SomethingWasSaid
            }
            () = changed(targets) => {
                targets.mark_changed();
                Since::SomethingWasSaid
            }
        }
    }
}

/// Resolves when there are other gateways. They are seen then.
async fn changed(targets: &mut Targets) {
    if targets.changed().await.is_err() {
        // The link is ending, which is heard of elsewhere.
        std::future::pending().await
    }
}
