//! What a zone's user has to say before its gateways let anyone in: passphrases of key files, passwords, answers of
//! keyboard-interactive (RFC 4256). Whoever runs `adit unlock` is asked, or a program on the screen; else it has to wait.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use russh::keys::PrivateKey;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::agent;
use super::askpass::Askpass;
use super::secret::Secret;

/// How long whoever runs `adit unlock` may think. sshd hangs up after two minutes (sshd_config(5), LoginGraceTime).
pub(super) const PATIENCE: Duration = Duration::from_secs(110);
/// Prompts of a server at once; more are not asked.
pub(super) const MOST_PROMPTS: usize = 16;
/// Characters of what a server wants to be shown.
const LONGEST_TEXT: usize = 1000;

/// The number of the next form: no two of a broker have the same.
static FORMS: AtomicU64 = AtomicU64::new(1);

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// The passphrase of a key file.
    Passphrase,
    /// A password at the gateway.
    Password,
    /// Whatever the gateway asks.
    KeyboardInteractive,
}

/// Something to be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// What to show.
    pub text: String,
    /// Whether what is typed may be seen.
    pub echo: bool,
}

/// What is asked at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// Tells it from others.
    pub id: u64,
    /// What it is about.
    pub about: About,
    /// Which gateway has to do with it.
    pub gateway: String,
    /// What to show before the prompts.
    pub instructions: String,
    /// To be answered in this order.
    pub prompts: Vec<Prompt>,
}

impl Form {
    /// With one prompt, whose answer is not to be seen.
    pub(super) fn secret(about: About, gateway: &str, text: String) -> Self {
        let prompt = Prompt { text, echo: false };
        Self::new(about, gateway, "", vec![prompt])
    }

    pub(super) fn new(
        about: About,
        gateway: &str,
        instructions: &str,
        prompts: Vec<Prompt>,
    ) -> Self {
        let short = |text: &str| text.chars().take(LONGEST_TEXT).collect();
        let prompts = prompts.into_iter().map(|prompt| Prompt {
            text: short(&as_line(&prompt.text)),
            echo: prompt.echo,
        });
        let instructions: Vec<_> = instructions.lines().map(as_line).collect();
        Self {
            id: 0,
            about,
            gateway: gateway.to_owned(),
            instructions: short(&instructions.join("\n")),
            prompts: prompts.collect(),
        }
    }
}

/// A text as it can be shown in one line, with a blank for what would end it; what would turn the direction of the rest is left out, and so
/// is what no program's argument can have.
pub(super) fn as_line(text: &str) -> String {
    let shown = text.chars().filter_map(|it| match it {
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => Some(' '),
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
        it => (!it.is_control()).then_some(it),
    });
    shown.collect()
}

/// Nobody is there to answer, or nobody did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unanswered;

/// Why an answer was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The question is gone.
    #[error("nothing waits for this answer any more: begin again")]
    Gone,
    /// More or fewer answers than prompts.
    #[error("there are {prompts} prompts, and {answers} answers")]
    Number {
        /// How many prompts.
        prompts: usize,
        /// How many answers.
        answers: usize,
    },
}

/// What one link waits for. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Unlocking {
    shared: Arc<Shared>,
    of_zone: Arc<OfZone>,
    askpass: Option<Askpass>,
}

/// What is one for all links of a zone.
#[derive(Debug, Default)]
struct OfZone {
    keys: Mutex<HashMap<PathBuf, Unlocked>>,
    /// Held by the link that asks for a passphrase.
    passphrase: tokio::sync::Mutex<()>,
    /// The program on the screen was given no answer: it is not started again by itself.
    declined: AtomicBool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    open: watch::Sender<Option<Form>>,
    /// Tells whoever waits for the screen that someone is there.
    attends: Notify,
}

