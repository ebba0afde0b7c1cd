//! How far a stream is: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::moment;
use crate::output::{note, thousands};

const LINE_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    total: u64,
    begun: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(what: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_prefix(what);
            let template = "    {prefix:6} {bar:40} {human_pos}/{human_len} records, {per_sec}";
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self {
            what,
            total,
            begun: moment::now(),
            told: moment::now(),
            bar,
        }
    }

    pub(super) fn at(&mut self, records: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(records);
        } else if self.told.elapsed() >= LINE_INTERVAL {
            self.told = moment::now();
            let rate = records as f64 / self.begun.elapsed().as_secs_f64();
            note(&format!(
                "    {}: {} of {} records, {} a second",
                self.what,
                thousands(records),
                thousands(self.total),
                thousands(rate as u64)
            ));
        }
    }

    pub(super) fn done(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
