//! A thread for what blocks.

use std::io;

use tokio::sync::{mpsc, oneshot};

/// What waits for its turn; whoever brings more waits for a place.
const QUEUE: usize = 1024;
/// What waits until nothing else does; more is not done.
const LEISURE: usize = 64;

type Work = Box<dyn FnOnce() + Send>;

/// A thread that does one thing after another; it ends with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    queue: mpsc::Sender<Work>,
    leisure: mpsc::Sender<Work>,
}

impl Worker {
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let (queue, mut waiting) = mpsc::channel::<Work>(QUEUE);
        let (leisure, mut for_leisure) = mpsc::channel::<Work>(LEISURE);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(work) = waiting.blocking_recv() {
                    work();
                    while waiting.is_empty()
                        && let Ok(work) = for_leisure.try_recv()
                    {
                        work();
                    }
                }
            })?;
        Ok(Self { queue, leisure })
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

    /// The same for what nobody needs: when nothing else waits. `None` also where much of this kind is waiting already.
    pub(crate) async fn does_at_leisure<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (work, answered) = with_answer(work);
        self.leisure.try_send(work).ok()?;
        // Wakes the thread where it has nothing to do; where it has, it comes to this by itself.
        let _ = self.queue.try_send(Box::new(|| ()));
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
    async fn what_nobody_needs_comes_last() {
        let worker = Worker::start("worker").unwrap();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let (said, hears) = std::sync::mpsc::channel();
        let say = |word: &'static str| {
            let said = said.clone();
            move || said.send(word).unwrap()
        };
        // One after another as they are polled first; the thread is busy until it is told to go on.
        let busy = worker.does(move || gone.recv());
        let (first, second) = (
            worker.does_at_leisure(say("leisure")),
            worker.does_at_leisure(say("leisure")),
        );
        let (third, last) = (worker.does(say("needed")), async { go.send(()).unwrap() });
        let done = tokio::join!(biased; busy, first, second, third, last);
        assert!(done.1.is_some() && done.2.is_some() && done.3.is_some());
        let order: Vec<_> = hears.try_iter().collect();
        assert_eq!(order, ["needed", "leisure", "leisure"]);
    }

    #[tokio::test]
    async fn of_what_nobody_needs_not_much_waits() {
        let worker = Worker::start("worker").unwrap();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let busy = worker.does(move || gone.recv());
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..LEISURE + 10 {
            let worker = worker.clone();
            waiting.spawn(async move { worker.does_at_leisure(|| ()).await });
        }
        let refused = async {
            for _ in 0..10 {
                assert_eq!(waiting.join_next().await.unwrap().unwrap(), None);
            }
            go.send(()).unwrap();
        };
        let _ = tokio::join!(biased; busy, refused);
        let all = waiting.join_all().await;
        assert!(all.len() == LEISURE && all.iter().all(Option::is_some));
    }
}
