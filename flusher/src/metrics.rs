//! The flusher's metrics: all names in one place, unit last.

use prometheus::{GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tidelake_core::TableId;
use tidelake_manifest::Snapshot;
use tidelake_service::Metrics;

use crate::bucket::Taken;
use crate::freshness::Behind;

/// Handles of the flusher's metrics.
#[derive(Debug, Clone)]
pub(crate) struct FlusherMetrics {
    pub records: IntCounterVec,
    pub bytes: IntCounterVec,
    pub dead_letters: IntCounterVec,
    pub skipped: IntCounterVec,
    pub misrouted: IntCounterVec,
    pub repeated: IntCounterVec,
    pub superseded: IntCounterVec,
    pub flushes: IntCounterVec,
    pub commits: IntCounterVec,
    pub conflicts: IntCounterVec,
    pub flush_failures: IntCounterVec,
    pub flush_seconds: Histogram,
    pub tables: TableMetrics,
    pub buffer_bytes: IntGauge,
    pub memory_bytes: IntGauge,
    pub buckets: IntGauge,
    pub buckets_stopped: IntGauge,
    pub without_table: IntGauge,
    pub paused: IntGauge,
    pub rebalances: IntCounter,
}

/// Where each table stands, as far as this flusher reads its buckets.
#[derive(Debug, Clone)]
pub(crate) struct TableMetrics {
    pub index_bytes: IntGaugeVec,
    freshness_seconds: GaugeVec,
    lag_records: IntGaugeVec,
    lag_seconds: GaugeVec,
    table_version: IntGaugeVec,
    table_files: IntGaugeVec,
    table_stopped: IntGaugeVec,
}

const BY_TABLE: [&str; 2] = ["tenant", "table"];

impl FlusherMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            records: metrics.int_counter_vec(
                "tidelake_flusher_records_total",
                "Rows decoded from the log.",
                &BY_TABLE,
            ),
            bytes: metrics.int_counter_vec(
                "tidelake_flusher_bytes_total",
                "Bytes of message values read from the log.",
                &BY_TABLE,
            ),
            dead_letters: metrics.int_counter_vec(
                "tidelake_dead_letters_total",
                "Messages that could not be decoded and went to the dead-letter topic.",
                &BY_TABLE,
            ),
            skipped: metrics.int_counter_vec(
                "tidelake_flusher_offsets_skipped_total",
                "Offsets without a message: transaction markers of direct producers, or a fault.",
                &BY_TABLE,
            ),
            misrouted: metrics.int_counter_vec(
                "tidelake_flusher_misrouted_total",
                "Records in another bucket than their key's, re-published to the right one.",
                &BY_TABLE,
            ),
            repeated: metrics.int_counter_vec(
                "tidelake_flusher_repeated_origins_total",
                "Re-published records that were skipped: taken before, or sent on in a topic that \
                 the table has left.",
                &BY_TABLE,
            ),
            superseded: metrics.int_counter_vec(
                "tidelake_superseded_rows_total",
                "Older rows taken away by newer records of their keys.",
                &BY_TABLE,
            ),
            flushes: metrics.int_counter_vec(
                "tidelake_flushes_total",
                "Flushes started, by what made them due.",
                &["reason"],
            ),
            commits: metrics.int_counter_vec(
                "tidelake_commits_total",
                "Commits to table logs.",
                &BY_TABLE,
            ),
            conflicts: metrics.int_counter_vec(
                "tidelake_commit_conflicts_total",
                "Buckets whose watermark another flusher had moved.",
                &BY_TABLE,
            ),
            flush_failures: metrics.int_counter_vec(
                "tidelake_flush_failures_total",
                "Attempts to flush that failed and are tried again.",
                &BY_TABLE,
            ),
            flush_seconds: metrics.histogram(
                "tidelake_flush_duration_seconds",
                "From sealing the rows to the known commit.",
                &[
                    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
                ],
            ),
            memory_bytes: metrics.int_gauge(
                "tidelake_flusher_memory_bytes",
                "Memory held for rows, their decoders, messages to send and key indexes, and held \
                 or kept free for flushes.",
            ),
            tables: TableMetrics::new(metrics),
            buffer_bytes: metrics.int_gauge(
                "tidelake_flusher_buffer_bytes",
                "Memory held for rows that no commit covers.",
            ),
            buckets: metrics.int_gauge("tidelake_flusher_buckets", "Buckets that are consumed."),
            buckets_stopped: metrics.int_gauge(
                "tidelake_flusher_buckets_stopped",
                "Buckets that can't go on without help: see the log for the reason.",
            ),
            without_table: metrics.int_gauge(
                "tidelake_flusher_buckets_without_table",
                "Buckets whose topic belongs to no table of the catalog: of one that is being \
                 made, was dropped, or is another installation's.",
            ),
            paused: metrics.int_gauge(
                "tidelake_flusher_paused",
                "1 while reading pauses because the memory budget is full.",
            ),
            rebalances: metrics.int_counter(
                "tidelake_flusher_rebalances_total",
                "Assignments and revocations.",
            ),
        }
    }

    /// Counts what a run of messages brought.
    pub(crate) fn taken(&self, table: &TableId, taken: &Taken) {
        let labels = [table.tenant.as_str(), table.table.as_str()];
        let counts = [
            (&self.records, taken.rows),
            (&self.bytes, taken.bytes),
            (&self.skipped, taken.skipped),
            (&self.misrouted, taken.misrouted),
            (&self.repeated, taken.repeated),
            (&self.dead_letters, taken.rejected),
        ];
        for (counter, count) in counts {
            if count > 0 {
                counter.with_label_values(&labels).inc_by(count);
            }
        }
    }
}

