//! One table in use: its catalog entry, and what its own log says, looked at no more than needed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_codec::packed::Wire;
use tidelake_core::{Bucket, ErrorKind, Watermark};
use tidelake_manifest::{CachedTable, Freshness, ManifestError, Snapshot};
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;
use tidelake_schema::evolution::Columns;
use tokio::time::Interval;

use super::super::by_bucket;
use super::topic::{Reached, TopicWatch};
use crate::moment;
use crate::request::shared;

/// How old a view of the table's own log may be that records are checked by. Another engine may
/// change the schema there, and nobody tells the gateway.
const SCHEMA_AGE_MAX: Duration = Duration::from_secs(1);
/// From this age on the next look is made beside the requests, so that none waits for it.
const SCHEMA_AGE_GOOD: Duration = Duration::from_millis(500);

/// Between two looks that refused records ask for.
const LOOK_ANEW_INTERVAL: Duration = Duration::from_millis(100);

/// One incarnation of a table.
#[derive(Debug)]
pub(crate) struct LiveTable {
    pub(crate) entry: Arc<TableEntry>,
    pub(crate) topic: Arc<str>,
    pub(crate) reached: Arc<Reached>,
    pub(super) topic_watch: TopicWatch,
    cached: CachedTable,
    /// Rises by one for each body, so that bodies of one message take turns too.
    turn: AtomicU32,
    seen: RwLock<Option<Seen>>,
    /// One look at the log at a time.
    looking: Arc<tokio::sync::Mutex<()>>,
    /// When refused records may ask for the next one.
    looking_anew: tokio::sync::Mutex<Option<Interval>>,
}

/// A table with the columns of its own log. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LoggedTable {
    /// Its schema is that of the log.
    pub(crate) entry: Arc<TableEntry>,
    /// How its messages are written.
    pub(crate) wire: Arc<Wire>,
}

impl LoggedTable {
    pub(crate) fn new(entry: TableEntry, names: &PhysicalNames) -> Self {
        let wire = Wire::new(Columns {
            schema: &entry.schema,
            names,
        });
        Self {
            entry: Arc::new(entry),
            wire: Arc::new(wire),
        }
    }

    /// True where both have the same columns, by the same names in files.
    pub(super) fn has_columns_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
            || (self.entry.schema == other.entry.schema && self.wire == other.wire)
    }
}

/// What a look at the table's log showed. Not the version: that is the cache's to hold.
#[derive(Debug, Clone)]
struct Seen {
    schema: Arc<TableSchema>,
    names: Arc<PhysicalNames>,
    logged: LoggedTable,
    /// Why no row may follow, where another engine changed the columns or the key.
    misfit: Option<Arc<ManifestError>>,
    /// Why no commit of ours can follow, where another engine switched on what ours can't keep.
    unwritable: Option<Arc<ManifestError>>,
    /// The look began then, or one that failed while the store was away.
    at: Instant,
}

impl LiveTable {
    pub(super) fn new(entry: &Arc<TableEntry>, cached: CachedTable) -> Self {
        Self {
            entry: Arc::clone(entry),
            topic: shared(&entry.topic),
            reached: Arc::new(Reached::new(entry.buckets)),
            topic_watch: TopicWatch::new(),
            cached,
            turn: AtomicU32::new(0),
            seen: RwLock::default(),
            looking: Arc::default(),
            looking_anew: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn next_turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The table's latest version, or one that was the latest within `age_max`. Callers that wait
    /// for the same look share it.
    pub(super) async fn snapshot(&self, age_max: Duration) -> Result<Arc<Snapshot>, ManifestError> {
        let wanted = Freshness::NoOlderThan(age_max);
        let snapshot = self.cached.get(wanted).await?.snapshot;
        if snapshot.is_dropped() {
            return Err(ManifestError::NoTable {
                at: self.entry.location(),
            });
        }
        Ok(snapshot)
    }

    /// Gives up what is held of its log.
    pub(super) fn forget(&self) {
        self.cached.forget();
    }

    /// True where its state is known, so that a look reads no more than what is new.
    pub(crate) fn is_known(&self) -> bool {
        self.cached.known().is_some()
    }

    /// The table with the schema of its own log, by which records are checked: of a version that
    /// was the latest within [`SCHEMA_AGE_MAX`]. While the store is away, what was seen last must
    /// do: nobody who needs the store changes the table either.
    pub(super) async fn logged(self: &Arc<Self>) -> Result<LoggedTable, ManifestError> {
        if let Some(seen) = self.seen_within(SCHEMA_AGE_MAX) {
            if moment::age(seen.at) >= SCHEMA_AGE_GOOD {
                self.look_beside();
            }
            return self.taking(seen);
        }
        let asked = moment::now();
        let _turn = self.looking.lock().await;
        if let Some(seen) = self.seen_since(asked) {
            return self.taking(seen);
        }
        match self.look().await {
            Ok(seen) => self.taking(seen),
            Err(error) => self.bridge(asked, &error).ok_or(error),
        }
    }

    /// [`Self::logged`], by a look that began after this was called, unless another schema than
    /// `known` has was seen already. Refused records ask for it: those of a table share a look each
    /// [`LOOK_ANEW_INTERVAL`], which they wait for.
    pub(super) async fn logged_anew(
        &self,
        known: &LoggedTable,
    ) -> Result<LoggedTable, ManifestError> {
        let asked = moment::now();
        let mut turns = self.looking_anew.lock().await;
        let seen = self.seen.read().clone();
        if let Some(seen) = seen
            && (seen.at >= asked || !seen.logged.has_columns_of(known))
        {
            return self.taking(seen);
        }
        let turns = turns.get_or_insert_with(|| {
            let mut turns = tokio::time::interval(LOOK_ANEW_INTERVAL);
            turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            turns
        });
        turns.tick().await;
        let _turn = self.looking.lock().await;
        match self.look().await {
            Ok(seen) => self.taking(seen),
            Err(error) => self.bridge(asked, &error).ok_or(error),
        }
    }

    /// What was seen last, if `error` says only that the store is away; nobody tries again at once.
    fn bridge(&self, at: Instant, error: &ManifestError) -> Option<LoggedTable> {
        if error.kind() != ErrorKind::Unavailable {
            return None;
        }
        let mut seen = self.seen.write();
        let seen = seen.as_mut()?;
        tracing::warn!(table = %self.entry.id, %error, "the table's log could not be looked at");
        seen.at = at;
        Some(seen.logged.clone())
    }

    /// Looks at the log in a task of its own, unless somebody does.
    fn look_beside(self: &Arc<Self>) {
        let Ok(turn) = Arc::clone(&self.looking).try_lock_owned() else {
            return;
        };
        let table = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = table.look().await {
                // Whoever needs it looks again, and is told.
                tracing::debug!(table = %table.entry.id, %error, "a look at the log failed");
            }
            drop(turn);
        });
    }