#[derive(Debug, Default)]
struct State {
    attended_until: Option<Instant>,
    answer: Option<oneshot::Sender<Vec<Secret>>>,
    locked: Option<Form>,
    touch: Vec<String>,
    /// The last one of this login.
    touched: Option<String>,
    /// Keys that the agent had at the last login that asked it.
    agent_held: Option<Vec<String>>,
}

/// A key that its passphrase has opened.
#[derive(Debug)]
struct Unlocked {
    /// What the file said then, which is no secret.
    text: String,
    key: Arc<PrivateKey>,
}

impl Unlocking {
    /// That of a zone whose user can be asked with this.
    pub(super) fn asked_by(askpass: Option<Askpass>) -> Self {
        Self {
            askpass,
            ..Self::default()
        }
    }

    /// That of another link of the same zone: a key that was unlocked for one is for all.
    pub(super) fn beside(&self) -> Self {
        Self {
            of_zone: self.of_zone.clone(),
            askpass: self.askpass.clone(),
            shared: Arc::default(),
        }
    }

    /// Someone is there to answer, for a while.
    pub fn attend(&self) {
        let mut state = self.state();
        state.attended_until = Some(Instant::now() + PATIENCE);
        state.locked = None;
        self.shared.attends.notify_waiters();
    }

    /// Nobody is there to answer any more.
    pub fn leave(&self) {
        self.state().attended_until = None;
    }

    /// Nothing that was asked matters any more: the zone has other gateways.
    pub(super) fn forget(&self) {
        self.state().locked = None;
        self.of_zone.declined.store(false, Ordering::Relaxed);
    }

    /// A gateway has let the user in: what another waits for keeps nothing locked.
    pub(crate) fn let_in(&self) {
        self.state().locked = None;
    }

    /// What keeps the zone locked.
    pub fn locked(&self) -> Option<Form> {
        self.state().locked.clone()
    }

    /// The keys that are to be touched.
    pub fn touches(&self) -> Vec<String> {
        self.state().touch.clone()
    }

    /// What is to be answered, once there is something.
    pub async fn form(&self) -> Form {
        let mut open = self.shared.open.subscribe();
        loop {
            if let Ok(form) = open.wait_for(Option::is_some).await
                && let Some(form) = form.clone()
            {
                return form;
            }
        }
    }

    /// Whether something is to be answered right now.
    pub fn is_open(&self) -> bool {
        self.shared.open.borrow().is_some()
    }

    /// Whether the form with this id is to be answered.
    pub fn asks(&self, id: u64) -> bool {
        self.shared
            .open
            .borrow()
            .as_ref()
            .is_some_and(|form| form.id == id)
    }

    /// Answers the form with this id.
    pub fn answer(&self, id: u64, answers: Vec<Secret>) -> Result<(), NotTaken> {
        let form = self.shared.open.borrow().clone();
        let form = form.filter(|form| form.id == id).ok_or(NotTaken::Gone)?;
        if form.prompts.len() != answers.len() {
            return Err(NotTaken::Number {
                prompts: form.prompts.len(),
                answers: answers.len(),
            });
        }
        self.attend();
        self.shared.open.send_replace(None);
        let waits = self.state().answer.take().ok_or(NotTaken::Gone)?;
        waits.send(answers).map_err(|_| NotTaken::Gone)
    }

    /// Whether there is anyone to ask.
    pub(super) fn can_ask(&self) -> bool {
        self.is_attended() || self.screen().is_some()
    }

    /// Notes what the agent holds, which does not help if the zone is locked then.
    pub(super) fn agent_holds(&self, keys: Vec<String>) {
        self.state().agent_held = Some(keys);
    }

    /// Resolves when the agent holds a key that it did not: what is locked may be open to it.
    pub(crate) async fn agent_holds_more(&self) {
        let before = self.state().agent_held.clone();
        match before {
            Some(before) => agent::holds_more_than(&before).await,
            None => std::future::pending().await,
        }
    }

    /// Notes what the zone waits for, as nobody is there.
    pub(super) fn lock(&self, form: Form) {
        self.state().locked = Some(form);
    }

