//! Named snapshots: creating, listing and dropping them, by statement or by route.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use tidelake_catalog::TableEntry;
use tidelake_core::{SnapshotName, TableId, TenantId, Token};
use tidelake_manifest::{CreateNamed, NamedSnapshot};

use super::Engine;
use crate::admission::Running;
use crate::error::QueryError;
use crate::provider::about;
use crate::request::{Request, Tokens};
use crate::sql::{AsOf, Command};
use crate::table::pinned::Pinned;

impl Engine {
    /// Does what the statement says; the answer is the snapshot that it is about.
    pub(super) async fn command(
        &self,
        tenant: &TenantId,
        request: &Request,
        command: Command,
        running: &Running,
    ) -> Result<RecordBatch, QueryError> {
        if request.read_only {
            let what = "CREATE SNAPSHOT and DROP SNAPSHOT change the table";
            return Err(QueryError::ReadOnly(what.into()));
        }
        let named = match command {
            Command::CreateSnapshot { name, table, as_of } => {
                let id = self.table_id(tenant, &table).await?;
                let as_of = as_of.unwrap_or_else(|| request.as_of.clone());
                let token = token_of(&request.tokens, &id, &as_of)?;
                let entry = self.entry(&id).await?;
                let pinned = match token {
                    Some(token) => self.covered(&entry, Some(token), running).await?,
                    None => self.inner.pins.past(&entry, &as_of).await?,
                };
                self.keep(&entry, name, &pinned).await?
            }
            Command::DropSnapshot { name, table } => {
                let id = self.table_id(tenant, &table).await?;
                self.drop_named(&id, &name).await?
            }
        };
        about::snapshot_rows(std::slice::from_ref(&named))
    }

    /// Gives a committed version of the table a name that keeps it.
    ///
    /// # Errors
    /// [`QueryError::SnapshotExists`], [`QueryError::SnapshotsFull`], and as for reading that version.
    pub async fn create_snapshot(
        &self,
        id: &TableId,
        name: SnapshotName,
        as_of: &AsOf,
    ) -> Result<NamedSnapshot, QueryError> {
        let entry = self.entry(id).await?;
        let pinned = self.inner.pins.past(&entry, as_of).await?;
        self.keep(&entry, name, &pinned).await
    }

    async fn keep(
        &self,
        entry: &Arc<TableEntry>,
        name: SnapshotName,
        pinned: &Pinned,
    ) -> Result<NamedSnapshot, QueryError> {
        let table = self.inner.pins.table(entry);
        let created = table.create_named_snapshot(name, &pinned.snapshot).await?;
        match created {
            CreateNamed::Created(named) => {
                tracing::info!(table = %entry.id, name = %named.name, version = %named.version,
                    "snapshot created");
                Ok(named)
            }
            CreateNamed::Exists(held) => Err(QueryError::SnapshotExists {
                table: entry.id.clone(),
                name: held.name,
                version: held.version,
            }),
            CreateNamed::Full => Err(QueryError::SnapshotsFull(entry.id.clone())),
        }
    }

    /// Drops a name: its version may expire from now on.
    ///
    /// # Errors
    /// [`QueryError::SnapshotNotFound`].
    pub async fn drop_named(
        &self,
        id: &TableId,
        name: &SnapshotName,
    ) -> Result<NamedSnapshot, QueryError> {
        let entry = self.entry(id).await?;
        let table_id = self.inner.pins.metadata_id(&entry).await?;
        let table = self.inner.pins.table(&entry);
        let dropped = table.drop_named_snapshot(&table_id, name).await?;
        let dropped = dropped.ok_or_else(|| QueryError::SnapshotNotFound {
            table: id.clone(),
            name: name.clone(),
        })?;
        tracing::info!(table = %id, %name, version = %dropped.version, "snapshot dropped");
        Ok(dropped)
    }

    /// The table's named snapshots, by name.
    ///
    /// # Errors
    /// A table that is not there, a store that does not answer.
    pub async fn snapshots(&self, id: &TableId) -> Result<Vec<NamedSnapshot>, QueryError> {
        let entry = self.entry(id).await?;
        self.snapshots_of(&entry).await
    }

    pub(super) async fn snapshots_of(
        &self,
        entry: &Arc<TableEntry>,
    ) -> Result<Vec<NamedSnapshot>, QueryError> {
        let table_id = self.inner.pins.metadata_id(entry).await?;
        let table = self.inner.pins.table(entry);
        Ok(table.named_snapshots(&table_id).await?)
    }
}

/// The token that the named version must cover: one that names a version of its own covers none.
fn token_of<'a>(
    tokens: &'a Tokens,
    id: &TableId,
    as_of: &AsOf,
) -> Result<Option<&'a Token>, QueryError> {
    let token = match tokens {
        Tokens::None => return Ok(None),
        Tokens::Only(token) => token,
        Tokens::ByTable(tokens) => match tokens.get(&id.table) {
            Some(token) if tokens.len() == 1 => token,
            _ => {
                let reason = format!("the statement is about table {} only", id.table);
                return Err(QueryError::Token(reason));
            }
        },
    };
    if *as_of != AsOf::Latest {
        let reason = "a token asks for the newest rows: it can't go with a past version";
        return Err(QueryError::request("token", reason));
    }
    Ok(Some(token))
}
