//! One JSON line for each measurement, with what is needed to believe it.

use std::time::Instant;

use serde_json::{Value, json};

/// Processor time and memory of a process, from `/proc`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
    pub peak_rss_bytes: u64,
}

impl Usage {
    /// Of process `pid`; zeros where it is gone.
    pub(crate) fn of(pid: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Fields are counted from behind the name, which may hold spaces.
        let rest: Vec<&str> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        let ticks = |index: usize| {
            rest.get(index)
                .and_then(|text| text.parse::<f64>().ok())
                .unwrap_or_default()
        };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        };
        Self {
            cpu_seconds: (ticks(11) + ticks(12)) / 100.0,
            rss_bytes: kib("VmRSS:").unwrap_or_default() * 1024,
            peak_rss_bytes: kib("VmHWM:").unwrap_or_default() * 1024,
        }
    }

    pub(crate) fn own() -> Self {
        Self::of(std::process::id())
    }
}

/// Time that passes: figures are made of it.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A measurement that runs.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    begun: Instant,
    pids: Vec<(&'static str, u32, f64)>,
}

impl Stopwatch {
    /// Starts now, watching this process and those named.
    pub(crate) fn start(others: &[(&'static str, u32)]) -> Self {
        let mut pids = vec![("client", std::process::id(), Usage::own().cpu_seconds)];
        pids.extend(
            others
                .iter()
                .map(|&(name, pid)| (name, pid, Usage::of(pid).cpu_seconds)),
        );
        Self { begun: now(), pids }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Processor seconds of one of the watched processes so far.
    pub(crate) fn cpu_seconds(&self, name: &str) -> f64 {
        let watched = self.pids.iter().find(|(known, ..)| *known == name);
        watched.map_or(0.0, |(_, pid, before)| Usage::of(*pid).cpu_seconds - before)
    }

    /// Prints the line for `records` done by now.
    pub(crate) fn report(&self, benchmark: &str, records: u64, target: Option<f64>, more: Value) {
        let seconds = self.seconds();
        let mut line = json!({
            "benchmark": benchmark,
            "records": records,
            "seconds": round(seconds, 3),
            "records_per_second": (records as f64 / seconds).round(),
            "machine": machine(),
        });
        if let Some(target) = target {
            line["target_records_per_second"] = json!(target);
        }
        let (mut cpu, mut rss) = (json!({}), json!({}));
        for (name, pid, before) in &self.pids {
            let usage = Usage::of(*pid);
            cpu[*name] = json!(round(usage.cpu_seconds - before, 2));
            rss[*name] = json!(usage.peak_rss_bytes);
        }
        line["cpu_seconds"] = cpu;
        line["peak_rss_bytes"] = rss;
        merge(&mut line, more);
        print(&line);
    }
}

/// A line that is no rate.
pub(crate) fn report(benchmark: &str, more: Value) {
    let mut line = json!({ "benchmark": benchmark, "machine": machine() });
    merge(&mut line, more);
    print(&line);
}

fn merge(line: &mut Value, more: Value) {
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
}

#[expect(clippy::print_stdout, reason = "the line is the result")]
fn print(line: &Value) {
    println!("{line}");
}

pub(crate) fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

fn machine() -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |text| text.trim_start_matches([' ', '\t', ':']));
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    };
    json!({ "cores": cores, "cpu": model, "profile": profile })
}
