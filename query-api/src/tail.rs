//! The tail: rows that are durable in the log and not yet in the table's files.
//!
//! Owns the seam to the log ([`TailSource`]), the decoding of messages into columns and the cache of
//! decoded rows. Does not own positions: the engine says from which watermark to which end.
//!
//! ```text
//!            snapshot's watermark          end of the log at query start
//!  offsets ───────┬──────────────────────────────┬─────────►
//!   in Parquet    │  tail: chunk, chunk, chunk …  │  later queries
//! ```
//!
//! Invariants:
//! - what is served for a bucket is contiguous from the watermark to the end asked for: a chunk that
//!   does not join on is not used;
//! - chunks are cut at message borders only, so a message is seen whole or not at all;
//! - rows of one topic incarnation and one schema are never mixed with another's.

mod cache;
mod kafka;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::record_batch::RecordBatch;
use parking_lot::Mutex;
use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, Offset, TableId, Watermark};
use tidelake_log::LogError;
use tidelake_schema::TableSchema;

use crate::error::QueryError;
use crate::metrics::QueryMetrics;
use crate::provider::shape::Shape;
use crate::settings::QuerySettings;

use cache::TableTail;
pub use kafka::KafkaTail;

/// One message, borrowed from what was read.
#[derive(Debug, Clone, Copy)]
pub struct RawMessage<'a> {
    pub bucket: Bucket,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub value: Option<&'a [u8]>,
    pub encoding: Option<&'a [u8]>,
    pub op: Option<&'a [u8]>,
}

/// Messages that were read together; of one bucket, in the order of their offsets.
pub trait Messages: Send {
    fn visit(&self, visit: &mut dyn FnMut(RawMessage<'_>));
}

/// Where the tail comes from: the log, or memory in tests.
#[async_trait]
pub trait TailSource: Debug + Send + Sync {
    /// The high watermark of every bucket of the topic.
    async fn ends(&self, topic: &str, buckets: u32) -> Result<Vec<(Bucket, Offset)>, LogError>;

    /// The first offset that the log still has.
    async fn start(&self, topic: &str, bucket: Bucket) -> Result<Offset, LogError>;

    /// All messages of the ranges (end exclusive), perhaps some beyond.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] where the log does not reach back to the start of a range.
    async fn read(
        &self,
        topic: &str,
        ranges: Vec<(Bucket, Offset, Offset)>,
        deadline: Duration,
    ) -> Result<Vec<Box<dyn Messages>>, LogError>;

    /// The topic will not be read for a while.
    fn close(&self, topic: &str);
}

/// Unflushed rows of one table, as one query sees them.
#[derive(Debug, Clone, Default)]
pub(crate) struct TailRows {
    pub batches: Vec<RecordBatch>,
    pub rows: usize,
    pub bytes: usize,
}

/// Offsets that a query takes from the tail of one bucket: `from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TailRange {
    pub bucket: Bucket,
    pub from: Offset,
    pub to: Offset,
}

/// The ranges between the snapshot's watermarks and the log's ends.
pub(crate) fn ranges(
    watermark: impl Fn(Bucket) -> Watermark,
    ends: &[(Bucket, Offset)],
) -> Vec<TailRange> {
    let all = ends.iter().map(|&(bucket, to)| {
        let from = Offset(watermark(bucket).0);
        TailRange { bucket, from, to }
    });
    all.filter(|range| range.from < range.to).collect()
}

/// Reads tails and keeps what was decoded, within bounds.
#[derive(Debug)]
pub(crate) struct Tails {
    pub source: Arc<dyn TailSource>,
    settings: QuerySettings,
    metrics: QueryMetrics,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    by_id: HashMap<TableId, Kept>,
    tick: u64,
}

#[derive(Debug)]
struct Kept {
    tail: Arc<tokio::sync::Mutex<TableTail>>,
    topic: String,
    used: u64,
    /// As of the last query.
    bytes: usize,
}

impl Tails {
    pub(crate) fn new(
        source: Arc<dyn TailSource>,
        settings: QuerySettings,
        metrics: QueryMetrics,
    ) -> Self {
        Self {
            source,
            settings,
            metrics,
            tables: Mutex::default(),
        }
    }

