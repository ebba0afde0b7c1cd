//! The clock that never runs backwards: the one place of the compactor that asks it, or waits by it.

use std::time::{Duration, Instant};

/// Measures from its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
