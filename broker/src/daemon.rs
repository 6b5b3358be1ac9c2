//! The session daemon: composes listeners, helper, zones, dispatch and control, and ends them in order.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_capture::OnBrokerGone;
use adit_rules::Policy;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::attribution::Attribution;
use crate::capture_session::{CaptureSession, CaptureState, Meeting, Questioning};
use crate::chronicle::Chronicle;
use crate::control::protocol::{Answer, Capture, Connect, FlowCounts, Listening, Request, Status};
use crate::control::server::{Caller, ControlError, ControlSocket};
use crate::decision_log::DecisionLog;
use crate::dispatch::Dispatcher;
use crate::entrances::{self, Entrances, Leads, NoDiag};
use crate::flow_table::FlowTable;
use crate::intake::Intake;
use crate::kernel_claim::claim_of;
use crate::listeners::{ListenError, Listeners};
use crate::names::Names;
use crate::question::{Explained, Question};
use crate::reload::{self, Cause, Reloader, Surroundings};
use crate::rule_sources::{RuleSources, Seen};
use crate::rules_in_force::{InForce, RulesInForce};
use crate::session_note::SessionNote;
use crate::signals::{Hangup, Signals};
use crate::unlock::unlock;
use crate::user::User;
use crate::why::{self, Why};
use crate::zone::Zone;
use crate::zone_link::ZoneState;
use crate::zone_status::status_of;
use crate::zone_targets::ZoneTargets;

/// How long the helper may take to remove a claim.
const RELEASE: Duration = Duration::from_secs(20);
/// How long the gateways may take to hear the goodbye.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long a helper may take to come back when its service manager starts it again.
const HELPER_RESTART: Duration = Duration::from_secs(3);

/// What a broker is started with.
#[derive(Debug)]
pub struct Settings {
    /// The rules.
    pub policy: Policy,
    /// Where they came from; `None` for `adit up`.
    pub files: Option<RuleFiles>,
    /// The helper's socket.
    pub capture: PathBuf,
    /// Our own socket.
    pub control: PathBuf,
    /// What happens to the user's connections when we are gone without a goodbye.
    pub on_broker_gone: OnBrokerGone,
    /// Where decisions are recorded; `None`: nowhere.
    pub decisions: Option<PathBuf>,
    /// Whose connections they are.
    pub user: User,
    /// How much of it a person is waiting for.
    pub attended: Attended,
}

/// The files of rules.
#[derive(Debug, Clone)]
pub struct RuleFiles {
    /// Where they are looked for.
    pub sources: RuleSources,
    /// What was found.
    pub files: Vec<PathBuf>,
    /// All that was read.
    pub seen: Vec<Seen>,
}

/// Whether someone sits in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attended {
    /// A service: captures at once, waits for whatever is not there yet.
    No,
    /// `adit up`: captures once the gateway let us in; what can't work ends it, as does a helper that dies.
    Yes,
}

/// Why a broker ended other than as asked.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// No listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No attribution.
    #[error("cannot look sockets up: {0}")]
    Attribution(std::io::Error),
    /// No word on whose the connections to its listeners are.
    #[error(transparent)]
    Whose(#[from] NoDiag),
    /// No signals.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    /// The helper will not have us.
    #[error("the capture helper refuses: {0}")]
    CaptureRefused(String),
    /// The helper is gone and nobody will start it again.
    #[error(
        "the capture helper is gone ({0}): the tunnelled destinations stay closed until the next `adit up`, or `adit down`"
    )]
    HelperGone(String),
    /// Asked to end, and the helper did not take the goodbye.
    #[error(
        "the capture helper did not take the goodbye ({0}): the tunnelled destinations stay closed; `adit down` (with sudo if the helper is gone) opens them"
    )]
    NotReleased(String),
    /// Nobody takes connections in any more.
    #[error(
        "connections are no longer taken in: a fault of this program; tunnelled destinations stay closed"
    )]
    Intake,
    /// The first connection to the gateway can't work.
    #[error("{0}")]
    Gateway(String),
}

