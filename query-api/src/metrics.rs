//! Metrics of the query API.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use tidelake_service::Metrics;

const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

const LOOKUP_SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 10.0,
];

/// Handles to the collectors; clones are the same collectors.
#[derive(Debug, Clone)]
pub struct QueryMetrics {
    /// Label `outcome`: ok, invalid, failed, timeout, cancelled, refused, stalled,
    /// disconnected.
    pub queries: IntCounterVec,
    pub seconds: Histogram,
    pub running: IntGauge,
    pub waiting: IntGauge,
    pub abandoned: IntGauge,
    pub rows: IntCounter,
    pub bytes: IntCounter,
    /// Label `outcome`, as of queries.
    pub lookups: IntCounterVec,
    pub lookup_seconds: Histogram,
    pub lookup_rows: IntCounter,
    pub files_scanned: IntCounter,
    pub files_pruned: IntCounter,
    pub tail_rows: IntCounter,
    pub tail_bytes: IntCounter,
    pub tail_rejected: IntCounter,
    pub tail_cached_bytes: IntGauge,
    pub tail_key_files: IntCounter,
    pub metadata_hits: IntCounter,
    pub metadata_misses: IntCounter,
    pub metadata_bytes: IntGauge,
    pub page_hits: IntCounter,
    pub page_misses: IntCounter,
    pub page_bytes: IntGauge,
}

impl QueryMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            queries: metrics.int_counter_vec(
                "tidelake_query_queries_total",
                "Queries by how they ended.",
                &["outcome"],
            ),
            seconds: metrics.histogram(
                "tidelake_query_duration_seconds",
                "From the request to the end of the answer.",
                SECONDS,
            ),
            running: metrics.int_gauge("tidelake_query_running", "Queries under way."),
            waiting: metrics.int_gauge("tidelake_query_waiting", "Queries that wait for a turn."),
            abandoned: metrics.int_gauge(
                "tidelake_query_abandoned",
                "Queries that are over whose threads still work on a step that can't be stopped.",
            ),
            rows: metrics.int_counter("tidelake_query_rows_total", "Rows answered."),
            bytes: metrics.int_counter("tidelake_query_answer_bytes_total", "Bytes answered."),
            lookups: metrics.int_counter_vec(
                "tidelake_query_lookups_total",
                "Lookups and key ranges by how they ended.",
                &["outcome"],
            ),
            lookup_seconds: metrics.histogram(
                "tidelake_query_lookup_duration_seconds",
                "From a lookup's request to its rows.",
                LOOKUP_SECONDS,
            ),
            lookup_rows: metrics.int_counter(
                "tidelake_query_lookup_rows_total",
                "Rows that lookups asked for, or ranges found.",
            ),
            files_scanned: metrics.int_counter(
                "tidelake_query_files_scanned_total",
                "Data files that plans read.",
            ),
            files_pruned: metrics.int_counter(
                "tidelake_query_files_pruned_total",
                "Data files that the manifest's statistics ruled out.",
            ),
            tail_rows: metrics.int_counter(
                "tidelake_query_tail_rows_total",
                "Unflushed rows that queries saw.",
            ),
            tail_bytes: metrics.int_counter(
                "tidelake_query_tail_bytes_total",
                "Decoded bytes of the unflushed rows that queries saw.",
            ),
            tail_rejected: metrics.int_counter(
                "tidelake_query_tail_rejected_total",
                "Unflushed messages that hold no valid row.",
            ),
            tail_cached_bytes: metrics.int_gauge(
                "tidelake_query_tail_cached_bytes",
                "Decoded unflushed rows kept between queries.",
            ),
            tail_key_files: metrics.int_counter(
                "tidelake_query_tail_key_files_total",
                "Data files whose keys were read from the store to follow an upsert table.",
            ),
            metadata_hits: metrics.int_counter(
                "tidelake_query_metadata_hits_total",
                "Parquet footers found in the cache.",
            ),
            metadata_misses: metrics.int_counter(
                "tidelake_query_metadata_misses_total",
                "Parquet footers read from the store.",
            ),
            metadata_bytes: metrics.int_gauge(
                "tidelake_query_metadata_bytes",
                "Memory of the cached Parquet footers.",
            ),
            page_hits: metrics.int_counter(
                "tidelake_query_page_hits_total",
                "Reads of rows by key whose pages were all in the cache.",
            ),
            page_misses: metrics.int_counter(
                "tidelake_query_page_misses_total",
                "Reads of rows by key that read pages from the store.",
            ),
            page_bytes: metrics
                .int_gauge("tidelake_query_page_bytes", "Memory of the cached pages."),
        }
    }
}
