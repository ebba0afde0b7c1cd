//! The catalog over the store: append with create-if-absent, read what won, decide again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use tidelake_core::clock::{SharedClock, UnixMillis};
use tidelake_core::ids::SharedIds;
use tidelake_core::{ErrorKind, TableId, TableVersion, TenantId, TopicId};
use tidelake_storage::{NumberedLog, PutOnce, StorageError, Store};
use tokio::sync::Mutex;

use crate::cache::{Dropped, Name, State};
use crate::entry::{self, Event, LastVersions, Record, TableEntry, Topics};

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
    #[error("the catalog entry could not be written")]
    Encode(#[from] serde_json::Error),
    #[error("lost {ATTEMPTS_MAX} races for the next catalog entry; try again later")]
    Contended,
}

impl CatalogError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Storage(error) => error.kind(),
            Self::Corrupt { .. } => ErrorKind::Corrupt,
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
    /// Reads the whole log. `store` is the root that the tables' folders lie under.
    pub async fn open(
        store: &Store,
        clock: SharedClock,
        ids: SharedIds,
    ) -> Result<Self, CatalogError> {
        let log = NumberedLog::new(store.clone(), PREFIX);
        let mut state = State::default();
        for (_, bytes) in log.read_from(0).await? {
            apply(&mut state, &bytes)?;
        }
        tracing::debug!(entries = state.next, "catalog read");
        Ok(Self {
            inner: Arc::new(Inner {
                log,
                clock,
                ids,
                state: RwLock::new(Arc::new(state)),
                begun: AtomicU64::new(0),
                turn: Mutex::new(0),
            }),
        })
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

    /// Adds a table whose topic and Delta log exist already.
    pub async fn add_table(&self, entry: TableEntry) -> Result<AddTable, CatalogError> {
        self.refresh().await?;
        let mark = self.mark(&entry.id);
        self.add_table_since(entry, mark).await
    }

    /// Adds a table if nothing happened to its name since `mark`, which was read before the
    /// table's topic and Delta log were made.
    pub async fn add_table_since(
        &self,
        entry: TableEntry,
        mark: Option<u64>,
    ) -> Result<AddTable, CatalogError> {
        let id = entry.id.clone();
        self.append(|state, _| match state.name(&id) {
            Some(Name::Live(entry)) => Decision::Answer(AddTable::Exists(Arc::clone(entry))),
            None | Some(Name::Purged) if state.mark(&id) == mark => Decision::Append(
                Event::CreateTable {
                    table: Box::new(entry.clone()),
                },
                AddTable::Added(Arc::new(entry.clone())),
            ),
            _ => Decision::Answer(AddTable::Moved),
        })
        .await
    }

    /// Gives the table, if it is still this incarnation, a dead-letter table whose topic and Delta
    /// log exist already. True: it has one now.
    pub async fn add_dead_letters(
        &self,
        entry: &TableEntry,
        topic_id: TopicId,
    ) -> Result<bool, CatalogError> {
        let id = &entry.id;
        self.append(|state, _| match state.table(id) {
            Some(now) if now.dead_letters_topic_id.is_some() => Decision::Answer(true),
            Some(now) if now.topic_id == entry.topic_id => Decision::Append(
                Event::AddDeadLetters {
                    table: id.clone(),
                    topic_id,
                },
                true,
            ),
            _ => Decision::Answer(false),
        })
        .await
    }

    /// Fills the table from other topics from here on. Whoever calls it has seen to it that nobody
    /// goes on with the old ones. `None`: the table is gone, or has other topics than `entry` by now.
    pub async fn adopt_topic(
        &self,
        entry: &TableEntry,
        to: Topics,
    ) -> Result<Option<Arc<TableEntry>>, CatalogError> {
        let (id, from) = (&entry.id, entry.topics());
        self.append(|state, _| match state.table(id) {
            Some(now) if now.topics() == to => Decision::Answer(Some(Arc::clone(now))),
            Some(now) if now.topics() == from => Decision::Append(
                Event::AdoptTopic {
                    table: id.clone(),
                    from,
                    to,
                },
                Some(Arc::new(now.with_topics(to))),
            ),
            _ => Decision::Answer(None),
        })
        .await
    }

    /// Takes the table out of the catalog and makes the caller its purger, who removes what it left
    /// behind at once.
    pub async fn drop_table(&self, id: &TableId) -> Result<DropTable, CatalogError> {
        self.drop_table_keeping(id, None).await
    }

    /// [`Self::drop_table`], after which the table can be restored until `kept_until_ms`: the purger
    /// ends its logs only.
    pub async fn drop_table_keeping(
        &self,
        id: &TableId,
        kept_until_ms: Option<UnixMillis>,
    ) -> Result<DropTable, CatalogError> {
        let purger = self.inner.ids.next_uuid().to_string();
        self.append(|state, claimed_ms| match state.table(id) {
            // It goes with its table only.
            Some(entry) if entry.is_dead_letters() => Decision::Answer(DropTable::NotFound),
            Some(entry) => Decision::Append(
                Event::DropTable {
                    table: id.clone(),
                    purger: purger.clone(),
                    kept_until_ms,
                },
                DropTable::Dropped(Dropped {
                    entry: Arc::clone(entry),
                    purger: purger.clone(),
                    claimed_ms,
                    kept_until_ms,
                    last: None,
                }),
            ),
            None => Decision::Answer(DropTable::NotFound),
        })
        .await
    }

    /// Notes where the dropped table's logs ended. `None`: `held` was no longer the purger.
    pub async fn end_logs(
        &self,
        held: &Dropped,
        last: LastVersions,
    ) -> Result<Option<Dropped>, CatalogError> {
        let id = &held.entry.id;
        self.append(|state, _| match state.dropped(id) {
            Some(now) if now == held => Decision::Append(
                Event::EndLogs {
                    table: id.clone(),
                    last,
                },
                Some(Dropped {
                    last: Some(last),
                    ..held.clone()
                }),
            ),
            _ => Decision::Answer(None),
        })
        .await
    }

    /// Takes the purge over from whom `held` names (which may be the caller: that renews the
    /// claim), for good: the table can't be restored any more. `None`: someone else was faster.
    pub async fn claim_purge(&self, held: &Dropped) -> Result<Option<Dropped>, CatalogError> {
        self.claim(held, false).await
    }

    /// [`Self::claim_purge`] by one who does not remove the table: it is kept as before.
    pub async fn claim_kept(&self, held: &Dropped) -> Result<Option<Dropped>, CatalogError> {
        self.claim(held, true).await
    }

    async fn claim(&self, held: &Dropped, keeps: bool) -> Result<Option<Dropped>, CatalogError> {
        let purger = self.inner.ids.next_uuid().to_string();
        let id = &held.entry.id;
        self.append(|state, claimed_ms| match state.dropped(id) {
            Some(now) if now == held => Decision::Append(
                Event::ClaimPurge {
                    table: id.clone(),
                    purger: purger.clone(),
                    keeps,
                },
                Some(Dropped {
                    purger: purger.clone(),
                    claimed_ms,
                    kept_until_ms: held.kept_until_ms.filter(|_| keeps),
                    ..held.clone()
                }),
            ),
            _ => Decision::Answer(None),
        })
        .await
    }

    /// Brings back a dropped table that is kept, whose log goes on already. `None`: `held` is no
    /// longer what the catalog has.
    pub async fn restore_table(
        &self,
        held: &Dropped,
    ) -> Result<Option<Arc<TableEntry>>, CatalogError> {
        let id = &held.entry.id;
        self.append(|state, _| match state.dropped(id) {
            Some(now) if now == held && held.kept_until_ms.is_some() => Decision::Append(
                Event::RestoreTable { table: id.clone() },
                Some(Arc::new(held.entry.restored())),
            ),
            _ => Decision::Answer(None),
        })
        .await
    }

    /// Says that nothing is left of the dropped table. False: `held` was no longer the purger.
    pub async fn purged(&self, held: &Dropped) -> Result<bool, CatalogError> {
        let id = &held.entry.id;
        self.append(|state, _| match state.dropped(id) {
            Some(now) if now == held => Decision::Append(Event::Purged { table: id.clone() }, true),
            _ => Decision::Answer(false),
        })
        .await
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
            let state = self.state();
            let timestamp_ms = self.inner.clock.now_ms();
            let (event, answer) = match decide(&state, timestamp_ms) {
                Decision::Answer(answer) => return Ok(answer),
                Decision::Append(event, answer) => (event, answer),
            };
            if self.put(state.next, timestamp_ms, event).await? {
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
        let news = self.inner.log.read_from(self.state().next).await?;
        if news.is_empty() {
            return Ok(());
        }
        self.advance(news.into_iter().map(|(_, bytes)| bytes))
    }

    fn advance(&self, news: impl IntoIterator<Item = Bytes>) -> Result<(), CatalogError> {
        let mut state = State::clone(&self.state());
        for bytes in news {
            apply(&mut state, &bytes)?;
        }
        *self.inner.state.write() = Arc::new(state);
        Ok(())
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
