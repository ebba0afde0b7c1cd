//! Flushes: sealed, sent off as tasks, and how they end.

use tidelake_intake::OriginKey;
use tidelake_table::bytes_while_flushing;

use super::*;
use crate::due::Reason;
use crate::flush::{Deliveries, Job, Routes};
use crate::seats::FlushEnd;

impl Owner {
    pub(super) fn flush(&mut self, topic: &Arc<str>, reason: Reason) -> Vec<Event> {
        let Some(slot) = self.tables.get_mut(topic) else {
            return vec![Event::FlushEnded(topic.clone(), FlushEnd::Nothing)];
        };
        let now_ms = self.runtime.clock.now_ms();
        let (mut sealed, mut events, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (at, state) in self.buckets.iter_mut().filter(|(at, _)| at.topic == *topic) {
            // A newer version came with what another flusher did, or with other buckets.
            if !state.is_decoded_for(&slot.snapshot) {
                tracing::info!(bucket = %at, "the columns changed, its rows are decoded again");
                events.push(Event::Surprised(at.clone()));
                continue;
            }
            match state.seal(now_ms) {
                Ok(Some(bucket)) => {
                    sealed.push(bucket);
                    held.push((at.clone(), state.held()));
                }
                Ok(None) => {}
                Err(error) => {
                    let trouble = Trouble::new(Cause::Bug, chain(&error));
                    events.push(Event::Failed(at.clone(), trouble));
                }
            }
        }
        events.push(Event::Taken(held));
        if sealed.is_empty() {
            events.push(Event::FlushEnded(topic.clone(), FlushEnd::Nothing));
            return events;
        }
        sealed.sort_by_key(|bucket| bucket.sealed.bucket);
        let has_keys = slot.upserts.is_some();
        let beside = sealed.iter();
        let beside = beside.map(|bucket| bytes_while_flushing(&bucket.sealed, has_keys));
        events.push(Event::FlushHolds(topic.clone(), beside.sum()));
        let (give_way, asked) = watch::channel(false);
        slot.give_way = Some(give_way);
        self.bench
            .metrics
            .flushes
            .with_label_values(&[reason.as_str()])
            .inc();
        let (failing, failures) = mpsc::channel(1);
        let routes = Routes {
            topic: topic.clone(),
            dead_letters: slot.table.dead_letters.clone(),
            origin_key: OriginKey::of(&slot.snapshot, slot.table.entry.topic_id),
        };
        let job = Job {
            table: slot.table.clone(),
            base: slot.snapshot.clone(),
            upserts: slot.upserts.clone(),
            deliveries: Deliveries::of(&mut sealed, routes),
            buckets: sealed,
            proven: false,
            reason,
            begun: Stopwatch::start(),
            give_way: asked,
            failing,
        };
        self.spawn(topic.clone(), job, failures);
        events
    }

    fn spawn(&self, topic: Arc<str>, job: Job, mut failures: mpsc::Receiver<Trouble>) {
        let (bench, news, table) = (self.bench.clone(), self.news.clone(), job.table.clone());
        tokio::spawn(async move {
            let mut running = std::pin::pin!(job.run(bench));
            // The loop is gone at the process's end only.
            loop {
                tokio::select! {
                    biased;
                    ended = &mut running => {
                        let _gone = news.send(News::FlushEnded(topic, table, ended)).await;
                        return;
                    }
                    Some(trouble) = failures.recv() => {
                        let _gone = news.send(News::FlushFailing(topic.clone(), trouble)).await;
                    }
                }
            }
        });
    }

    pub(super) fn flush_ended(
        &mut self,
        topic: Arc<str>,
        table: &OpenTable,
        ended: Ended,
        consumer: &dyn GroupLog,
    ) {
        let slot = self.tables.get_mut(&topic);
        // Its snapshot may be of a table that is not there any more.
        let slot = slot.filter(|slot| slot.table.entry.is_same_table(&table.entry));
        let end = match ended {
            Ended::Committed {
                snapshot,
                moved,
                fenced,
            } => {
                if let Some(slot) = slot {
                    slot.give_way = None;
                    slot.snapshot = snapshot;
                }
                FlushEnd::Committed { moved, fenced }
            }
            Ended::Changed => FlushEnd::Changed,
            Ended::Stopped(trouble) => {
                tracing::error!(%topic, reason = %trouble, "table stopped");
                FlushEnd::Stopped(trouble)
            }
        };
        self.on(Event::FlushEnded(topic, end), consumer);
    }
}
