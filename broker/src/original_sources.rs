//! Where redirected connections came from. Only the helper may ask conntrack.

use std::net::SocketAddr;

use adit_capture::wire::{MAX_SOURCES, Redirected};
use adit_capture::{Client, ClientError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::capture_session::{CaptureState, HELPER_PATIENCE};

/// No word on whose a captured connection is.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoSource {
    /// The helper is gone, or has not taken the claim again in time.
    #[error("the capture helper does not answer, and it alone knows the client's own address")]
    HelperGone,
    /// The helper said no.
    #[error("no word on the client's own address: {0}")]
    Helper(String),
    /// Conntrack has forgotten the connection, which cannot go on then.
    #[error("the kernel does not track this connection any more")]
    Untracked,
}

/// Asks where redirected connections came from. What is asked while the helper answers goes to it together: under load a
/// question costs a fraction of a conversation.
#[derive(Debug, Clone)]
pub struct OriginalSources {
    questions: mpsc::Sender<SourceQuestion>,
}

#[derive(Debug)]
struct SourceQuestion {
    of: Redirected,
    answer: oneshot::Sender<Result<SocketAddr, NoSource>>,
}

impl OriginalSources {
    pub(crate) fn start(
        client: watch::Receiver<Option<Client>>,
        state: watch::Receiver<CaptureState>,
    ) -> Self {
        let (questions, queue) = mpsc::channel(MAX_SOURCES);
        tokio::spawn(Asker { client, state }.ask_all(queue));
        Self { questions }
    }

    /// Of the connection that `listener` accepted from `peer`; waits a moment for a helper that is being restarted.
    pub async fn of(&self, listener: SocketAddr, peer: SocketAddr) -> Result<SocketAddr, NoSource> {
        let (answer, answered) = oneshot::channel();
        let of = Redirected { listener, peer };
        let asked = self.questions.send(SourceQuestion { of, answer }).await;
        asked.map_err(|_| NoSource::HelperGone)?;
        answered.await.map_err(|_| NoSource::HelperGone)?
    }
}

struct Asker {
    client: watch::Receiver<Option<Client>>,
    state: watch::Receiver<CaptureState>,
}

impl Asker {
    async fn ask_all(self, mut queue: mpsc::Receiver<SourceQuestion>) {
        let mut batch = Vec::with_capacity(MAX_SOURCES);
        while queue.recv_many(&mut batch, MAX_SOURCES).await > 0 {
            let answers = self
                .ask(batch.iter().map(|question| question.of).collect())
                .await;
            for (index, question) in batch.drain(..).enumerate() {
                let answer = match &answers {
                    Ok(sources) => sources
                        .get(index)
                        .copied()
                        .flatten()
                        .ok_or(NoSource::Untracked),
                    Err(error) => Err(error.clone()),
                };
                // The flow may have ended meanwhile.
                let _ = question.answer.send(answer);
            }
        }
    }

    async fn ask(&self, of: Vec<Redirected>) -> Result<Vec<Option<SocketAddr>>, NoSource> {
        let answered = match self.client().await?.original_sources(of.clone()).await {
            // It went while we asked: the next one is worth a try.
            Err(ClientError::Gone | ClientError::Frame(_)) => {
                self.client().await?.original_sources(of).await
            }
            answered => answered,
        };
        answered.map_err(|error| NoSource::Helper(error.to_string()))
    }

    /// Whoever is asked has to have taken the claim: so first who is there, then the claim.
    async fn client(&self) -> Result<Client, NoSource> {
        let (mut present, mut state) = (self.client.clone(), self.state.clone());
        // The common case takes no timer.
        if *state.borrow() == CaptureState::Capturing
            && let Some(client) = present.borrow().clone()
        {
            return Ok(client);
        }
        let claimed = async {
            let client = present.wait_for(Option::is_some).await.ok()?.clone();
            let capturing = state.wait_for(|state| *state == CaptureState::Capturing);
            capturing.await.ok()?;
            client
        };
        let waited = tokio::time::timeout(HELPER_PATIENCE, claimed).await;
        waited.ok().flatten().ok_or(NoSource::HelperGone)
    }
}
