//! Where connections come in: as questions about those that are held, and on the listeners.

use std::sync::Arc;
use std::time::Duration;

use adit_capture::held_packet::NotAQuestion;
use adit_capture::netfilter;
use adit_capture::questions::{self, Answers, Question, Questions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::capture_session::Questioning;
use crate::dispatch::Dispatcher;
use crate::held::{Asked, Cause, HeldTable};
use crate::listeners::Listeners;
use crate::original_destination::Captured;

/// Descriptors kept for everything but flows: each passed flow takes two, each tunnelled one.
const RESERVED_DESCRIPTORS: u64 = 512;

/// Accepted connections that wait for a place; the next ones wait in the listener's backlog.
const WAITING: usize = 256;

/// How often it is looked whether programs that are held still wait.
const LOOK: Duration = Duration::from_secs(1);

/// Takes connections in and gives each to the dispatcher.
#[derive(Debug)]
pub struct Intake {
    listeners: Arc<Listeners>,
    dispatcher: Arc<Dispatcher>,
    held: HeldTable,
    /// A place for each flow, as long as it needs descriptors or may come to.
    places: Arc<Semaphore>,
    /// Accepted connections that have no place yet.
    waiting: Arc<Semaphore>,
}

impl Intake {
    /// Takes nothing in yet.
    pub fn new(listeners: Arc<Listeners>, dispatcher: Arc<Dispatcher>) -> Self {
        Self {
            listeners,
            dispatcher,
            held: HeldTable::default(),
            places: Arc::new(Semaphore::new(flow_limit())),
            waiting: Arc::new(Semaphore::new(WAITING)),
        }
    }

    /// A place for each flow, however it comes in.
    pub fn places(&self) -> Arc<Semaphore> {
        self.places.clone()
    }

    /// Takes in what comes from now on. Each of its tasks is woken by itself alone; they end with what is returned.
    pub fn start(self: Arc<Self>, asked: mpsc::Receiver<Questioning>) -> JoinSet<()> {
        let (accepting, asking, looking) = (self.clone(), self.clone(), self);
        let mut running = JoinSet::new();
        running.spawn(async move { accepting.accept_all().await });
        running.spawn(async move { asking.answer_questions(asked).await });
        running.spawn(async move { looking.look_after_held().await });
        running
    }

    async fn accept_all(self: &Arc<Self>) {
        loop {
            let (tcp, peer, own) = match self.listeners.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let captured = match Captured::identify(tcp, peer, own) {
                Ok(captured) => captured,
                Err(error) => {
                    // Any user of the host can connect to the listener: no reason to fill the log.
                    tracing::debug!("closed a connection that was not captured: {error}");
                    continue;
                }
            };
            let Some(unmet) = self.held.meet(captured) else {
                continue;
            };
            // Those that are expected come in on the same listener: they must not wait for a place, which they have.
            let Ok(waiting) = self.waiting.clone().acquire_owned().await else {
                return;
            };
            let intake = self.clone();
            tokio::spawn(async move { intake.carry(unmet, waiting).await });
        }
    }

    /// Carries a connection that nobody seems to expect.
    async fn carry(&self, unmet: Captured, waiting: OwnedSemaphorePermit) {
        let Some(early) = self.meet_by_source(unmet).await else {
            return;
        };
        let Ok(_place) = self.places.clone().acquire_owned().await else {
            return;
        };
        drop(waiting);
        let asked = early.destination.address().into();
        self.dispatcher.carry(early.into(), asked).await;
    }

    /// Where the kernel keeps no SYN, it is the connection's own source that tells which question it belongs to.
    async fn meet_by_source(&self, unmet: Captured) -> Option<Captured> {
        if unmet.sequence().is_some() || self.held.is_empty() {
            return Some(unmet);
        }
        let ends = unmet.ends();
        match self.dispatcher.attribution.source(ends).await {
            Ok(own) => self.held.meet_from(own, unmet),
            // It is looked at again before anything depends on it.
            Err(error) => {
                tracing::debug!("{error}");
                Some(unmet)
            }
        }
    }

    /// The questions of one session with the helper after another.
    async fn answer_questions(&self, mut asked: mpsc::Receiver<Questioning>) {
        while let Some(mut questioning) = asked.recv().await {
            let Questioning {
                questions,
                answers,
                over,
            } = &mut questioning;
            tokio::select! {
                () = over => {}
                error = self.answer_all(questions, answers) => {
                    tracing::error!("connections are held that nobody hears of: {error}");
                    return;
                }
            }
            drop(questioning);
            self.held.all_gone();
        }
        std::future::pending().await
    }

    async fn answer_all(&self, questions: &mut Questions, answers: &Answers) -> std::io::Error {
        loop {
            match questions.next().await {
                Ok(Ok(question)) => {
                    self.answer_one(question, answers);
                }
                // Something before its TCP header that is not understood here: what its socket says after a redirect is.
                Ok(Err(NotAQuestion::Packet(id))) => answers.give(id, questions::Answer::Redirect),
                // To answers that came too late.
                Ok(Err(NotAQuestion::Kind(netfilter::ERROR))) => {}
                Ok(Err(error)) => tracing::warn!("the kernel's queue: {error}"),
                Err(error) => return error,
            }
        }
    }

    /// A program that gives up while it is held says nothing to the kernel's queue.
    async fn look_after_held(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            for waiting in self.held.waiting(LOOK) {
                let attribution = &self.dispatcher.attribution;
                if attribution
                    .is_gone(waiting.source, waiting.destination)
                    .await
                {
                    waiting.gone.note(Cause::GivenUp);
                }
            }
        }
    }

    fn answer_one(&self, question: Question, answers: &Answers) {
        let held = match self.held.ask(question, answers) {
            Asked::Anew(held) => held,
            Asked::Before => return,
            Asked::AfterIt(again) => {
                let attribution = self.dispatcher.attribution.clone();
                tokio::spawn(async move {
                    let is_bound = attribution
                        .is_bound_to_device(question.source, question.destination)
                        .await;
                    again.answer(is_bound);
                });
                return;
            }
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            // Its SYN is sent again in a second.
            return held.answer(questions::Answer::Drop);
        };
        let dispatcher = self.dispatcher.clone();
        tokio::spawn(async move {
            dispatcher.answer(held).await;
            drop(place);
        });
    }
}

/// As many flows as there are descriptors for, with the soft limit raised to the hard one.
fn flow_limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
                hard
            } else {
                soft
            }
        }
        Err(_) => 1024,
    };
    usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS) / 2)
        .unwrap_or(1024)
        .clamp(64, 65_536)
}
