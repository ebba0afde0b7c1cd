//! Logs: JSON lines for machines, readable lines for a terminal, always on standard error.
//!
//! `RUST_LOG` decides what is logged where it is set; payloads and keys of records never are.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How much is logged where `RUST_LOG` does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verbosity {
    /// Errors and warnings: for commands whose output is for a person.
    Quiet,
    #[default]
    Normal,
    /// Our own crates' debug lines.
    Verbose,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Json,
    Text,
}

impl Verbosity {
    /// Of a program that runs until it is stopped.
    pub fn of(verbose: bool) -> Self {
        if verbose { Self::Verbose } else { Self::Normal }
    }

    fn directives(self) -> &'static str {
        match self {
            // That connections close at the end is no news to a person.
            Self::Quiet => "warn,librdkafka=error,tidelake_service::health=error",
            Self::Normal => "info,librdkafka=warn,rdkafka=warn",
            Self::Verbose => "info,tidelake=debug",
        }
    }
}

/// Starts logging for the process. A second call changes nothing.
pub fn init(verbosity: Verbosity, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(verbosity.directives()));
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Nobody may be reading any more: that must not take the program down.
        .log_internal_errors(false);
    // An error here says that logging has started already: then it stays as it is.
    let _started = if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .finish()
            .try_init()
    } else {
        lines.with_ansi(color).finish().try_init()
    };
}
