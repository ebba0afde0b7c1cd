//! What an operator may set.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidelake_log::KafkaSettings;
use tidelake_manifest::cache::SNAPSHOT_CACHE_BYTES;
use tidelake_service::{HttpSettings, MetricsSettings};

use crate::body::Pace;

/// Settings of the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// URL of the object store's root: `file:///folder`, `s3://bucket/prefix`.
    pub store: String,
    pub kafka: KafkaSettings,
    /// Address and port to answer on; port 0 picks a free one.
    pub listen: String,
    pub http: HttpSettings,
    pub metrics: MetricsSettings,
    pub ingest: IngestSettings,
    pub tables: TableSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: "file:///var/lib/tidelake".into(),
            kafka: KafkaSettings::default(),
            listen: "127.0.0.1:8080".into(),
            http: HttpSettings::default(),
            metrics: MetricsSettings::default(),
            ingest: IngestSettings::default(),
            tables: TableSettings::default(),
        }
    }
}

/// Bounds on bodies of records. Memory in use stays below
/// `small_bodies_max` × 1 MiB + `streams_max` × 16 MiB + `spool_memory_bytes_total`; where all
/// streams are of batches or records that become as large as they may, `streams_max` × 64 MiB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestSettings {
    /// Largest body, decompressed. It is streamed: this bounds time and disk, not memory.
    pub body_bytes_max: u64,
    /// Small bodies (64 KiB at most) handled at a time.
    pub small_bodies_max: usize,
    /// Larger, compressed or unmeasured bodies handled at a time; each costs a thread. An Arrow
    /// stream counts as four: its batches are held whole, and may become 64 MiB for each of these
    /// places. For an upsert table each counts as one more: rows wait for others of their bucket.
    pub streams_max: usize,
    /// Requests that may wait for one of these places; more are refused with OVERLOADED.
    pub waiting_max: usize,
    /// How long a request waits for its place.
    pub waiting_timeout_ms: u64,
    /// Percent of the places of either kind that one tenant may have at a time, so that a place is
    /// left for the others. 100 lets one tenant use all of them, and keep them.
    pub tenant_share_percent: u8,
    /// How long a client may pause within its body.
    pub body_idle_timeout_ms: u64,
    /// Bytes a second that a body must come at, taken over `body_rate_window_ms`; a slower one is
    /// refused, since it keeps a place from others. What the gateway makes a client wait for does not
    /// count. 0 takes bodies of any pace.
    pub body_bytes_per_s_min: u64,
    /// Shorter frees places sooner and cuts off clients whose network stands still for so long.
    pub body_rate_window_ms: u64,
    /// Encoded messages of one body that wait in memory until the whole body has been checked;
    /// what is more waits in a temporary file.
    pub spool_memory_bytes: usize,
    /// The same for all bodies together.
    pub spool_memory_bytes_total: usize,
    /// Temporary files of all bodies together.
    pub spool_disk_bytes_total: u64,
    /// Folder of the temporary files; the system's when unset.
    pub spool_folder: Option<PathBuf>,
    /// Messages of one body that are on their way to the log at a time.
    pub produce_in_flight_max: usize,
    /// How long to wait for the log's next acknowledgement before the outcome counts as unknown.
    pub produce_timeout_ms: u64,
    /// How far readers of tables in this process may fall behind: the next message of a body waits
    /// while the slowest needs longer than a tenth of it for what it has not read. Longer lets
    /// writers go faster than fresh reads can follow; 0 never waits for readers.
    pub reader_lag_ms_max: u64,
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 << 30,
            small_bodies_max: 256,
            // A tenant's share of them is 16.
            streams_max: 22,
            waiting_max: 1024,
            waiting_timeout_ms: 10_000,
            tenant_share_percent: 75,
            body_idle_timeout_ms: 30_000,
            body_bytes_per_s_min: 1024,
            body_rate_window_ms: 8_000,
            spool_memory_bytes: 16 << 20,
            spool_memory_bytes_total: 128 << 20,
            spool_disk_bytes_total: 32 << 30,
            spool_folder: None,
            produce_in_flight_max: 8,
            produce_timeout_ms: 60_000,
            reader_lag_ms_max: 500,
        }
    }
}

impl IngestSettings {
    pub(crate) fn pace(&self) -> Pace {
        Pace {
            idle: Duration::from_millis(self.body_idle_timeout_ms),
            bytes_per_s_min: self.body_bytes_per_s_min,
            window: Duration::from_millis(self.body_rate_window_ms.max(1)),
        }
    }

    pub(crate) fn reader_lag_max(&self) -> Duration {
        Duration::from_millis(self.reader_lag_ms_max)
    }

    pub(crate) fn produce_timeout(&self) -> Duration {
        Duration::from_millis(self.produce_timeout_ms)
    }
}

/// How tables are made and looked up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableSettings {
    /// Buckets of a table that does not say.
    pub buckets_default: u32,
    /// How long the log keeps messages of a table that does not say (`retention_ms`).
    pub retention_ms_default: i64,
    /// How old the view of the catalog may be that a write is accepted on. Only tables dropped by
    /// another process are seen late; costs one small read of the store per interval under load.
    pub catalog_age_ms_max: u64,
    /// How long a dropped table can be restored, unless its name is used again before. Until then its
    /// topic and files stay and take their room; 0 removes them at once.
    pub undrop_grace_ms: u64,
    /// Memory for versions of tables between looks at them: their lists of files. Less means that
    /// tables which are seldom asked for are loaded anew. In a process of several services its own
    /// setting counts, not this one.
    pub snapshot_cache_bytes_max: u64,
    /// Longest wait of `flush` and of `status?wait_ms=`.
    pub wait_ms_max: u64,
}

impl Default for TableSettings {
    fn default() -> Self {
        Self {
            buckets_default: 4,
            retention_ms_default: 7 * 24 * 3600 * 1000,
            catalog_age_ms_max: 2_000,
            undrop_grace_ms: 24 * 3600 * 1000,
            snapshot_cache_bytes_max: SNAPSHOT_CACHE_BYTES,
            wait_ms_max: 120_000,
        }
    }
}
