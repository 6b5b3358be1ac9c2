//! Puts other rules into force, as a whole or not at all.
//!
//! The order, and why nothing leaks in between: the kernel first, in one transaction, as it is what can fail; then the rules
//! in one exchange; then the flows that live are judged again. What the kernel hands over is judged by whichever rules are in
//! force then, and these judge a flow whole: so each flow gets what the old rules give or what the new ones give, never a mixture.
//! Who was judged by the old ones is found when the new ones are there, as each flow notes its judgement before it looks whether
//! the rules still are the same.

mod changes;
mod triggers;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_capture::OnBrokerGone;
use adit_rules::{Checked, Date, Diagnostics, KernelProgram, Policy};
use tokio::sync::{Mutex as AsyncMutex, Notify};

pub use self::triggers::heed;

use self::changes::{FlowChanges, WantedZones};
use crate::capture_session::{CaptureSession, ClaimError};
use crate::control::reload::{
    BadRules, Outcome, ReloadFailure, Reloaded, RulesStatus, ZoneChanges,
};
use crate::dispatch::Dispatcher;
use crate::entrances::{self, Entrances};
use crate::kernel_claim::claim_of;
use crate::listeners::ListenError;
use crate::rule_sources::{FileState, RuleSources, RulesError, Seen};
use crate::rules_in_force::InForce;
use crate::today::today;
use crate::user::{User, UserError};
use crate::zone::Zone;
use crate::zone_targets::ZoneTargets;

/// What makes a broker read its rules anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// `adit reload`.
    Asked,
    /// SIGHUP.
    Hangup,
    /// A file has changed.
    Files,
    /// Another day has begun.
    NewDay,
    /// The capture helper is there again.
    Helper,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "adit reload",
            Self::Hangup => "SIGHUP",
            Self::Files => "a file has changed",
            Self::NewDay => "a new day",
            Self::Helper => "the capture helper is back",
        }
    }
}

