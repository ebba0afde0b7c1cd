//! The catalog over the store: append with create-if-absent, read what won, decide again.

mod drops;
mod tables;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use tidelake_core::clock::SharedClock;
use tidelake_core::ids::SharedIds;
use tidelake_core::{ErrorKind, TableId, TableVersion, TenantId};
use tidelake_storage::{NumberedLog, PutOnce, StorageError, Store};
use tokio::sync::Mutex;

use crate::cache::{Dropped, State};
use crate::checkpoint::Checkpoints;
use crate::entry::{self, Event, Record, TableEntry};

const PREFIX: &str = "_tidelake/catalog";
const ENGINE: &str = concat!("Tidelake/", env!("CARGO_PKG_VERSION"));

/// Lost races of one append. Each one means that another writer got on, so only a storm ends here.
const ATTEMPTS_MAX: usize = 1000;

/// Why the catalog could not answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the catalog's store did not answer")]
    Storage(#[from] StorageError),
    #[error("catalog entry {number} is damaged: {reason}; restore it, do not delete it")]
    Corrupt { number: u64, reason: String },
    #[error(
        "_tidelake/installation.json is damaged: {reason}; restore it: it names the consumer group \
         of the installation's flushers"
    )]
    Installation { reason: String },
    #[error("the catalog entry could not be written")]
    Encode(#[from] serde_json::Error),
    #[error("lost {ATTEMPTS_MAX} races for the next catalog entry; try again later")]
    Contended,
}

impl CatalogError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Storage(error) => error.kind(),
            Self::Corrupt { .. } | Self::Installation { .. } => ErrorKind::Corrupt,
            Self::Encode(_) => ErrorKind::Bug,
            Self::Contended => ErrorKind::Unavailable,
        }
    }
}

/// What became of an [`Catalog::add_table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddTable {
    Added(Arc<TableEntry>),
    /// The name is taken.
    Exists(Arc<TableEntry>),
    /// The name was created and dropped meanwhile, or is dropped and not purged yet: what was
    /// prepared for the new table may be gone. Look again.
    Moved,
}

/// What became of a [`Catalog::drop_table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropTable {
    /// The caller is the purger: remove topics and folder, then call [`Catalog::purged`].
    Dropped(Dropped),
    NotFound,
}

/// The tables of all tenants. Cheap to clone; clones share one cached view.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

struct Inner {
    log: NumberedLog,
    checkpoints: Checkpoints,
    /// The newest checkpoint that is known of.
    checkpoint: AtomicU64,
    writes_checkpoint: AtomicBool,
    clock: SharedClock,
    ids: SharedIds,
    state: RwLock<Arc<State>>,
    /// Refreshes that have begun.
    begun: AtomicU64,
    /// One reader or writer of the log at a time; holds the number of the last refresh that ended.
    turn: Mutex<u64>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog")
            .field("next", &self.state().next)
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Reads the newest checkpoint and what the log has since. `store` is the root that the tables'
    /// folders lie under.
    pub async fn open(
        store: &Store,
        clock: SharedClock,
        ids: SharedIds,
    ) -> Result<Self, CatalogError> {
        let log = NumberedLog::new(store.clone(), PREFIX);
        let checkpoints = Checkpoints::new(store.clone(), log.clone());
        let mut state = checkpoints.newest().await?;
        let checkpoint = AtomicU64::new(state.next);
        let first = state.next;
        log.visit_from(first, |_, bytes| apply(&mut state, &bytes))
            .await?;
        tracing::debug!(entries = state.next, checkpoint = first, "catalog read");
        let catalog = Self {
            inner: Arc::new(Inner {
                log,
                checkpoints,
                checkpoint,
                writes_checkpoint: AtomicBool::new(false),
                clock,
                ids,
                state: RwLock::new(Arc::new(state)),
                begun: AtomicU64::new(0),
                turn: Mutex::new(0),
            }),
        };
        catalog.keep_checkpoint();
        Ok(catalog)
    }

    /// The table, as of the cached view.
    pub fn get(&self, id: &TableId) -> Option<Arc<TableEntry>> {
        self.state().table(id).cloned()
    }

    /// The table; refreshes before it says that there is none. A table that another process
    /// dropped may still be found: see [`Catalog::find_fresh`].
    pub async fn find(&self, id: &TableId) -> Result<Option<Arc<TableEntry>>, CatalogError> {
        match self.get(id) {
            Some(entry) => Ok(Some(entry)),
            None => self.find_fresh(id).await,
        }
    }

    /// The table, as of now: refreshes first.
    pub async fn find_fresh(&self, id: &TableId) -> Result<Option<Arc<TableEntry>>, CatalogError> {
        self.refresh().await?;
        Ok(self.get(id))
    }

    /// The tenant's tables by name, as of the cached view.
    pub fn list(&self, tenant: &TenantId) -> Vec<Arc<TableEntry>> {
        self.state().tables(Some(tenant)).cloned().collect()
    }

    /// All tables by tenant and name, as of the cached view.
    pub fn list_all(&self) -> Vec<Arc<TableEntry>> {
        self.state().tables(None).cloned().collect()
    }

