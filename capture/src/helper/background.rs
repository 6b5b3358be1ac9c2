//! Long work on one user's claim, where it does not keep the other users' sessions waiting.

use tokio::task::{JoinError, spawn_blocking};

/// Does it on another thread.
pub(crate) async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    spawn_blocking(work).await
}
