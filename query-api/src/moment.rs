//! Time that only passes: the one place where this crate asks for it. For ages, waits and deadlines;
//! never for stamps, which are the clock's.

use std::time::Duration;

use tokio::time::Instant;
use tokio::time::error::Elapsed;

#[expect(clippy::disallowed_methods, reason = "this is the crate's seam")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long ago that was.
pub(crate) fn age(of: Instant) -> Duration {
    now().saturating_duration_since(of)
}

/// The work's outcome, unless it is not done by then.
pub(crate) async fn by<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let left = deadline.saturating_duration_since(now());
    tokio::time::timeout(left, work).await
}

/// Waits until then.
pub(crate) async fn reach(moment: Instant) {
    // It never ends by itself.
    let _elapsed = by(moment, std::future::pending::<()>()).await;
}
