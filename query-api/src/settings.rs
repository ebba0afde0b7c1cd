//! Settings of the query API; each says what it costs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidelake_log::KafkaSettings;
use tidelake_manifest::cache::SNAPSHOT_CACHE_BYTES;

/// Settings of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// URL of the object store: `file:///folder`, `memory:///`, `s3://bucket/prefix`.
    pub store: String,
    pub kafka: KafkaSettings,
    /// `address:port` of the HTTP listener; port 0 takes a free one.
    pub listen: String,
    pub query: QuerySettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: String::new(),
            kafka: KafkaSettings::default(),
            listen: "127.0.0.1:8081".into(),
            query: QuerySettings::default(),
        }
    }
}

/// Bounds and knobs of the query engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuerySettings {
    /// Threads one query may keep busy.
    pub target_partitions: usize,
    /// Rows in one batch on its way through a plan.
    pub batch_rows: usize,
    /// Evaluates filters while Parquet is decoded: fewer bytes for selective filters over wide rows,
    /// slower for most others.
    pub pushdown_filters: bool,
    /// Time-out of a query that names none.
    pub timeout_ms_default: u64,
    /// The longest time-out a query may ask for.
    pub timeout_ms_max: u64,
    /// Queries that execute at a time, each on threads of its own; more wait for `queue_ms_max`, then
    /// are refused. One whose answer is not read executes nothing and does not count.
    pub running_max: usize,
    /// Queries of one tenant that are open at a time: executing, waiting for a turn or a token, or
    /// for their answer to be read. More are refused at once.
    pub running_per_tenant_max: usize,
    /// Queries of all tenants that are open at a time; more are refused at once.
    pub open_max: usize,
    /// How long an answer's reader may take nothing of it before it is cut off, if the query's own
    /// time-out is not shorter. The time-out counts what the query executes, not this.
    pub stall_ms_max: u64,
    /// Lookups and key ranges that run at a time; more wait.
    pub lookups_max: usize,
    /// Lookups and key ranges of one tenant that are under way at a time, those that wait for a token
    /// among them; more are refused at once.
    pub lookups_per_tenant_max: usize,
    /// How long a query may wait for its turn.
    pub queue_ms_max: u64,
    /// Memory of all operators of all queries (sorts, joins, aggregates).
    pub memory_bytes_max: u64,
    /// Disk space for operators that don't fit in memory; 0 forbids spilling.
    pub spill_bytes_max: u64,
    /// Where operators spill; the system's temporary folder when absent.
    pub spill_folder: Option<PathBuf>,
    /// Bytes of an `application/json` answer, which is built in memory. Other formats stream.
    pub json_bytes_max: usize,
    /// Memory for versions of tables between queries: their lists of files and what is known of each
    /// file. Less means that tables which are seldom asked for are loaded anew; versions in use come
    /// on top. In a process of several services its own setting counts, not this one.
    pub snapshot_cache_bytes_max: u64,
    /// Memory for Parquet footers and page indexes.
    pub metadata_cache_bytes_max: usize,
    /// Memory for the deleted rows of data files between queries: one bit for each row of a file that
    /// has any. Less means that deletion vectors are read anew; queries that run come on top.
    pub vector_cache_bytes_max: usize,
    /// Memory for what is read of stored key indexes by those who look keys up in versions that
    /// nobody follows: block indexes, and blocks of some hundred keys. Less means that they are read
    /// anew.
    pub key_cache_bytes_max: usize,
    /// Memory for decompressed Parquet pages that rows were read from by key; 0 keeps none.
    pub page_cache_bytes_max: u64,
    /// Decoded bytes of one table's unflushed rows; a table that has more is refused.
    pub tail_bytes_max: usize,
    /// Decoded unflushed rows of all tables together: room for them is taken before they are decoded.
    /// For it tables are let go that no query reads just now; where all are read, what has no room
    /// is refused.
    pub tail_cache_bytes_max: usize,
    /// How long a query waits for the log's newest rows to be read and decoded.
    pub tail_read_ms_max: u64,
    /// Tables that are followed at a time (one consumer each) beyond those that queries are waiting
    /// for.
    pub tail_readers_max: usize,
    /// A table that nobody queried for so long is no longer followed: it makes no requests then, and
    /// its next query reads the tail anew. Where an upsert table's keys are is kept for a while, in a
    /// bounded part of the index folder.
    pub tail_idle_ms: u64,
    /// A `latest` query may take a snapshot that was read so long ago, if no commit was announced
    /// since: the tail makes up for our own commits, so this is how late those of other writers may
    /// show. `committed` queries always look.
    pub snapshot_age_ms_max: u64,
    /// A lookup, and a statement that names whole keys, may take a catalog that was read so long ago:
    /// how late it sees that another process dropped a table. Other SQL always looks.
    pub catalog_age_ms_max: u64,
    /// Folder for the key indexes of upsert tables, thrown away at the end; the system's temporary
    /// folder when absent.
    pub index_folder: Option<PathBuf>,
}

impl Default for QuerySettings {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            target_partitions: 2,
            batch_rows: 8192,
            pushdown_filters: false,
            timeout_ms_default: 60_000,
            timeout_ms_max: 600_000,
            running_max: 16,
            running_per_tenant_max: 8,
            open_max: 128,
            stall_ms_max: 30_000,
            lookups_max: 64,
            lookups_per_tenant_max: 512,
            queue_ms_max: 5_000,
            memory_bytes_max: 1024 * MIB as u64,
            spill_bytes_max: 4096 * MIB as u64,
            spill_folder: None,
            json_bytes_max: 64 * MIB,
            snapshot_cache_bytes_max: SNAPSHOT_CACHE_BYTES,
            metadata_cache_bytes_max: 128 * MIB,
            vector_cache_bytes_max: 64 * MIB,
            key_cache_bytes_max: 32 * MIB,
            page_cache_bytes_max: 256 * MIB as u64,
            tail_bytes_max: 512 * MIB,
            tail_cache_bytes_max: 512 * MIB,
            tail_read_ms_max: 10_000,
            tail_readers_max: 32,
            tail_idle_ms: 30_000,
            snapshot_age_ms_max: 10_000,
            catalog_age_ms_max: 1_000,
            index_folder: None,
        }
    }
}
