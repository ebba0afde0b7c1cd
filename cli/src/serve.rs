//! `tidelake serve SERVICE`: the same as the service's own binary.

use std::error::Error;
use std::future::Future;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidelake_service::program::{self, Program, ServiceFlags};
use tidelake_service::telemetry::{self, Verbosity};
use tidelake_service::{Running, Runtime};

use crate::failure::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum ServeCommand {
    /// The gateway: takes records over HTTP
    Gateway(ServiceFlags),
    /// The flusher: writes the log into tables
    Flusher(ServiceFlags),
    /// The compactor: rewrites small files of tables into larger ones
    Compactor(ServiceFlags),
    /// The query service: answers SQL
    Query(ServiceFlags),
}

pub(crate) fn run(command: ServeCommand, verbose: bool) -> ExitCode {
    match command {
        ServeCommand::Gateway(flags) => {
            start("gateway", flags, verbose, tidelake_ingest_gateway::start)
        }
        ServeCommand::Flusher(flags) => start("flusher", flags, verbose, tidelake_flusher::start),
        ServeCommand::Compactor(flags) => {
            start("compactor", flags, verbose, tidelake_compactor::start)
        }
        ServeCommand::Query(flags) => start("query", flags, verbose, tidelake_query_api::start),
    }
}

fn start<S, F, Fut, E>(
    label: &'static str,
    flags: ServiceFlags,
    verbose: bool,
    start: F,
) -> ExitCode
where
    S: Serialize + DeserializeOwned + Default,
    F: FnOnce(S, Runtime) -> Fut,
    Fut: Future<Output = Result<Running, E>>,
    E: Error + Send + Sync + 'static,
{
    let settings = match flags.load::<S>() {
        Ok(settings) => settings,
        Err(error) => return Failure::from(error).report(),
    };
    telemetry::init(Verbosity::of(verbose), flags.log_format);
    program::run_service(
        Program {
            name: "tidelake",
            label,
            about: "",
        },
        settings,
        start,
    )
}
