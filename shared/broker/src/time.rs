//! How long things take, and until when they may: the broker's only look at a clock that never runs
//! backwards. It is tokio's, which tests can stop. What is stored goes by
//! [`Clock`](tidelake_core::clock::Clock) instead.

use std::future::Future;

pub(crate) use tokio::time::Instant;
use tokio::time::error::Elapsed;

#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// What comes of `work` by a deadline.
pub(crate) async fn by<F: Future>(deadline: Instant, work: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(deadline.saturating_duration_since(now()), work).await
}
