//! Logs: JSON lines for machines, readable lines for a terminal, always on standard error.
//!
//! `RUST_LOG` decides what is logged where it is set; payloads and keys of records never are.

use std::io::IsTerminal;
use std::sync::OnceLock;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::reload;
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

/// Adds a directive to the filter in force.
type Refine = Box<dyn Fn(Directive) + Send + Sync>;

/// Of the logging that was started; none where it was started elsewhere.
static REFINE: OnceLock<Refine> = OnceLock::new();

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
    if json {
        let lines = lines.json().flatten_event(true).with_current_span(true);
        let lines = lines.with_filter_reloading();
        let refine = refine(lines.reload_handle());
        if lines.finish().try_init().is_ok() {
            let _first = REFINE.set(refine);
        }
    } else {
        let lines = lines.with_ansi(color).with_filter_reloading();
        let refine = refine(lines.reload_handle());
        if lines.finish().try_init().is_ok() {
            let _first = REFINE.set(refine);
        }
    }
}

fn refine<S: 'static>(filter: reload::Handle<EnvFilter, S>) -> Refine {
    Box::new(move |directive| {
        let added = filter.modify(|filter| {
            let known = std::mem::take(filter);
            *filter = known.add_directive(directive);
        });
        // The subscriber is gone: nothing is logged any more.
        added.unwrap_or_default();
    })
}

/// From now on nothing of these targets is logged: what they tell is of no use any more.
pub fn mute(targets: &[&str]) {
    let Some(refine) = REFINE.get() else { return };
    for target in targets {
        if let Ok(directive) = format!("{target}=off").parse() {
            refine(directive);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn what_is_muted_is_silent_and_nothing_else() {
        let (filter, handle) = reload::Layer::new(EnvFilter::new("info,loud=warn"));
        let _here = tracing_subscriber::registry().with(filter).set_default();
        let is_on = || {
            let loud = tracing::enabled!(target: "loud", tracing::Level::WARN);
            (
                loud,
                tracing::enabled!(target: "other", tracing::Level::WARN),
            )
        };
        assert_eq!(is_on(), (true, true));
        refine::<tracing_subscriber::Registry>(handle)("loud=off".parse().unwrap());
        assert_eq!(is_on(), (false, true));
    }
}
