//! A table as this flusher knows it, and how it is looked up when one of its buckets is assigned.
//!
//! Looking up reads the catalog, the table's log, and then the topic ([`crate::identity`]): nothing
//! is consumed before all three agree. Lookups are bounded ([`OPENS_MAX`]): a process that is given
//! a thousand tables does not load a thousand logs at once.

use std::sync::Arc;
use std::time::Duration;

use tidelake_catalog::{Catalog, CatalogError, TableEntry, TableMode};
use tidelake_core::{Bucket, ErrorKind, Offset, TableId};
use tidelake_log::topics::{dead_letter_topic, parse_table_topic};
use tidelake_log::{LogAdmin, LogError, TopicInfo};
use tidelake_manifest::{
    CachedTable, DeltaTable, Freshness, ManifestError, Snapshot, SnapshotCache,
};
use tidelake_service::Runtime;
use tidelake_storage::Store;
use tokio::sync::Semaphore;

use crate::group::Group;
use crate::identity::{Mark, TopicState, check_bucket, check_topic};
use crate::policy::{Cause, Trouble};

/// Tables that are looked up at the same time.
pub(crate) const OPENS_MAX: usize = 16;
/// How long one attempt of a flush waits for the log to name its topic.
const TOPIC_WAIT: Duration = Duration::from_secs(5);

/// One incarnation of a table.
#[derive(Debug)]
pub(crate) struct OpenTable {
    pub entry: Arc<TableEntry>,
    /// Where its dead letters go; a dead-letter table has none itself.
    pub dead_letters: Option<Arc<str>>,
    pub delta: DeltaTable,
    /// Where others of the process learn of its commits.
    pub cached: CachedTable,
}

/// A table at its newest version, and which of the buckets asked for can be consumed.
#[derive(Debug)]
pub(crate) struct Opened {
    pub table: Arc<OpenTable>,
    pub snapshot: Arc<Snapshot>,
    pub ready: Vec<Bucket>,
    pub refused: Vec<(Bucket, Trouble)>,
    /// The log's ends, as far as they are known.
    pub ends: Vec<(Bucket, Offset)>,
}

impl Opened {
    /// Buckets whose every record is committed.
    pub(crate) fn caught_up(&self) -> Vec<Bucket> {
        let ends = self.ends.iter().filter(|(bucket, end)| {
            let mark = self.snapshot.watermark(&self.table.entry.topic_id, *bucket);
            self.ready.contains(bucket) && end.0 <= mark.unwrap_or_default().0
        });
        ends.map(|(bucket, _)| *bucket).collect()
    }
}

/// Why a topic's table can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("topic {0} belongs to no table of the catalog")]
    NoTable(String),
    #[error(
        "topic {topic} belongs to no table of this installation's catalog, and group {group}, \
         which was given its bucket, was named by hand: if the table is another installation's, \
         that one never sees the bucket. Give each installation a group of its own (or leave \
         `group` empty), or delete the topic where nobody needs it"
    )]
    UnknownTable { topic: String, group: Arc<str> },
    #[error("read the catalog")]
    Catalog(#[from] CatalogError),
    #[error("read the log of table {table}")]
    Manifest {
        table: TableId,
        #[source]
        source: ManifestError,
    },
    #[error("look up topic {topic}")]
    Log {
        topic: String,
        #[source]
        source: LogError,
    },
}

impl OpenError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::NoTable(_) | Self::UnknownTable { .. } => ErrorKind::NotFound,
            Self::Catalog(error) => error.kind(),
            // The catalog has the table, so its log not being there is damage, not absence.
            Self::Manifest { source, .. } if source.kind() == ErrorKind::NotFound => {
                ErrorKind::Corrupt
            }
            Self::Manifest { source, .. } => source.kind(),
            // The topic went away between two requests.
            Self::Log { source, .. } if source.kind() == ErrorKind::NotFound => {
                ErrorKind::Unavailable
            }
            Self::Log { source, .. } => source.kind(),
        }
    }

    pub(crate) fn trouble(&self) -> Trouble {
        let mut trouble = Trouble::of(self.kind(), self);
        if let Self::UnknownTable { .. } = self {
            trouble.cause = Cause::UnknownTable;
        }
        trouble
    }
}

/// Opens tables by their topics.
#[derive(Debug, Clone)]
pub(crate) struct Opener {
    pub store: Store,
    pub catalog: Catalog,
    pub admin: Arc<dyn LogAdmin>,
    pub topic_prefix: String,
    pub group: Group,
    pub runtime: Runtime,
    pub snapshots: SnapshotCache,
    pub turns: Arc<Semaphore>,
}

