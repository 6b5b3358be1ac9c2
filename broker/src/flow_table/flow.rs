//! One flow: what it asked for, what the rules gave, how far it got.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use adit_link::Counters;
use adit_rules::{Application, Decision, Destination, Facts, Judgement, Learned, Policy};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::accepted::Asked;
use crate::gateway::Target;
use crate::lineage::Lineage;
use crate::original_destination::ClientAddress;
use crate::stage::{Saw, Stage};

/// What the rules gave for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Through a zone.
    Tunnel,
    /// Directly.
    Pass,
    /// Not at all.
    Block,
}

impl Action {
    /// Of a decision.
    pub fn of(decision: &Decision) -> Self {
        match decision {
            Decision::Tunnel(_) => Self::Tunnel,
            Decision::Pass(_) => Self::Pass,
            Decision::Block(_) => Self::Block,
        }
    }

    /// As rules call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Pass => "pass",
            Self::Block => "block",
        }
    }
}

/// How far a flow got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The rules are being asked.
    Deciding,
    /// The gateway, or the destination, has not answered yet.
    Opening,
    /// Bytes go both ways.
    Open,
    /// Ended after it had been open.
    Closed,
    /// The kernel connects it itself: nothing more is known here.
    Direct,
    /// Someone said no: a rule, the gateway's policy, or the destination.
    Refused,
    /// Something broke: no gateway, the link, the helper.
    Failed,
}

impl State {
    /// Whether there is no answer yet.
    pub fn waits(self) -> bool {
        matches!(self, Self::Deciding | Self::Opening)
    }

    /// Whether nothing more happens to the flow.
    pub fn is_over(self) -> bool {
        match self {
            Self::Deciding | Self::Opening | Self::Open => false,
            Self::Closed | Self::Direct | Self::Refused | Self::Failed => true,
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Deciding => "deciding",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Direct => "direct",
            Self::Refused => "refused",
            Self::Failed => "failed",
        })
    }
}

/// Where a flow stands, for whoever wants it to go another way.
#[derive(Debug, Default)]
struct Course {
    judged: Option<Judged>,
    through: Option<Arc<Target>>,
    /// Its program is held and has heard nothing yet.
    is_held: bool,
    is_to_be_judged_again: bool,
    closed_because: Option<String>,
}

/// What is learnt of a flow on its way.
#[derive(Debug, Clone)]
struct Details {
    to: Option<String>,
    application: Option<PathBuf>,
    pid: Option<u32>,
    rule: Option<String>,
    zone: Option<String>,
    action: Option<Action>,
    state: State,
    stage: Option<Stage>,
    saw: Option<Saw>,
    reason: Option<String>,
    ended: Option<Instant>,
    lineage: Option<Lineage>,
    /// Whether somebody is looking who opened it.
    is_being_learnt: bool,
    /// Whether the decision was taken for keeping.
    is_kept: bool,
}

/// How a flow ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How far it got.
    pub state: State,
    /// Where it failed, if it did.
    pub stage: Option<Stage>,
    /// Why it was refused, failed or ended early.
    pub reason: Option<String>,
}

/// What the rules gave for a flow, and for what: so they, or others, can be asked again.
#[derive(Debug, Clone)]
pub struct Judged {
    /// What its program asked for.
    pub asked: Asked,
    /// What is known of who opened it; `None`: the rules did not need to know.
    pub application: Option<Application>,
    /// What they gave.
    pub decision: Decision,
}

impl Judged {
    /// What other rules give for the same.
    pub fn again(&self, policy: &Policy) -> Judgement {
        self.asked.judge(policy, self.application.as_ref())
    }
}

/// One flow, shared between the task that carries it and whoever asks about it.
#[derive(Debug)]
pub struct Flow {
    /// Unique within this broker's life, counted from 1.
    pub id: u64,
    /// Bytes relayed so far.
    pub counters: Counters,
    source: SocketAddr,
    destination: Destination,
    opened_at: jiff::Timestamp,
    started: Instant,
    closing: Notify,
    judging: Notify,
    course: Mutex<Course>,
    details: Mutex<Details>,
}

