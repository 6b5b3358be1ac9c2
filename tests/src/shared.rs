//! Something expensive that the tests of one file share: made by the first that asks.

use std::sync::OnceLock;

use anyhow::{Result, anyhow};

/// Made once, never dropped. A lab in it ends with the process, as its box's leash does.
#[derive(Debug)]
pub struct Shared<T>(OnceLock<Result<T, String>>);

impl<T> Shared<T> {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Shared<T> {
        Shared(OnceLock::new())
    }

    /// What `make` made when it was first asked for.
    ///
    /// # Errors
    /// What `make` failed with, to everyone who asks.
    pub fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        let made = self
            .0
            .get_or_init(|| make().map_err(|error| format!("{error:#}")));
        made.as_ref().map_err(|error| anyhow!("{error}"))
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared::new()
    }
}
