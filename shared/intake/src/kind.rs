//! What kind of table a topic feeds, and what of the table its intake needs.

use std::sync::Arc;

use tidelake_core::TopicId;
use tidelake_manifest::Snapshot;
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;

use crate::origin::OriginKey;

/// What the messages of a topic are to its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableKind {
    /// Every record is a row.
    Append,
    /// The newest record of a key is its row; a tombstone takes it away.
    Upsert,
    /// Every message is a row, whatever it is: there are no dead letters of dead letters.
    DeadLetters,
}

/// One incarnation of a table, as far as it matters to its messages.
#[derive(Debug, Clone)]
pub struct IntakeTable {
    pub kind: TableKind,
    /// As the table's log has it.
    pub schema: Arc<TableSchema>,
    /// What the columns are called in files, where that differs: packed messages go by it.
    pub names: Arc<PhysicalNames>,
    pub topic_id: TopicId,
    /// Buckets of the table: a key's bucket is counted by it.
    pub buckets: u32,
    pub(crate) origin_key: OriginKey,
}

impl IntakeTable {
    /// The table as a snapshot has it.
    pub fn of(kind: TableKind, topic_id: TopicId, buckets: u32, snapshot: &Snapshot) -> Self {
        Self {
            kind,
            schema: Arc::clone(snapshot.schema()),
            names: Arc::clone(snapshot.physical_names()),
            topic_id,
            buckets,
            origin_key: OriginKey::of(snapshot, topic_id),
        }
    }

    /// Signs the origins of what is republished.
    pub fn origin_key(&self) -> &OriginKey {
        &self.origin_key
    }
}
