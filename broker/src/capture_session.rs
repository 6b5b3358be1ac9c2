//! The broker's session with the capture helper: kept alive, claimed again after the helper was restarted.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adit_capture::questions::{Answers, Questions};
use adit_capture::wire::{ErrorCode, QueueBy};
use adit_capture::{Claim, Client, ClientError, Family, Step, Verdict};
use tokio::sync::{mpsc, oneshot, watch};

use crate::listeners::Listeners;
use crate::original_sources::OriginalSources;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// How long the helper may take to put one claim into the place of another.
const CLAIM_PATIENCE: Duration = Duration::from_secs(30);
/// How long a flow or a gateway's connection waits for a helper that is being restarted.
pub(crate) const HELPER_PATIENCE: Duration = Duration::from_secs(3);

/// Where the session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureState {
    /// The helper does not answer; what it put into the kernel stays there meanwhile.
    Waiting {
        /// Why, in words.
        reason: String,
    },
    /// Greeted, nothing claimed yet.
    Connected,
    /// The claim is in the kernel.
    Capturing,
    /// The helper will not have us: trying again can't help.
    Refused {
        /// Why, in words.
        reason: String,
    },
}

/// No socket that the capture rules let through.
#[derive(Debug, thiserror::Error)]
pub enum NoSocket {
    /// The helper is gone, and did not come back in time.
    #[error("the capture helper does not answer, so there is no socket to dial with")]
    HelperGone,
    /// The helper said no.
    #[error("the capture helper gave no socket: {0}")]
    Helper(#[from] ClientError),
}

/// Gets sockets that are never captured.
#[derive(Debug, Clone)]
pub struct MarkedSockets {
    client: watch::Receiver<Option<Client>>,
}

impl MarkedSockets {
    /// An unconnected stream socket; waits a moment for a helper that is being restarted.
    pub async fn get(&self, family: Family) -> Result<OwnedFd, NoSocket> {
        match self.client().await?.marked_socket(family).await {
            // It went while we asked: the next one is worth a try.
            Err(ClientError::Gone | ClientError::Frame(_)) => {
                Ok(self.client().await?.marked_socket(family).await?)
            }
            got => Ok(got?),
        }
    }

    async fn client(&self) -> Result<Client, NoSocket> {
        let mut present = self.client.clone();
        let alive = present.wait_for(Option::is_some);
        let waited = tokio::time::timeout(HELPER_PATIENCE, alive).await;
        waited.map_or(Err(NoSocket::HelperGone), |_| Ok(()))?;
        self.client.borrow().clone().ok_or(NoSocket::HelperGone)
    }
}

/// How the connections of this user are met that a rule has asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meeting {
    /// At their SYN, as far as the rules say so.
    Honest(QueueBy),
    /// Accepted before anything is known.
    Early {
        /// Why.
        reason: String,
    },
}

/// The questions of one session with the helper.
pub struct Questioning {
    /// From the kernel.
    pub questions: Questions,
    /// To the helper.
    pub answers: Answers,
    /// Resolves when the helper is gone, and with it all that was held.
    pub over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Why the helper did not take a claim in the place of another. What it took before is in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// It is not there.
    #[error("the capture helper does not answer")]
    HelperGone,
    /// It said no, or went away meanwhile.
    #[error("the capture helper: {0}")]
    Helper(String),
    /// It takes too long.
    #[error("the capture helper did not answer within {} s", CLAIM_PATIENCE.as_secs())]
    TimedOut,
}

/// A claim that may take the place of another.
#[derive(Debug)]
struct Proposal {
    claim: Arc<Claim>,
    reply: oneshot::Sender<Result<(), ClaimError>>,
}

/// The session's faces: what asks of it, and the task that keeps it.
#[derive(Debug)]
pub struct CaptureSession {
    /// Sockets for our own connections.
    pub sockets: MarkedSockets,
    /// Who the clients of captured connections are.
    pub sources: OriginalSources,
    /// Where it stands.
    pub state: watch::Receiver<CaptureState>,
    /// How connections are met that a rule has asked about.
    pub meeting: watch::Receiver<Meeting>,
    socket: PathBuf,
    claim: watch::Sender<Option<Arc<Claim>>>,
    proposals: mpsc::Sender<Proposal>,
    /// Whether a claim was ever sent to a helper.
    claimed: Arc<AtomicBool>,
    client: watch::Receiver<Option<Client>>,
}

