//! What the log holds: table entries and the events that add and remove them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidelake_core::clock::UnixMillis;
use tidelake_core::{TableId, TableVersion, TopicId};
use tidelake_schema::{TableSchema, dead_letters};

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
    /// The incarnation of the topic that keeps the table's dead letters: of a table whose dead
    /// letters are a table too. See [`TableEntry::dead_letters`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters_topic_id: Option<TopicId>,
    /// How often it was dropped and restored. What a flusher knows of the table from before a drop
    /// does not hold after it: its last commit may have gone into the emptied folder.
    #[serde(default, skip_serializing_if = "is_never")]
    pub restores: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_never(restores: &u32) -> bool {
    *restores == 0
}

impl TableEntry {
    /// The table's dead-letter table. It has no event of its own: it comes and goes with its table,
    /// in one step.
    pub fn dead_letters(&self) -> Option<Self> {
        Some(Self {
            id: self.id.dead_letters(),
            mode: TableMode::Upsert,
            schema: dead_letters::schema().clone(),
            buckets: 1,
            topic: format!("{}.dlq", self.topic),
            topic_id: self.dead_letters_topic_id?,
            properties: BTreeMap::new(),
            created_ms: self.created_ms,
            dead_letters_topic_id: None,
            restores: self.restores,
        })
    }

    /// The table as it is after it was dropped and restored.
    #[must_use]
    pub(crate) fn restored(&self) -> Self {
        Self {
            restores: self.restores + 1,
            ..self.clone()
        }
    }

    /// The topics that it is filled from.
    pub fn topics(&self) -> Topics {
        Topics {
            table: self.topic_id,
            dead_letters: self.dead_letters_topic_id,
        }
    }

    /// The table as it is once it is filled from other topics.
    #[must_use]
    pub(crate) fn with_topics(&self, to: Topics) -> Self {
        Self {
            topic_id: to.table,
            dead_letters_topic_id: to.dead_letters,
            ..self.clone()
        }
    }

    /// True where a table that was opened by `other` is still the one of this entry.
    pub fn is_same_table(&self, other: &Self) -> bool {
        self.topic_id == other.topic_id && self.restores == other.restores
    }

    /// True of dead-letter tables, which nobody but Tidelake writes to.
    pub fn is_dead_letters(&self) -> bool {
        self.id.table.dead_letters_of().is_some()
    }

    /// The table's folder below the store's root: `<tenant>/<table>`.
    pub fn location(&self) -> String {
        location(&self.id)
    }
}

/// See [`TableEntry::location`].
pub fn location(id: &TableId) -> String {
    format!("{}/{}", id.tenant, id.table)
}

/// The incarnations of the topics that a table and its dead letters are filled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topics {
    pub table: TopicId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<TopicId>,
}

/// Where the logs of a dropped table ended; none where there was no log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVersions {
    pub table: Option<TableVersion>,
    pub dead_letters: Option<TableVersion>,
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

/// The newest format that this program reads.
pub(crate) const FORMAT_MAX: u32 = 4;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event {
    CreateTable {
        table: Box<TableEntry>,
    },
    /// The table, made before there were dead-letter tables, has one from here on.
    AddDeadLetters {
        table: TableId,
        topic_id: TopicId,
    },
    /// From here on the table is filled from other topics than those named by `from`.
    AdoptTopic {
        table: TableId,
        from: Topics,
        to: Topics,
    },
    /// From here on the table does not exist; `purger` ends its log, and removes what it left
    /// behind at once or from `kept_until_ms` on.
    DropTable {
        table: TableId,
        purger: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept_until_ms: Option<UnixMillis>,
    },
    /// The logs of the dropped table and of its dead letters have ended.
    EndLogs {
        table: TableId,
        last: LastVersions,
    },
    /// The purger took too long, or another has a reason to: `purger` goes on in its place. The table
    /// is kept no longer, unless `keeps` says so.
    ClaimPurge {
        table: TableId,
        purger: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keeps: bool,
    },
    /// The dropped table, which was kept, exists again as it was.
    RestoreTable {
        table: TableId,
    },
    /// Topics and folder of the dropped table are gone.
    Purged {
        table: TableId,
    },
}

impl Event {
    /// The oldest format that has such an event: older programs ask to be upgraded.
    pub(crate) fn format(&self) -> u32 {
        match self {
            Self::AdoptTopic { .. } => 4,
            Self::EndLogs { .. }
            | Self::RestoreTable { .. }
            | Self::ClaimPurge { keeps: true, .. }
            | Self::DropTable {
                kept_until_ms: Some(_),
                ..
            } => 3,
            Self::AddDeadLetters { .. } => 2,
            Self::CreateTable { .. }
            | Self::DropTable { .. }
            | Self::ClaimPurge { .. }
            | Self::Purged { .. } => 1,
        }
    }
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
        if envelope.format > FORMAT_MAX {
            return Err(format!(
                "format {} is newer than this program, which reads up to {FORMAT_MAX}; upgrade it",
                envelope.format
            ));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}