/// Runs a broker until it is asked to end. `ready` is called once connections are captured.
pub async fn run(settings: Settings, ready: impl FnOnce()) -> Result<(), DaemonError> {
    let hangup = match settings.files {
        Some(_) => Hangup::Reloads,
        None => Hangup::Ends,
    };
    let mut signals = Signals::new(hangup).map_err(DaemonError::Signals)?;
    let control = ControlSocket::bind(&settings.control).await?;
    let (questioning, asked) = mpsc::channel(1);
    let broker = Arc::new(Broker::start(settings, questioning)?);
    let mut taking_in = broker.intake.clone().start(asked);
    let note = SessionNote::write(&broker.settings.control, &broker.settings.capture);
    let (ended, hangups) = (broker.clone(), Arc::new(Notify::new()));
    let heeding = reload::heed(
        broker.reloader.clone(),
        hangups.clone(),
        broker.session.state.clone(),
    );
    let outcome = tokio::select! {
        () = control.serve(move |request, caller| ended.clone().answer(request, caller)) => Ok(()),
        outcome = broker.capture(ready) => outcome,
        () = broker.asked_down.notified() => Ok(()),
        // They run for ever, unless one panics.
        _ = taking_in.join_next() => Err(DaemonError::Intake),
        () = heeding => Ok(()),
        name = signals.end(|| hangups.notify_one()) => {
            tracing::info!("ending on {name}");
            Ok(())
        }
    };
    drop(taking_in);
    broker.close_entrances();
    // Who was asked to end says goodbye to the helper. Who has to end does not: then the claim's word applies.
    let outcome = match outcome {
        Ok(()) => broker.release().await,
        Err(error) => Err(error),
    };
    broker.farewell().await;
    if outcome.is_ok() {
        note.forget();
    }
    outcome
}

struct Broker {
    settings: Settings,
    intake: Arc<Intake>,
    entrances: Arc<Mutex<Entrances>>,
    since: jiff::Timestamp,
    session: Arc<CaptureSession>,
    dispatcher: Arc<Dispatcher>,
    reloader: Arc<Reloader>,
    asked_down: Notify,
}

impl Broker {
    fn start(
        settings: Settings,
        questioning: mpsc::Sender<Questioning>,
    ) -> Result<Self, DaemonError> {
        let listeners = Arc::new(Listeners::bind()?);
        let capture = settings.capture.clone();
        let session = CaptureSession::start(capture, listeners.clone(), questioning);
        let session = Arc::new(session);
        let attribution =
            Attribution::start(session.sources.clone()).map_err(DaemonError::Attribution)?;
        let mut zones = HashMap::new();
        for zone in settings.policy.zones() {
            let targets = ZoneTargets::of(zone, &settings.user);
            let kept = Zone::start(zone.name.clone(), targets, session.sockets.clone());
            zones.insert(zone.name.clone(), Arc::new(kept));
        }
        let dispatcher = Arc::new(Dispatcher {
            rules: RulesInForce::new(InForce::new(settings.policy.clone(), zones)),
            sockets: session.sockets.clone(),
            attribution,
            names: Names::default(),
            flows: Arc::new(FlowTable::default()),
            chronicle: Arc::new(chronicle_of(&settings)),
        });
        let intake = Arc::new(Intake::new(listeners, dispatcher.clone()));
        let mut entrances = Entrances::new(dispatcher.clone(), intake.places())?;
        entrances.set(&entrances::wanted(&settings.policy))?;
        let entrances = Arc::new(Mutex::new(entrances));
        let reloader = reloader_of(&settings, &dispatcher, &session, &entrances);
        let since = jiff::Timestamp::now();
        Ok(Self {
            settings,
            intake,
            entrances,
            since,
            session,
            dispatcher,
            reloader: Arc::new(reloader),
            asked_down: Notify::new(),
        })
    }

    /// The kernel's rules go first: nothing is captured that nobody carries.
    async fn release(&self) -> Result<(), DaemonError> {
        match timeout(RELEASE, self.session.release()).await {
            Ok(released) => released.map_err(|error| DaemonError::NotReleased(error.to_string())),
            Err(_) => Err(DaemonError::NotReleased(format!(
                "no answer in {} s",
                RELEASE.as_secs()
            ))),
        }
    }

    /// Nobody new comes in.
    fn close_entrances(&self) {
        // Nothing is bound, so nothing can fail.
        let _ = self.entrances().set(&[]);
    }

    fn entrances(&self) -> std::sync::MutexGuard<'_, Entrances> {
        self.entrances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Then the flows, then the links, all at once.
    async fn farewell(&self) {
        self.dispatcher.flows.close_all();
        let zones: Vec<_> = self.zones().into_values().collect();
        let mut closing: tokio::task::JoinSet<()> = zones
            .into_iter()
            .map(|zone| async move { zone.close().await })
            .collect();
        let closed = async { while closing.join_next().await.is_some() {} };
        if timeout(FAREWELL, closed).await.is_err() {
            tracing::warn!("not every gateway took the goodbye in time");
        }
    }

