//! What the log holds: table entries and the events that add and remove them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidelake_core::clock::UnixMillis;
use tidelake_core::{TableId, TopicId};
use tidelake_schema::TableSchema;

/// What a record of the table means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableMode {
    /// No primary key: every record is a row.
    Append,
    /// The newest record of a key is the row; a tombstone removes it.
    Upsert,
}

impl std::fmt::Display for TableMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Append => "append",
            Self::Upsert => "upsert",
        })
    }
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    pub id: TableId,
    pub mode: TableMode,
    /// As created; the table's own log is the newer truth.
    pub schema: TableSchema,
    /// Partitions of the topic.
    pub buckets: u32,
    pub topic: String,
    /// The incarnation of the topic that the table's watermarks speak of.
    pub topic_id: TopicId,
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    pub created_ms: UnixMillis,
}

impl TableEntry {
    /// The table's folder below the store's root: `<tenant>/<table>`.
    pub fn location(&self) -> String {
        location(&self.id)
    }
}

pub(crate) fn location(id: &TableId) -> String {
    format!("{}/{}", id.tenant, id.table)
}

/// One file of the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub format: u32,
    /// Unique: tells our own write from another's when an answer got lost.
    pub id: String,
    pub timestamp_ms: UnixMillis,
    pub engine: String,
    pub event: Event,
}

pub(crate) const FORMAT: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event {
    CreateTable {
        table: Box<TableEntry>,
    },
    /// From here on the table does not exist; `purger` removes what it left behind.
    DropTable {
        table: TableId,
        purger: String,
    },
    /// The purger took too long: `purger` goes on in its place.
    ClaimPurge {
        table: TableId,
        purger: String,
    },
    /// Topics and folder of the dropped table are gone.
    Purged {
        table: TableId,
    },
}

/// The part of a record that older and newer programs agree on.
#[derive(Deserialize)]
struct Envelope {
    format: u32,
    id: String,
}

/// True where `bytes` is the record that carries `id`.
pub(crate) fn is_record(bytes: &[u8], id: &str) -> bool {
    serde_json::from_slice::<Envelope>(bytes).is_ok_and(|envelope| envelope.id == id)
}

impl Record {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let envelope: Envelope =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if envelope.format > FORMAT {
            return Err(format!(
                "format {} is newer than this program, which reads up to {FORMAT}; upgrade it",
                envelope.format
            ));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}
