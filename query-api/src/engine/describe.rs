//! What a table is: for doors that describe and list tables. The shape is the catalog's, the same
//! that the gateway answers with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tidelake_catalog::{
    Committed, Description, ListPart, Listed, TableEntry, TableList, TopicNote, looked_at,
};
use tidelake_core::{TableId, TenantId, Watermark};
use tidelake_service::Problem;

use super::{Engine, Seen};
use crate::error::QueryError;
use crate::tail::look;

/// Tables of a list that are looked at at a time.
const LOOKS_IN_FLIGHT_MAX: usize = 8;
/// How old what a list says of a table may be.
const LIST_AGE_MAX: Duration = Duration::from_secs(5);

impl Engine {
    /// The table as of now. A log that does not answer leaves out what only it knows.
    ///
    /// # Errors
    /// A table that is not there, or whose own log can't be read.
    pub async fn describe(&self, id: &TableId) -> Result<Description, QueryError> {
        let entry = self.entry(id).await?;
        self.described_within(&entry, Duration::ZERO).await
    }

    /// The tenant's tables by name, dead-letter tables only where `all` are wanted.
    ///
    /// # Errors
    /// A catalog that can't be read.
    pub async fn list(
        &self,
        tenant: &TenantId,
        part: &ListPart,
        all: bool,
    ) -> Result<TableList, QueryError> {
        let catalog = self.inner.pins.catalog();
        catalog.refresh().await?;
        let mut entries = catalog.list(tenant);
        entries.retain(|entry| all || !entry.is_dead_letters());
        let next_after = part.cut(&mut entries, |entry| entry.as_ref());
        let looks = looked_at(entries, |entry| self.inner.pins.is_known(entry));
        let tables = futures::stream::iter(looks).map(|(entry, looked)| async move {
            match looked {
                true => self.listed(&entry).await,
                false => Listed::named(&entry),
            }
        });
        let tables = tables.buffered(LOOKS_IN_FLIGHT_MAX).collect().await;
        Ok(TableList { tables, next_after })
    }

    async fn listed(&self, entry: &Arc<TableEntry>) -> Listed {
        match self.described_within(entry, LIST_AGE_MAX).await {
            Ok(described) => Listed::Described(Box::new(described)),
            Err(error) => {
                let problem = Problem::from(&error);
                Listed::unreadable(entry, problem.code, problem.detail)
            }
        }
    }

    async fn described_within(
        &self,
        entry: &Arc<TableEntry>,
        age_max: Duration,
    ) -> Result<Description, QueryError> {
        let pinned = self.inner.pins.newest(entry, age_max).await?;
        let (ends, note) = match look(self.inner.tails.source(), entry).await {
            Ok(ends) => {
                let ends = ends.into_iter();
                let ends: BTreeMap<_, _> = ends
                    .map(|(bucket, end)| (bucket, Watermark(end.0)))
                    .collect();
                (Some(ends), None)
            }
            Err(error @ QueryError::TopicChanged { .. }) => {
                let problem = Problem::from(&error);
                let note = TopicNote {
                    code: problem.code,
                    detail: problem.detail,
                    hint: problem.hint,
                };
                (None, Some(note))
            }
            Err(error) => {
                tracing::warn!(table = %entry.id, %error, "no end offsets");
                (None, None)
            }
        };
        let mut watermarks = Seen::committed(&pinned).positions;
        // Of partitions that an append table's topic got since, nothing is committed.
        for bucket in ends.iter().flat_map(|ends| ends.keys()) {
            watermarks.entry(*bucket).or_default();
        }
        let snapshot = &pinned.snapshot;
        let committed = Committed {
            schema: snapshot.schema().as_ref().clone(),
            physical_names: snapshot.physical_names().as_ref().clone(),
            version: snapshot.version(),
            rows: snapshot.total_rows(),
            files: snapshot.file_count(),
            bytes: snapshot.total_bytes(),
            watermarks,
        };
        let mut described = Description::new(entry, committed, ends);
        described.note_topic(note);
        Ok(described)
    }
}
