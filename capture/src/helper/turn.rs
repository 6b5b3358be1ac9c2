//! Long requests take turns: what a broker sends, and what becomes of it in memory, is held for few at a time. A user has one
//! turn, so that nobody takes them all.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of all users together.
const TURNS: usize = 8;

/// Where a user's sessions wait for their turn.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permits: [OwnedSemaphorePermit; 2],
}

impl Turns {
    pub(crate) fn new() -> Turns {
        Turns {
            own: Arc::new(Semaphore::new(1)),
            all: Arc::new(Semaphore::new(TURNS)),
        }
    }

    /// The turns of one more user.
    pub(crate) fn of_user(&self) -> Turns {
        Turns {
            own: Arc::new(Semaphore::new(1)),
            all: self.all.clone(),
        }
    }

    /// Waits for it. `None` cannot be: nobody closes the semaphores.
    pub(crate) async fn next(&self) -> Option<Turn> {
        let own = self.own.clone().acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn {
            _permits: [own, all],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    /// A turn, if there is one right now.
    fn taken(turns: &Turns) -> Option<Turn> {
        let waiting = std::pin::pin!(turns.next());
        match waiting.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => turn,
            Poll::Pending => None,
        }
    }

    #[test]
    fn one_of_a_user_and_few_of_all() {
        let all = Turns::new();
        let users: Vec<Turns> = (0..=TURNS).map(|_| all.of_user()).collect();
        let mut held: Vec<Turn> = users.iter().filter_map(taken).collect();
        assert_eq!(held.len(), TURNS);
        held.pop();
        assert!(taken(&users[0]).is_none(), "this user has one");
        assert!(taken(&users[TURNS]).is_some());
        held.clear();
        assert!(taken(&users[0]).is_some());
    }
}
