//! Two writers, one of them held at every step of its commit while the other does all of its own.

use std::sync::Arc;

use tidelake_storage::faults::{Fault, FaultStore, Gate, Rule};
use tidelake_storage::{Operation, Store};

use super::*;

/// Where the flusher is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Before(Operation, &'static str),
    After(Operation, &'static str),
    /// Its commit is made, the answer gets lost, and it is held when it looks what became of it.
    AnswerLost,
}

const POINTS: [Held; 9] = [
    Held::Before(Operation::Put, ".parquet"),
    Held::After(Operation::Put, ".parquet"),
    Held::Before(Operation::Put, ".idx"),
    Held::After(Operation::Put, ".idx"),
    Held::Before(Operation::Put, "deletion_vector"),
    Held::After(Operation::Put, "deletion_vector"),
    Held::Before(Operation::Create, "_delta_log"),
    Held::After(Operation::Create, "_delta_log"),
    Held::AnswerLost,
];

/// What the other writer does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    /// A flusher of another bucket.
    AnotherBucket,
    /// A flusher that took this bucket over.
    SameBucket,
    /// Another engine deletes rows, some of those that the flusher supersedes among them.
    Deletes,
    /// A compaction replaces the file whose rows the flusher supersedes.
    Rewrites,
    /// Another engine inserts rows, some of keys that the flusher brings for the first time.
    Inserts,
    /// Another engine brings rows back that were deleted, some of them the flusher's keys.
    Restores,
    /// A flusher of another bucket supersedes rows of a file of both buckets, as the flusher does.
    SharedFile,
}

const OTHERS: [Other; 7] = [
    Other::AnotherBucket,
    Other::SameBucket,
    Other::Deletes,
    Other::Rewrites,
    Other::Inserts,
    Other::Restores,
    Other::SharedFile,
];

fn records(bucket: u32, keys: std::ops::Range<u32>, value: i64) -> (u32, Vec<Vec<Record>>) {
    let rows = keys.map(|key| (2 * key + bucket, Some(Some(value + i64::from(key)))));
    (bucket, vec![rows.collect()])
}

/// Many rows, so that their vectors are large.
const ROWS: u32 = 3000;
/// The first of the keys that were deleted.
const LOST: u32 = 5000;
/// The first of the keys that the flusher brings for the first time.
const NEW: u32 = 6000;
/// The first of the keys in a file of both buckets.
const SHARED: u32 = 7000;

#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn meet(held: Held, other: Other) {
    let mut world = World::new(Shape::Long).await;
    world
        .flush(0, &[records(0, 0..ROWS, 1), records(1, 0..50, 1)], true)
        .await;
    world.note_version().await;
    // Rows of a file of their own, which is gone.
    world
        .flush(0, &[records(0, LOST..LOST + 20, 1)], true)
        .await;
    world.note_version().await;
    let mut lost = records(0, LOST..LOST + 20, 1);
    lost.1[0].iter_mut().for_each(|(_, value)| *value = None);
    world.flush(0, &[lost], true).await;
    world.note_version().await;
    // A file of another engine, with keys of both buckets.
    let shared = [0, 1].map(|bucket| records(bucket, SHARED..SHARED + 1000, 1).1.remove(0));
    world.insert(None, &shared.concat()).await;
    world.note_version().await;
    let faults = FaultStore::new(world.table.store().object_store());
    let gate = Gate::new();
    let (rule, committed_first) = match held {
        Held::Before(operation, at) => {
            let rule = Rule::new(Fault::HoldBefore(gate.clone()))
                .on(operation)
                .at(at);
            (rule, false)
        }
        Held::After(operation, at) => {
            let rule = Rule::new(Fault::HoldAfter(gate.clone()))
                .on(operation)
                .at(at);
            (rule, at == "_delta_log")
        }
        Held::AnswerLost => {
            let lose = Rule::new(Fault::LoseAnswer)
                .on(Operation::Create)
                .at("_delta_log");
            faults.inject(lose.times(1));
            let rule = Rule::new(Fault::HoldBefore(gate.clone())).at("_delta_log");
            (rule, true)
        }
    };
    faults.inject(rule.times(1));
    let store = Store::new(Arc::new(faults), "memory:///");
    let table = DeltaTable::new(store, clock::system(), ids::random());

    // Every third row of the first file gets a newer one, one key is removed.
    let mut ours = records(0, 0..ROWS, 1_000_000);
    ours.1[0].retain(|(key, _)| key % 3 == 0);
    ours.1.push(vec![(2, None)]);
    ours.1.extend(records(0, LOST..LOST + 10, 2).1);
    ours.1.extend(records(0, NEW..NEW + 10, 2).1);
    ours.1.extend(records(0, SHARED..SHARED + 500, 2).1);
    let ours = [ours];
    world.writers[0].base = world.latest().await;
    let request = world.request(0, &ours).await;
    let base = world.writers[0].base.clone();
    let flush = tokio::spawn(async move { request.run(&table, &base).await });
    gate.reached().await;
    if committed_first {
        apply(&mut world.model, &ours);
    }
    match other {
        Other::AnotherBucket => world.flush(1, &[records(1, 10..90, 7)], true).await,
        Other::SameBucket => world.flush(1, &[records(0, 30..60, 7)], true).await,
        Other::Deletes => {
            let file = world.largest_file().await;
            world.delete(2, file).await;
        }
        Other::Rewrites => {
            let file = world.largest_file().await;
            world.rewrite(file).await;
        }
        Other::Inserts => {
            world
                .insert(Some(0), &records(0, NEW + 5..NEW + 20, 7).1[0])
                .await
        }
        // To the second version.
        Other::Restores => world.restore(1, false).await,
        Other::SharedFile => {
            let theirs = records(1, SHARED + 100..SHARED + 900, 7);
            world.flush(1, &[theirs], true).await
        }
    }
    world.note_version().await;
    gate.open();
    let flushed = flush.await.unwrap().unwrap();
    match flushed.outcome {
        FlushOutcome::Committed(_) => {
            let zombie = other == Other::SameBucket && !committed_first;
            assert!(!zombie, "a zombie committed");
            if !committed_first {
                apply(&mut world.model, &ours);
            }
        }
        FlushOutcome::Conflicted(Conflict::WatermarkMoved { .. }) => {
            assert!(other == Other::SameBucket && !committed_first);
        }
        FlushOutcome::Conflicted(conflict) => panic!("unexpected conflict: {conflict}"),
    }
    world.writers[0].states.extend(flushed.states);
    world.note_version().await;
    world.check_versions().await;
    // What the states learned in the race is what later flushes rest on.
    for round in 0..2 {
        // Rows of the shared file that nobody superseded before.
        let first = SHARED + 900 + 40 * round;
        let both = [0, 1].map(|bucket| records(bucket, first..first + 40, 8));
        world.flush(0, &both, true).await;
        world.note_version().await;
        world.flush(0, &[records(0, 0..100, 5)], true).await;
        world.note_version().await;
    }
    world.check_versions().await;
}

