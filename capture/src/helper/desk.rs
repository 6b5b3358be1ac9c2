//! Where sessions ask the keeper: a bounded queue, and one answer for each question.

use std::sync::Arc;
use std::time::Duration;

use adit_capture::Claim;
use adit_capture::wire::QueueBy;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::keeper::{Connection, Keeper, Refusal, SessionId};
use super::listener::Listeners;
use super::queue::Queue;

/// Each session waits for its answer, so more than the sessions there are can never wait.
const QUEUE: usize = 64;

/// A question, and where its answer goes.
#[derive(Debug)]
struct Question {
    session: SessionId,
    uid: u32,
    what: What,
    answer: oneshot::Sender<Result<(), Refusal>>,
}

#[derive(Debug)]
enum What {
    Claim(Connection, Box<Claim>, Listeners, Option<Arc<Queue>>),
    Queue(oneshot::Sender<(QueueBy, Arc<Queue>)>),
    Release,
    Ended,
}

/// The sessions' end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    questions: mpsc::Sender<Question>,
}

impl Desk {
    pub(crate) async fn claim(
        &self,
        (session, connection): (SessionId, Connection),
        uid: u32,
        claim: Claim,
        (listeners, queue): (Listeners, Option<Arc<Queue>>),
    ) -> Result<(), Refusal> {
        self.ask(
            session,
            uid,
            What::Claim(connection, Box::new(claim), listeners, queue),
        )
        .await
    }

    pub(crate) async fn queue(
        &self,
        session: SessionId,
        uid: u32,
    ) -> Result<(QueueBy, Arc<Queue>), Refusal> {
        let (opened, queue) = oneshot::channel();
        self.ask(session, uid, What::Queue(opened)).await?;
        queue.await.map_err(|_closed| Refusal::Stopping)
    }

    pub(crate) async fn release(&self, session: SessionId, uid: u32) -> Result<(), Refusal> {
        self.ask(session, uid, What::Release).await
    }

    pub(crate) async fn ended(&self, session: SessionId, uid: u32) -> Result<(), Refusal> {
        self.ask(session, uid, What::Ended).await
    }

    async fn ask(&self, session: SessionId, uid: u32, what: What) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            session,
            uid,
            what,
            answer,
        };
        self.questions
            .send(question)
            .await
            .map_err(|_closed| Refusal::Stopping)?;
        answered.await.map_err(|_closed| Refusal::Stopping)?
    }
}

/// A table that is deleted from now on would stay deleted, and nobody would know.
#[derive(Debug, thiserror::Error)]
#[error("cannot hear of deleted tables any more; the rules stay as they are for the next helper")]
pub(crate) struct Deaf;

/// The keeper's end of it.
#[derive(Debug)]
pub(crate) struct Office {
    keeper: Keeper,
    questions: mpsc::Receiver<Question>,
    users: watch::Sender<usize>,
    grace_ends: Option<Instant>,
    deleted: mpsc::Receiver<()>,
}

/// Opens the desk. `grace`: how long users whose rules were found may stay as they are without a broker. The last value counts
/// the users that have rules in the kernel.
///
/// `deleted`: news of deleted tables, see [`super::watch`].
pub(crate) fn open(
    keeper: Keeper,
    deleted: mpsc::Receiver<()>,
    grace: Duration,
) -> (Desk, Office, watch::Receiver<usize>) {
    let (sender, questions) = mpsc::channel(QUEUE);
    let (users, count) = watch::channel(keeper.users());
    let grace_ends = (keeper.users() > 0).then(|| Instant::now() + grace);
    let office = Office {
        keeper,
        questions,
        users,
        grace_ends,
        deleted,
    };
    (Desk { questions: sender }, office, count)
}

impl Office {
    /// Answers until `stop` resolves, then leaves the kernel as it has to be without a helper.
    ///
    /// # Errors
    /// When deleted tables can no longer be heard of. The kernel is left as it is, for the next helper to take over.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Deaf> {
        tokio::pin!(stop);
        loop {
            let grace_ends = self.grace_ends;
            let grace = async {
                match grace_ends {
                    Some(instant) => sleep_until(instant).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut stop => break,
                () = grace => {
                    self.grace_ends = None;
                    self.keeper.grace_over().await;
                }
                deleted = self.deleted.recv() => match deleted {
                    Some(()) => self.keeper.table_deleted().await,
                    None => return Err(Deaf),
                },
                question = self.questions.recv() => match question {
                    Some(question) => self.answer(question).await,
                    None => break,
                },
            }
            self.users.send_replace(self.keeper.users());
        }
        self.keeper.stop().await;
        self.users.send_replace(self.keeper.users());
        Ok(())
    }

    async fn answer(&mut self, question: Question) {
        let Question {
            session,
            uid,
            what,
            answer,
        } = question;
        let result = match what {
            What::Claim(connection, claim, listeners, queue) => {
                self.keeper
                    .claim((session, connection), uid, claim, (listeners, queue))
                    .await
            }
            What::Queue(opened) => self.keeper.queue().map(|queue| {
                // Nobody waits for it any more: it is closed again.
                let _ = opened.send(queue);
            }),
            What::Release => self.keeper.release(session, uid).await,
            What::Ended => {
                self.keeper.ended(session, uid).await;
                Ok(())
            }
        };
        // The session may have ended while it waited; its end is a question of its own.
        let _ = answer.send(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helper::fallback::Fallback;
    use crate::helper::table::Table;

    /// No nft and no ip is asked: there is nothing in the table, and nothing may be changed.
    #[tokio::test]
    async fn who_cannot_hear_of_deleted_tables_ends() {
        let keeper = Keeper::new(Table::absent(), Fallback::absent());
        let (word, deleted) = mpsc::channel(1);
        let (_desk, office, _users) = open(keeper, deleted, Duration::ZERO);
        drop(word);
        let ended = office.run(std::future::pending()).await;
        assert!(matches!(ended, Err(Deaf)));
    }
}
