//! One flush of one table on its way: what is sent to the log first, the data files, the commit.

mod job;
mod outgoing;
mod upserts;

pub use job::{Ended, Job, Workbench};
pub use outgoing::{Misrouted, Outgoing};
pub use upserts::Upserts;