impl World {
    /// The place of the file with the most rows: the first one that was written.
    async fn largest_file(&self) -> usize {
        let snapshot = self.latest().await;
        let rows = snapshot.files().map(|file| file.num_records());
        let places = rows.enumerate().max_by_key(|(_, rows)| *rows);
        places.map_or(0, |(place, _)| place)
    }

    async fn note_version(&mut self) {
        let snapshot = self.latest().await;
        self.versions
            .insert(snapshot.version().0, self.model.clone());
    }
}

#[tokio::test]
async fn every_meeting_of_two_writers_ends_as_one_after_the_other() {
    for held in POINTS {
        for other in OTHERS {
            println!("{held:?} meets {other:?}");
            let met = tokio::time::timeout(std::time::Duration::from_secs(60), meet(held, other));
            met.await
                .expect("the flusher never came to where it is held");
        }
    }
}

/// Both flushers bring newer rows of the same foreign files, always at the same time.
#[tokio::test]
async fn flushers_of_two_buckets_meet_on_one_file_again_and_again() {
    let mut world = World::new(Shape::TextAndInt).await;
    let shared = [0, 1].map(|bucket| records(bucket, 0..400, 1).1.remove(0));
    world.insert(None, &shared.concat()).await;
    world.note_version().await;
    for round in 0..10 {
        let base = world.latest().await;
        let brought = [0, 1].map(|bucket| {
            // Some rows of the foreign file, and some that a round before brought.
            records(bucket, round * 30..round * 30 + 50, 100 + i64::from(round))
        });
        let mut requests = Vec::new();
        for writer in [0, 1] {
            world.writers[writer].base = Arc::clone(&base);
            let own = std::slice::from_ref(&brought[writer]);
            requests.push(world.request(writer, own).await);
        }
        let flushes = requests.into_iter().map(|request| {
            let (table, base) = (world.table.clone(), Arc::clone(&base));
            tokio::spawn(async move { request.run(&table, &base).await })
        });
        let flushes: Vec<_> = flushes.collect();
        for (writer, flush) in flushes.into_iter().enumerate() {
            let flushed = flush.await.unwrap().unwrap();
            let committed = matches!(flushed.outcome, FlushOutcome::Committed(_));
            assert!(committed, "{:?}", flushed.outcome);
            world.writers[writer].states.extend(flushed.states);
        }
        apply(&mut world.model, &brought);
        world.note_version().await;
    }
    world.check_versions().await;
    let checked = world.checked().await;
    assert!(checked.is_sound(), "{checked:?}");
    assert_eq!(checked.keys as usize, world.model.len());
}
