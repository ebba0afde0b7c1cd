//! Which buckets are ours: assigned, opened, begun anew, given up.

use super::*;

impl Owner {
    /// New buckets: their tables are opened first, and only then the group gets its answer.
    pub(super) fn assigned(&mut self, buckets: Vec<TopicBucket>, consumer: &GroupConsumer) {
        tracing::info!(buckets = buckets.len(), "assigned");
        // The group's answer must not wait for an object store: everything is parked, and each
        // table's buckets start as soon as it is open.
        consumer.begin(Vec::new(), buckets.clone());
        for at in &buckets {
            self.parked.insert(at.clone(), Instant::now() + REOPEN);
        }
        self.open(buckets);
    }

    pub(super) fn open(&mut self, buckets: Vec<TopicBucket>) {
        let mut by_topic: HashMap<Arc<str>, Vec<Bucket>> = HashMap::new();
        for at in buckets {
            by_topic.entry(at.topic).or_default().push(at.bucket);
        }
        for (topic, buckets) in by_topic {
            let (opener, opened) = (self.bench.opener.clone(), self.opened.clone());
            let first = !self.tables.contains_key(&topic);
            tokio::spawn(async move {
                let result = opener.open(&topic).await;
                let _gone = opened.send(Opened {
                    topic,
                    buckets,
                    first,
                    result,
                });
            });
        }
    }

    pub(super) fn table_opened(&mut self, opened: Opened, consumer: &GroupConsumer) {
        let (table, snapshot) = match opened.result {
            Ok(open) => open,
            Err(error) => {
                let retry = Instant::now() + REOPEN;
                for bucket in opened.buckets {
                    let at = TopicBucket {
                        topic: opened.topic.clone(),
                        bucket,
                    };
                    if let Some(due) = self.parked.get_mut(&at) {
                        *due = retry;
                    }
                }
                if opened.first && error.kind() != ErrorKind::NotFound {
                    tracing::warn!(topic = %opened.topic, error = chain(&error), "open table");
                } else {
                    tracing::debug!(topic = %opened.topic, error = chain(&error), "open table");
                }
                return;
            }
        };
        let topic = opened.topic;
        let mut starts = Vec::new();
        for bucket in opened.buckets {
            let at = TopicBucket {
                topic: topic.clone(),
                bucket,
            };
            if self.parked.remove(&at).is_none() {
                continue;
            }
            // Whatever stopped it, it begins anew; if the cause is still there, it stops again.
            self.stopped.remove(&at);
            let dead = table.dead_letters.clone();
            match BucketState::new(at.clone(), &table.entry, &snapshot, dead) {
                Ok(mut state) => {
                    state.muted = true;
                    starts.push(Start {
                        at: at.clone(),
                        offset: state.next_offset(),
                    });
                    self.buckets.insert(at, state);
                }
                Err(error) => self.stop(&at, chain(&error)),
            }
        }
        let before = self.tables.get(&topic);
        let in_flight = before.and_then(|slot| slot.in_flight);
        let keyed = before.and_then(|slot| slot.keyed.clone());
        let keyed = match Keyed::open(&table, &snapshot, keyed, &self.bench.index_home) {
            Ok(keyed) => keyed,
            Err(error) => {
                for start in starts {
                    self.stop(&start.at, chain(&error));
                }
                return;
            }
        };
        let table = Arc::new(table);
        if let Some(keyed) = &keyed {
            // The first flush must not wait for the index: it is loaded while rows come in.
            let buckets = starts.iter().map(|start| start.at.bucket).collect();
            let (keyed, table, snapshot) = (keyed.clone(), table.clone(), snapshot.clone());
            tokio::spawn(async move { keyed.warm(&table, &snapshot, buckets).await });
        }
        let slot = TableSlot {
            table,
            snapshot,
            keyed,
            in_flight,
        };
        self.tables.insert(topic, slot);
        consumer.restart(starts);
    }

    pub(super) fn revoked(&mut self, buckets: Vec<TopicBucket>) {
        tracing::info!(buckets = buckets.len(), "revoked");
        for at in &buckets {
            self.parked.remove(at);
            self.stopped.remove(at);
            if let Some(state) = self.buckets.get_mut(at) {
                state.muted = true;
            }
        }
        let leaving = self.leaving.get_or_insert_with(|| Leaving {
            buckets: HashSet::new(),
            deadline: Instant::now() + RELEASE_MAX,
        });
        leaving.buckets.extend(buckets);
    }

