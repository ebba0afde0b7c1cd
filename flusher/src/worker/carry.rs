//! Carrying out what the seats say, and telling them what tasks report.

use std::collections::VecDeque;

use tidelake_core::{Offset, Watermark};
use tidelake_log::Start;

use super::*;
use crate::freshness::Position;
use crate::seats::{Command, Found, Incarnation};

impl Owner {
    pub(super) fn carry(&mut self, commands: Vec<Command>, consumer: &dyn GroupLog) {
        let mut commands = VecDeque::from(commands);
        // What goes wrong on the way is an event, whose commands come after these.
        while let Some(command) = commands.pop_front() {
            let now = self.now();
            for event in self.carry_one(command, consumer) {
                commands.extend(self.seats.on(event, now));
            }
        }
    }

    fn carry_one(&mut self, command: Command, consumer: &dyn GroupLog) -> Vec<Event> {
        match command {
            Command::Begin(buckets) => consumer.begin(Vec::new(), buckets),
            Command::Open {
                topic,
                attempt,
                buckets,
            } => self.open(topic, attempt, buckets),
            Command::Restart(buckets) => return self.restart(buckets, consumer),
            Command::Release(buckets) => self.release(buckets, consumer),
            Command::Pause(buckets) => consumer.pause(buckets),
            Command::Resume(buckets) => consumer.resume(buckets),
            Command::Flush(topic, reason) => return self.flush(&topic, reason),
            Command::Commit(progress) => self.progressed(progress, consumer),
            Command::Forget(at) => self.forget(&at, consumer),
            Command::ForgetTable(topic) => self.forget_table(&topic),
            Command::Shrink(buckets) => self.shrink(buckets),
            Command::GiveWay(topic) => {
                let slot = self.tables.get(&topic);
                if let Some(give_way) = slot.and_then(|slot| slot.give_way.as_ref()) {
                    // A flush that has ended needs no telling.
                    let _ended = give_way.send(true);
                }
            }
        }
        Vec::new()
    }

    fn open(&mut self, topic: Arc<str>, attempt: u64, buckets: Vec<Bucket>) {
        let (opener, news) = (self.bench.opener.clone(), self.news.clone());
        tokio::spawn(async move {
            let result = opener.open(&topic, &buckets).await;
            let opened = News::Opened {
                topic,
                attempt,
                buckets,
                result,
            };
            // The loop is gone at the process's end only.
            let _gone = news.send(opened).await;
        });
    }

    pub(super) fn on_news(&mut self, news: News, consumer: &dyn GroupLog) {
        match news {
            News::Opened {
                topic,
                attempt,
                buckets,
                result,
            } => self.opened(topic, attempt, buckets, result, consumer),
            News::FlushFailing(topic, trouble) => {
                self.on(Event::FlushFailing(topic, trouble), consumer);
            }
            News::FlushEnded(topic, table, ended) => {
                self.flush_ended(topic, &table, ended, consumer);
            }
            News::Patrolled(found) => self.patrolled(found, consumer),
            News::Looked(found) => self.looked(found),
        }
    }

    fn opened(
        &mut self,
        topic: Arc<str>,
        attempt: u64,
        buckets: Vec<Bucket>,
        result: Result<Opened, OpenError>,
        consumer: &dyn GroupLog,
    ) {
        let mut caught_up = Vec::new();
        let (found, (ready, refused)) = match result {
            Ok(opened) => {
                caught_up = opened.caught_up();
                let incarnation = Incarnation::of(&opened.table.entry);
                (Found::Table(incarnation), self.take_over(&topic, opened))
            }
            Err(error) => {
                let trouble = error.trouble();
                let found = if trouble.cause.is_no_table() {
                    self.forget_table(&topic);
                    Found::NoTable
                } else {
                    Found::Unknown
                };
                let all = buckets.iter().map(|bucket| (*bucket, trouble.clone()));
                (found, (Vec::new(), all.collect()))
            }
        };
        for (bucket, trouble) in &refused {
            if trouble.cause.is_no_table() {
                tracing::debug!(%topic, %bucket, reason = %trouble, "not opened");
            } else {
                tracing::warn!(%topic, %bucket, reason = %trouble, "not opened");
            }
        }
        let event = Event::Opened {
            topic: topic.clone(),
            attempt,
            found,
            ready,
            refused,
        };
        self.on(event, consumer);
        if !caught_up.is_empty() {
            self.on(Event::CaughtUp(topic, caught_up), consumer);
        }
    }

