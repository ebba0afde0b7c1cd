//! Time that only passes: the one place where this crate asks for it. For ages and waits; never for
//! stamps, which are the clock's.

use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "this is the crate's seam")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long ago that was.
pub(crate) fn age(of: Instant) -> Duration {
    now().saturating_duration_since(of)
}