    /// The rows of `ranges`. `newest` is the watermark of the newest snapshot known: rows before it
    /// are dropped from the cache.
    ///
    /// # Errors
    /// [`QueryError::LogGap`] where the log no longer reaches back to a watermark,
    /// [`QueryError::TailTooLarge`].
    pub(crate) async fn rows(
        &self,
        entry: &TableEntry,
        schema: &Arc<TableSchema>,
        shape: &Shape,
        ranges: &[TailRange],
        newest: impl Fn(Bucket) -> Watermark,
    ) -> Result<TailRows, QueryError> {
        let Some(tail) = self.tail(entry, ranges.is_empty()) else {
            return Ok(TailRows::default());
        };
        let mut tail = tail.lock().await;
        tail.belongs_to(entry.topic_id, schema);
        tail.forget_before(newest);
        let reader = cache::Reader {
            source: self.source.as_ref(),
            entry,
            schema,
            shape,
            bytes_max: self.settings.tail_bytes_max,
            deadline: Duration::from_millis(self.settings.tail_read_ms_max),
            metrics: &self.metrics,
        };
        let rows = tail.rows(ranges, &reader).await;
        if rows.is_err() {
            // What was read so far may be why there is no room.
            tail.clear();
        }
        let bytes = tail.bytes();
        drop(tail);
        self.settle(&entry.id, bytes);
        let rows = match rows {
            Err(QueryError::Log(LogError::OffsetOutOfRange { bucket, offset, .. })) => {
                let start = self.source.start(&entry.topic, bucket).await;
                return Err(QueryError::LogGap {
                    table: entry.id.clone(),
                    bucket,
                    start: start.map_or(-1, |start| start.0),
                    watermark: offset,
                });
            }
            rows => rows?,
        };
        self.metrics.tail_rows.inc_by(rows.rows as u64);
        self.metrics.tail_bytes.inc_by(rows.bytes as u64);
        Ok(rows)
    }

    /// What is kept of a table. Where nothing is asked for, nothing is begun.
    fn tail(
        &self,
        entry: &TableEntry,
        only_kept: bool,
    ) -> Option<Arc<tokio::sync::Mutex<TableTail>>> {
        let mut tables = self.tables.lock();
        if only_kept && !tables.by_id.contains_key(&entry.id) {
            return None;
        }
        tables.tick += 1;
        let tick = tables.tick;
        let kept = tables
            .by_id
            .entry(entry.id.clone())
            .or_insert_with(|| Kept {
                tail: Arc::default(),
                topic: entry.topic.clone(),
                used: tick,
                bytes: 0,
            });
        kept.used = tick;
        Some(Arc::clone(&kept.tail))
    }

    /// Notes a table's size, then drops the tables used longest ago until the bounds hold.
    fn settle(&self, id: &TableId, bytes: usize) {
        let mut tables = self.tables.lock();
        if let Some(kept) = tables.by_id.get_mut(id) {
            kept.bytes = bytes;
        }
        loop {
            let total: usize = tables.by_id.values().map(|kept| kept.bytes).sum();
            self.metrics
                .tail_cached_bytes
                .set(i64::try_from(total).unwrap_or(i64::MAX));
            let fits = total <= self.settings.tail_cache_bytes_max
                && tables.by_id.len() <= self.settings.tail_readers_max.max(1);
            let oldest = tables.by_id.iter().min_by_key(|(_, kept)| kept.used);
            let (false, Some((oldest, _))) = (fits, oldest) else {
                return;
            };
            let oldest = oldest.clone();
            if let Some(kept) = tables.by_id.remove(&oldest) {
                self.source.close(&kept.topic);
            }
        }
    }
}
