//! Random histories of several writers against a model.

use super::*;

/// One step of a random history.
#[derive(Debug, Clone)]
enum Move {
    /// A writer flushes a bucket from the base that it has.
    Flush {
        writer: usize,
        bucket: u32,
        rows: u64,
    },
    /// A writer replaces a file, by what it believes to be live.
    Replace {
        writer: usize,
        pick: usize,
        vector: Option<u64>,
    },
    /// A writer looks at the log.
    Refresh { writer: usize },
    /// A writer writes a checkpoint of what it has, which may be old.
    Checkpoint { writer: usize },
    /// Another engine appends, or deletes a row of a file.
    Foreign { pick: usize, vector: Option<u64> },
    /// The store becomes unreliable, or heals.
    Weather { seed: u64, bad: bool },
}

const WRITERS: usize = 3;

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let writer = || 0..WRITERS;
    let vector = || prop::option::of(0..5u64);
    let step = prop_oneof![
        6 => (writer(), 0..3u32, 1..9u64)
            .prop_map(|(writer, bucket, rows)| Move::Flush { writer, bucket, rows }),
        3 => (writer(), any::<usize>(), vector())
            .prop_map(|(writer, pick, vector)| Move::Replace { writer, pick, vector }),
        3 => writer().prop_map(|writer| Move::Refresh { writer }),
        1 => writer().prop_map(|writer| Move::Checkpoint { writer }),
        2 => (any::<usize>(), vector()).prop_map(|(pick, vector)| Move::Foreign { pick, vector }),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(seed, bad)| Move::Weather { seed, bad }),
    ];
    prop::collection::vec(step, 1..60)
}

/// The truth: the state of every version, and which files its commit took out or gave a vector.
struct Model {
    versions: Vec<State>,
    touched: Vec<BTreeSet<String>>,
    adds: u64,
}

impl Model {
    fn latest(&self) -> &State {
        self.versions.last().unwrap()
    }

    fn push(&mut self, next: State, tx: &Transaction) {
        self.versions.push(next);
        self.touched.push(
            tx.removes
                .iter()
                .map(|remove| remove.path.clone())
                .collect(),
        );
    }

    /// What a transaction that was made from `base` does to the latest state; none where it does
    /// not apply. A vector that was changed and changed back in between counts as changed.
    fn apply(&self, tx: &Transaction, base: TableVersion) -> Option<State> {
        let since = &self.touched[base.0 as usize + 1..];
        if tx
            .removes
            .iter()
            .any(|remove| since.iter().any(|touched| touched.contains(&remove.path)))
        {
            return None;
        }
        let (mut files, mut txns) = self.latest().clone();
        for mark in &tx.marks {
            let held = txns.insert(mark.app_id(), mark.to.0).unwrap_or(0);
            if held != mark.from.0 {
                return None;
            }
        }
        for remove in &tx.removes {
            let (vector, _) = files.remove(&remove.path)?;
            if vector
                != remove
                    .deletion_vector
                    .as_ref()
                    .map(VectorDescriptor::unique_id)
            {
                return None;
            }
        }
        for add in &tx.adds {
            let vector = add.deletion_vector.as_ref();
            let rows = Stats::parse(add.stats.as_deref()?).ok()?.num_records?;
            let live = rows - vector.map_or(0, |vector| vector.cardinality as u64);
            let id = vector.map(VectorDescriptor::unique_id);
            files.insert(add.path.clone(), (id, Some(live)));
        }
        Some((files, txns))
    }