    async fn capture(&self, ready: impl FnOnce()) -> Result<(), DaemonError> {
        let attended = self.settings.attended == Attended::Yes;
        if attended {
            self.gateways_let_us_in().await?;
        }
        let program = self.dispatcher.rules.now().program.clone();
        self.session
            .claim(claim_of(program, self.settings.on_broker_gone));
        self.watch_helper(ready, attended).await
    }

    /// Waits for the link of every zone that has one by now; a failure is ours.
    async fn gateways_let_us_in(&self) -> Result<(), DaemonError> {
        let zones = self.zones();
        for (_, link) in zones.values().flat_map(|zone| zone.links()) {
            let mut state = link.state();
            let decided = state
                .wait_for(|state| match state {
                    ZoneState::Connecting { .. } => false,
                    ZoneState::Up { .. } | ZoneState::Down { .. } => true,
                })
                .await;
            let decided = decided.map_err(|_| DaemonError::Gateway("ending".to_owned()))?;
            if let ZoneState::Down { reason, .. } = &*decided {
                return Err(DaemonError::Gateway(reason.clone()));
            }
        }
        Ok(())
    }

    async fn watch_helper(&self, ready: impl FnOnce(), attended: bool) -> Result<(), DaemonError> {
        let mut state = self.session.state.clone();
        let mut ready = Some(ready);
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                CaptureState::Capturing => {
                    if let Some(ready) = ready.take() {
                        ready();
                    }
                }
                CaptureState::Refused { reason } => {
                    return Err(DaemonError::CaptureRefused(reason));
                }
                CaptureState::Waiting { reason } if attended && ready.is_none() => {
                    // A service manager may start it again at once; nobody else will.
                    let back = state.wait_for(|state| *state == CaptureState::Capturing);
                    if !matches!(timeout(HELPER_RESTART, back).await, Ok(Ok(_))) {
                        return Err(DaemonError::HelperGone(reason));
                    }
                    continue;
                }
                CaptureState::Waiting { .. } | CaptureState::Connected => {}
            }
            if state.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn answer(self: Arc<Self>, request: Request, caller: Caller) -> Answer {
        match request {
            Request::Why { id } => self.off_the_data_path(move |own| own.why(id, caller)).await,
            Request::Explain { connection } => {
                self.off_the_data_path(move |own| own.explain(&connection))
                    .await
            }
            Request::Status {} => Answer::Status(Box::new(self.status())),
            Request::Flows {} => Answer::Flows(self.dispatcher.flows.views()),
            Request::Close { id } if self.dispatcher.flows.close(id) => Answer::Done,
            Request::Close { id } => Answer::Error(format!("no live flow has the id {id}")),
            Request::Trust { zone, fingerprint } => {
                self.off_the_data_path(move |own| Ok(own.trust(&zone, &fingerprint)))
                    .await
            }
            Request::Unlock { zone, answers } => match self.zones().remove(&zone) {
                Some(zone) => unlock(&zone, answers).await,
                None => Answer::Error(format!("no zone is called {zone:?}")),
            },
            Request::Down {} => {
                self.asked_down.notify_one();
                Answer::Done
            }
            Request::Reload { dry_run } => {
                let outcome = match dry_run {
                    true => self.reloader.try_out().await,
                    false => self.reloader.reload(Cause::Asked).await,
                };
                match outcome {
                    Ok(told) => Answer::Reloaded(Box::new(told)),
                    Err(error) => match error.bad_rules() {
                        Some(bad) => Answer::BadRules(bad),
                        None => Answer::Error(error.to_string()),
                    },
                }
            }
        }
    }

    fn trust(&self, zone: &str, fingerprint: &str) -> Answer {
        let Some(zone) = self.zones().remove(zone) else {
            return Answer::Error(format!("no zone is called {zone:?}"));
        };
        match zone.trust(fingerprint) {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Error(error.to_string()),
        }
    }

    fn zones(&self) -> HashMap<String, Arc<Zone>> {
        self.dispatcher.rules.now().zones.clone()
    }

    /// What takes long with many rules, or asks the system about users, is for another thread.
    async fn off_the_data_path(
        self: Arc<Self>,
        answer: impl FnOnce(&Self) -> Result<Answer, String> + Send + 'static,
    ) -> Answer {
        match tokio::task::spawn_blocking(move || answer(&self)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => Answer::Error(why),
            Err(_) => Answer::Error("a fault of this program".to_owned()),
        }
    }