    /// Asks the user. Without prompts there is nothing to ask (RFC 4256, section 3.2).
    pub(super) async fn ask(&self, form: &Form) -> Result<Vec<Secret>, Unanswered> {
        if form.prompts.is_empty() {
            return Ok(Vec::new());
        }
        if self.is_attended() {
            return self.ask_who_attends(form.clone()).await;
        }
        if self.screen().is_none() {
            return Err(Unanswered);
        }
        let _turn = tokio::select! {
            turn = Askpass::turn() => turn,
            () = self.shared.attends.notified() => {
                return self.ask_who_attends(form.clone()).await;
            }
        };
        // Someone may have said no to another link meanwhile.
        let askpass = self.screen().ok_or(Unanswered)?;
        let mut answers = Vec::new();
        for prompt in &form.prompts {
            let text = format!("{}\n{}", form.instructions, prompt.text);
            match askpass.ask(text.trim_start()).await {
                Some(answer) => answers.push(answer),
                None => {
                    self.of_zone.declined.store(true, Ordering::Relaxed);
                    return Err(Unanswered);
                }
            }
        }
        Ok(answers)
    }

    async fn ask_who_attends(&self, mut form: Form) -> Result<Vec<Secret>, Unanswered> {
        let (answer, answered) = oneshot::channel();
        form.id = FORMS.fetch_add(1, Ordering::Relaxed);
        self.state().answer = Some(answer);
        self.shared.open.send_replace(Some(form));
        let closing = Closing(self);
        let answers = timeout(PATIENCE, answered).await;
        drop(closing);
        answers.map_err(|_| Unanswered)?.map_err(|_| Unanswered)
    }

    /// Shows that a key is to be touched until what this gives is dropped.
    pub(super) fn touching(&self, key: String) -> Touching<'_> {
        let mut state = self.state();
        state.touch.push(key.clone());
        state.touched = Some(key.clone());
        drop(state);
        Touching { own: self, key }
    }

    /// A login begins.
    pub(super) fn log_in(&self) {
        self.state().touched = None;
    }

    /// The key that had to be touched for the last login.
    pub(super) fn touched(&self) -> Option<String> {
        self.state().touched.clone()
    }

    /// The key in this file, if it was unlocked before; it is forgotten where the file has changed.
    pub(super) fn unlocked(&self, file: &Path, text: &str) -> Option<Arc<PrivateKey>> {
        let mut keys = self.keys();
        if keys.get(file)?.text != text {
            keys.remove(file);
        }
        Some(keys.get(file)?.key.clone())
    }

    /// Keeps an unlocked key, for the next connection.
    pub(super) fn keep(&self, file: &Path, text: &str, key: Arc<PrivateKey>) {
        let text = text.to_owned();
        let unlocked = Unlocked { text, key };
        self.keys().insert(file.to_owned(), unlocked);
    }

    /// To be had before a passphrase is asked for: it may be what another link of the zone has just been told.
    pub(super) async fn passphrase_turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.of_zone.passphrase.lock().await
    }

    fn is_attended(&self) -> bool {
        let until = self.state().attended_until;
        until.is_some_and(|until| Instant::now() < until)
    }

    fn screen(&self) -> Option<Askpass> {
        let is_declined = self.of_zone.declined.load(Ordering::Relaxed);
        self.askpass.clone().filter(|_| !is_declined)
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<PathBuf, Unlocked>> {
        self.of_zone
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a form away that nobody waits for any more.
struct Closing<'u>(&'u Unlocking);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.shared.open.send_replace(None);
        self.0.state().answer = None;
    }
}

/// A key is to be touched as long as this lives.
pub(super) struct Touching<'u> {
    own: &'u Unlocking,
    key: String,
}

impl Drop for Touching<'_> {
    fn drop(&mut self) {
        let mut state = self.own.state();
        if let Some(at) = state.touch.iter().position(|key| *key == self.key) {
            state.touch.remove(at);
        }
    }
}
