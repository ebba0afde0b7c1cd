//! How long a replay waits for a log that says nothing.

use std::time::Duration;

use tidelake_core::Offset;
use tidelake_log::{LogError, Message};

use crate::log::{Delivered, TableLog};

/// How long the log may be silent. Once it was, nobody waits any more.
pub(super) struct Patience(pub(super) Duration);

impl Patience {
    pub(super) async fn enqueue(
        &mut self,
        log: &dyn TableLog,
        message: Message,
    ) -> Result<Delivered, LogError> {
        let outcome = tokio::time::timeout(self.0, log.enqueue(message)).await;
        outcome.unwrap_or_else(|_| {
            self.0 = Duration::ZERO;
            Err(LogError::QueueFull)
        })
    }

    pub(super) async fn wait(&mut self, delivered: Delivered) -> Result<Offset, LogError> {
        let outcome = tokio::time::timeout(self.0, delivered).await;
        outcome.unwrap_or_else(|_| {
            self.0 = Duration::ZERO;
            Err(LogError::Unavailable {
                what: "the log".into(),
                reason: "it acknowledged nothing in time".into(),
            })
        })
    }
}