    /// Keeps what was looked up, and says which buckets can begin.
    fn take_over(
        &mut self,
        topic: &Arc<str>,
        opened: Opened,
    ) -> (Vec<Bucket>, Vec<(Bucket, Trouble)>) {
        let Opened {
            table,
            snapshot,
            mut ready,
            mut refused,
            ends,
        } = opened;
        for (bucket, end) in ends {
            let at = TopicBucket {
                topic: topic.clone(),
                bucket,
            };
            if self.seats.owns(&at) {
                self.ends.insert(at, end);
            }
        }
        let (mut upserts, mut give_way, mut snapshot) = (None, None, snapshot);
        if let Some(slot) = self.tables.remove(topic) {
            // The flush under way is told by it, whichever table it is of.
            give_way = slot.give_way;
            if slot.table.entry.is_same_table(&table.entry) {
                upserts = slot.upserts;
                // An answer that took long is older than what a commit has told since.
                if slot.snapshot.version() > snapshot.version() {
                    snapshot = slot.snapshot;
                }
            }
        }
        let home = &self.bench.index_home;
        let upserts = match Upserts::open(&table, &snapshot, upserts, home) {
            Ok(upserts) => upserts,
            Err(error) => {
                let trouble = Trouble::of(error.kind(), &error);
                refused.extend(ready.drain(..).map(|bucket| (bucket, trouble.clone())));
                None
            }
        };
        if let Some(upserts) = &upserts {
            // The first flush must not wait for the index: it is loaded while rows come in.
            let (upserts, table) = (upserts.clone(), table.clone());
            let (snapshot, buckets) = (snapshot.clone(), ready.clone());
            tokio::spawn(async move { upserts.warm(&table, &snapshot, buckets).await });
        }
        let slot = TableSlot {
            table,
            snapshot,
            upserts,
            index_told: 0,
            give_way,
        };
        if self.seats.has_table(topic) {
            self.tables.insert(topic.clone(), slot);
        }
        (ready, refused)
    }

    fn restart(&mut self, buckets: Vec<TopicBucket>, consumer: &dyn GroupLog) -> Vec<Event> {
        let (mut starts, mut failed) = (Vec::new(), Vec::new());
        for at in buckets {
            let Some(slot) = self.tables.get(&at.topic) else {
                let text = "its table was forgotten while it began; it is looked up again";
                failed.push(Event::Failed(at, Trouble::new(Cause::Bug, text)));
                continue;
            };
            match BucketState::new(at.clone(), &slot.table.entry, &slot.snapshot) {
                Ok(mut state) => {
                    state.muted = true;
                    *self.restarts.entry(at.clone()).or_default() += 1;
                    starts.push(Start {
                        at: at.clone(),
                        offset: state.next_offset(),
                    });
                    self.buckets.insert(at, state);
                }
                Err(error) => {
                    let trouble = Trouble::new(Cause::Unfit, chain(&error));
                    failed.push(Event::Failed(at, trouble));
                }
            }
        }
        consumer.restart(starts);
        failed
    }

    /// A table that was dropped, or is another flusher's, must not look stuck for ever.
    pub(super) fn forget_table(&mut self, topic: &Arc<str>) {
        self.tables.remove(topic);
        if let Some(id) = self.table_of(topic) {
            self.bench.metrics.tables.forget(&id);
        }
    }

    /// Drops what a bucket holds, but not what is known of its log: it counts as behind from now
    /// on.
    fn forget(&mut self, at: &TopicBucket, consumer: &dyn GroupLog) {
        let Some(state) = self.buckets.remove(at) else {
            return;
        };
        let end = consumer.end_offset_seen(at).max(Some(state.next_offset()));
        let position = Position {
            committed: Some(Offset(state.committed.0)),
            end,
            stands: true,
            ..Position::default()
        };
        if self.seats.owns(at) {
            self.ends.extend(end.map(|end| (at.clone(), end)));
            let progress = self.progress.entry(at.clone()).or_default();
            progress.note(&position, self.runtime.clock.now_ms());
        }
    }

    fn release(&mut self, buckets: Vec<TopicBucket>, consumer: &dyn GroupLog) {
        let mut topics = BTreeSet::new();
        for at in &buckets {
            self.restarts.remove(at);
            self.progress.remove(at);
            self.ends.remove(at);
            topics.insert(at.topic.clone());
        }
        for topic in topics {
            let slot = self.tables.get(&topic);
            if let Some(upserts) = slot.and_then(|slot| slot.upserts.as_ref()) {
                let seats = &self.seats;
                upserts.retain(|bucket| {
                    let topic = topic.clone();
                    seats.owns(&TopicBucket { topic, bucket })
                });
            }
        }
        consumer.release(buckets);
    }

    fn progressed(&mut self, progress: Vec<(TopicBucket, Watermark)>, consumer: &dyn GroupLog) {
        for (at, to) in &progress {
            if let Some(state) = self.buckets.get_mut(at) {
                state.committed(*to);
            }
        }
        let offsets = progress.into_iter().map(|(at, to)| (at, Offset(to.0)));
        consumer.commit(offsets.collect());
    }

    fn shrink(&mut self, buckets: Vec<TopicBucket>) {
        for at in buckets {
            if let Some(state) = self.buckets.get_mut(&at) {
                state.shrink();
            }
        }
    }
}
