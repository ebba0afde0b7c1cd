//! When the files that may hold a key were live, and what follows for its rows.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tidelake_core::TableVersion;
use tidelake_core::clock::UnixMillis;
use tidelake_manifest::action::decode_path;
use tidelake_manifest::{Add, Commit, DataFile, DeltaTable, Snapshot, VectorDescriptor};

use super::Key;
use super::hits::Hits;
use crate::error::QueryError;
use crate::table::facts::FileFacts;
use crate::table::shape::Shape;

const VECTORS_IN_FLIGHT_MAX: usize = 16;

/// When the files that may hold the key were live, and with which vector.
pub(super) struct Timeline {
    table: Arc<DeltaTable>,
    shape: Arc<Shape>,
    key: Key,
    pub(super) files: Vec<Arc<FileFacts>>,
    /// Every path that was met; none where the key can't be in it.
    by_path: HashMap<String, Option<usize>>,
    steps: Vec<Step>,
}

/// A version that says something about the files.
struct Step {
    version: TableVersion,
    ms: UnixMillis,
    /// It brought or took rows, by its own word.
    changes: bool,
    /// In this order: a file, and whether it is live from here on.
    moves: Vec<(usize, Presence)>,
}

enum Presence {
    Gone,
    Live(Option<VectorDescriptor>),
}

impl Timeline {
    pub(super) fn new(
        table: &Arc<DeltaTable>,
        shape: &Arc<Shape>,
        key: &Key,
        base: &Snapshot,
    ) -> Self {
        let mut timeline = Self {
            table: Arc::clone(table),
            shape: Arc::clone(shape),
            key: key.clone(),
            files: Vec::new(),
            by_path: HashMap::new(),
            steps: Vec::new(),
        };
        let live = base.files().filter_map(|file| {
            let place = timeline.place(file.path(), || Some(Arc::clone(file)))?;
            Some((place, Presence::Live(file.dv().cloned())))
        });
        let moves = live.collect();
        timeline.steps.push(Step {
            version: base.version(),
            ms: base.timestamp_ms(),
            changes: true,
            moves,
        });
        timeline
    }

    pub(super) fn push(&mut self, version: TableVersion, ms: UnixMillis, commit: Commit) {
        let changes = commit.adds.iter().any(|add| add.data_change)
            || commit.removes.iter().any(|remove| remove.data_change);
        let mut moves = Vec::new();
        for remove in &commit.removes {
            let path = decode_path(&remove.path);
            let known = path.and_then(|path| *self.by_path.get(&path)?);
            moves.extend(known.map(|place| (place, Presence::Gone)));
        }
        for add in commit.adds {
            let Some(path) = decode_path(&add.path) else {
                continue;
            };
            let vector = add.deletion_vector.clone();
            let file = |add: Add| DataFile::of(add).map(Arc::new);
            if let Some(place) = self.place(&path, || file(add)) {
                moves.push((place, Presence::Live(vector)));
            }
        }
        if !moves.is_empty() {
            self.steps.push(Step {
                version,
                ms,
                changes,
                moves,
            });
        }
    }

    fn place(&mut self, path: &str, file: impl FnOnce() -> Option<Arc<DataFile>>) -> Option<usize> {
        if let Some(place) = self.by_path.get(path) {
            return *place;
        }
        let facts = FileFacts::new(&self.table, &file()?, &self.shape);
        let place = self.key.may_be_in(&facts).then(|| {
            self.files.push(Arc::new(facts));
            self.files.len() - 1
        });
        self.by_path.insert(path.to_owned(), place);
        place
    }

    /// Of each hit, under which vectors its row does not count.
    pub(super) async fn dead(
        &self,
        table: &DeltaTable,
        hits: &Hits,
    ) -> Result<HashMap<(usize, String), bool>, QueryError> {
        let mut wanted: HashMap<(usize, String), &VectorDescriptor> = HashMap::new();
        for (place, presence) in self.steps.iter().flat_map(|step| &step.moves) {
            if let Presence::Live(Some(vector)) = presence {
                let of_file = hits.of_file.get(place).into_iter().flatten();
                wanted.extend(of_file.map(|hit| ((*hit, vector.unique_id()), vector)));
            }
        }
        // Futures before the stream: a closure over borrowed ones makes one that can't be sent.
        let read = wanted.into_iter().map(|((hit, id), vector)| async move {
            let rows = table.deleted_rows(vector).await?;
            Ok::<_, QueryError>(((hit, id), rows.contains(hits.positions[hit])))
        });
        let read: Vec<_> = read.collect();
        let read = futures::stream::iter(read).buffer_unordered(VECTORS_IN_FLIGHT_MAX);
        read.try_collect().await
    }

    /// Walks up the versions; newest last.
    pub(super) fn events(&self, hits: &Hits, dead: &HashMap<(usize, String), bool>) -> Vec<Event> {
        let mut live: HashMap<usize, &Option<VectorDescriptor>> = HashMap::new();
        let mut before: Option<usize> = None;
        let mut events = Vec::new();
        for (number, step) in self.steps.iter().enumerate() {
            for (place, presence) in &step.moves {
                match presence {
                    Presence::Gone => live.remove(place),
                    Presence::Live(vector) => live.insert(*place, vector),
                };
            }
            let counts = |hit: &usize| match live.get(&hits.files[*hit]) {
                None => false,
                Some(None) => true,
                Some(Some(vector)) => !dead
                    .get(&(*hit, vector.unique_id()))
                    .copied()
                    .unwrap_or(false),
            };
            let now = (0..hits.files.len())
                .filter(counts)
                .max_by_key(|hit| hits.sequences[*hit]);
            let kind = match (before, now) {
                (None, None) => None,
                (None, Some(_)) if number == 0 => Some("existing"),
                (None, Some(_)) => Some("insert"),
                (Some(_), None) => Some("delete"),
                (Some(before), Some(now)) => {
                    let moved = before == now || hits.is_same(before, now) || !step.changes;
                    (!moved).then_some("update")
                }
            };
            events.extend(kind.map(|kind| Event {
                version: step.version,
                ms: step.ms,
                kind,
                hit: now,
                key_of: now.or(before).unwrap_or_default(),
            }));
            before = now;
        }
        events
    }
}

pub(super) struct Event {
    pub(super) version: TableVersion,
    pub(super) ms: UnixMillis,
    pub(super) kind: &'static str,
    /// The row that is live from here on.
    pub(super) hit: Option<usize>,
    /// Any row of the key.
    pub(super) key_of: usize,
}