/// What `adit flows` shows of a flow: its JSON form.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowView {
    /// For `adit close`.
    pub id: u64,
    /// Path of the binary (what is not UTF-8 in it replaced); null when it could not be found (yet).
    pub application: Option<String>,
    /// The script that it runs; null when it runs none, or nobody had to know.
    pub script: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// Where the application wanted to go: an address or a name, with the port.
    pub destination: String,
    /// Where it goes, when the rule names somewhere else, or when a name that passes was looked up.
    #[serde(default)]
    pub to: Option<String>,
    /// The application's end; of a connection that was accepted early as the listener saw it, where the redirect may have
    /// changed its port.
    pub source: SocketAddr,
    /// The rule that matched.
    pub rule: Option<String>,
    /// The zone it goes through.
    pub zone: Option<String>,
    /// What the rule gives.
    pub action: Option<Action>,
    /// How far it got.
    pub state: State,
    /// Where it failed.
    pub stage: Option<Stage>,
    /// What its program saw of that.
    pub saw: Option<Saw>,
    /// Why it was refused, failed or ended early.
    pub reason: Option<String>,
    /// Bytes from the application.
    pub up: u64,
    /// Bytes to the application.
    pub down: u64,
    /// Milliseconds since it was opened, until its end.
    pub age_ms: u64,
    /// When it was opened.
    pub opened_at: jiff::Timestamp,
}

impl Flow {
    /// One of which nothing is known but this.
    pub(super) fn new(id: u64, source: ClientAddress, asked: &Destination) -> Self {
        Self {
            id,
            counters: Counters::default(),
            source: source.address(),
            destination: asked.clone(),
            opened_at: jiff::Timestamp::now(),
            started: Instant::now(),
            closing: Notify::new(),
            judging: Notify::new(),
            course: Mutex::default(),
            details: Mutex::new(Details {
                to: None,
                application: None,
                pid: None,
                rule: None,
                zone: None,
                action: None,
                state: State::Deciding,
                stage: None,
                saw: None,
                reason: None,
                ended: None,
                lineage: None,
                is_being_learnt: false,
                is_kept: false,
            }),
        }
    }

    /// Notes who opened it.
    pub fn attributed(&self, pid: u32, application: PathBuf) {
        let mut details = self.details();
        details.application = Some(application);
        details.pid = Some(pid);
    }

    /// Path of the application's binary, as far as it is known.
    pub fn application(&self) -> Option<PathBuf> {
        self.details().application.clone()
    }

    /// Whether it is known who opened it.
    pub fn is_attributed(&self) -> bool {
        self.details().pid.is_some()
    }

    /// Notes what was asked of the rules, and what they gave.
    pub fn judged(&self, asked: &Asked, application: Option<&Application>, decision: &Decision) {
        let judged = Judged {
            asked: asked.clone(),
            application: application.cloned(),
            decision: decision.clone(),
        };
        self.course().judged = Some(judged);
    }

    /// What was last asked of the rules, and what they gave.
    pub fn judgement(&self) -> Option<Judged> {
        self.course().judged.clone()
    }

    /// Notes by which gateway it goes.
    pub fn leads_through(&self, target: Arc<Target>) {
        self.course().through = Some(target);
    }

    /// By which gateway it goes.
    pub fn through(&self) -> Option<Arc<Target>> {
        self.course().through.clone()
    }

    /// Whether the rules said tunnel, and it goes direct because no gateway answered.
    pub fn is_passed_when_down(&self) -> bool {
        let details = self.details();
        details.action == Some(Action::Pass) && details.zone.is_some()
    }

    /// Notes that its program is held: as long as it has heard nothing, the rules can be asked anew.
    pub fn held(&self) {
        self.course().is_held = true;
    }

    /// Whether its program is to hear what was found; else the rules are to be asked again first.
    pub fn settle(&self) -> bool {
        let mut course = self.course();
        if std::mem::take(&mut course.is_to_be_judged_again) {
            return false;
        }
        course.is_held = false;
        true
    }

    /// Asks for the rules to be asked again; whether there still is time for that.
    pub fn judge_again(&self) -> bool {
        let mut course = self.course();
        course.is_to_be_judged_again = course.is_held;
        self.judging.notify_one();
        course.is_held
    }

    /// Resolves when the rules are to be asked again.
    pub async fn judging_again(&self) {
        loop {
            self.judging.notified().await;
            if std::mem::take(&mut self.course().is_to_be_judged_again) {
                return;
            }
        }
    }

    /// Looks at its process, as long as there is one, so that it is known later from whom it descends.
    pub fn begin_lineage(&self) {
        let (pid, lineage) = {
            let details = self.details();
            (details.pid, details.lineage.is_some())
        };
        if let Some(pid) = pid.filter(|_| !lineage) {
            self.details().lineage = Lineage::begin(pid);
        }
    }

