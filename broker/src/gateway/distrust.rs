//! Whether a gateway of a link has shown a host key that is not to be trusted. As long as that is so, nothing goes around the zone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the last attempt that was made to its end has seen, and what came to light since. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Distrust(Arc<AtomicBool>);

impl Distrust {
    /// A gateway shows such a key.
    pub(crate) fn arise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// An attempt is at its end, and has seen such a key or not.
    pub(crate) fn settle(&self, is_seen: bool) {
        self.0.store(is_seen, Ordering::SeqCst);
    }

    /// Whether there is such a gateway.
    pub(crate) fn stands(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
