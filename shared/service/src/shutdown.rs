//! The request to stop: who may ask, who listens.
//!
//! A request is not the stop itself. Each part stops taking work when it sees the request, finishes
//! what it owes, and ends; whoever started it waits for that.

use std::io;

use tokio_util::sync::CancellationToken;

/// Exit code of a process that was asked to stop a second time (128 + SIGINT, as shells have it).
const EXIT_IMPATIENT: i32 = 130;

/// A request to stop that many can wait for. Clones are the same request.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the stop; again is harmless.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns once the stop is requested, at once if it is already.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// A request below this one: it is made when this one is, or alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// The token underneath, for libraries that want one.
    pub fn token(&self) -> &CancellationToken {
        &self.0
    }

    /// From now on SIGINT and SIGTERM ask for the stop. A second one ends the process at once, for
    /// an operator who does not want to wait for the drain; nothing acknowledged is lost by that.
    ///
    /// # Errors
    /// When the process can't listen to signals.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn on_signals(&self) -> io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            for round in 0.. {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if round > 0 {
                    tracing::warn!("asked to stop twice: leaving at once");
                    std::process::exit(EXIT_IMPATIENT);
                }
                tracing::info!("asked to stop: draining (once more ends at once)");
                shutdown.trigger();
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_stops_with_its_parent_but_not_the_other_way() {
        let parent = Shutdown::new();
        let first = parent.child();
        let second = parent.child();
        first.trigger();
        first.requested().await;
        assert!(!parent.is_requested());
        assert!(!second.is_requested());
        parent.trigger();
        second.requested().await;
    }
}
