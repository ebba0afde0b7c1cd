//! Time that only passes: the one place where this program asks for it. For ages and waits; never
//! for stamps, which are the clock's.

use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "this is the program's seam")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Between two attempts at something that was refused for now.
#[expect(clippy::disallowed_methods, reason = "this is the program's seam")]
pub(crate) async fn pause(pause: Duration) {
    tokio::time::sleep(pause).await;
}
