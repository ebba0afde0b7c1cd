//! The process's metric registry.
//!
//! Owns registration and rendering (Prometheus text), `tidelake_build_info` and the process's own
//! gauges. The metrics themselves belong to the crates that move them, each in its `metrics.rs`.
//!
//! Several services may share a process, and one crate's metrics may be wanted twice: asking for a
//! name again gives the collector that is already there.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use serde::{Deserialize, Serialize};

/// Clock ticks a second in `/proc/self/stat`: fixed at 100 by Linux for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// What `/metrics` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSettings {
    /// Counts by tenant and table, for some hundred tables. `/metrics` asks for no credentials, so
    /// whoever reaches it reads their names: switch it off where that is not the operator alone. All
    /// tables then share one label.
    pub table_labels: bool,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { table_labels: true }
    }
}

/// A shared registry. Clones are the same registry.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    known: Mutex<HashMap<String, Box<dyn Any + Send + Sync>>>,
    process: Process,
    sampled: Mutex<Vec<Sampled>>,
}

/// Counts that somebody else keeps, read when they are asked for.
type Read = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;

struct Sampled {
    into: Samples,
    owner: &'static str,
    read: Read,
}

enum Samples {
    Counters(IntCounterVec),
    Gauges(IntGaugeVec),
}

impl Sampled {
    fn sample(&self) {
        for (value, count) in (self.read)() {
            match &self.into {
                Samples::Counters(counters) => {
                    let counter = counters.with_label_values(&[self.owner, value]);
                    counter.inc_by(count.saturating_sub(counter.get()));
                }
                Samples::Gauges(gauges) => gauges
                    .with_label_values(&[self.owner, value])
                    .set(i64::try_from(count).unwrap_or(i64::MAX)),
            }
        }
    }
}

struct Process {
    resident: IntGauge,
    cpu: Gauge,
    threads: IntGauge,
    files: IntGauge,
}

impl Metrics {
    /// A registry that holds the build's and the process's own metrics.
    pub fn new() -> Self {
        let registry = Registry::new();
        let known = Mutex::default();
        let process = Process {
            resident: new(IntGauge::new(
                "process_resident_memory_bytes",
                "Physical memory the process holds.",
            )),
            cpu: new(Gauge::new(
                "process_cpu_seconds_total",
                "Processor time the process has used, user and system.",
            )),
            threads: new(IntGauge::new("process_threads", "Threads of the process.")),
            files: new(IntGauge::new("process_open_fds", "Open file descriptors.")),
        };
        let metrics = Self(Arc::new(Inner {
            registry,
            known,
            process,
            sampled: Mutex::default(),
        }));
        let own = &metrics.0.process;
        metrics.add("process_resident_memory_bytes", own.resident.clone());
        metrics.add("process_cpu_seconds_total", own.cpu.clone());
        metrics.add("process_threads", own.threads.clone());
        metrics.add("process_open_fds", own.files.clone());
        let version = env!("CARGO_PKG_VERSION");
        let build = IntGaugeVec::new(
            Opts::new(
                "tidelake_build_info",
                "Always 1; the labels say which build runs.",
            ),
            &["version", "profile"],
        );
        let profile = if cfg!(debug_assertions) {
            "dev"
        } else {
            "release"
        };
        let build = metrics.add("tidelake_build_info", new(build));
        build.with_label_values(&[version, profile]).set(1);
        metrics
    }

    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The collector of this name: the one that is there, or what `make` makes.
    ///
    /// # Panics
    /// When the name is taken by a collector of another type, or `make` fails: both are mistakes in
    /// a `metrics.rs`, seen by the first test that starts the service.
    pub fn register_or_get<C>(&self, name: &str, make: impl FnOnce() -> prometheus::Result<C>) -> C
    where
        C: Collector + Clone + Send + Sync + 'static,
    {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = known.get(name) {
            let Some(held) = held.downcast_ref::<C>() else {
                panic!("metric {name} exists with another type");
            };
            return held.clone();
        }
        let collector = make().unwrap_or_else(|error| panic!("metric {name}: {error}"));
        if let Err(error) = self.0.registry.register(Box::new(collector.clone())) {
            panic!("metric {name}: {error}");
        }
        known.insert(name.to_owned(), Box::new(collector.clone()));
        collector
    }