    /// Gives revoked buckets up once they are flushed, or their time is over.
    pub(super) fn release(&mut self, consumer: &GroupConsumer) {
        let Some(leaving) = &self.leaving else { return };
        let pending = leaving
            .buckets
            .iter()
            .filter_map(|at| self.buckets.get(at))
            .any(|state| state.in_flight > 0 || state.age(Instant::now()).is_some());
        if pending && Instant::now() < leaving.deadline {
            return;
        }
        let Some(leaving) = self.leaving.take() else {
            return;
        };
        for at in &leaving.buckets {
            self.buckets.remove(at);
        }
        self.forget_unused_tables();
        consumer.release(leaving.buckets.into_iter().collect());
    }

    pub(super) fn forget_unused_tables(&mut self) {
        let used: HashSet<Arc<str>> = self
            .buckets
            .keys()
            .chain(self.parked.keys())
            .map(|at| at.topic.clone())
            .collect();
        let metrics = &self.bench.metrics;
        let (buckets, parked) = (&self.buckets, &self.parked);
        self.tables.retain(|topic, slot| {
            if let Some(keyed) = &slot.keyed {
                keyed.retain(|bucket| {
                    let topic = topic.clone();
                    let at = TopicBucket { topic, bucket };
                    buckets.contains_key(&at) || parked.contains_key(&at)
                });
            }
            let keep = used.contains(topic) || slot.in_flight.is_some();
            if !keep {
                metrics.forget(&slot.table.entry.id);
            }
            keep
        });
    }

    pub(super) fn bucket_failed(&mut self, at: TopicBucket, error: &LogError) {
        match error {
            LogError::NoTopic(_) => {
                // Dropped: what is held is for a table that is gone. The group will revoke it.
                tracing::info!(bucket = %at, "the topic is gone");
                self.buckets.remove(&at);
                self.parked.insert(at, Instant::now() + REOPEN);
                self.forget_unused_tables();
            }
            LogError::OffsetOutOfRange { .. } => {
                // Either retention has overrun the watermark, or the topic was created anew. Opening
                // the table again tells: a new incarnation starts at its own watermark.
                let known = self
                    .tables
                    .get(&at.topic)
                    .map(|slot| slot.table.entry.topic_id);
                let (opener, opened, topic) = (
                    self.bench.opener.clone(),
                    self.opened.clone(),
                    at.topic.clone(),
                );
                let why = format!("{error}; records are missing: reload them, or drop the table");
                self.stop(&at, why);
                self.parked
                    .insert(at.clone(), Instant::now() + Duration::from_secs(3600));
                tokio::spawn(async move {
                    let result = opener.open(&topic).await;
                    if let Ok((table, _)) = &result
                        && Some(table.entry.topic_id) != known
                    {
                        let buckets = vec![at.bucket];
                        let _gone = opened.send(Opened {
                            topic,
                            buckets,
                            first: true,
                            result,
                        });
                    }
                });
            }
            other => {
                self.stop(&at, chain(other));
            }
        }
    }

    /// Stops one bucket, loudly; others go on.
    pub(super) fn stop(&mut self, at: &TopicBucket, why: String) {
        tracing::error!(bucket = %at, reason = why, "bucket stopped");
        self.buckets.remove(at);
        self.stopped.insert(at.clone(), why);
    }

    /// Takes a table's buckets out of work: what they hold is in the log.
    pub(super) fn park(&mut self, topic: &Arc<str>) -> Vec<TopicBucket> {
        let buckets: Vec<_> = self
            .buckets
            .keys()
            .filter(|at| at.topic == *topic)
            .cloned()
            .collect();
        for at in &buckets {
            self.buckets.remove(at);
            self.parked.insert(at.clone(), Instant::now() + REOPEN);
        }
        buckets
    }

    /// Begins buckets anew at the watermark that another flusher left.
    pub(super) fn restart(
        &mut self,
        topic: &Arc<str>,
        fenced: Vec<Bucket>,
        consumer: &GroupConsumer,
    ) {
        let Some(slot) = self.tables.get(topic) else {
            return;
        };
        let (entry, dead) = (slot.table.entry.clone(), slot.table.dead_letters.clone());
        let snapshot = slot.snapshot.clone();
        let mut starts = Vec::new();
        for bucket in fenced {
            let at = TopicBucket {
                topic: topic.clone(),
                bucket,
            };
            if !self.buckets.contains_key(&at) {
                continue;
            }
            match BucketState::new(at.clone(), &entry, &snapshot, dead.clone()) {
                Ok(mut state) => {
                    state.muted = true;
                    starts.push(Start {
                        at: at.clone(),
                        offset: state.next_offset(),
                    });
                    self.buckets.insert(at, state);
                }
                Err(error) => self.stop(&at, chain(&error)),
            }
        }
        consumer.restart(starts);
    }
}