impl TableMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            index_bytes: metrics.int_gauge_vec(
                "tidelake_flusher_index_bytes",
                "Key index held for the buckets of a table, on local disk and in memory.",
                &BY_TABLE,
            ),
            freshness_seconds: metrics.gauge_vec(
                "tidelake_table_freshness_seconds",
                "Age of the oldest acknowledged record that no commit covers, read or not; 0 when \
                 all are covered. Grows while the table stands still, whatever stopped it.",
                &BY_TABLE,
            ),
            lag_records: metrics.int_gauge_vec(
                "tidelake_table_lag_records",
                "Messages in the log that no commit covers, over all buckets.",
                &BY_TABLE,
            ),
            lag_seconds: metrics.gauge_vec(
                "tidelake_table_lag_seconds",
                "How long the oldest record that the flusher has not read waits in the log; 0 when \
                 it has read all. Above 0: reading is held up, not committing.",
                &BY_TABLE,
            ),
            table_version: metrics.int_gauge_vec(
                "tidelake_table_version",
                "The newest version that this flusher knows.",
                &BY_TABLE,
            ),
            table_files: metrics.int_gauge_vec(
                "tidelake_table_files",
                "Live data files in that version.",
                &BY_TABLE,
            ),
            table_stopped: metrics.int_gauge_vec(
                "tidelake_table_stopped",
                "1 for each reason why a table, or a bucket of it, stands still; health says more.",
                &["tenant", "table", "reason"],
            ),
        }
    }

    /// Shows how far a table is, and its newest version where it is known.
    pub(crate) fn shows(&self, table: &TableId, behind: &Behind, snapshot: Option<&Snapshot>) {
        let labels = [table.tenant.as_str(), table.table.as_str()];
        let seconds = |ms: i64| ms as f64 / 1000.0;
        let freshness = self.freshness_seconds.with_label_values(&labels);
        freshness.set(seconds(behind.freshness_ms));
        let lag = self.lag_seconds.with_label_values(&labels);
        lag.set(seconds(behind.lag_ms));
        let records = self.lag_records.with_label_values(&labels);
        records.set(behind.lag_records);
        if let Some(snapshot) = snapshot {
            let version = i64::try_from(snapshot.version().0).unwrap_or(i64::MAX);
            let files = i64::try_from(snapshot.file_count()).unwrap_or(i64::MAX);
            self.table_version.with_label_values(&labels).set(version);
            self.table_files.with_label_values(&labels).set(files);
        }
    }

    pub(crate) fn stopped(&self, table: &TableId, reason: &str) {
        let labels = [table.tenant.as_str(), table.table.as_str(), reason];
        self.table_stopped.with_label_values(&labels).set(1);
    }

    pub(crate) fn no_longer_stopped(&self, table: &TableId, reason: &str) {
        let labels = [table.tenant.as_str(), table.table.as_str(), reason];
        let _absent = self.table_stopped.remove_label_values(&labels);
    }

    /// Forgets a table, so that a dropped one does not look stuck for ever.
    pub(crate) fn forget(&self, table: &TableId) {
        let labels = [table.tenant.as_str(), table.table.as_str()];
        for gauge in [
            &self.lag_records,
            &self.table_version,
            &self.table_files,
            &self.index_bytes,
        ] {
            let _absent = gauge.remove_label_values(&labels);
        }
        for gauge in [&self.freshness_seconds, &self.lag_seconds] {
            let _absent = gauge.remove_label_values(&labels);
        }
    }
}