    fn name(&mut self) -> String {
        self.adds += 1;
        format!("{}.parquet", self.adds)
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for each move")]
async fn replay_history(moves: Vec<Move>) -> Result<(), TestCaseError> {
    let (fixture, first) = Fixture::created(false).await;
    let table = &fixture.table;
    let mut model = Model {
        versions: vec![state(&first)],
        touched: vec![BTreeSet::new()],
        adds: 0,
    };
    let mut bases = vec![first; WRITERS];
    let mut weather = None;
    for step in moves {
        fixture.clock.advance(Duration::from_millis(10));
        let (writer, tx) = match step {
            Move::Weather { seed, bad } => {
                weather = bad.then_some(seed);
                continue;
            }
            Move::Refresh { writer } => {
                bases[writer] = table.refresh(&bases[writer]).await.unwrap();
                prop_assert_eq!(&state(&bases[writer]), model.latest());
                continue;
            }
            Move::Checkpoint { writer } => {
                bases[writer] = table.write_checkpoint(&bases[writer]).await.unwrap();
                continue;
            }
            Move::Foreign { pick, vector } => {
                let latest = table.snapshot().await.unwrap();
                let tx = match vector {
                    Some(_) => replace(&latest, pick, vector),
                    None => Some(flush(&model.name(), 3, vec![])),
                };
                let Some(tx) = tx else { continue };
                let actions = tx.actions("foreign", &latest, NOON_MS);
                // Without commitInfo, in another order.
                let lines: Vec<_> = actions[1..]
                    .iter()
                    .rev()
                    .map(|action| serde_json::to_string(action).unwrap())
                    .collect();
                let lines: Vec<_> = lines.iter().map(String::as_str).collect();
                fixture.foreign(latest.version().0 + 1, &lines).await;
                let next = model.apply(&tx, latest.version()).unwrap();
                model.push(next, &tx);
                continue;
            }
            Move::Flush {
                writer,
                bucket,
                rows,
            } => {
                let from = bases[writer]
                    .watermark(&TOPIC, Bucket(bucket))
                    .unwrap_or_default()
                    .0;
                let marks = vec![mark(bucket, from, from + rows as i64)];
                (writer, flush(&model.name(), rows, marks))
            }
            Move::Replace {
                writer,
                pick,
                vector,
            } => {
                let Some(tx) = replace(&bases[writer], pick, vector) else {
                    continue;
                };
                (writer, tx)
            }
        };
        let id = format!("commit {}", model.adds * 1000 + model.versions.len() as u64);
        let tx = Transaction {
            id: Some(id.clone()),
            ..tx
        };
        if let Some(seed) = weather.as_mut() {
            *seed = seed.wrapping_add(1 << 20);
            fixture.faults.random(
                *seed,
                Odds {
                    fail_before: 150,
                    lose_answer: 250,
                },
            );
        }
        let outcome = table.commit(&bases[writer], tx.clone()).await;
        fixture.faults.heal();
        let expected = model.apply(&tx, bases[writer].version());
        match outcome {
            Ok(CommitOutcome::Committed { version, snapshot }) => {
                prop_assert_eq!(version.0 as usize, model.versions.len());
                let expected = expected.expect("a conflicting commit was made");
                prop_assert_eq!(&state(&snapshot), &expected);
                model.push(expected, &tx);
                bases[writer] = snapshot;
            }
            Ok(CommitOutcome::Conflicted(conflict)) => {
                prop_assert!(
                    expected.is_none(),
                    "{conflict} although nothing stood in the way"
                );
            }
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::Unavailable);
                let newest = table.history(1).await.unwrap().remove(0);
                if newest.commit_id.as_ref() == Some(&id) {
                    model.push(expected.unwrap(), &tx);
                }
            }
        }
    }
    for (version, expected) in model.versions.iter().enumerate() {
        let read = table
            .snapshot_at(TableVersion(version as u64))
            .await
            .unwrap();
        prop_assert_eq!(&state(&read), expected, "version {}", version);
    }
    let latest = table.snapshot().await.unwrap();
    prop_assert_eq!(latest.version().0 as usize + 1, model.versions.len());
    for base in &bases {
        let refreshed = table.refresh(base).await.unwrap();
        prop_assert_eq!(state(&refreshed), state(&latest));
        let gone = tombstones(table, &refreshed, 0).await;
        prop_assert_eq!(gone, gone_by_commits(table, latest.version()).await);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_version_is_what_the_model_says(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(replay_history(moves))?;
    }
}
