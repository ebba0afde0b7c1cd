//! What the loop does on every tick: retries, health, metrics.

use super::*;

impl Owner {
    pub(super) fn tick(&mut self, consumer: &GroupConsumer) {
        let now = Instant::now();
        let retry: Vec<_> = self
            .parked
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(at, _)| at.clone())
            .collect();
        for at in &retry {
            self.parked.insert(at.clone(), now + REOPEN * 10);
        }
        if !retry.is_empty() {
            self.open(retry);
        }
        if !self.limits.draining {
            match self.stopped.iter().next() {
                None => self.health.ready(),
                Some((at, why)) => self.health.not_ready(format!("bucket {at} stopped: {why}")),
            }
        }
        self.report(consumer);
    }

    pub(super) fn report(&self, consumer: &GroupConsumer) {
        let metrics = &self.bench.metrics;
        metrics.buckets.set(self.buckets.len() as i64);
        metrics.buckets_stopped.set(self.stopped.len() as i64);
        metrics.buffer_bytes.set(self.held() as i64);
        let now_ms = self.runtime.clock.now_ms();
        // Once over the buckets, not once for each table: idle tables must cost next to nothing.
        let mut by_topic: HashMap<&Arc<str>, Vec<(&TopicBucket, &BucketState)>> = HashMap::new();
        for (at, state) in &self.buckets {
            by_topic.entry(&at.topic).or_default().push((at, state));
        }
        for (topic, slot) in &self.tables {
            let id = &slot.table.entry.id;
            let labels = [id.tenant.as_str(), id.table.as_str()];
            let states = by_topic.get(topic).map_or(&[][..], Vec::as_slice);
            let oldest = states
                .iter()
                .filter_map(|(_, state)| state.oldest_uncommitted_ms())
                .min();
            let age = oldest.map_or(0.0, |oldest| (now_ms - oldest).max(0) as f64 / 1000.0);
            let lag: i64 = states
                .iter()
                .map(|(at, state)| {
                    let end = consumer.end_offset_seen(at).unwrap_or(state.next_offset());
                    (end.0.max(state.next_offset().0) - state.committed.0).max(0)
                })
                .sum();
            metrics
                .freshness_seconds
                .with_label_values(&labels)
                .set(age);
            metrics.lag_seconds.with_label_values(&labels).set(age);
            metrics.lag_records.with_label_values(&labels).set(lag);
            metrics
                .table_version
                .with_label_values(&labels)
                .set(i64::try_from(slot.snapshot.version().0).unwrap_or(i64::MAX));
            metrics
                .table_files
                .with_label_values(&labels)
                .set(i64::try_from(slot.snapshot.file_count()).unwrap_or(i64::MAX));
        }
    }
}
