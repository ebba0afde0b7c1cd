//! The outside of a service's program: flags, `config check|print`, the `ready` line, exit codes.
//!
//! A service's `main.rs` is:
//!
//! ```text
//! fn main() -> std::process::ExitCode {
//!     program::run(
//!         Program { name: "flusher", label: "flusher", about: "Writes the log into tables" },
//!         tidelake_flusher::start,
//!     )
//! }
//! ```

use std::error::Error;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::Chain;
use crate::settings::{self, SettingsError};
use crate::telemetry::{self, LogFormat, Verbosity};
use crate::{Running, Runtime};

/// A failed program.
const EXIT_FAILED: u8 = 1;
/// Settings or flags that can't be used.
const EXIT_USAGE: u8 = 2;

/// What a program calls itself.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The binary's name.
    pub name: &'static str,
    /// The service's name in the `ready` line: `ready gateway=http://…`.
    pub label: &'static str,
    pub about: &'static str,
}

/// The flags that every service takes. Each wins over the environment and the file.
#[derive(Args, Debug, Clone, Default)]
pub struct ServiceFlags {
    /// YAML file with settings
    #[arg(long, value_name = "FILE", env = "TIDELAKE_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Kafka to use, as host:port; several with commas
    #[arg(long, value_name = "HOST:PORT", global = true)]
    pub kafka_bootstrap: Option<String>,
    /// Object store: file:///folder or s3://bucket/prefix
    #[arg(long, value_name = "URL", global = true)]
    pub store: Option<String>,
    /// Address and port to answer on; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", global = true)]
    pub listen: Option<String>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
}

impl ServiceFlags {
    /// The flags as settings of a service; what was not given is `null`.
    pub fn overrides(&self) -> Value {
        json!({
            "store": self.store,
            "listen": self.listen,
            "kafka": { "bootstrap": self.kafka_bootstrap },
        })
    }

    /// A service's settings: defaults, file, the process's environment, these flags.
    ///
    /// # Errors
    /// As [`settings::load`].
    pub fn load<S>(&self) -> Result<S, SettingsError>
    where
        S: Serialize + DeserializeOwned + Default,
    {
        settings::load(self.config.as_deref(), environment(), self.overrides())
    }
}

/// The process's environment, without the variables that are not text (none of ours is).
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[derive(Parser, Debug)]
struct Cli {
    #[command(flatten)]
    flags: ServiceFlags,
    /// Log more
    #[arg(long, short, global = true)]
    verbose: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Look at the settings without starting
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
}

/// What can be done with settings.
#[derive(Subcommand, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigAction {
    /// Say whether the settings can be used
    Check,
    /// Show the settings in force as YAML, secrets redacted
    Print,
}

/// Runs a service as a program of its own: parses flags, loads settings, starts, prints the `ready`
/// line on standard output, waits for SIGINT or SIGTERM and the drain.
pub fn run<S, F, Fut, E>(program: Program, start: F) -> ExitCode
where
    S: Serialize + DeserializeOwned + Default,
    F: FnOnce(S, Runtime) -> Fut,
    Fut: Future<Output = Result<Running, E>>,
    E: Error + Send + Sync + 'static,
{
    let command = Cli::command()
        .name(program.name)
        .about(program.about)
        .version(env!("CARGO_PKG_VERSION"));
    let cli = match Cli::from_arg_matches(&command.get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let settings = match cli.flags.load::<S>() {
        Ok(settings) => settings,
        Err(error) => return fail(program.name, &error, EXIT_USAGE),
    };
    match cli.action {
        Some(Action::Config { action }) => config(action, &settings),
        None => {
            telemetry::init(Verbosity::of(cli.verbose), cli.flags.log_format);
            run_service(program, settings, start)
        }
    }
}

/// Starts a service with settings that are loaded already, and waits for its end.
pub fn run_service<S, F, Fut, E>(program: Program, settings: S, start: F) -> ExitCode
where
    F: FnOnce(S, Runtime) -> Fut,
    Fut: Future<Output = Result<Running, E>>,
    E: Error + Send + Sync + 'static,
{
    crate::memory::return_large_buffers();
    let threads = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(threads) => threads,
        Err(error) => return fail(program.name, &error, EXIT_FAILED),
    };
    threads.block_on(async {
        let runtime = Runtime::new();
        if let Err(error) = runtime.shutdown.on_signals() {
            return fail(program.name, &error, EXIT_FAILED);
        }
        let running = match start(settings, runtime).await {
            Ok(running) => running,
            Err(error) => return fail(program.name, &error, EXIT_FAILED),
        };
        say(&format!(
            "ready {}=http://{}",
            program.label, running.address
        ));
        match running.wait().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(program.name, &error, EXIT_FAILED),
        }
    })
}

/// Does a [`ConfigAction`] with settings that are loaded, so known to be usable.
pub fn config<S: Serialize>(action: ConfigAction, settings: &S) -> ExitCode {
    match action {
        ConfigAction::Check => say("settings are fine"),
        ConfigAction::Print => say(settings::redacted_yaml(settings).trim_end()),
    }
    ExitCode::SUCCESS
}

/// One line on standard output, at once. A reader that has gone away is no reason to stop.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn fail(name: &str, error: &(dyn Error + 'static), code: u8) -> ExitCode {
    let mut out = std::io::stderr().lock();
    let _gone = writeln!(out, "{name}: {}", Chain(error));
    ExitCode::from(code)
}
