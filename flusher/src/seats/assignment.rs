//! Seats from their assignment to their release: opened, refused, stopped, tried again.

use super::*;

impl Seats {
    pub(super) fn assigned(&mut self, buckets: Vec<TopicBucket>, now: Moment) {
        for at in &buckets {
            if self.seats.remove(at).is_some() {
                self.out.push(Command::Forget(at.clone()));
            }
            let table = self.tables.entry(at.topic.clone()).or_default();
            if table.tenant.is_empty() {
                let id = topics::parse_table_topic(&self.topic_prefix, &at.topic);
                table.tenant = id.map_or_else(Arc::default, |id| id.tenant.as_str().into());
            }
            let seat = Seat {
                state: State::Opening {
                    attempt: 0,
                    retry_at: now,
                    why: None,
                },
                generation: 0,
                failures: 0,
                paused: false,
                stalled: None,
            };
            self.seats.insert(at.clone(), seat);
        }
        // The group's answer must not wait for an object store.
        self.out.push(Command::Begin(buckets));
        self.retry(now);
    }

    pub(super) fn revoked(&mut self, buckets: Vec<TopicBucket>, now: Moment) {
        for at in buckets {
            let seat = self.seats.entry(at.clone()).or_insert(Seat {
                state: State::Leaving {
                    held: Held::default(),
                    flying: 0,
                },
                generation: 0,
                failures: 0,
                paused: false,
                stalled: None,
            });
            let (held, flying) = match &seat.state {
                State::Open { held, flying, .. } => (*held, *flying),
                State::Leaving { held, flying } => (*held, *flying),
                State::Opening { .. } | State::Stopped { .. } => (Held::default(), 0),
            };
            seat.state = State::Leaving { held, flying };
            self.tables.entry(at.topic).or_default();
            self.leave_by.get_or_insert(now + RELEASE_MAX);
        }
    }

    /// Tries again what is due; one try for all of a table's buckets that are.
    pub(super) fn retry(&mut self, now: Moment) {
        if self.limits.draining {
            return;
        }
        let mut tries: BTreeMap<Arc<str>, Vec<Bucket>> = BTreeMap::new();
        for (at, seat) in &self.seats {
            let (State::Opening { retry_at, .. } | State::Stopped { retry_at, .. }) = &seat.state
            else {
                continue;
            };
            // A flush under way is about to move the watermark to begin at.
            let busy = self
                .tables
                .get(&at.topic)
                .is_some_and(|table| table.flight.is_some());
            if *retry_at <= now && !busy {
                tries.entry(at.topic.clone()).or_default().push(at.bucket);
            }
        }
        for (topic, buckets) in tries {
            self.counter += 1;
            for bucket in &buckets {
                let at = TopicBucket {
                    topic: topic.clone(),
                    bucket: *bucket,
                };
                let Some(seat) = self.seats.get_mut(&at) else {
                    continue;
                };
                let why = seat.trouble().cloned();
                seat.state = State::Opening {
                    attempt: self.counter,
                    retry_at: now + OPEN_MAX,
                    why,
                };
            }
            self.out.push(Command::Open {
                topic,
                attempt: self.counter,
                buckets,
            });
        }
    }

    pub(super) fn opened(
        &mut self,
        topic: &Arc<str>,
        attempt: u64,
        ready: Vec<Bucket>,
        refused: Vec<(Bucket, Trouble)>,
        now: Moment,
    ) {
        let at = |bucket| TopicBucket {
            topic: topic.clone(),
            bucket,
        };
        let mut begun = Vec::new();
        for at in ready.into_iter().map(at) {
            let Some(seat) = self.seats.get_mut(&at).filter(|seat| seat.awaits(attempt)) else {
                continue;
            };
            let why = seat.trouble().filter(|why| why.cause.outlives_opening());
            seat.state = State::Open {
                held: Held::default(),
                flying: 0,
                why: why.cloned(),
            };
            self.counter += 1;
            seat.generation = self.counter;
            // Beginning anew undoes a pause.
            (seat.paused, seat.stalled) = (false, None);
            begun.push(at);
        }
        if !begun.is_empty() {
            self.out.push(Command::Restart(begun));
        }
        for (bucket, trouble) in refused {
            let at = at(bucket);
            if self.seats.get(&at).is_some_and(|seat| seat.awaits(attempt)) {
                self.fail(&at, trouble, now);
            }
        }
    }

    /// Every record of these is committed, so whatever kept one from it has passed: no commit may
    /// ever come that would show it.
    pub(super) fn caught_up(&mut self, topic: &Arc<str>, buckets: Vec<Bucket>) {
        for bucket in buckets {
            let topic = topic.clone();
            if let Some(seat) = self.seats.get_mut(&TopicBucket { topic, bucket })
                && let State::Open {
                    held,
                    flying: 0,
                    why,
                } = &mut seat.state
                && held.since.is_none()
            {
                (*why, seat.failures) = (None, 0);
            }
        }
    }

    /// Takes a bucket out of work, until its cause says that it is worth another try.
    pub(super) fn fail(&mut self, at: &TopicBucket, why: Trouble, now: Moment) {
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        let was_open = match &mut seat.state {
            State::Leaving { held, flying } => {
                (*held, *flying) = (Held::default(), 0);
                self.out.push(Command::Forget(at.clone()));
                return;
            }
            State::Open { .. } => true,
            State::Opening { .. } | State::Stopped { .. } => false,
        };
        let retry_at = now + why.cause.retry(seat.failures);
        seat.failures = seat.failures.saturating_add(1);
        seat.state = if why.cause.is_loud(seat.failures) {
            State::Stopped { retry_at, why }
        } else {
            State::Opening {
                attempt: 0,
                retry_at,
                why: Some(why),
            }
        };
        if was_open {
            seat.paused = true;
            self.out.push(Command::Pause(vec![at.clone()]));
            self.out.push(Command::Forget(at.clone()));
        }
    }

    /// Opens a bucket anew: at once the first time, then with growing waits.
    pub(super) fn surprised(&mut self, at: &TopicBucket, now: Moment) {
        let Some(seat) = self.seats.get(at) else {
            return;
        };
        match &seat.state {
            State::Opening { .. } | State::Stopped { .. } => return,
            State::Open { .. } | State::Leaving { .. } => {}
        }
        let first = seat.failures == 0;
        let text = format!(
            "{at}: the table or its topic changed while it was read; it is looked up again"
        );
        self.fail(at, Trouble::new(Cause::Unsettled, text), now);
        if let Some(seat) = self.seats.get_mut(at)
            && let State::Opening { retry_at, .. } = &mut seat.state
            && first
        {
            *retry_at = now;
        }
    }
}
