//! The services as processes of their own, over an empty store.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tidelake_testkit::Process;

use crate::{Client, Services};

/// One process of each service; each may be killed and started at will.
#[derive(Debug)]
pub struct Fleet {
    dir: TempDir,
    pub services: Services,
    pub gateway: Process,
    pub flusher: Process,
    pub query: Process,
}

impl Fleet {
    /// # Errors
    /// When one of them does not get ready.
    pub async fn start(bootstrap: &str, flusher: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::tempdir().context("no folder for the store")?;
        let store = format!("file://{}", dir.path().display());
        let services = Services::new(bootstrap, &store);
        let (gateway, flusher, query) = tokio::try_join!(
            services.start("ingest-gateway", &[]),
            services.start("flusher", flusher),
            services.start("query-api", &[]),
        )?;
        Ok(Self {
            dir,
            services,
            gateway,
            flusher,
            query,
        })
    }

    /// # Errors
    /// When a service is not what it says.
    pub fn client(&self) -> Result<Client> {
        self.services.client(&self.gateway, &self.query)
    }

    /// The store's root.
    pub fn store_folder(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of a table of tenant `default`.
    pub fn table_folder(&self, table: &str) -> PathBuf {
        self.dir.path().join("default").join(table)
    }

    /// Stops all of them in order.
    ///
    /// # Errors
    /// When one of them does not end well.
    pub async fn stop(&mut self) -> Result<()> {
        self.flusher.stop().await?;
        self.gateway.stop().await?;
        self.query.stop().await
    }
}
