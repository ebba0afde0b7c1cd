//! How long things take, for threads that wait in librdkafka's C code: only a real clock fits its
//! time-outs. What follows from a time is decided by pure code, which is told it.

pub(crate) use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
