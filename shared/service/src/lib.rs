//! What every program of Tidelake needs and no record passes through: settings, logs, health,
//! metrics, the standard routes, error answers, and an ordered shutdown.
//!
//! Owns the *shape* of these, not their content: each service declares its own settings, registers
//! its own metrics and health components, and maps its own errors. Knows nothing of Kafka, Delta or
//! Arrow.
//!
//! A service is a library with `start(settings, runtime) -> Running`; its `main.rs` is one call of
//! [`program::run`]. Several services can share a process: they share one [`Runtime`].
//!
//! ```no_run
//! use tidelake_service::{Runtime, serve, standard_routes};
//! # async fn example() -> std::io::Result<()> {
//! let runtime = Runtime::new();
//! runtime.shutdown.on_signals()?;
//! let log = runtime.health.component("log");
//! log.ready();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! serve(listener, standard_routes("gateway", &runtime), runtime.shutdown.clone()).await
//! # }
//! ```

mod error;
mod health;
mod http;
pub mod memory;
mod metrics;
mod moment;
mod pace;
pub mod program;
mod routes;
mod serve;
pub mod settings;
mod shutdown;
pub mod telemetry;

pub use error::{ServiceError, chain};
pub use health::{ComponentHealth, Health, HealthHandle, HealthReport};
pub use http::{Position, Problem, codes, method_not_allowed, no_such_route};
pub use metrics::{Metrics, MetricsSettings};
pub use pace::{Pace, PacedReader, Writing};
pub use routes::standard_routes;
pub use serve::{DRAIN_MAX, HttpSettings, Running, serve, serve_draining, serve_with};
pub use shutdown::Shutdown;

use tidelake_core::clock::{self, SharedClock};
use tidelake_core::ids::{self, SharedIds};

/// What a service is handed besides its settings: the process's shared parts and its seams.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub metrics: Metrics,
    pub health: Health,
    pub shutdown: Shutdown,
    pub clock: SharedClock,
    pub ids: SharedIds,
}

impl Runtime {
    /// With the machine's clock and ids. Signals are not listened to until
    /// [`Shutdown::on_signals`].
    pub fn new() -> Self {
        Self {
            metrics: Metrics::new(),
            health: Health::new(),
            shutdown: Shutdown::new(),
            clock: clock::system(),
            ids: ids::random(),
        }
    }

    /// The same process, with a shutdown of its own below this one: it can be stopped alone, and it
    /// stops when this one does. Lets a process stop its services one after the other.
    pub fn child(&self) -> Self {
        Self {
            shutdown: self.shutdown.child(),
            ..self.clone()
        }
    }

    /// The same process and seams, but with a shutdown that nothing else triggers.
    pub fn detached(&self) -> Self {
        Self {
            shutdown: Shutdown::new(),
            ..self.clone()
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self::new()
    }
}
