//! Seats from their assignment to their release: opened, refused, stopped, tried again.

use super::*;

impl Seats {
    pub(super) fn assigned(&mut self, buckets: Vec<TopicBucket>, now: Moment) {
        for at in &buckets {
            let table = self.ledger.table_or_new(&at.topic);
            if table.tenant.is_empty() {
                let id = topics::parse_table_topic(&self.topic_prefix, &at.topic);
                table.tenant = id.map_or_else(Arc::default, |id| id.tenant.as_str().into());
            }
            let seat = Seat::new(State::Opening {
                attempt: 0,
                retry_at: now,
                why: None,
            });
            if self.ledger.insert(at.clone(), seat).is_some() {
                self.out.push(Command::Forget(at.clone()));
            }
        }
        // The group's answer must not wait for an object store.
        self.out.push(Command::Begin(buckets));
        self.retry(now);
    }

    pub(super) fn revoked(&mut self, buckets: Vec<TopicBucket>, now: Moment) {
        for at in buckets {
            self.ledger.table_or_new(&at.topic);
            let (held, flying) = match self.ledger.seat(&at).map(|seat| &seat.state) {
                Some(State::Open { held, flying, .. }) => (*held, *flying),
                Some(State::Leaving { held, flying }) => (*held, *flying),
                Some(State::Opening { .. } | State::Stopped { .. }) | None => (Held::default(), 0),
            };
            let state = State::Leaving { held, flying };
            match self.ledger.seat_mut(&at) {
                Some(seat) => seat.state = state,
                None => {
                    self.ledger.insert(at, Seat::new(state));
                }
            }
            self.leave_by.get_or_insert(now + RELEASE_MAX);
        }
    }

    /// Tries again what is due; one try for all of a table's buckets that are.
    pub(super) fn retry(&mut self, now: Moment) {
        if self.limits.draining {
            return;
        }
        self.settle();
        for topic in self.ledger.to_retry(now) {
            self.counter += 1;
            let mut buckets = Vec::new();
            let Some((_, seats)) = self.ledger.whole_mut(&topic) else {
                continue;
            };
            for (at, seat) in seats {
                let (State::Opening { retry_at, .. } | State::Stopped { retry_at, .. }) =
                    &seat.state
                else {
                    continue;
                };
                if *retry_at > now {
                    continue;
                }
                let why = seat.trouble().cloned();
                seat.state = State::Opening {
                    attempt: self.counter,
                    retry_at: now + OPEN_MAX,
                    why,
                };
                buckets.push(at.bucket);
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
            let Some(seat) = self
                .ledger
                .seat_mut(&at)
                .filter(|seat| seat.awaits(attempt))
            else {
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
            if self
                .ledger
                .seat(&at)
                .is_some_and(|seat| seat.awaits(attempt))
            {
                self.fail(&at, trouble, now);
            }
        }
    }

    /// Every record of these is committed, so whatever kept one from it has passed: no commit may
    /// ever come that would show it.
    pub(super) fn caught_up(&mut self, topic: &Arc<str>, buckets: Vec<Bucket>) {
        for bucket in buckets {
            let topic = topic.clone();
            if let Some(seat) = self.ledger.seat_mut(&TopicBucket { topic, bucket })
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
        let Some(seat) = self.ledger.seat_mut(at) else {
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
        let Some(seat) = self.ledger.seat(at) else {
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
        if let Some(seat) = self.ledger.seat_mut(at)
            && let State::Opening { retry_at, .. } = &mut seat.state
            && first
        {
            *retry_at = now;
        }
    }
}
