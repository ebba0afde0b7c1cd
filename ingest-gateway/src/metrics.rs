//! The gateway's own metrics, all in one place.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Counter, Histogram, IntCounterVec, IntGauge};
use tidelake_core::TableId;
use tidelake_service::{Metrics, MetricsSettings};

/// Tables with labels of their own; the others share the label `_other`.
const TABLE_LABELS_MAX: usize = 500;
const OTHER: &str = "_other";

const PACED: &str = "tidelake_gateway_paced_seconds_total";

const SECONDS: [f64; 14] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

#[derive(Debug, Clone)]
pub(crate) struct GatewayMetrics {
    records: IntCounterVec,
    bytes: IntCounterVec,
    messages: IntCounterVec,
    rejected: IntCounterVec,
    produce_seconds: Histogram,
    paced_seconds: Counter,
    spool_memory_bytes: IntGauge,
    spool_disk_bytes: IntGauge,
    in_flight: IntGauge,
    labelled: Arc<Mutex<HashSet<TableId>>>,
    labels_max: usize,
}

impl GatewayMetrics {
    pub(crate) fn new(metrics: &Metrics, settings: &MetricsSettings) -> Self {
        let by_table = ["tenant", "table"];
        Self {
            records: metrics.int_counter_vec(
                "tidelake_gateway_accepted_records_total",
                "Records that were acknowledged to clients.",
                &by_table,
            ),
            bytes: metrics.int_counter_vec(
                "tidelake_gateway_accepted_bytes_total",
                "Bytes of acknowledged bodies, decompressed.",
                &by_table,
            ),
            messages: metrics.int_counter_vec(
                "tidelake_gateway_log_messages_total",
                "Messages that acknowledged bodies became.",
                &by_table,
            ),
            rejected: metrics.int_counter_vec(
                "tidelake_gateway_rejected_requests_total",
                "Requests that were refused, by the code of the answer.",
                &["code"],
            ),
            produce_seconds: metrics.histogram(
                "tidelake_gateway_produce_seconds",
                "From a body's first message handed to the log to its last acknowledgement.",
                &SECONDS,
            ),
            paced_seconds: metrics.register_or_get(PACED, || {
                let help = "Time for which acknowledgements were held back until readers of this \
                            process were near enough, summed over requests.";
                Counter::new(PACED, help)
            }),
            spool_memory_bytes: metrics.int_gauge(
                "tidelake_gateway_spool_memory_bytes",
                "Encoded messages in memory that wait for the rest of their body.",
            ),
            spool_disk_bytes: metrics.int_gauge(
                "tidelake_gateway_spool_disk_bytes",
                "The same, in temporary files.",
            ),
            in_flight: metrics.int_gauge(
                "tidelake_gateway_bodies_in_flight",
                "Bodies of records being handled.",
            ),
            labelled: Arc::default(),
            labels_max: if settings.table_labels {
                TABLE_LABELS_MAX
            } else {
                0
            },
        }
    }

    pub(crate) fn accepted(&self, table: &TableId, records: u64, bytes: u64, messages: usize) {
        let (tenant, name) = if self.has_label(table) {
            (table.tenant.as_str(), table.table.as_str())
        } else {
            (OTHER, OTHER)
        };
        let labels = [tenant, name];
        self.records.with_label_values(&labels).inc_by(records);
        self.bytes.with_label_values(&labels).inc_by(bytes);
        self.messages
            .with_label_values(&labels)
            .inc_by(messages as u64);
    }

    fn has_label(&self, table: &TableId) -> bool {
        let mut labelled = self.labelled.lock();
        labelled.contains(table)
            || (labelled.len() < self.labels_max && labelled.insert(table.clone()))
    }

    /// `code` comes from a fixed set of words.
    pub(crate) fn rejected(&self, code: &str) {
        self.rejected.with_label_values(&[code]).inc();
    }

    pub(crate) fn produced(&self, took: Duration) {
        self.produce_seconds.observe(took.as_secs_f64());
    }

    /// An acknowledgement was held back.
    pub(crate) fn paced(&self, waited: Duration) {
        self.paced_seconds.inc_by(waited.as_secs_f64());
    }

    pub(crate) fn spooled(&self, memory_bytes: u64, disk_bytes: u64) {
        self.spool_memory_bytes
            .set(i64::try_from(memory_bytes).unwrap_or(i64::MAX));
        self.spool_disk_bytes
            .set(i64::try_from(disk_bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn enter(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }
}

/// One body being handled.
#[derive(Debug)]
pub(crate) struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use tidelake_core::{TableName, TenantId};

    use super::*;

    #[test]
    fn labels_are_bounded() {
        let registry = Metrics::new();
        let metrics = GatewayMetrics::new(&registry, &MetricsSettings::default());
        for table in 0..TABLE_LABELS_MAX + 10 {
            let name = TableName::new(&format!("t{table}")).unwrap();
            metrics.accepted(&TableId::new(TenantId::default(), name), 1, 10, 1);
        }
        let text = registry.render();
        let series = text
            .lines()
            .filter(|line| line.starts_with("tidelake_gateway_accepted_records_total{"))
            .count();
        assert_eq!(series, TABLE_LABELS_MAX + 1);
        let other = r#"tidelake_gateway_accepted_records_total{table="_other",tenant="_other"} 10"#;
        assert!(text.contains(other), "{text}");
    }

    #[test]
    fn names_of_tables_can_be_kept_out() {
        let registry = Metrics::new();
        let settings = MetricsSettings {
            table_labels: false,
        };
        let metrics = GatewayMetrics::new(&registry, &settings);
        let name = TableName::new("secret").unwrap();
        metrics.accepted(&TableId::new(TenantId::default(), name), 1, 10, 1);
        let text = registry.render();
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains(r#"tidelake_gateway_accepted_records_total{table="_other""#));
    }
}
