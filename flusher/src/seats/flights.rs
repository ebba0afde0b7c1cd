//! What flushes take, and what becomes of the seats when they end.

use super::*;

impl Seats {
    pub(super) fn flush(&mut self, topic: &Arc<str>, reason: Reason) {
        let Some((table, seats)) = self.ledger.whole_mut(topic) else {
            return;
        };
        let (mut buckets, mut beside) = (BTreeMap::new(), 0);
        for (at, seat) in seats {
            let (State::Open { held, flying, .. } | State::Leaving { held, flying }) =
                &mut seat.state
            else {
                continue;
            };
            if held.since.is_some() {
                *flying = held.rows;
                table.flying += held.rows;
                beside += held.beside;
                *held = Held::default();
                buckets.insert(at.bucket, seat.generation);
            }
        }
        table.beside = beside;
        let of = table.incarnation;
        table.flight = Some(Flight { of, buckets });
        self.out.push(Command::Flush(topic.clone(), reason));
    }

    /// Drops a troubled table's rows: they are in the log, and others need the memory.
    pub(super) fn give_way(&mut self, topic: &Arc<str>, now: Moment) {
        let table = self.ledger.table(topic);
        let Some(trouble) = table.and_then(|table| table.trouble.as_ref()) else {
            return;
        };
        let text = format!(
            "its rows gave way to other tables' while commits fail: {}",
            trouble.text
        );
        let why = Trouble::new(Cause::GaveWay, text);
        self.end_flight(topic);
        let open: Vec<_> = self
            .ledger
            .of_topic(topic)
            .filter(|(_, seat)| matches!(seat.state, State::Open { .. }))
            .map(|(at, _)| at.clone())
            .collect();
        for at in open {
            self.fail(&at, why.clone(), now);
        }
    }

    /// Notes why commits fail. A flush whose buckets are all another flusher's now, or of a table
    /// that is another now, speaks of nothing that this one could be asked about.
    pub(super) fn flush_failing(&mut self, topic: &Arc<str>, trouble: Trouble) {
        let ours = self.ledger.has_seats(topic);
        if let Some(table) = self.ledger.table_mut(topic)
            && table.flight_is_current()
            && ours
        {
            table.trouble = Some(trouble);
        }
    }

    pub(super) fn flush_ended(&mut self, topic: &Arc<str>, end: FlushEnd, now: Moment) {
        let Some((table, seats)) = self.ledger.whole_mut(topic) else {
            return;
        };
        (table.flying, table.beside, table.giving_way) = (0, 0, false);
        self.tidy.insert(topic.clone());
        let current = table.flight_is_current();
        let flight = table.flight.take().unwrap_or_default().buckets;
        // What became of another table's rows says nothing of this one's.
        let end = if current { end } else { FlushEnd::Nothing };
        if let FlushEnd::Committed { .. } = end {
            table.trouble = None;
        }
        for (at, seat) in seats {
            if let State::Open { flying, .. } | State::Leaving { flying, .. } = &mut seat.state
                && flight.get(&at.bucket) == Some(&seat.generation)
            {
                *flying = 0;
            }
        }
        match end {
            FlushEnd::Nothing => {}
            FlushEnd::Committed { moved, fenced } => {
                self.committed(topic, &flight, moved);
                self.fenced(topic, &flight, fenced);
            }
            FlushEnd::Changed => {
                for at in self.at_work(topic) {
                    self.surprised(&at, now);
                }
            }
            FlushEnd::Stopped(trouble) => {
                for at in self.at_work(topic) {
                    self.fail(&at, trouble.clone(), now);
                }
            }
        }
        self.retry(now);
    }

    pub(super) fn committed(
        &mut self,
        topic: &Arc<str>,
        flight: &BTreeMap<Bucket, u64>,
        moved: Vec<(Bucket, Watermark)>,
    ) {
        let mut progress = Vec::new();
        for (bucket, to) in moved {
            let at = TopicBucket {
                topic: topic.clone(),
                bucket,
            };
            let Some(seat) = self.ledger.seat_mut(&at) else {
                continue;
            };
            if flight.get(&bucket) != Some(&seat.generation) {
                continue;
            }
            seat.failures = 0;
            if let State::Open { why, .. } = &mut seat.state {
                *why = None;
            }
            progress.push((at, to));
        }
        if !progress.is_empty() {
            self.out.push(Command::Commit(progress));
        }
    }

    pub(super) fn fenced(
        &mut self,
        topic: &Arc<str>,
        flight: &BTreeMap<Bucket, u64>,
        fenced: Vec<Bucket>,
    ) {
        let mut begun = Vec::new();
        for bucket in fenced {
            let at = TopicBucket {
                topic: topic.clone(),
                bucket,
            };
            let Some(seat) = self.ledger.seat_mut(&at) else {
                continue;
            };
            if flight.get(&bucket) != Some(&seat.generation) {
                continue;
            }
            match &mut seat.state {
                State::Open { held, .. } => {
                    *held = Held::default();
                    self.counter += 1;
                    seat.generation = self.counter;
                    seat.paused = false;
                    begun.push(at.clone());
                }
                State::Leaving { held, .. } => *held = Held::default(),
                State::Opening { .. } | State::Stopped { .. } => continue,
            }
            self.out.push(Command::Forget(at));
        }
        if !begun.is_empty() {
            self.out.push(Command::Restart(begun));
        }
    }

    pub(super) fn at_work(&self, topic: &Arc<str>) -> Vec<TopicBucket> {
        self.ledger
            .of_topic(topic)
            .filter(|(_, seat)| matches!(seat.state, State::Open { .. } | State::Leaving { .. }))
            .map(|(at, _)| at.clone())
            .collect()
    }
}
