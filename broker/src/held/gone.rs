//! That a connection is held no longer, though nobody answered.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

/// Why a connection is held no longer, though nobody answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its program closed the socket, or opened another with the same addresses.
    GivenUp,
    /// The kernel gave up all that was held, as the helper is gone.
    HelperGone,
    /// It was let through and can't come: its program has bound it to a network device.
    Bound,
}

/// Tells that a connection is held no longer.
#[derive(Debug, Clone, Default)]
pub struct Gone {
    shared: Arc<(OnceLock<Cause>, Notify)>,
}

impl Gone {
    /// Resolves when it is so.
    pub async fn wait(&self) -> Cause {
        loop {
            // One permit is kept: whoever asks later hears of it too.
            self.shared.1.notified().await;
            if let Some(cause) = self.cause() {
                return cause;
            }
        }
    }

    /// Notes it. The first cause is kept.
    pub fn note(&self, cause: Cause) {
        let _ = self.shared.0.set(cause);
        self.shared.1.notify_one();
    }

    fn cause(&self) -> Option<Cause> {
        self.shared.0.get().copied()
    }

    pub(super) fn is_so(&self) -> bool {
        self.cause().is_some()
    }
}
