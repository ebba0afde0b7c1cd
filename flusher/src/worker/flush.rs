//! What is flushed when, and what becomes of it.

use super::*;

impl Owner {
    pub(super) fn flush_what_is_due(&mut self, consumer: &GroupConsumer) {
        let now = Instant::now();
        let (topics, loads) = self.loads(now);
        let held = self.held();
        for (index, reason) in due(&loads, &self.limits, held) {
            self.flush(&topics[index], reason, now);
        }
        match self.budget.note(held) {
            None => {}
            Some(change) => {
                let buckets = self.buckets.keys().cloned().collect();
                match change {
                    Change::Pause => consumer.pause(buckets),
                    Change::Resume => consumer.resume(buckets),
                }
                self.bench
                    .metrics
                    .paused
                    .set(i64::from(change == Change::Pause));
            }
        }
        self.release(consumer);
    }

    pub(super) fn loads(&self, now: Instant) -> (Vec<Arc<str>>, Vec<Load>) {
        let mut by_topic: HashMap<&Arc<str>, Load> = HashMap::new();
        for (at, state) in &self.buckets {
            let load = by_topic.entry(&at.topic).or_insert_with(|| Load {
                bytes: 0,
                age: None,
                asked: false,
                leaving: false,
                busy: self
                    .tables
                    .get(&at.topic)
                    .is_none_or(|slot| slot.in_flight.is_some()),
            });
            load.bytes += state.bytes();
            load.age = load.age.max(state.age(now));
            load.asked |= state.asked;
            load.leaving |= self
                .leaving
                .as_ref()
                .is_some_and(|l| l.buckets.contains(at));
        }
        by_topic
            .into_iter()
            .map(|(topic, load)| (topic.clone(), load))
            .unzip()
    }

    /// Memory of all rows that no commit covers.
    pub(super) fn held(&self) -> usize {
        let waiting: usize = self.buckets.values().map(BucketState::bytes).sum();
        let flying: usize = self.tables.values().filter_map(|slot| slot.in_flight).sum();
        waiting + flying
    }

    pub(super) fn flush(&mut self, topic: &Arc<str>, reason: Reason, now: Instant) {
        let Some(slot) = self.tables.get_mut(topic) else {
            return;
        };
        let mut sealed = Vec::new();
        let mut broken = Vec::new();
        for (at, state) in self.buckets.iter_mut().filter(|(at, _)| at.topic == *topic) {
            match state.seal() {
                Ok(Some(bucket)) => sealed.push(bucket),
                Ok(None) => {}
                Err(error) => broken.push((at.clone(), chain(&error))),
            }
        }
        if !sealed.is_empty() {
            sealed.sort_by_key(|bucket| bucket.sealed.bucket);
            slot.in_flight = Some(sealed.iter().map(|bucket| bucket.bytes).sum());
            self.bench
                .metrics
                .flushes
                .with_label_values(&[reason.as_str()])
                .inc();
            let job = Job {
                table: slot.table.clone(),
                base: slot.snapshot.clone(),
                keyed: slot.keyed.clone(),
                buckets: sealed,
                reason,
                begun: now,
            };
            let (bench, results, topic) = (self.bench.clone(), self.results.clone(), topic.clone());
            tokio::spawn(async move {
                let ended = job.run(bench).await;
                let _gone = results.send(JobResult { topic, ended });
            });
        }
        for (at, why) in broken {
            self.stop(&at, why);
        }
    }

    pub(super) fn job_ended(&mut self, result: JobResult, consumer: &GroupConsumer) {
        let topic = result.topic;
        let Some(slot) = self.tables.get_mut(&topic) else {
            return;
        };
        slot.in_flight = None;
        match result.ended {
            Ended::Committed {
                snapshot,
                moved,
                fenced,
            } => {
                slot.snapshot = snapshot;
                let mut progress = Vec::new();
                for (bucket, to) in moved {
                    let at = TopicBucket {
                        topic: topic.clone(),
                        bucket,
                    };
                    if let Some(state) = self.buckets.get_mut(&at) {
                        state.committed(to);
                        progress.push((at, Offset(to.0)));
                    }
                }
                if !progress.is_empty() {
                    consumer.commit(progress);
                }
                self.restart(&topic, fenced, consumer);
            }
            Ended::Gone | Ended::Reopen => {
                let buckets = self.park(&topic);
                self.open(buckets);
            }
            Ended::Stuck(why) => {
                for at in self.park(&topic) {
                    self.parked
                        .insert(at.clone(), Instant::now() + Duration::from_secs(3600));
                    self.stop(&at, why.clone());
                }
            }
        }
        self.forget_unused_tables();
    }

    pub(super) fn drain(&mut self) {
        self.limits.draining = true;
        self.health.not_ready("shutting down");
        for state in self.buckets.values_mut() {
            state.muted = true;
        }
    }

    /// Nothing is under way, and nothing is waited for but messages.
    pub(super) fn is_quiet(&self) -> bool {
        self.parked.is_empty() && self.leaving.is_none() && self.is_drained()
    }

    pub(super) fn is_drained(&self) -> bool {
        let now = Instant::now();
        self.tables.values().all(|slot| slot.in_flight.is_none())
            && self.buckets.values().all(|state| state.age(now).is_none())
    }
}
