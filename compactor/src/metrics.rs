//! The compactor's metrics: all names in one place, unit last.

use prometheus::{Histogram, IntCounterVec, IntGauge, IntGaugeVec};
use tidelake_core::TableId;
use tidelake_service::Metrics;
use tidelake_table::RewriteReport;

/// Handles of the compactor's metrics.
#[derive(Debug, Clone)]
pub(crate) struct CompactorMetrics {
    jobs: IntCounterVec,
    bytes: IntCounterVec,
    carried: IntCounterVec,
    lost_races: IntCounterVec,
    waiting: IntGaugeVec,
    set_aside: IntGaugeVec,
    pub running: IntGauge,
    pub seconds: Histogram,
}

const BY_TABLE: [&str; 2] = ["tenant", "table"];

impl CompactorMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            jobs: metrics.int_counter_vec(
                "tidelake_compaction_jobs_total",
                "Rewrites that ended, by outcome: committed, dropped (the files were gone by then) or \
                 failed (tried again later); and looks at tables that could not be read (unreadable).",
                &["tenant", "table", "outcome"],
            ),
            bytes: metrics.int_counter_vec(
                "tidelake_compaction_bytes_total",
                "Bytes of data files that committed rewrites read and wrote.",
                &["tenant", "table", "direction"],
            ),
            carried: metrics.int_counter_vec(
                "tidelake_compaction_carried_rows_total",
                "Rows that were deleted while a rewrite ran, and were deleted in its files.",
                &BY_TABLE,
            ),
            lost_races: metrics.int_counter_vec(
                "tidelake_compaction_lost_races_total",
                "Commits of rewrites that lost against a change of their files, and were made again \
                 without a new rewrite.",
                &BY_TABLE,
            ),
            waiting: metrics.int_gauge_vec(
                "tidelake_compaction_waiting_files",
                "Files that are to be rewritten.",
                &BY_TABLE,
            ),
            set_aside: metrics.int_gauge_vec(
                "tidelake_compaction_set_aside",
                "Buckets of a table whose rewrites failed and wait for another try: see the log for \
                 the reason.",
                &BY_TABLE,
            ),
            running: metrics.int_gauge("tidelake_compaction_running", "Rewrites under way."),
            seconds: metrics.histogram(
                "tidelake_compaction_duration_seconds",
                "From the first byte read to the known commit.",
                &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
            ),
        }
    }

    pub(crate) fn ended(&self, table: &TableId, outcome: &str) {
        let (tenant, table) = (table.tenant.as_str(), table.table.as_str());
        self.jobs.with_label_values(&[tenant, table, outcome]).inc();
    }

    pub(crate) fn committed(&self, table: &TableId, report: &RewriteReport) {
        self.ended(table, "committed");
        let (tenant, table) = (table.tenant.as_str(), table.table.as_str());
        for (direction, bytes) in [
            ("read", report.input_bytes),
            ("written", report.output_bytes),
        ] {
            let counter = self.bytes.with_label_values(&[tenant, table, direction]);
            counter.inc_by(bytes);
        }
        let of_table = [tenant, table];
        self.carried
            .with_label_values(&of_table)
            .inc_by(report.rows_carried);
        self.lost_races
            .with_label_values(&of_table)
            .inc_by(report.lost_races);
    }

    pub(crate) fn shows(&self, table: &TableId, waiting: usize, set_aside: usize) {
        let of_table = [table.tenant.as_str(), table.table.as_str()];
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.waiting
            .with_label_values(&of_table)
            .set(count(waiting));
        self.set_aside
            .with_label_values(&of_table)
            .set(count(set_aside));
    }

    pub(crate) fn forget(&self, table: &TableId) {
        let of_table = [table.tenant.as_str(), table.table.as_str()];
        for gauge in [&self.waiting, &self.set_aside] {
            let _absent = gauge.remove_label_values(&of_table);
        }
    }
}
