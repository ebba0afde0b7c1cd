//! A running installation: `tidelake local`, or its services as processes of their own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tidelake_testkit::{Process, Program};

use crate::Client;

/// `tidelake local` on a folder, killed and started at will.
#[derive(Debug)]
pub struct Installation {
    dir: TempDir,
    data: PathBuf,
    pub process: Process,
    pub client: Client,
    pub kafka: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Installation {
    /// Starts one on an empty folder.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[], &[]).await
    }

    /// With more arguments and settings from the environment.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::tempdir().context("no folder")?;
        let data = dir.path().join("data");
        Self::start_in(dir, data, arguments, environment).await
    }

    /// On the given data folder; `dir` lives as long as the installation.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_in(
        dir: TempDir,
        data: PathBuf,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let environment: Vec<(String, String)> = environment
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let process = spawn(&data, &arguments, &environment).await?;
        let client = Client::new(process.ready("gateway")?, process.ready("query")?)?;
        let kafka = process.ready("kafka")?.to_owned();
        Ok(Self {
            dir,
            data,
            process,
            client,
            kafka,
            arguments,
            environment,
        })
    }

    /// Starts it again on its folder; the ports are new.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = spawn(&self.data, &self.arguments, &self.environment).await?;
        self.client = Client::new(self.process.ready("gateway")?, self.process.ready("query")?)?;
        self.kafka = self.process.ready("kafka")?.to_owned();
        Ok(())
    }

    /// Kills it and starts it on its folder with these settings.
    ///
    /// # Errors
    /// As [`Self::restart`].
    pub async fn restart_with(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        self.process.kill()?;
        let environment = environment.iter();
        self.environment = environment
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        self.restart().await
    }

    /// A folder beside the data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The folder of a table of tenant `default`, wherever the store is below the data folder.
    ///
    /// # Errors
    /// When there is none.
    pub fn table_folder(&self, table: &str) -> Result<PathBuf> {
        find(&self.data, table).with_context(|| format!("no folder of table {table}"))
    }
}

fn find(root: &Path, table: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(root).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            let named = path.file_name().is_some_and(|name| name == table);
            if named && path.join("_delta_log").is_dir() {
                return Some(path);
            }
            if let Some(found) = find(&path, table) {
                return Some(found);
            }
        }
    }
    None
}

async fn spawn(
    data: &Path,
    arguments: &[String],
    environment: &[(String, String)],
) -> Result<Process> {
    Program::new("tidelake")
        .args([
            "local",
            "--gateway-port",
            "0",
            "--query-port",
            "0",
            "--kafka-port",
            "0",
            "--dir",
        ])
        .args([data])
        .args(arguments)
        .envs(environment.to_vec())
        .start()
        .await
}

/// The services as processes of their own, on a Kafka that somebody else runs.
#[derive(Debug)]
pub struct Services {
    bootstrap: String,
    store: String,
    environment: Vec<(String, String)>,
}

impl Services {
    pub fn new(bootstrap: &str, store: &str) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            store: store.into(),
            environment: Vec::new(),
        }
    }

    #[must_use]
    pub fn with_env(mut self, environment: Vec<(String, String)>) -> Self {
        self.environment = environment;
        self
    }

    /// Starts a service by its binary's name.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn start(&self, binary: &str, settings: &[(&str, &str)]) -> Result<Process> {
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Program::new(binary)
            .args(["--kafka-bootstrap", &self.bootstrap, "--store", &self.store])
            .args(["--listen", "127.0.0.1:0"])
            .envs(self.environment.clone())
            .envs(settings)
            .start()
            .await
    }

    /// A client of a gateway and a query node.
    ///
    /// # Errors
    /// When one of them is not what it says.
    pub fn client(&self, gateway: &Process, query: &Process) -> Result<Client> {
        Client::new(gateway.ready("gateway")?, query.ready("query")?)
    }
}
