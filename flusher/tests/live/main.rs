//! A flusher on a broker that speaks Kafka's protocol, over a folder: what it does when the world
//! around it changes.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod memory;
mod misrouted;
mod owners;
mod room;
mod topics;

use std::time::Duration;

use room::{Mode, Room, is_stopped};