    /// Looks from which processes it descends.
    pub fn complete_lineage(&self) {
        self.begin_lineage();
        let lineage = self.details().lineage.clone();
        if let Some(mut lineage) = lineage {
            lineage.complete();
            self.details().lineage = Some(lineage);
        }
    }

    /// Notes what the program saw of its failure.
    pub fn saw(&self, saw: Option<Saw>) {
        self.details().saw = saw;
    }

    /// Notes that somebody looks who opened it, until what this gives is dropped.
    pub fn learning(self: &Arc<Self>) -> Learning {
        self.details().is_being_learnt = true;
        Learning(self.clone())
    }

    /// What the rules gave, the first time that this is asked once it is known what became of it, and who opened it: for what is
    /// kept of each decision.
    pub fn take_decision(&self) -> Option<Judged> {
        let judged = self.judgement()?;
        let mut details = self.details();
        let is_clear = !details.state.waits() && !details.is_being_learnt;
        let is_decided = details.action.is_some() && is_clear;
        let is_first = is_decided && !std::mem::replace(&mut details.is_kept, is_decided);
        is_first.then_some(judged)
    }

    /// Notes what became of it.
    pub fn decided(&self, action: Action, rule: &str, zone: Option<&str>) {
        let mut details = self.details();
        details.action = Some(action);
        details.rule = Some(rule.to_owned());
        details.zone = zone.map(str::to_owned);
        details.state = State::Opening;
    }

    /// Notes that it goes somewhere else than was asked for, or where exactly.
    pub fn goes_to(&self, destination: String) {
        self.details().to = Some(destination);
    }

    /// Notes that the way is open.
    pub fn opened(&self) {
        self.details().state = State::Open;
    }

    /// Whether it got as far as being open.
    pub fn was_open(&self) -> bool {
        self.details().state == State::Open || self.counters.down.load(Ordering::Relaxed) > 0
    }

    /// Asks the task that carries it to stop.
    pub fn close(&self, because: &str) {
        self.course().closed_because = Some(because.to_owned());
        // One permit is kept: the task hears of it also when it asks later.
        self.closing.notify_one();
    }

    /// Resolves when someone asked to close it: why.
    pub async fn closing(&self) -> Option<String> {
        self.closing.notified().await;
        self.course().closed_because.clone()
    }

    /// As shown to people and programs.
    pub fn view(&self) -> FlowView {
        let details = self.details().clone();
        let end = details.ended.unwrap_or_else(Instant::now);
        let age = end.duration_since(self.started).as_millis();
        FlowView {
            id: self.id,
            application: details
                .application
                .map(|path| path.to_string_lossy().into_owned()),
            script: self.script(),
            pid: details.pid,
            destination: self.destination.to_string(),
            to: details.to,
            source: self.source,
            rule: details.rule,
            zone: details.zone,
            action: details.action,
            state: details.state,
            stage: details.stage,
            saw: details.stage.and(details.saw),
            reason: details.reason,
            up: self.counters.up.load(Ordering::Relaxed),
            down: self.counters.down.load(Ordering::Relaxed),
            age_ms: u64::try_from(age).unwrap_or(u64::MAX),
            opened_at: self.opened_at,
        }
    }

    /// As far as the rules had to know.
    fn script(&self) -> Option<String> {
        let course = self.course();
        match course.judged.as_ref()?.application.as_ref()? {
            Application::Known(Facts {
                script: Learned::Is(Some(script)),
                ..
            }) => Some(script.to_string_lossy().into_owned()),
            Application::Known(_) | Application::Unknown => None,
        }
    }

    pub(super) fn end(&self, outcome: Outcome) {
        let mut details = self.details();
        let accepted = outcome.stage.map(|_| Saw::Reset);
        details.saw = details.saw.or(accepted);
        details.state = outcome.state;
        details.stage = outcome.stage;
        details.reason = outcome.reason;
        details.ended = Some(Instant::now());
    }

    pub(super) fn lineage_if_it_failed_or_waits(&self) -> Option<Lineage> {
        let details = self.details();
        let is_meant = details.stage.is_some() || details.state.waits();
        details.lineage.clone().filter(|_| is_meant)
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn details(&self) -> MutexGuard<'_, Details> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody looks who opened a flow.
#[derive(Debug)]
pub struct Learning(Arc<Flow>);

impl Drop for Learning {
    fn drop(&mut self) {
        self.0.details().is_being_learnt = false;
    }
}
