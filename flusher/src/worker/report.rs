//! What the loop does on every tick: retries, health, metrics.

use tidelake_core::TableId;
use tidelake_log::topics::parse_table_topic;

use super::*;
use crate::freshness::Position;

/// Between two reports: idle tables must cost next to nothing.
const REPORT: Duration = Duration::from_millis(500);
/// A report looks at every bucket: it may take one part in so many of the loop's time.
const REPORT_PART: u32 = 50;
/// Between two looks at the ends of logs that nothing is fetched from.
const LOOK: Duration = Duration::from_secs(5);
/// Stopped tables that health names one by one.
const NAMED_MAX: usize = 20;

impl Owner {
    pub(super) fn tick(&mut self, consumer: &dyn GroupLog) {
        self.on(Event::Tick, consumer);
        let now = self.now();
        if now < self.report_at {
            return;
        }
        self.report_stopped();
        self.report_tables(consumer);
        self.tell_indexes(consumer);
        self.report_memory();
        if !self.looking && now.saturating_sub(self.looked_at) >= LOOK {
            self.looked_at = now;
            self.look_at_ends();
        }
        self.go_on_patrol();
        let took = self.now().saturating_sub(now);
        self.report_at = now + REPORT.max(took * REPORT_PART);
    }

    /// Every table that stands still, by name and reason, in the metrics and in health.
    fn report_stopped(&mut self) {
        let mut stopped: BTreeMap<(Arc<str>, &'static str), Arc<str>> = BTreeMap::new();
        let mut buckets = 0;
        for (topic, bucket, trouble) in self.seats.troubles() {
            buckets += i64::from(bucket.is_some());
            let key = (topic.clone(), trouble.cause.as_str());
            stopped.entry(key).or_insert_with(|| trouble.text.clone());
        }
        // What has a seat is the seats' to say: the last round may be older.
        let seatless = self.patrol.troubles();
        for (topic, trouble) in seatless.filter(|(topic, _)| !self.seats.has_table(topic)) {
            let key = (topic.clone(), trouble.cause.as_str());
            stopped.entry(key).or_insert_with(|| trouble.text.clone());
        }
        let metrics = &self.bench.metrics;
        metrics.buckets_stopped.set(buckets);
        let shown: BTreeSet<_> = stopped.keys().cloned().collect();
        for (topic, reason) in self.shown.difference(&shown) {
            if let Some(id) = self.table_of(topic) {
                metrics.tables.no_longer_stopped(&id, reason);
            }
        }
        for (topic, reason) in shown.difference(&self.shown) {
            if let Some(id) = self.table_of(topic) {
                metrics.tables.stopped(&id, reason);
            }
        }
        self.shown = shown;
        if self.runtime.shutdown.is_requested() {
            return;
        }
        let away = self.log_away.as_ref().map(|trouble| trouble.to_string());
        let reasons: Vec<_> = away.into_iter().chain(summary(&stopped)).collect();
        if reasons.is_empty() {
            self.health.ready();
        } else {
            self.health.not_ready(reasons.join("; "));
        }
    }

    /// Tells the seats what key indexes hold, where it has changed.
    fn tell_indexes(&mut self, consumer: &dyn GroupLog) {
        let mut changed = Vec::new();
        for (topic, slot) in &mut self.tables {
            let bytes = slot
                .upserts
                .as_ref()
                .map_or(0, |known| known.memory_bytes());
            if bytes != slot.index_told {
                slot.index_told = bytes;
                changed.push(Event::IndexHolds(topic.clone(), bytes));
            }
        }
        for event in changed {
            self.on(event, consumer);
        }
    }

    pub(super) fn table_of(&self, topic: &str) -> Option<TableId> {
        let named = parse_table_topic(&self.settings.kafka.topic_prefix, topic);
        named.or_else(|| {
            let tables = self.bench.opener.catalog.list_all();
            let of_topic = tables.iter().find(|entry| entry.topic == topic);
            of_topic.map(|entry| entry.id.clone())
        })
    }

    fn report_tables(&mut self, consumer: &dyn GroupLog) {
        let now_ms = self.runtime.clock.now_ms();
        let unwatched: BTreeSet<TopicBucket> = self.seats.unwatched().cloned().collect();
        let mut behind: BTreeMap<Arc<str>, Behind> = BTreeMap::new();
        let buckets: Vec<_> = self.seats.buckets().map(|(at, _)| at.clone()).collect();
        for at in buckets {
            // A topic that is no table's has no records that anybody could miss, as far as is
            // known.
            if !self.buckets.contains_key(&at) && self.seats.has_quietly_no_table(&at) {
                continue;
            }
            let fetched = || consumer.end_offset_seen(&at);
            let seen = if unwatched.contains(&at) {
                None
            } else {
                fetched()
            };
            let end = seen.max(self.ends.get(&at).copied());
            let position = self.position(&at, end);
            let progress = self.progress.entry(at.clone()).or_default();
            let of_bucket = progress.note(&position, now_ms);
            let of_table = behind.entry(at.topic.clone()).or_default();
            *of_table = of_table.and(of_bucket);
        }
        behind.extend(self.behind_without_topic(now_ms));
        for (topic, behind) in &behind {
            if let Some(id) = self.table_of(topic) {
                let snapshot = self.tables.get(topic).map(|slot| &*slot.snapshot);
                self.bench.metrics.tables.shows(&id, behind, snapshot);
            }
        }
    }

    pub(super) fn position(&self, at: &TopicBucket, end: Option<Offset>) -> Position {
        if let Some(state) = self.buckets.get(at) {
            return Position {
                committed: Some(Offset(state.committed.0)),
                next: Some(state.next_offset()),
                end,
                oldest_read_ms: state.oldest_uncommitted_ms(),
                stands: false,
            };
        }
        let trouble = self.seats.trouble_of(at);
        let doubted = trouble.is_some_and(|trouble| trouble.cause.doubts_watermark());
        let slot = self.tables.get(&at.topic).filter(|_| !doubted);
        let committed = slot.map(|slot| {
            let topic_id = &slot.table.entry.topic_id;
            let watermark = slot.snapshot.watermark(topic_id, at.bucket);
            Offset(watermark.unwrap_or_default().0)
        });
        Position {
            committed,
            next: None,
            end,
            oldest_read_ms: None,
            stands: true,
        }
    }

    fn report_memory(&self) {
        let metrics = &self.bench.metrics;
        let memory = self.seats.memory();
        let bytes = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics.buckets.set(bytes(self.buckets.len()));
        metrics.without_table.set(bytes(self.seats.without_table()));
        metrics.buffer_bytes.set(bytes(memory.rows));
        metrics.memory_bytes.set(bytes(memory.all));
        metrics.paused.set(i64::from(memory.paused));
    }
}

/// One line for people; none where nothing is stopped.
fn summary(stopped: &BTreeMap<(Arc<str>, &'static str), Arc<str>>) -> Option<String> {
    if stopped.is_empty() {
        return None;
    }
    let named = stopped.iter().take(NAMED_MAX);
    let mut lines: Vec<_> = named
        .map(|((topic, reason), text)| format!("{topic} stopped, {reason}: {text}"))
        .collect();
    if stopped.len() > NAMED_MAX {
        lines.push(format!("and {} more", stopped.len() - NAMED_MAX));
    }
    Some(lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_names_each_stopped_table_with_its_reason_and_is_bounded() {
        assert_eq!(summary(&BTreeMap::new()), None);
        let stopped: BTreeMap<_, _> = (0..25)
            .map(|n| {
                (
                    (Arc::from(format!("tl.a.t{n:02}")), "denied"),
                    Arc::from("told why"),
                )
            })
            .collect();
        let text = summary(&stopped).unwrap();
        assert!(
            text.starts_with("tl.a.t00 stopped, denied: told why; "),
            "{text}"
        );
        assert!(text.ends_with("; and 5 more"), "{text}");
    }
}
