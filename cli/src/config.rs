//! `tidelake config check|print`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;
use tidelake_service::program::{self, ConfigAction};
use tidelake_service::settings;

use crate::failure::Failure;
use crate::local::LocalSettings;

#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Say whether the settings can be used
    Check(ConfigArgs),
    /// Show the settings in force as YAML, secrets redacted
    Print(ConfigArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    /// YAML file with settings
    #[arg(long, value_name = "FILE", env = "TIDELAKE_CONFIG")]
    config: Option<PathBuf>,
    /// Whose settings
    #[arg(long, value_enum, default_value_t)]
    service: Service,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Service {
    /// `tidelake local`
    #[default]
    Local,
    Gateway,
    Flusher,
    Compactor,
    Query,
}

pub(crate) fn run(command: ConfigCommand) -> Result<(), Failure> {
    let (action, args) = match command {
        ConfigCommand::Check(args) => (ConfigAction::Check, args),
        ConfigCommand::Print(args) => (ConfigAction::Print, args),
    };
    match args.service {
        Service::Local => {
            let settings: LocalSettings = load(&args)?;
            settings.check()?;
            program::config(action, &settings);
        }
        Service::Gateway => show::<tidelake_ingest_gateway::Settings>(action, &args)?,
        Service::Flusher => show::<tidelake_flusher::Settings>(action, &args)?,
        Service::Compactor => show::<tidelake_compactor::Settings>(action, &args)?,
        Service::Query => show::<tidelake_query_api::Settings>(action, &args)?,
    }
    Ok(())
}

fn load<S>(args: &ConfigArgs) -> Result<S, Failure>
where
    S: Serialize + serde::de::DeserializeOwned + Default,
{
    Ok(settings::load(
        args.config.as_deref(),
        program::environment(),
        json!({}),
    )?)
}

fn show<S>(action: ConfigAction, args: &ConfigArgs) -> Result<(), Failure>
where
    S: Serialize + serde::de::DeserializeOwned + Default,
{
    program::config(action, &load::<S>(args)?);
    Ok(())
}