    /// The table of this name that was dropped and not purged yet, as of the cached view.
    pub fn dropped(&self, id: &TableId) -> Option<Dropped> {
        self.state().dropped(id).cloned()
    }

    /// All dropped tables that are not purged yet, as of the cached view.
    pub fn all_dropped(&self) -> Vec<Dropped> {
        self.state().all_dropped().cloned().collect()
    }

    /// The last version that the log of an earlier table of this name had, as of the cached view. A
    /// new table's log begins at least two above it.
    pub fn last_version(&self, id: &TableId) -> Option<TableVersion> {
        self.state().last_version(id)
    }

    /// Names the last event of this name, as of the cached view; for [`Catalog::add_table_since`].
    pub fn mark(&self, id: &TableId) -> Option<u64> {
        self.state().mark(id)
    }

    /// Reads what was added since. Costs one read that misses when nothing was; calls that wait
    /// for the same refresh share it.
    pub async fn refresh(&self) -> Result<(), CatalogError> {
        let begun_before = self.inner.begun.load(Ordering::SeqCst);
        let mut ended = self.inner.turn.lock().await;
        if *ended > begun_before {
            return Ok(());
        }
        let round = self.inner.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.catch_up().await?;
        *ended = round;
        Ok(())
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.inner.state.read())
    }

    /// Decides on a view that holds everything before the event's number, and appends; a lost
    /// race means to read the winner and to decide again.
    async fn append<T>(
        &self,
        mut decide: impl FnMut(&State, i64) -> Decision<T>,
    ) -> Result<T, CatalogError> {
        let _turn = self.inner.turn.lock().await;
        self.catch_up().await?;
        for _ in 0..ATTEMPTS_MAX {
            let timestamp_ms = self.inner.clock.now_ms();
            // Let go of before the event is applied: a state that nobody else holds is not copied.
            let (next, decision) = {
                let state = self.state();
                (state.next, decide(&state, timestamp_ms))
            };
            let (event, answer) = match decision {
                Decision::Answer(answer) => return Ok(answer),
                Decision::Append(event, answer) => (event, answer),
            };
            if self.put(next, timestamp_ms, event).await? {
                self.keep_checkpoint();
                return Ok(answer);
            }
        }
        Err(CatalogError::Contended)
    }

    /// Puts the event at `number`. False: another event is there; it is in the view now.
    async fn put(
        &self,
        number: u64,
        timestamp_ms: i64,
        event: Event,
    ) -> Result<bool, CatalogError> {
        let id = self.inner.ids.next_uuid().to_string();
        let engine = ENGINE.to_owned();
        let record = Record {
            format: event.format(),
            id,
            timestamp_ms,
            engine,
            event,
        };
        let bytes = Bytes::from(serde_json::to_vec(&record)?);
        let is_ours = |bytes: &[u8]| entry::is_record(bytes, &record.id);
        let (stored, ours) = match self
            .inner
            .log
            .append(number, bytes.clone(), is_ours)
            .await?
        {
            PutOnce::Created => (bytes, true),
            PutOnce::Exists(winner) => (winner, false),
        };
        self.advance([stored])?;
        Ok(ours)
    }

    /// Reads on from the view's end. The turn is the caller's.
    async fn catch_up(&self) -> Result<(), CatalogError> {
        let next = self.state().next;
        let news = self.inner.log.read_from(next).await?;
        self.advance(news.into_iter().map(|(_, bytes)| bytes))
    }

    /// Applies events to the view. It is copied only while somebody reads it, which takes moments.
    fn advance(&self, news: impl IntoIterator<Item = Bytes>) -> Result<(), CatalogError> {
        let mut state = self.inner.state.write();
        for bytes in news {
            apply(Arc::make_mut(&mut state), &bytes)?;
        }
        Ok(())
    }

    /// Writes a checkpoint beside whatever goes on, where one is due. Nothing depends on it: one
    /// that fails is tried again with a later event.
    fn keep_checkpoint(&self) {
        let (state, inner) = (self.state(), Arc::clone(&self.inner));
        if !Checkpoints::is_due(&state, inner.checkpoint.load(Ordering::Relaxed))
            || inner.writes_checkpoint.swap(true, Ordering::Relaxed)
        {
            return;
        }
        tokio::spawn(async move {
            match inner.checkpoints.write(&state, ENGINE).await {
                Ok(newest) => {
                    inner.checkpoint.fetch_max(newest, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, "catalog checkpoint not written"),
            }
            inner.writes_checkpoint.store(false, Ordering::Relaxed);
        });
    }
}

enum Decision<T> {
    Answer(T),
    /// Append this event; once it stands, answer that.
    Append(Event, T),
}

fn apply(state: &mut State, bytes: &[u8]) -> Result<(), CatalogError> {
    let number = state.next;
    let corrupt = |reason| CatalogError::Corrupt { number, reason };
    let record = Record::parse(bytes).map_err(corrupt)?;
    state
        .apply(&record)
        .map_err(|reason| corrupt(format!("it {reason}")))
}

#[cfg(test)]
mod tests;
