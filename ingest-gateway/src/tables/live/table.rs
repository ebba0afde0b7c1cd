//! One table in use: its catalog entry, and what its own log says, looked at no more than needed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, ErrorKind, Watermark};
use tidelake_manifest::{CachedTable, Freshness, ManifestError, Snapshot};
use tidelake_schema::TableSchema;

use super::super::by_bucket;
use crate::request::shared;

/// How old a view of the table's own log may be that records are checked by. Another engine may
/// change the schema there, and nobody tells the gateway.
const SCHEMA_AGE_MAX: Duration = Duration::from_secs(1);
/// From this age on the next look is made beside the requests, so that none waits for it.
const SCHEMA_AGE_GOOD: Duration = Duration::from_millis(500);

/// One incarnation of a table.
#[derive(Debug)]
pub(crate) struct LiveTable {
    pub(crate) entry: Arc<TableEntry>,
    pub(crate) topic: Arc<str>,
    cached: CachedTable,
    /// Rises by one for each body, so that bodies of one message take turns too.
    turn: AtomicU32,
    seen: RwLock<Option<Seen>>,
    /// One look at the log at a time.
    looking: Arc<tokio::sync::Mutex<()>>,
}

/// What a look at the table's log showed. Not the version: that is the cache's to hold.
#[derive(Debug, Clone)]
struct Seen {
    schema: Arc<TableSchema>,
    /// The table with the schema of its log.
    logged: Arc<TableEntry>,
    /// The look began then, or one that failed while the store was away.
    at: Instant,
}

impl LiveTable {
    pub(super) fn new(entry: &Arc<TableEntry>, cached: CachedTable) -> Self {
        Self {
            entry: Arc::clone(entry),
            topic: shared(&entry.topic),
            cached,
            turn: AtomicU32::new(0),
            seen: RwLock::default(),
            looking: Arc::default(),
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

    /// True where its state is known, so that a look reads no more than what is new.
    pub(crate) fn is_known(&self) -> bool {
        self.cached.known().is_some()
    }

    /// The table with the schema of its own log, by which records are checked: of a version that
    /// was the latest within [`SCHEMA_AGE_MAX`]. While the store is away, what was seen last must
    /// do: nobody who needs the store changes the table either.
    pub(super) async fn logged(self: &Arc<Self>) -> Result<Arc<TableEntry>, ManifestError> {
        if let Some(seen) = self.seen_within(SCHEMA_AGE_MAX) {
            if seen.at.elapsed() >= SCHEMA_AGE_GOOD {
                self.look_beside();
            }
            return Ok(seen.logged);
        }
        let asked = Instant::now();
        let _turn = self.looking.lock().await;
        if let Some(seen) = self.seen_since(asked) {
            return Ok(seen.logged);
        }
        match self.look().await {
            Ok(seen) => Ok(seen.logged),
            Err(error) => self.bridge(asked, &error).ok_or(error),
        }
    }

    /// What was seen last, if `error` says only that the store is away; nobody tries again at once.
    fn bridge(&self, at: Instant, error: &ManifestError) -> Option<Arc<TableEntry>> {
        if error.kind() != ErrorKind::Unavailable {
            return None;
        }
        let mut seen = self.seen.write();
        let seen = seen.as_mut()?;
        tracing::warn!(table = %self.entry.id, %error, "the table's log could not be looked at");
        seen.at = at;
        Some(Arc::clone(&seen.logged))
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
        let at = Instant::now();
        let before = self.seen.read().clone();
        let snapshot = self.snapshot(Duration::ZERO).await?;
        let logged = match before {
            Some(seen) if seen.schema == *snapshot.schema() => seen.logged,
            _ => Arc::new(TableEntry {
                schema: TableSchema::clone(snapshot.schema()),
                ..self.entry.as_ref().clone()
            }),
        };
        let seen = Seen {
            schema: Arc::clone(snapshot.schema()),
            logged,
            at,
        };
        *self.seen.write() = Some(seen.clone());
        Ok(seen)
    }

    fn seen_within(&self, age_max: Duration) -> Option<Seen> {
        let seen = self.seen.read();
        seen.as_ref()
            .filter(|seen| seen.at.elapsed() < age_max)
            .cloned()
    }

    fn seen_since(&self, asked: Instant) -> Option<Seen> {
        let seen = self.seen.read();
        seen.as_ref().filter(|seen| seen.at >= asked).cloned()
    }

    /// How far the table's log covers each bucket.
    pub(crate) fn watermarks(&self, snapshot: &Snapshot) -> BTreeMap<Bucket, Watermark> {
        let topic_id = &self.entry.topic_id;
        by_bucket(self.entry.buckets, |bucket| {
            snapshot.watermark(topic_id, bucket).unwrap_or_default()
        })
    }
}
