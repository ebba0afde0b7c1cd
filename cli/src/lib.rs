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
mod global;
mod ingest;
mod lag;
mod local;
mod log;
mod moment;
mod output;
mod profile;
mod query;
mod schema;
mod serve;
mod sql;
mod standing;
mod status;
mod table;
mod tail;
#[cfg(test)]
mod testing;
mod versions;

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidelake_service::telemetry::{self, LogFormat, Verbosity};

use crate::failure::Failure;
use crate::global::{Global, GlobalArgs, Key};

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
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
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
    /// Look at the schema of a table
    #[command(subcommand)]
    Schema(schema::SchemaCommand),
    /// Load a file into a table
    Ingest(ingest::IngestArgs),
    /// Run a statement of SQL
    Query(query::QueryArgs),
    /// Ask one question after the other: a shell for SQL
    Sql(sql::SqlArgs),
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
        command => administration(command, global),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What talks to services that run.
fn administration(command: Command, args: GlobalArgs) -> Result<(), Failure> {
    let verbosity = match args.verbose {
        true => Verbosity::Verbose,
        false => Verbosity::Quiet,
    };
    telemetry::init(verbosity, LogFormat::Text);
    let global = args.resolve()?;
    let has_answer = matches!(command, Command::Query(_) | Command::Sql(_));
    if global.output.is_binary() && !has_answer {
        // Before anything is done that can't be told.
        let message = "only answers of queries come as Arrow or Parquet";
        return Err(Failure::usage(message).hint("say -o json, ndjson or csv"));
    }
    block_on(async {
        match command {
            Command::Demo(args) => demo::run(args).await,
            Command::Table(command) => table::run(command, &global).await,
            Command::Schema(command) => schema::run(command, &global).await,
            Command::Ingest(args) => ingest::run(args, &global).await,
            Command::Query(args) => query::run(args, &global).await,
            Command::Sql(args) => sql::run(args, &global).await,
            Command::Get(args) => versions::get(args, &global).await,
            Command::Doctor(args) => doctor::run(args, &global).await,
            Command::Tail(args) => tail::run(args, &global).await,
            Command::Dlq(command) => dlq::run(command, &global).await,
            Command::Lag(args) => lag::run(args, &global).await,
            Command::Status => status::run(&global).await,
            Command::Serve(_)
            | Command::Config(_)
            | Command::Completions(_)
            | Command::Log(_)
            | Command::Local(_) => unreachable!("no administration"),
        }
    })
}

/// Commands that run until they are stopped.
fn service(
    global: &GlobalArgs,
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
    use crate::table::TableCommand;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_key_before_the_command_says_who_asks_and_one_behind_it_is_the_tables() {
        let line = "tidelake --key tl_1 table create stock --key sku --column sku:string!";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(cli.global.key.unwrap().expose(), "tl_1");
        let Command::Table(TableCommand::Create(args)) = cli.command else {
            panic!("a table is made");
        };
        assert!(format!("{args:?}").contains("key: [\"sku\"]"), "{args:?}");
        let line = "tidelake --key tl_1 tail stock --key a-1";
        assert!(Cli::try_parse_from(line.split(' ')).is_ok());
        let line = "tidelake status --key tl_1";
        assert!(Cli::try_parse_from(line.split(' ')).is_err());
    }
}
