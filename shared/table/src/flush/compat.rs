//! The two flushes under the names that their callers know: each is one kind of [`Flush`].

use std::sync::Arc;

use tidelake_core::TopicId;
use tidelake_core::clock::UnixMillis;
use tidelake_manifest::action::Txn;
use tidelake_manifest::{DeltaTable, Snapshot};
use uuid::Uuid;

use super::{Flush, FlushEnded, FlushOutcome, FlushRows, UpsertBucket};
use crate::load::StateLoader;
use crate::{FileSettings, Sealed, TableError};

/// See [`UpsertBucket`].
pub type KeyedBucket = UpsertBucket;
/// See [`FlushEnded`].
pub type KeyedOutcome = FlushEnded;

/// Rows of an append table to commit.
#[derive(Debug)]
pub struct FlushRequest {
    pub topic_id: TopicId,
    pub buckets: Vec<Sealed>,
    pub files: FileSettings,
    pub reason: &'static str,
    pub file_id: Uuid,
    pub now_ms: UnixMillis,
}

/// Rows of an upsert table to commit.
#[derive(Debug)]
pub struct KeyedRequest {
    pub topic_id: TopicId,
    pub buckets: Vec<UpsertBucket>,
    pub txns: Vec<Txn>,
    pub files: FileSettings,
    pub reason: &'static str,
    pub vector_ids: Vec<Uuid>,
    pub now_ms: UnixMillis,
}

/// [`Flush::run`] of an append table.
///
/// # Errors
/// As there.
pub async fn flush(
    table: &DeltaTable,
    base: &Arc<Snapshot>,
    request: FlushRequest,
) -> Result<FlushOutcome, TableError> {
    let flush = Flush {
        topic_id: request.topic_id,
        rows: FlushRows::Append {
            buckets: request.buckets,
            file_id: request.file_id,
        },
        txns: Vec::new(),
        files: request.files,
        reason: request.reason,
        now_ms: request.now_ms,
    };
    Ok(flush.run(table, base).await?.outcome)
}

/// [`Flush::run`] of an upsert table.
///
/// # Errors
/// As there.
pub async fn flush_keyed(
    table: &DeltaTable,
    base: &Arc<Snapshot>,
    loader: &StateLoader,
    request: KeyedRequest,
) -> Result<FlushEnded, TableError> {
    let flush = Flush {
        topic_id: request.topic_id,
        rows: FlushRows::Upsert {
            loader: loader.clone(),
            buckets: request.buckets,
            vector_ids: request.vector_ids,
        },
        txns: request.txns,
        files: request.files,
        reason: request.reason,
        now_ms: request.now_ms,
    };
    flush.run(table, base).await
}