    fn add<C: Collector + Clone + Send + Sync + 'static>(&self, name: &str, collector: C) -> C {
        self.register_or_get(name, || Ok(collector))
    }

    pub fn int_counter(&self, name: &str, help: &str) -> IntCounter {
        self.register_or_get(name, || IntCounter::new(name, help))
    }

    pub fn int_counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register_or_get(name, || IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub fn int_gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register_or_get(name, || IntGauge::new(name, help))
    }

    pub fn int_gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register_or_get(name, || IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register_or_get(name, || GaugeVec::new(Opts::new(name, help), labels))
    }

    /// Counters that are kept elsewhere: `read` gives their values by the label `label`, whenever
    /// metrics are asked for. `owner` is the label `service`.
    pub fn sampled_counters(
        &self,
        name: &str,
        help: &str,
        owner: &'static str,
        label: &str,
        read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) {
        self.sample(Sampled {
            into: Samples::Counters(self.int_counter_vec(name, help, &["service", label])),
            owner,
            read: Box::new(read),
        });
    }

    /// As [`Self::sampled_counters`], for values that may fall.
    pub fn sampled_gauges(
        &self,
        name: &str,
        help: &str,
        owner: &'static str,
        label: &str,
        read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) {
        self.sample(Sampled {
            into: Samples::Gauges(self.int_gauge_vec(name, help, &["service", label])),
            owner,
            read: Box::new(read),
        });
    }

    /// What `owner`'s cache of tables' versions has saved and holds, read from a clone of it. The
    /// cache belongs to a crate that this one does not know.
    pub fn sampled_snapshot_cache<C: Clone + Send + Sync + 'static>(
        &self,
        owner: &'static str,
        cache: &C,
        events: fn(&C) -> Vec<(&'static str, u64)>,
        held: fn(&C) -> Vec<(&'static str, u64)>,
    ) {
        let (saves, holds) = (cache.clone(), cache.clone());
        self.sampled_counters(
            "tidelake_snapshot_cache_total",
            "Versions of tables by how they were had: known (hit), followed (refresh), read as a \
             whole (load); and those that had to go (eviction).",
            owner,
            "event",
            move || events(&saves),
        );
        self.sampled_gauges(
            "tidelake_snapshot_cache_held",
            "What is held of tables' versions between uses: bytes, and tables.",
            owner,
            "unit",
            move || held(&holds),
        );
    }

    fn sample(&self, sampled: Sampled) {
        let mut all = self
            .0
            .sampled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(sampled);
    }

    /// `buckets`: upper bounds in the metric's unit, rising.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register_or_get(name, || {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
        })
    }

    pub fn histogram_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> HistogramVec {
        self.register_or_get(name, || {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            HistogramVec::new(opts, labels)
        })
    }

    /// All metrics in Prometheus' text format; the process's own are read now.
    pub fn render(&self) -> String {
        self.0.process.refresh();
        let all = self
            .0
            .sampled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for sampled in all.iter() {
            sampled.sample();
        }
        drop(all);
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.0.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be rendered");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Process {
    /// Where `/proc` is not there or reads differently, the gauges stay as they are.
    fn refresh(&self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            if let Some(kib) = number_after(&status, "VmRSS:") {
                self.resident.set(kib.saturating_mul(1024));
            }
            if let Some(threads) = number_after(&status, "Threads:") {
                self.threads.set(threads);
            }
        }
        if let Some(ticks) = std::fs::read_to_string("/proc/self/stat")
            .ok()
            .as_deref()
            .and_then(cpu_ticks)
        {
            self.cpu.set(ticks / TICKS_PER_SECOND);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.files
                .set(i64::try_from(entries.count()).unwrap_or(i64::MAX));
        }
    }
}

fn number_after(status: &str, label: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system ticks: fields 14 and 15 of `/proc/<pid>/stat`, counted after the command name,
/// which may itself contain spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// For collectors whose names and labels are constants of this file.
fn new<C>(made: prometheus::Result<C>) -> C {
    made.expect("the name and labels are valid constants")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_asked_for_twice_is_one_metric() {
        let metrics = Metrics::new();
        metrics
            .int_counter("tidelake_rows_total", "Rows.")
            .inc_by(2);
        metrics
            .clone()
            .int_counter("tidelake_rows_total", "Rows.")
            .inc();
        assert!(metrics.render().contains("tidelake_rows_total 3\n"));
    }

    #[test]
    #[should_panic(expected = "exists with another type")]
    fn a_name_keeps_its_type() {
        let metrics = Metrics::new();
        metrics.int_counter("tidelake_rows_total", "Rows.");
        metrics.int_gauge("tidelake_rows_total", "Rows.");
    }

    #[test]
    fn the_process_shows_its_memory_and_build() {
        let text = Metrics::new().render();
        let resident = text
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
            .and_then(|value| value.parse::<f64>().ok());
        assert!(resident.is_some_and(|bytes| bytes > 100_000.0), "{text}");
        assert!(text.contains("tidelake_build_info{"), "{text}");
    }

    #[test]
    fn processor_time_is_found_behind_any_command_name() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20 0 1 0 99";
        assert_eq!(cpu_ticks(stat), Some(42.0));
        assert_eq!(cpu_ticks("nonsense"), None);
    }
}
