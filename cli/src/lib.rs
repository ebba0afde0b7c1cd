//! The `tidelake` program: everything on one machine (`local`), one service (`serve`), and the
//! administration of whatever runs.
//!
//! One file for each noun; each holds its flags and what it does. Administration speaks HTTP to a
//! gateway and a query service like any other client (`client.rs`), so what works here works from
//! anywhere. `failure.rs` turns every error into a message, a hint and an exit code.
//!
//! | exit code | means |
//! | --- | --- |
//! | 0 | done |
//! | 1 | failed |
//! | 2 | wrong use |
//! | 3 | not found |
//! | 4 | conflict |
//! | 5 | not allowed |

mod client;
mod completions;
mod config;
mod demo;
mod dlq;
mod doctor;
mod failure;
mod ingest;
mod lag;
mod local;
mod log;
mod moment;
mod output;
mod query;
mod serve;
mod standing;
mod status;
mod table;
mod tail;
mod versions;

use std::future::Future;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tidelake_service::telemetry::{self, LogFormat, Verbosity};

use crate::failure::Failure;
use crate::output::Format;

/// Turns Kafka topics into tables that every open engine can read
#[derive(Parser, Debug)]
#[command(
    name = "tidelake",
    version,
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Where the services are, and how answers look.
#[derive(Args, Debug, Clone)]
struct Global {
    /// The gateway
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TIDELAKE_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// The query service
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TIDELAKE_QUERY_URL",
        default_value = "http://127.0.0.1:8081"
    )]
    query_url: String,
    /// A flusher, asked for the age of tables (repeat for each) [default: the gateway's address,
    /// where `tidelake local` runs all in one]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TIDELAKE_FLUSHER_URL",
        value_delimiter = ','
    )]
    flusher_url: Vec<String>,
    /// The tenant to act for
    #[arg(long, global = true, value_name = "NAME", env = "TIDELAKE_TENANT")]
    tenant: Option<String>,
    /// How the answer looks
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    /// Log more, on standard error
    #[arg(short, long, global = true)]
    verbose: bool,
}

impl Global {
    /// Who is asked how far tables are.
    fn flushers(&self) -> Vec<&str> {
        if self.flusher_url.is_empty() {
            return vec![&self.url];
        }
        self.flusher_url.iter().map(String::as_str).collect()
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run everything in this process, over a local folder
    Local(local::LocalArgs),
    /// Run one service
    #[command(subcommand)]
    Serve(serve::ServeCommand),
    /// Create, look at and drop tables
    #[command(subcommand)]
    Table(table::TableCommand),
    /// Load a file into a table
    Ingest(ingest::IngestArgs),
    /// Run SQL
    Query(query::QueryArgs),
    /// Show the row of a primary key
    Get(versions::KeyArgs),
    /// Prove a table: keys, vectors, index, offsets; mend its index
    Doctor(doctor::DoctorArgs),
    /// Follow the new rows of a table
    Tail(tail::TailArgs),
    /// Look at records that tables could not take, and replay them
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Check and repair the files of the embedded log
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Show how far tables are behind the log, and which stand still
    Lag(lag::LagArgs),
    /// Show whether the services are ready, and which tables stand still
    Status,
    /// Check or show settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Stream flights in and ask questions; what scripts/demo runs
    #[command(hide = true)]
    Demo(demo::DemoArgs),
}

/// The program: parses the command line, does what it says, gives the exit code.
pub fn main() -> ExitCode {
    tidelake_service::memory::return_large_buffers();
    let Cli { global, command } = Cli::parse();
    let outcome = match command {
        Command::Serve(command) => return serve::run(command, global.verbose),
        Command::Config(command) => config::run(command),
        Command::Completions(args) => completions::run(&args),
        Command::Log(command) => log::run(command, global.output),
        Command::Local(args) => service(&global, args.log_format, local::run(args)),
        Command::Demo(args) => client(&global, demo::run(args)),
        Command::Table(command) => client(&global, table::run(command, &global)),
        Command::Ingest(args) => client(&global, ingest::run(args, &global)),
        Command::Query(args) => client(&global, query::run(args, &global)),
        Command::Get(args) => client(&global, versions::get(args, &global)),
        Command::Doctor(args) => client(&global, doctor::run(args, &global)),
        Command::Tail(args) => client(&global, tail::run(args, &global)),
        Command::Dlq(command) => client(&global, dlq::run(command, &global)),
        Command::Lag(args) => client(&global, lag::run(args, &global)),
        Command::Status => client(&global, status::run(&global)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Commands whose output is for a person: warnings only.
fn client(
    global: &Global,
    action: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let verbosity = if global.verbose {
        Verbosity::Verbose
    } else {
        Verbosity::Quiet
    };
    telemetry::init(verbosity, LogFormat::Text);
    block_on(action)
}

/// Commands that run until they are stopped.
fn service(
    global: &Global,
    format: LogFormat,
    action: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    telemetry::init(Verbosity::of(global.verbose), format);
    block_on(action)
}

fn block_on(action: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(action)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