    fn why(&self, id: Option<u64>, caller: Caller) -> Result<Answer, String> {
        let found = why::find(&self.dispatcher.flows, id, caller.pid);
        let (flow, shares) = found.map_err(|error| error.to_string())?;
        let why = Why::of(&flow, shares, &self.dispatcher.rules.now().policy);
        let why = why.map_err(|error| error.to_string())?;
        Ok(Answer::Why(Box::new(why)))
    }

    fn explain(&self, connection: &Question) -> Result<Answer, String> {
        let rules = self.dispatcher.rules.now();
        let explanation = connection.answer(&rules.policy, &self.settings.user);
        let explanation = explanation.map_err(|error| error.to_string())?;
        let explained = Explained::of(&explanation).map_err(|error| error.to_string())?;
        Ok(Answer::Explained(Box::new(explained)))
    }

    fn before_capturing(&self) -> &'static str {
        match self.settings.attended {
            Attended::Yes => "waiting for the gateway",
            Attended::No => "claiming",
        }
    }

    fn connect(&self) -> Connect {
        match self.session.meeting.borrow().clone() {
            Meeting::Honest(by) => Connect {
                mode: "honest".to_owned(),
                by: Some(by),
                reason: None,
            },
            Meeting::Early { reason } => Connect {
                mode: "early".to_owned(),
                by: None,
                reason: Some(reason),
            },
        }
    }

    fn listening(&self) -> Vec<Listening> {
        let listening = self.entrances().listening().into_iter();
        listening
            .map(|(address, leads)| {
                let (speaks, tunnel) = match leads {
                    Leads::Anywhere(protocol) => (Some(protocol.as_str().to_owned()), None),
                    Leads::Through(name) => (None, Some(name.as_ref().to_owned())),
                };
                Listening {
                    address,
                    speaks,
                    tunnel,
                }
            })
            .collect()
    }

    fn status(&self) -> Status {
        let (state, connected, reason) = match self.session.state.borrow().clone() {
            CaptureState::Capturing => ("capturing", true, None),
            CaptureState::Connected => (self.before_capturing(), true, None),
            CaptureState::Waiting { reason } => {
                ("waiting for the capture helper", false, Some(reason))
            }
            CaptureState::Refused { reason } => {
                ("refused by the capture helper", true, Some(reason))
            }
        };
        let zones = self.zones();
        let mut zones: Vec<_> = zones.values().flat_map(|zone| status_of(zone)).collect();
        zones.sort_by(|a, b| (&a.name, &a.host).cmp(&(&b.name, &b.host)));
        let (active, total) = self.dispatcher.flows.counts();
        let rules_in_force = self
            .settings
            .files
            .is_some()
            .then(|| self.reloader.status());
        let named = self
            .settings
            .files
            .as_ref()
            .and_then(|it| it.sources.named());
        let first = rules_in_force
            .as_ref()
            .and_then(|rules| rules.files.first());
        Status {
            state: state.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uid: self.settings.user.uid.as_raw(),
            user: self.settings.user.name.clone(),
            since: self.since,
            rules: named.map(Path::to_owned).or(first.cloned()),
            rules_in_force,
            capture: Capture {
                socket: self.settings.capture.clone(),
                connected,
                reason,
            },
            connect: self.connect(),
            listening: self.listening(),
            zones,
            flows: FlowCounts { active, total },
            decisions: self.dispatcher.chronicle.standing(),
        }
    }
}

/// Without a thread there is no log of decisions; the flows go on.
fn chronicle_of(settings: &Settings) -> Chronicle {
    let log = settings.decisions.clone().map(DecisionLog::start);
    let log = log.and_then(|started| {
        let failed = |error| tracing::warn!("decisions are not recorded: {error}");
        started.map_err(failed).ok()
    });
    Chronicle::new(log, settings.user.clone())
}

fn reloader_of(
    settings: &Settings,
    dispatcher: &Arc<Dispatcher>,
    session: &Arc<CaptureSession>,
    entrances: &Arc<Mutex<Entrances>>,
) -> Reloader {
    let surroundings = Surroundings {
        entrances: entrances.clone(),
        user: settings.user.clone(),
        on_broker_gone: settings.on_broker_gone,
        dispatcher: dispatcher.clone(),
        session: session.clone(),
    };
    let (sources, first) = match settings.files.clone() {
        Some(RuleFiles {
            sources,
            files,
            seen,
        }) => (Some(sources), (files, seen)),
        None => (None, Default::default()),
    };
    Reloader::new(sources, first, surroundings)
}