/// Why the rules stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// `adit up` has none that could be read.
    #[error("the rules of `adit up` are its command line: end it, and start it with another")]
    NoFiles,
    /// The files.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// Whose rules they are.
    #[error("cannot look up who the user is: {0}")]
    User(#[from] UserError),
    /// A day is needed for `expires`.
    #[error("the clock shows no day that a rule can expire on")]
    Day,
    /// The kernel.
    #[error("the rules are right, but the kernel keeps the old ones: {0}")]
    Claim(#[from] ClaimError),
    /// Where programs are to ask for connections.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A fault of this program.
    #[error("reading the rules failed: {0}")]
    Reading(#[from] tokio::task::JoinError),
}

impl ReloadError {
    /// What is wrong in the files, when that is it.
    pub fn bad_rules(&self) -> Option<BadRules> {
        let Self::Rules(error) = self else {
            return None;
        };
        let diagnostics = match error {
            RulesError::Sources(_) => serde_json::json!([]),
            RulesError::Wrong(diagnostics) => json(diagnostics),
        };
        Some(BadRules {
            diagnostics,
            text: error.to_string(),
        })
    }
}

/// Rules that could be read, for a user on a day.
#[derive(Debug)]
pub struct ReadRules {
    /// The rules.
    pub policy: Policy,
    /// What to warn of.
    pub warnings: Diagnostics,
    /// The rule files.
    pub files: Vec<PathBuf>,
}

/// Reads the rules of a broker anew.
#[derive(Debug)]
pub struct Reloader {
    /// `None`: there are no files.
    sources: Option<RuleSources>,
    surroundings: Surroundings,
    status: Mutex<RulesStatus>,
    last: Mutex<LastReading>,
    one_at_a_time: AsyncMutex<()>,
    asked: Notify,
}

/// What was read last, whatever came of it.
#[derive(Debug, Default)]
struct LastReading {
    files: Vec<PathBuf>,
    seen: Vec<Seen>,
    /// The rules were right, and only the helper was missing.
    waits_for_helper: bool,
}

/// What a broker is and has, as far as a reload is concerned.
#[derive(Debug)]
pub struct Surroundings {
    /// Whose flows they are.
    pub user: User,
    /// The claim's word.
    pub on_broker_gone: OnBrokerGone,
    /// Where the rules are in force.
    pub dispatcher: Arc<Dispatcher>,
    /// Where the kernel's part is put.
    pub session: Arc<CaptureSession>,
    /// Where programs can ask for connections.
    pub entrances: Arc<Mutex<Entrances>>,
}

impl Reloader {
    /// `first`: what was read from `sources` for the rules that are in force now. Without `sources` there are no files.
    pub fn new(
        sources: Option<RuleSources>,
        first: (Vec<PathBuf>, Vec<Seen>),
        surroundings: Surroundings,
    ) -> Self {
        let (files, seen) = first;
        let last = LastReading {
            files: files.clone(),
            seen,
            waits_for_helper: false,
        };
        let status = RulesStatus {
            files,
            read_at: jiff::Timestamp::now(),
            error: None,
        };
        Self {
            sources,
            surroundings,
            status: Mutex::new(status),
            last: Mutex::new(last),
            one_at_a_time: AsyncMutex::new(()),
            asked: Notify::new(),
        }
    }

    /// Which rules are in force.
    pub fn status(&self) -> RulesStatus {
        lock(&self.status).clone()
    }

    /// Where the rules come from.
    pub fn sources(&self) -> Option<&RuleSources> {
        self.sources.as_ref()
    }

    /// The files that were read last.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.last).seen.clone()
    }

    /// Whether the files are others than those that were read last.
    pub fn is_outdated(&self) -> bool {
        let Some(sources) = &self.sources else {
            return false;
        };
        let layers = sources.layers().unwrap_or_default();
        let files = layers.into_iter().flat_map(|layer| layer.files);
        let last = lock(&self.last);
        let has_changed = |seen: &Seen| FileState::of(&seen.path) != seen.state;
        !files.eq(last.files.iter().cloned()) || last.seen.iter().any(has_changed)
    }

    /// Whether what was read last is right, and not in force only because the helper was not there.
    pub fn waits_for_helper(&self) -> bool {
        lock(&self.last).waits_for_helper
    }

    /// The last day on which the rules in force are what they are now.
    pub fn last_day(&self) -> Option<Date> {
        self.surroundings.dispatcher.rules.now().policy.last_day()
    }

    /// Resolves after someone asked for a reload.
    pub async fn was_asked(&self) {
        self.asked.notified().await;
    }

    /// Reads the files anew, and puts what they say into force: all of it, or nothing.
    ///
    /// # Errors
    /// When everything stays as it was.
    pub async fn reload(&self, cause: Cause) -> Result<Reloaded, ReloadError> {
        let _alone = self.one_at_a_time.lock().await;
        let read = match cause {
            // Whatever is in the files by now.
            Cause::NewDay => self.on_this_day().await,
            Cause::Asked | Cause::Hangup | Cause::Files | Cause::Helper => self.read().await,
        };
        let outcome = match read {
            Ok(read) => self.put_into_force(read).await,
            Err(error) => Err(error),
        };
        self.note(cause, &outcome);
        if cause == Cause::Asked {
            self.asked.notify_one();
        }
        outcome
    }

    async fn on_this_day(&self) -> Result<NewRules, ReloadError> {
        let today = today().ok_or(ReloadError::Day)?;
        let policy = self.surroundings.dispatcher.rules.now().policy.on(today);
        NewRules::new(policy, Diagnostics::default(), self.status().files).await
    }

    /// What a reload would do.
    ///
    /// # Errors
    /// When it would do nothing.
    pub async fn try_out(&self) -> Result<Reloaded, ReloadError> {
        let _alone = self.one_at_a_time.lock().await;
        let plan = Plan::new(self.read().await?, &self.surroundings);
        let policy = &plan.rules.policy;
        let flows = changes::of_flows(&self.surroundings.dispatcher.flows, policy, &plan.zones);
        let mut told = plan.told(&flows);
        told.dry_run = true;
        Ok(told)
    }

    async fn read(&self) -> Result<NewRules, ReloadError> {
        let sources = self.sources.clone().ok_or(ReloadError::NoFiles)?;
        let today = today().ok_or(ReloadError::Day)?;
        let user = self.surroundings.user.of_rules()?;
        // It may take a second, and nothing else is to wait for it.
        let reading = tokio::task::spawn_blocking(move || sources.read(today)).await?;
        *lock(&self.last) = LastReading {
            files: reading.files.clone(),
            seen: reading.seen,
            waits_for_helper: false,
        };
        let Checked { policy, warnings } = reading.outcome?;
        let files = reading.files;
        NewRules::new(policy.for_user(user), warnings, files).await
    }

    async fn put_into_force(&self, rules: NewRules) -> Result<Reloaded, ReloadError> {
        let Surroundings {
            dispatcher,
            session,
            on_broker_gone,
            ..
        } = &self.surroundings;
        let plan = Plan::new(rules, &self.surroundings);
        let before = dispatcher.rules.now();
        // Who comes in by a new one before the rules are there is judged by the old ones.
        self.listen(&plan.rules.policy)?;
        if plan.kernel_changed {
            let claim = claim_of(plan.rules.program.clone(), *on_broker_gone);
            if let Err(error) = session.replace(claim).await {
                if let Err(error) = self.listen(&before.policy) {
                    tracing::error!("what was listened at is not any more: {error}");
                }
                return Err(error.into());
            }
        }
        let mut zones = HashMap::new();
        for (name, targets) in &plan.zones {
            let zone = before.zones.get(name).cloned().unwrap_or_else(|| {
                let sockets = dispatcher.sockets.clone();
                Arc::new(Zone::start(name.clone(), targets.clone(), sockets))
            });
            zones.insert(name.clone(), zone);
        }
        dispatcher.rules.replace(InForce {
            policy: plan.rules.policy.clone(),
            program: plan.rules.program.clone(),
            zones,
        });
        for name in &plan.changes.changed {
            if let (Some(zone), Some(targets)) = (before.zones.get(name), plan.zones.get(name)) {
                zone.lead_to(targets.clone());
            }
        }
        let mut flows = changes::of_flows(&dispatcher.flows, &plan.rules.policy, &plan.zones);
        for (flow, change) in &mut flows.changed {
            if flow.judge_again() {
                change.outcome = Outcome::JudgedAgain;
            } else {
                flow.close(&format!("closed by a reload: {}", change.to));
            }
        }
        for name in &plan.changes.removed {
            if let Some(zone) = before.zones.get(name).cloned() {
                tokio::spawn(async move { zone.close().await });
            }
        }
        // Very many rules take a while to go.
        tokio::task::spawn_blocking(move || drop(before));
        Ok(plan.told(&flows))
    }

    fn listen(&self, policy: &Policy) -> Result<(), ListenError> {
        lock(&self.surroundings.entrances).set(&entrances::wanted(policy))
    }

    fn note(&self, cause: Cause, outcome: &Result<Reloaded, ReloadError>) {
        let mut status = lock(&self.status);
        let at = jiff::Timestamp::now();
        match outcome {
            Ok(told) if cause == Cause::NewDay => tell(cause, told),
            Ok(told) => {
                *status = RulesStatus {
                    files: told.files.clone(),
                    read_at: at,
                    error: None,
                };
                tell(cause, told);
            }
            Err(error) => {
                let is_claim = matches!(error, ReloadError::Claim(ClaimError::HelperGone));
                lock(&self.last).waits_for_helper = is_claim && cause != Cause::NewDay;
                let text = error.to_string();
                tracing::error!("the rules stay as they are ({}): {text}", cause.as_str());
                status.error = Some(ReloadFailure { at, text });
            }
        }
    }
}

/// Rules that may come into force.
struct NewRules {
    policy: Policy,
    program: KernelProgram,
    warnings: Diagnostics,
    files: Vec<PathBuf>,
}

impl NewRules {
    async fn new(
        policy: Policy,
        warnings: Diagnostics,
        files: Vec<PathBuf>,
    ) -> Result<Self, ReloadError> {
        // Of very many rules it takes a while, and nothing else is to wait for it.
        let making = tokio::task::spawn_blocking(move || (policy.kernel_program(), policy));
        let (program, policy) = making.await?;
        Ok(Self {
            policy,
            program,
            warnings,
            files,
        })
    }
}

/// What a reload is about to change.
struct Plan {
    rules: NewRules,
    zones: WantedZones,
    changes: ZoneChanges,
    kernel_changed: bool,
}

impl Plan {
    fn new(rules: NewRules, surroundings: &Surroundings) -> Self {
        let now = surroundings.dispatcher.rules.now();
        let zones = rules.policy.zones().iter();
        let zones: WantedZones = zones
            .map(|zone| {
                let targets = ZoneTargets::of(zone, &surroundings.user);
                (zone.name.clone(), targets)
            })
            .collect();
        Self {
            changes: changes::of_zones(&now.zones, &zones),
            kernel_changed: rules.program != now.program,
            zones,
            rules,
        }
    }

    fn told(&self, flows: &FlowChanges) -> Reloaded {
        let changed = flows.changed.iter().map(|(_, change)| change.clone());
        Reloaded {
            dry_run: false,
            files: self.rules.files.clone(),
            zones: self.changes.clone(),
            kernel_changed: self.kernel_changed,
            kept: flows.kept,
            changed: changed.collect(),
            diagnostics: json(&self.rules.warnings),
            text: self.rules.warnings.to_string(),
        }
    }
}

fn tell(cause: Cause, told: &Reloaded) {
    if !told.text.is_empty() {
        tracing::warn!("{}", told.text);
    }
    for flow in &told.changed {
        let application = flow.application.as_deref().unwrap_or("unknown");
        tracing::info!(
            flow = flow.id, destination = %flow.destination, application = %application.escape_debug(),
            from = %flow.from, to = %flow.to, outcome = ?flow.outcome, "flow changed by a reload"
        );
    }
    let (kept, changed) = (told.kept, told.changed.len());
    tracing::info!(kept, changed, "rules read anew ({})", cause.as_str());
}

fn json(diagnostics: &Diagnostics) -> serde_json::Value {
    // Texts and numbers always have a JSON form.
    serde_json::to_value(diagnostics).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