impl Opener {
    /// The table of a topic, at its newest version, compared with the topic that is there.
    pub(crate) async fn open(
        &self,
        topic: &Arc<str>,
        buckets: &[Bucket],
    ) -> Result<Opened, OpenError> {
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let no_table = || OpenError::NoTable(topic.to_string());
        let id = parse_table_topic(&self.topic_prefix, topic).ok_or_else(no_table)?;
        let entry = self.catalog.find_fresh(&id).await?;
        let entry = entry.ok_or_else(|| self.missing(topic, &id))?;
        let location = entry.location();
        let cached = self.snapshots.table(&location, entry.topic_id, || {
            let (clock, ids) = (self.runtime.clock.clone(), self.runtime.ids.clone());
            DeltaTable::new(self.store.scoped(&location), clock, ids)
        });
        let seen = cached.get(Freshness::Latest).await;
        let snapshot = seen
            .map_err(|source| OpenError::Manifest { table: id, source })?
            .snapshot;
        if snapshot.is_dropped() {
            return Err(no_table());
        }
        // Rows are decoded by the columns that are there now, and must fit those before.
        let key = entry.mode == TableMode::Upsert;
        cached
            .delta()
            .check_columns(&snapshot, &entry.schema, key)
            .map_err(|source| OpenError::Manifest {
                table: entry.id.clone(),
                source,
            })?;
        // Only after the table's log: the ends must not be older than the watermarks.
        let found = self.topic_state(topic, buckets).await?;
        let (mut ready, mut refused) = (Vec::new(), Vec::new());
        let whole = check_topic(&entry, found.info.as_ref());
        for bucket in buckets {
            let mark = || Mark::of(&entry, &snapshot, *bucket);
            match whole
                .clone()
                .and_then(|()| check_bucket(&entry, &found, &mark()))
            {
                Ok(()) => ready.push(*bucket),
                Err(trouble) => refused.push((*bucket, trouble)),
            }
        }
        let dead_letters = (!entry.is_dead_letters())
            .then(|| Arc::from(dead_letter_topic(&self.topic_prefix, &entry.id)));
        Ok(Opened {
            table: Arc::new(OpenTable {
                entry,
                dead_letters,
                delta: cached.delta().clone(),
                cached,
            }),
            snapshot,
            ready,
            refused,
            ends: found.ends.into_iter().collect(),
        })
    }

    /// What it means that the catalog has no such table. A dropped one's topic is left for as long
    /// as the table can be restored.
    fn missing(&self, topic: &Arc<str>, id: &TableId) -> OpenError {
        let topic = topic.to_string();
        let of = id.dead_letters_of().unwrap_or_else(|| id.clone());
        match self.group.named_by_hand() {
            Some(group) if self.catalog.dropped(&of).is_none() => {
                OpenError::UnknownTable { topic, group }
            }
            _ => OpenError::NoTable(topic),
        }
    }

    async fn topic_state(
        &self,
        topic: &Arc<str>,
        buckets: &[Bucket],
    ) -> Result<TopicState, OpenError> {
        let failed = |source| OpenError::Log {
            topic: topic.to_string(),
            source,
        };
        let Some(info) = self.admin.describe(topic).await.map_err(failed)? else {
            return Ok(TopicState::default());
        };
        let there: Vec<_> = buckets
            .iter()
            .copied()
            .filter(|bucket| bucket.0 < info.buckets)
            .collect();
        let (starts, ends) = tokio::try_join!(
            self.admin.start_offsets(topic, &there),
            self.admin.end_offsets(topic, &there),
        )
        .map_err(failed)?;
        Ok(TopicState {
            info: Some(info),
            starts: starts.into_iter().collect(),
            ends: ends.into_iter().collect(),
        })
    }

    /// True where the catalog still knows this incarnation of the table.
    pub(crate) async fn is_current(&self, table: &OpenTable) -> Result<bool, CatalogError> {
        let found = self.catalog.find_fresh(&table.entry.id).await?;
        Ok(found.is_some_and(|entry| entry.is_same_table(&table.entry)))
    }

    /// What the table's topic is now. One that was deleted and made again within a moment goes
    /// unnoticed by whoever consumes it, so this is what tells whether rows that were read so far
    /// are of the table's own. A log that does not answer proves nothing.
    pub(crate) async fn topic_of(&self, table: &OpenTable) -> Result<Option<TopicInfo>, OpenError> {
        let topic = &table.entry.topic;
        let failed = |source| OpenError::Log {
            topic: topic.clone(),
            source,
        };
        let describing = tokio::time::timeout(TOPIC_WAIT, self.admin.describe(topic));
        let silent = |_| {
            failed(LogError::Unavailable {
                what: format!("describe topic {topic}"),
                reason: format!("no answer in {TOPIC_WAIT:?}"),
            })
        };
        describing.await.map_err(silent)?.map_err(failed)
    }

    /// Whether positions that were reached over a gap lie inside of the log. Its end was asked for
    /// after the rows came, so they can't be ahead of it.
    pub(crate) async fn check_positions(
        &self,
        table: &OpenTable,
        reached: &[(Bucket, Offset)],
    ) -> Result<Option<(Bucket, Offset)>, LogError> {
        let buckets: Vec<_> = reached.iter().map(|(bucket, _)| *bucket).collect();
        let ends = self.admin.end_offsets(&table.entry.topic, &buckets).await?;
        Ok(ends.into_iter().find(|(bucket, end)| {
            reached
                .iter()
                .any(|(known, to)| known == bucket && to > end)
        }))
    }
}
