//! What the log says: assignments, messages, troubles of single buckets.

use super::*;

impl Owner {
    pub(super) fn on_log_event(&mut self, event: LogEvent, consumer: &dyn GroupLog) {
        match event {
            LogEvent::Messages(batch) => self.take(&batch, consumer),
            LogEvent::Passed(at, to) => self.passed(at, to, consumer),
            LogEvent::Assigned(buckets) => {
                tracing::info!(buckets = buckets.len(), "assigned");
                self.bench.metrics.rebalances.inc();
                for at in &buckets {
                    self.restarts.remove(at);
                }
                self.on(Event::Assigned(buckets), consumer);
            }
            LogEvent::Restarted(buckets) => self.restarted(&buckets),
            LogEvent::Revoked(buckets) => {
                tracing::info!(buckets = buckets.len(), "revoked");
                self.bench.metrics.rebalances.inc();
                for at in &buckets {
                    if let Some(state) = self.buckets.get_mut(at) {
                        state.muted = true;
                    }
                }
                self.on(Event::Revoked(buckets), consumer);
            }
            LogEvent::Failed(at, error) => {
                let event = failed(at, &error);
                self.on(event, consumer);
            }
            LogEvent::Trouble { at, error } => self.stalled(at, error.as_ref(), consumer),
            LogEvent::TopicChanged { topic, info } => self.topic_is(&topic, info, consumer),
            LogEvent::Ended(_) => {}
        }
    }

    /// A bucket, or the log as a whole, does not go on, or goes on again.
    fn stalled(
        &mut self,
        at: Option<TopicBucket>,
        error: Option<&LogError>,
        consumer: &dyn GroupLog,
    ) {
        let trouble = error.map(|error| Trouble::new(Cause::LogStalled, chain(error)));
        match &trouble {
            Some(trouble) => tracing::warn!(bucket = ?at, reason = %trouble, "log stands still"),
            None => tracing::info!(bucket = ?at, "log goes on"),
        }
        match at {
            Some(at) => self.on(Event::Stalled(at, trouble), consumer),
            None => self.log_away = trouble,
        }
    }

    /// What a topic is now. Another one than the table's was put in its place.
    fn topic_is(&mut self, topic: &Arc<str>, info: Option<TopicInfo>, consumer: &dyn GroupLog) {
        let slot = self.tables.get(topic);
        let expected = slot.map(|slot| slot.table.entry.topic_id);
        if expected.is_some() && expected != info.map(|info| info.id) {
            tracing::warn!(%topic, ?info, "the topic was deleted, or made again");
            self.on(Event::TableChanged(topic.clone()), consumer);
        }
    }

    /// From here on messages come from where the last restart said, once all have happened.
    fn restarted(&mut self, buckets: &[TopicBucket]) {
        for at in buckets {
            if let Some(waiting) = self.restarts.get_mut(at) {
                *waiting -= 1;
                if *waiting > 0 {
                    continue;
                }
                self.restarts.remove(at);
            }
            // A shutdown takes nothing in any more.
            if !self.runtime.shutdown.is_requested()
                && self.seats.is_open(at)
                && let Some(state) = self.buckets.get_mut(at)
            {
                state.muted = false;
            }
        }
    }

    fn take(&mut self, batch: &MessageBatch, consumer: &dyn GroupLog) {
        let now = self.now();
        let mut at = TopicBucket {
            topic: Arc::from(""),
            bucket: Bucket(0),
        };
        let (mut held, mut broken) = (Vec::new(), Vec::new());
        for run in batch.runs() {
            if *at.topic != *run.topic {
                at.topic = Arc::from(run.topic);
            }
            at.bucket = run.bucket;
            let Some(state) = self.buckets.get_mut(&at) else {
                continue;
            };
            match state.take(&run, now) {
                Ok(taken) if taken.messages > 0 => {
                    held.push((at.clone(), state.held()));
                    self.count(&at, &taken);
                }
                Ok(_) => {}
                Err(error) => broken.push((at.clone(), Trouble::new(Cause::Bug, chain(&error)))),
            }
        }
        self.on(Event::Taken(held), consumer);
        for (at, trouble) in broken {
            tracing::error!(bucket = %at, reason = %trouble, "bucket stopped");
            self.on(Event::Failed(at, trouble), consumer);
        }
    }

    /// The log goes on behind offsets that hold nothing for us. The watermark has to follow: they
    /// would count as records that no commit covers, and as lost once retention has removed them.
    fn passed(&mut self, at: TopicBucket, to: Offset, consumer: &dyn GroupLog) {
        let now = self.now();
        let Some(state) = self.buckets.get_mut(&at) else {
            return;
        };
        if state.pass(to, now) {
            let held = state.held();
            self.on(Event::Taken(vec![(at, held)]), consumer);
        }
    }

    fn count(&self, at: &TopicBucket, taken: &Taken) {
        let Some(slot) = self.tables.get(&at.topic) else {
            return;
        };
        if taken.skipped > 0 {
            tracing::warn!(bucket = %at, offsets = taken.skipped, "gap in the log");
        }
        self.bench.metrics.taken(&slot.table.entry.id, taken);
    }
}

/// What an error of one bucket means for it.
fn failed(at: TopicBucket, error: &LogError) -> Event {
    match error {
        // What became of the topic shows when the table is looked up again.
        LogError::NoTopic(_) | LogError::OffsetOutOfRange { .. } => {
            tracing::warn!(bucket = %at, %error, "the log surprised");
            Event::Surprised(at)
        }
        error => {
            let mut trouble = Trouble::of(error.kind(), error);
            if trouble.cause == Cause::Corrupt {
                trouble.cause = Cause::LogDamaged;
            }
            tracing::error!(bucket = %at, reason = %trouble, "bucket stopped");
            Event::Failed(at, trouble)
        }
    }
}
