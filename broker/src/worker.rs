//! A thread for what blocks.

use std::io;

use tokio::sync::{mpsc, oneshot};

/// What waits for its turn; whoever brings more waits for a place.
const QUEUE: usize = 1024;

type Work = Box<dyn FnOnce() + Send>;

/// A thread that does one thing after another; it ends with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    queue: mpsc::Sender<Work>,
}

impl Worker {
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let (queue, mut waiting) = mpsc::channel::<Work>(QUEUE);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(work) = waiting.blocking_recv() {
                    work();
                }
            })?;
        Ok(Self { queue })
    }

    /// What comes of it. `None`: the thread is gone. Nothing is done for someone who has stopped waiting.
    pub(crate) async fn does<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (work, answered) = with_answer(work);
        self.queue.send(work).await.ok()?;
        answered.await.ok()
    }

    /// The same for what nobody needs. `None` also where much is waiting already.
    pub(crate) async fn does_at_leisure<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.queue.capacity() < QUEUE / 2 {
            return None;
        }
        let (work, answered) = with_answer(work);
        self.queue.try_send(work).ok()?;
        answered.await.ok()
    }
}

fn with_answer<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> (Work, oneshot::Receiver<T>) {
    let (answer, answered) = oneshot::channel();
    let work = move || {
        if !answer.is_closed() {
            let _ = answer.send(work());
        }
    };
    (Box::new(work), answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn works_elsewhere_and_for_nobody_who_has_left() {
        let worker = Worker::start("worker").unwrap();
        let name = worker.does(|| std::thread::current().name().map(str::to_owned));
        assert_eq!(name.await.unwrap().as_deref(), Some("worker"));
        drop(worker.does(|| unreachable!("nobody waits for it")));
        assert_eq!(worker.does(|| 7).await, Some(7));
    }

    #[tokio::test]
    async fn leisure_leaves_half_of_the_places_to_those_who_need_one() {
        let worker = Worker::start("worker").unwrap();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        // Some may be taken up while others come.
        let busy = worker.does(move || gone.recv());
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..QUEUE {
            let worker = worker.clone();
            waiting.spawn(async move { worker.does_at_leisure(|| ()).await });
        }
        let refused = async {
            let mut refused = 0;
            while refused < QUEUE / 2 - 1 {
                assert_eq!(waiting.join_next().await.unwrap().unwrap(), None);
                refused += 1;
            }
            let needed = worker.does(|| 7);
            go.send(()).unwrap();
            needed.await
        };
        let (_, needed) = tokio::join!(busy, refused);
        assert_eq!(needed, Some(7));
    }
}