impl CaptureSession {
    /// Starts the keeper. Nothing is claimed before [`CaptureSession::claim`]. To `questioning` goes what each session with the
    /// helper brings; the next only when the one before is over.
    pub fn start(
        socket: PathBuf,
        listeners: Arc<Listeners>,
        questioning: mpsc::Sender<Questioning>,
    ) -> Self {
        let (client_sender, client) = watch::channel(None);
        let reason = format!("connecting to {}", socket.display());
        let (state_sender, state) = watch::channel(CaptureState::Waiting { reason });
        let (meeting_sender, meeting) = watch::channel(Meeting::Early {
            reason: "nothing is claimed yet".to_owned(),
        });
        let (claim, wanted) = watch::channel(None);
        let (proposals, proposed) = mpsc::channel(1);
        let claimed = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            socket: socket.clone(),
            listeners,
            claim: wanted,
            proposed,
            claimed: claimed.clone(),
            client: client_sender,
            state: state_sender,
            meeting: meeting_sender,
            questioning,
        };
        tokio::spawn(keeper.keep());
        Self {
            sockets: MarkedSockets {
                client: client.clone(),
            },
            sources: OriginalSources::start(client.clone(), state.clone()),
            state,
            meeting,
            socket,
            claim,
            proposals,
            claimed,
            client,
        }
    }

    /// From now on this is what the helper should hand over, also after it was restarted.
    pub fn claim(&self, claim: Claim) {
        self.claim.send_replace(Some(Arc::new(claim)));
    }

    /// Puts a claim into the place of the one that is in force, in one step: when it fails, nothing has changed. Before the first
    /// claim there is nothing to do.
    ///
    /// # Errors
    /// When the one before stays in force.
    pub async fn replace(&self, claim: Claim) -> Result<(), ClaimError> {
        if self.claim.borrow().is_none() {
            return Ok(());
        }
        let mut client = self.client.clone();
        let alive = client.wait_for(Option::is_some);
        let waited = tokio::time::timeout(HELPER_PATIENCE, alive).await;
        waited.map_or(Err(ClaimError::HelperGone), |_| Ok(()))?;
        let claim = Arc::new(claim);
        let (reply, replied) = oneshot::channel();
        let proposal = Proposal {
            claim: claim.clone(),
            reply,
        };
        let answer = async {
            let sent = self.proposals.send(proposal).await;
            sent.map_err(|_| ClaimError::HelperGone)?;
            replied.await.map_err(|_| ClaimError::HelperGone)?
        };
        match tokio::time::timeout(CLAIM_PATIENCE, answer).await {
            Ok(Ok(())) => {
                self.claim.send_replace(Some(claim));
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ClaimError::TimedOut),
        }
    }

    /// Says goodbye: nothing of this user's is left in the kernel. Without a claim there is nothing to say.
    ///
    /// # Errors
    /// When the helper did not take it: what was claimed stays in the kernel.
    pub async fn release(&self) -> Result<(), ClientError> {
        self.claim.send_replace(None);
        if !self.claimed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let client = self.client.borrow().clone();
        if let Some(client) = client
            && client.release().await.is_ok()
        {
            return Ok(());
        }
        // It may have been started again since.
        Client::connect(&self.socket).await?.release().await
    }
}

/// The same for a helper that cannot ask.
fn handed_over(claim: &Claim) -> Claim {
    let verdict = |verdict| match verdict {
        Verdict::Ask => Verdict::HandOver,
        Verdict::HandOver | Verdict::Pass | Verdict::Block => verdict,
    };
    let steps = claim.steps.iter().map(|step| Step {
        verdict: verdict(step.verdict),
        ..step.clone()
    });
    Claim {
        steps: steps.collect(),
        default: verdict(claim.default),
        on_broker_gone: claim.on_broker_gone,
    }
}

fn is_same(in_force: Option<&Arc<Claim>>, claim: &Arc<Claim>) -> bool {
    in_force.is_some_and(|in_force| Arc::ptr_eq(in_force, claim))
}

/// Whether the helper would say the same again.
fn is_lasting(error: &ClientError) -> bool {
    let ClientError::Refused { code, .. } = error else {
        return false;
    };
    match code {
        ErrorCode::Version
        | ErrorCode::Protocol
        | ErrorCode::NotAllowed
        | ErrorCode::Busy
        | ErrorCode::BadClaim
        | ErrorCode::BadListener => true,
        ErrorCode::TooMany | ErrorCode::Kernel | ErrorCode::NoQueue => false,
    }
}

/// How a session with the helper ended.
enum Ended {
    /// The helper will not have us.
    Refused,
    /// The broker is ending.
    Unneeded,
    /// It had worked; why it ended.
    AfterCapturing(String),
    /// It never worked; why.
    Before(String),
}

struct Keeper {
    socket: PathBuf,
    listeners: Arc<Listeners>,
    claim: watch::Receiver<Option<Arc<Claim>>>,
    proposed: mpsc::Receiver<Proposal>,
    claimed: Arc<AtomicBool>,
    client: watch::Sender<Option<Client>>,
    state: watch::Sender<CaptureState>,
    meeting: watch::Sender<Meeting>,
    questioning: mpsc::Sender<Questioning>,
}

