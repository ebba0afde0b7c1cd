//! Consumer groups of the classic protocol.
//!
//! [`state`] is the state machine of one group (joins in [`state`], what comes of them in
//! [`rebalance`], what members do after it in [`session`]): pure, with time as an argument.
//! [`coordinator`] is the shell around all groups, [`registry`] owns their locks, time-outs and those
//! who wait. [`offsets`] keeps committed offsets on disk. [`shares`] says how much of what is bounded
//! one client may take. Membership is not kept: after a restart members join again, as after any
//! coordinator change.

pub(crate) mod coordinator;
pub(crate) mod describe;
pub(crate) mod member;
pub(crate) mod messages;
pub(crate) mod offsets;
mod rebalance;
mod registry;
pub(crate) mod session;
pub(crate) mod shares;
pub(crate) mod state;

#[cfg(test)]
mod tests;
