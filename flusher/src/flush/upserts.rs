//! What a flusher knows of an upsert table's keys: the state of each bucket it owns, and how the
//! table is flushed with it.
//!
//! A state is a cache: it is brought up to the base of each flush, and thrown away where anything
//! looks wrong. So nothing rests on it having been kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidelake_codec::key::{KeyError, KeyText};
use tidelake_core::{Bucket, TopicId};
use tidelake_manifest::Snapshot;
use tidelake_schema::TableSchema;
use tidelake_table::index::IndexHome;
use tidelake_table::{
    BucketState, Flush, FlushOutcome, FlushRows, Owners, StateLoader, TableError, Unowned,
    UpsertBucket, VECTOR_IDS,
};
use tokio::sync::Mutex;

use crate::flush::{Job, Workbench};
use crate::opener::OpenTable;
use crate::policy::chain;

/// The keys of one incarnation of a table.
#[derive(Debug)]
pub(crate) struct Upserts {
    /// Topic id and schema that the states belong to.
    belongs_to: (TopicId, String),
    loader: StateLoader,
    states: Mutex<BTreeMap<Bucket, BucketState>>,
    /// Memory of the states' indexes, as of the last time that somebody was done with them.
    memory_bytes: AtomicUsize,
}

impl Upserts {
    /// `None` for append tables. What is known already is kept where it is of the same table.
    pub(crate) fn open(
        table: &OpenTable,
        snapshot: &Snapshot,
        before: Option<Arc<Self>>,
        home: &Arc<IndexHome>,
    ) -> Result<Option<Arc<Self>>, TableError> {
        if table.entry.mode != tidelake_catalog::TableMode::Upsert {
            return Ok(None);
        }
        let schema_string = &snapshot.metadata().schema_string;
        let belongs_to = (table.entry.topic_id, schema_string.clone());
        if let Some(before) = before.filter(|before| before.belongs_to == belongs_to) {
            return Ok(Some(before));
        }
        let owners = owners(snapshot.schema(), table.entry.buckets)?;
        let loader = StateLoader::new(snapshot.schema(), schema_string, owners, Arc::clone(home))?;
        let Some(loader) = loader else {
            return Err(TableError::Damaged {
                what: table.entry.id.to_string(),
                reason: "an upsert table without a primary key".into(),
            });
        };
        Ok(Some(Arc::new(Self {
            belongs_to,
            loader,
            states: Mutex::default(),
            memory_bytes: AtomicUsize::new(0),
        })))
    }

    /// Loads the states of buckets that were just taken over. A failure is left to the first flush,
    /// which tries again.
    pub(crate) async fn warm(
        &self,
        table: &OpenTable,
        snapshot: &Arc<Snapshot>,
        buckets: Vec<Bucket>,
    ) {
        let mut states = self.states.lock().await;
        if let Err(error) = self.bring_up(&mut states, table, snapshot, &buckets).await {
            let table = &table.entry.id;
            tracing::warn!(%table, error = chain(&error), "key index not loaded yet");
        }
        self.count(&states);
    }