impl Keeper {
    async fn keep(mut self) {
        let mut delay = FIRST_RETRY;
        loop {
            let error = match Client::connect(&self.socket).await {
                Ok(client) => match self.serve(client).await {
                    Ended::Refused | Ended::Unneeded => return,
                    Ended::AfterCapturing(reason) => {
                        delay = FIRST_RETRY;
                        reason
                    }
                    Ended::Before(reason) => reason,
                },
                Err(error) if is_lasting(&error) => return self.refused(&error),
                Err(error) => error.to_string(),
            };
            self.client.send_replace(None);
            self.meeting.send_replace(Meeting::Early {
                reason: "the capture helper does not answer".to_owned(),
            });
            self.report(CaptureState::Waiting { reason: error });
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.client.closed() => return,
            }
            delay = (delay * 2).min(LONGEST_RETRY);
        }
    }

    fn refused(&self, error: &ClientError) {
        let reason = error.to_string();
        self.report(CaptureState::Refused { reason });
    }

    /// Holds one session with the helper.
    async fn serve(&mut self, client: Client) -> Ended {
        self.client.send_replace(Some(client.clone()));
        self.report(CaptureState::Connected);
        let mut queued = None;
        let mut in_force: Option<Arc<Claim>> = None;
        let mut capturing = false;
        let reason = loop {
            let wanted = self.claim.borrow_and_update().clone();
            if let Some(claim) = wanted.filter(|claim| !is_same(in_force.as_ref(), claim)) {
                match self.put(&client, &claim, &mut queued).await {
                    Ok(()) => (capturing, in_force) = (true, Some(claim)),
                    Err(error) if is_lasting(&error) => {
                        self.refused(&error);
                        return Ended::Refused;
                    }
                    Err(error) => break error.to_string(),
                }
            }
            tokio::select! {
                () = client.gone() => break "the helper went away".to_owned(),
                changed = self.claim.changed() => if changed.is_err() { return Ended::Unneeded },
                Some(proposal) = self.proposed.recv(), if in_force.is_some() => {
                    if let Some(claim) = self.try_out(&client, proposal, &mut queued).await {
                        in_force = claim;
                    }
                }
            }
        };
        if capturing {
            Ended::AfterCapturing(reason)
        } else {
            Ended::Before(reason)
        }
    }

    /// Puts a claim that may be refused. What is in force then; the outer `None`: what was. The inner: it has to be put again.
    async fn try_out(
        &mut self,
        client: &Client,
        proposal: Proposal,
        queued: &mut Option<Meeting>,
    ) -> Option<Option<Arc<Claim>>> {
        let Proposal { claim, reply } = proposal;
        if reply.is_closed() {
            return None;
        }
        if let Err(error) = self.put(client, &claim, queued).await {
            let _ = reply.send(Err(ClaimError::Helper(error.to_string())));
            return None;
        }
        if reply.send(Ok(())).is_err() {
            // Nobody waits for it any more, and what was wanted before still is.
            return Some(None);
        }
        // Who asked for it says now that it is what is wanted.
        tokio::select! {
            _ = self.claim.changed() => self.claim.mark_changed(),
            () = client.gone() => {}
        }
        Some(Some(claim))
    }

    /// `queued`: what came of this session's queue; nothing before the first claim that asks.
    async fn put(
        &self,
        client: &Client,
        claim: &Claim,
        queued: &mut Option<Meeting>,
    ) -> Result<(), ClientError> {
        let listeners: Vec<_> = self.listeners.sockets().map(AsFd::as_fd).collect();
        let asks = claim.steps.iter().any(|step| step.verdict == Verdict::Ask)
            || claim.default == Verdict::Ask;
        let meeting = match (asks, &queued) {
            (false, _) => Meeting::Early {
                reason: "no rule wants connections held".to_owned(),
            },
            (true, Some(known)) => known.clone(),
            (true, None) => queued.insert(self.queue(client).await?).clone(),
        };
        self.claimed.store(true, Ordering::Relaxed);
        match (asks, &meeting) {
            (true, Meeting::Early { .. }) => client.claim(&handed_over(claim), &listeners).await?,
            (_, Meeting::Honest(_)) | (false, _) => client.claim(claim, &listeners).await?,
        }
        self.meeting.send_replace(meeting);
        self.report(CaptureState::Capturing);
        Ok(())
    }

    /// How connections are met from now on that a rule asks about.
    async fn queue(&self, client: &Client) -> Result<Meeting, ClientError> {
        let queue = match client.queue().await {
            Ok(queue) => queue,
            Err(ClientError::Refused {
                code: ErrorCode::NoQueue,
                text,
            }) => {
                tracing::warn!("connections are accepted before anything is known: {text}");
                return Ok(Meeting::Early { reason: text });
            }
            Err(error) => return Err(error),
        };
        let questioning = Questioning {
            questions: queue.questions,
            answers: queue.answers,
            over: Box::pin(client.gone()),
        };
        // Who is ending takes no more.
        let _ = self.questioning.send(questioning).await;
        Ok(Meeting::Honest(queue.by))
    }

    fn report(&self, state: CaptureState) {
        let changed = self.state.send_if_modified(|current| {
            let changed = *current != state;
            if changed {
                *current = state.clone();
            }
            changed
        });
        if !changed {
            return;
        }
        match state {
            CaptureState::Waiting { reason } => {
                tracing::warn!("waiting for the capture helper: {reason}")
            }
            CaptureState::Connected => tracing::debug!("the capture helper answers"),
            CaptureState::Capturing => tracing::info!("capturing"),
            CaptureState::Refused { reason } => {
                tracing::error!("the capture helper refuses: {reason}")
            }
        }
    }
}
