//! Whether a connection is good for anything: its login, or a channel of it.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Counts what uses a connection.
#[derive(Debug)]
pub(crate) struct InUse {
    uses: watch::Sender<usize>,
    kept: AtomicBool,
}

/// Something that uses the connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Use(Arc<InUse>);

impl InUse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            uses: watch::Sender::new(0),
            kept: AtomicBool::new(false),
        })
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Use {
        self.uses.send_modify(|uses| *uses += 1);
        Use(Arc::clone(self))
    }

    /// The connection is good for something though nothing uses it: its client may ask for a forwarded
    /// port at any time.
    pub(crate) fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// The same as [`InUse::idle_for`], and never for a connection that is kept.
    pub(crate) async fn unused_for(&self, long: Duration) {
        self.idle_for(long).await;
        if self.kept.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }

    /// Resolves when nothing has used the connection for this long.
    pub(crate) async fn idle_for(&self, long: Duration) {
        let mut uses = self.uses.subscribe();
        // The sender lives in self, so that waiting cannot fail.
        loop {
            let _ = uses.wait_for(|uses| *uses == 0).await;
            if timeout(long, uses.wait_for(|uses| *uses > 0))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.uses.send_modify(|uses| *uses -= 1);
    }
}
