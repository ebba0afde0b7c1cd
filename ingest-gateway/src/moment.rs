//! Time that only passes: the one place where the gateway asks for it. For ages and waits; never
//! for stamps, which are the clock's.

use std::time::Duration;

pub(crate) use std::time::Instant;

#[cfg(not(test))]
#[expect(clippy::disallowed_methods, reason = "this is the gateway's seam")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long ago that was.
pub(crate) fn age(of: Instant) -> Duration {
    now().saturating_duration_since(of)
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "this is the gateway's seam")]
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[cfg(test)]
pub(crate) use moved::{advance, now};

/// Time that tests move on, each its own: they run on one thread.
#[cfg(test)]
mod moved {
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    thread_local! {
        static AHEAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    #[expect(clippy::disallowed_methods, reason = "this is the gateway's seam")]
    pub(crate) fn now() -> Instant {
        Instant::now() + AHEAD.get()
    }

    pub(crate) fn advance(by: Duration) {
        AHEAD.set(AHEAD.get() + by);
    }
}
