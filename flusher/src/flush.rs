//! One flush of one table on its way: what is sent to the log first, the data files, the commit.

mod deliveries;
mod job;
mod outcome;
mod proof;
mod upserts;

pub(crate) use deliveries::{Deliveries, Routes};
pub(crate) use job::{Ended, Job, Workbench};
pub(crate) use upserts::Upserts;
