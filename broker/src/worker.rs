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
        let (answer, answered) = oneshot::channel();
        let work = move || {
            if !answer.is_closed() {
                let _ = answer.send(work());
            }
        };
        self.queue.send(Box::new(work)).await.ok()?;
        answered.await.ok()
    }
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
}