    /// Memory that the indexes hold.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    fn count(&self, states: &BTreeMap<Bucket, BucketState>) {
        let bytes = states.values().map(|state| state.index().memory_bytes());
        self.memory_bytes.store(bytes.sum(), Ordering::Relaxed);
    }

    /// Commits a job's rows.
    pub(crate) async fn flush(
        &self,
        job: &Job,
        bench: &Workbench,
    ) -> Result<FlushOutcome, TableError> {
        let mut states = self.states.lock().await;
        let flushed = self.flush_with(&mut states, job, bench).await;
        // Whatever is wrong with a local file, it is rebuilt from what is stored.
        if let Err(
            error @ (TableError::Index(_)
            | TableError::Damaged { .. }
            | TableError::RowsRevived { .. }),
        ) = &flushed
        {
            let table = &job.table.entry.id;
            tracing::warn!(%table, error = chain(error), "key index dropped, loading it anew");
            for bucket in states.keys() {
                self.loader.forget(job.base.metadata(), *bucket);
            }
            states.clear();
        }
        self.count(&states);
        let bytes: u64 = states.values().map(|state| state.index().bytes()).sum();
        let gauge = bench
            .metrics
            .tables
            .index_bytes
            .with_label_values(&job.labels());
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        flushed
    }

    async fn flush_with(
        &self,
        states: &mut BTreeMap<Bucket, BucketState>,
        job: &Job,
        bench: &Workbench,
    ) -> Result<FlushOutcome, TableError> {
        let wanted: Vec<Bucket> = job.buckets.iter().map(|held| held.sealed.bucket).collect();
        self.bring_up(states, &job.table, &job.base, &wanted)
            .await?;
        let runtime = &bench.opener.runtime;
        let now_ms = runtime.clock.now_ms();
        let topic_id = job.table.entry.topic_id;
        let mut buckets = Vec::with_capacity(job.buckets.len());
        let mut txns = Vec::new();
        for held in &job.buckets {
            let bucket = held.sealed.bucket;
            // A bucket that is left out would count as committed.
            let state = states.get(&bucket).ok_or_else(|| TableError::Damaged {
                what: format!("bucket {bucket} of {}", job.table.entry.id),
                reason: "its key index was not loaded".into(),
            })?;
            txns.extend(held.txns.iter().cloned());
            buckets.push(UpsertBucket {
                sealed: held.sealed.clone(),
                state: state.clone(),
                file_id: runtime.ids.next_uuid(),
            });
        }
        let vector_ids = (0..VECTOR_IDS).map(|_| runtime.ids.next_uuid());
        let flush = Flush {
            topic_id,
            rows: FlushRows::Upsert {
                loader: self.loader.clone(),
                buckets,
                vector_ids: vector_ids.collect(),
            },
            txns,
            files: bench.files,
            reason: job.reason.as_str(),
            now_ms,
        };
        let flushed = flush.run_within(&bench.encoders, &job.table.delta, &job.base);
        let flushed = flushed.await?;
        states.extend(flushed.states);
        if let FlushOutcome::Committed(committed) = &flushed.outcome {
            let of = job.base.metadata();
            for bucket in &wanted {
                if let Some(state) = states.get(bucket) {
                    self.loader.keep(of, committed.version, *bucket, state);
                }
            }
        }
        Ok(flushed.outcome)
    }

    /// Brings the states of `buckets` to `snapshot`.
    async fn bring_up(
        &self,
        states: &mut BTreeMap<Bucket, BucketState>,
        table: &OpenTable,
        snapshot: &Arc<Snapshot>,
        buckets: &[Bucket],
    ) -> Result<(), TableError> {
        let wanted = buckets.iter();
        let wanted = wanted.map(|bucket| (*bucket, states.get(bucket).cloned()));
        let wanted: Vec<_> = wanted.collect();
        let loading = self.loader.load_all(&table.delta, snapshot, wanted);
        for (bucket, state, loaded) in loading.await? {
            if loaded.rebuilt + loaded.damaged + loaded.sidecars > 0 {
                let (table, keys) = (&table.entry.id, state.index().entries());
                tracing::info!(%table, %bucket, ?loaded, keys, "key index loaded");
            }
            states.insert(bucket, state);
        }
        Ok(())
    }

    /// Forgets buckets that somebody else owns now, unless a flush is under way: then they wait for
    /// the next call.
    pub(crate) fn retain(&self, owned: impl Fn(Bucket) -> bool) {
        if let Ok(mut states) = self.states.try_lock() {
            states.retain(|bucket, _| owned(*bucket));
            self.count(&states);
        }
    }
}

/// The rule by which records are put into buckets, as the table engine wants it.
fn owners(schema: &TableSchema, buckets: u32) -> Result<Owners, TableError> {
    let Some(text) = KeyText::new(schema)? else {
        return Ok(Owners::single());
    };
    Ok(Owners::new(buckets, move |keys| {
        let mut owners = Vec::with_capacity(keys.num_rows());
        match text.key_buckets(keys, buckets, &mut owners) {
            Ok(()) => Ok(owners),
            Err(KeyError::Rejected(_)) => Err(Unowned::Key),
            Err(KeyError::Codec(error)) => Err(Unowned::Columns(error.to_string())),
        }
    }))
}