    /// Whose turn it is to look.
    async fn look(&self) -> Result<Seen, ManifestError> {
        let at = moment::now();
        let before = self.seen.read().clone();
        let snapshot = self.snapshot(Duration::ZERO).await?;
        let logged = match before {
            Some(seen)
                if seen.schema == *snapshot.schema()
                    && seen.names == *snapshot.physical_names() =>
            {
                seen.logged
            }
            _ => {
                let entry = TableEntry {
                    schema: TableSchema::clone(snapshot.schema()),
                    ..self.entry.as_ref().clone()
                };
                LoggedTable::new(entry, snapshot.physical_names())
            }
        };
        let unwritable = self.cached.delta().check_writable(&snapshot).err();
        let seen = Seen {
            misfit: self.check_columns_of(&snapshot).err().map(Arc::new),
            schema: Arc::clone(snapshot.schema()),
            names: Arc::clone(snapshot.physical_names()),
            logged,
            unwritable: unwritable.map(Arc::new),
            at,
        };
        self.reached
            .commit(&snapshot.watermarks(&self.entry.topic_id));
        *self.seen.write() = Some(seen.clone());
        Ok(seen)
    }

    /// What records are checked by, unless no commit could hold them.
    fn taking(&self, seen: Seen) -> Result<LoggedTable, ManifestError> {
        match seen.unwritable {
            Some(unwritable) => Err(ManifestError::Shared(unwritable)),
            None => Ok(seen.logged),
        }
    }

    fn seen_within(&self, age_max: Duration) -> Option<Seen> {
        let seen = self.seen.read();
        seen.as_ref()
            .filter(|seen| moment::age(seen.at) < age_max)
            .cloned()
    }

    fn seen_since(&self, asked: Instant) -> Option<Seen> {
        let seen = self.seen.read();
        seen.as_ref().filter(|seen| seen.at >= asked).cloned()
    }

    /// Refuses a table that was last seen with columns, or a key, that no row may follow.
    pub(super) fn check_columns(&self) -> Result<(), Arc<ManifestError>> {
        let seen = self.seen.read();
        match seen.as_ref().and_then(|seen| seen.misfit.clone()) {
            Some(misfit) => Err(misfit),
            None => Ok(()),
        }
    }

    /// Records lie in buckets by the key that the table was made with, and were accepted by its
    /// columns.
    fn check_columns_of(&self, snapshot: &Snapshot) -> Result<(), ManifestError> {
        let key = self.entry.mode == TableMode::Upsert;
        self.cached
            .delta()
            .check_columns(snapshot, &self.entry.schema, key)
    }

    /// How far the table's log covers each bucket.
    pub(crate) fn watermarks(&self, snapshot: &Snapshot) -> BTreeMap<Bucket, Watermark> {
        self.watermarks_of(self.entry.buckets, snapshot)
    }

    /// As [`Self::watermarks`], of so many buckets.
    pub(in super::super) fn watermarks_of(
        &self,
        buckets: u32,
        snapshot: &Snapshot,
    ) -> BTreeMap<Bucket, Watermark> {
        let topic_id = &self.entry.topic_id;
        by_bucket(buckets, |bucket| {
            snapshot.watermark(topic_id, bucket).unwrap_or_default()
        })
    }
}
