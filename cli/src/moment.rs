//! Time that only passes: the one place where this program asks for it. For ages and waits; never
//! for stamps, which are the clock's.

use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "this is the program's seam")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
