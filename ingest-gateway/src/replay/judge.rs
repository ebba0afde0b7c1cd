//! Whether a dead letter is good now, and which bucket it goes to: by the decoder that the flusher
//! will read it with.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_codec::{Reason, Rejection};
use tidelake_core::{Bucket, ErrorKind};
use tidelake_intake::decode::{MessageDecoder, Placement, Pushed, WireMessage};
use tidelake_manifest::Snapshot;
use tidelake_schema::TableSchema;
use tidelake_schema::delta::PhysicalNames;
use tidelake_service::Problem;

use super::request::DeadLetter;
use crate::problem::Answer;

/// Why a dead letter stays one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Refusal {
    code: &'static str,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl Refusal {
    pub(super) fn new(code: &'static str, reason: &str) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            row: None,
            field: None,
        }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self {
            code: rejection.code(),
            reason: rejection.reason.to_string(),
            row: Some(rejection.row),
            field: rejection.field,
        }
    }
}

/// Judges the dead letters of one table.
#[derive(Debug)]
pub(super) struct Judge {
    table: Arc<TableEntry>,
    /// As the table's log has it.
    schema: Arc<TableSchema>,
    names: Arc<PhysicalNames>,
    /// By the bucket that messages seem to come from.
    decoders: BTreeMap<Bucket, MessageDecoder>,
}

impl Judge {
    pub(super) fn new(table: Arc<TableEntry>, snapshot: &Snapshot) -> Self {
        Self {
            table,
            schema: Arc::clone(snapshot.schema()),
            names: Arc::clone(snapshot.physical_names()),
            decoders: BTreeMap::new(),
        }
    }

    /// The bucket that the record belongs to; any is right for an append table, `turn` decides where
    /// its own is unknown.
    pub(super) fn place(
        &mut self,
        letter: &DeadLetter,
        turn: u32,
    ) -> Result<Result<Bucket, Refusal>, Answer> {
        let buckets = self.table.buckets;
        let source = u32::try_from(letter.source_bucket).ok();
        let source = source.filter(|bucket| *bucket < buckets);
        let mut bucket = Bucket(source.unwrap_or(turn % buckets));
        let mut moved = false;
        loop {
            let refusal = match self.push(letter, bucket)? {
                Ok(Pushed::Rows(_)) => return Ok(Ok(bucket)),
                Ok(Pushed::Marker) => {
                    let reason = "a flush marker holds no record";
                    return Ok(Err(Refusal::new("NOT_A_RECORD", reason)));
                }
                Ok(Pushed::Elsewhere(owner)) if !moved => {
                    bucket = owner;
                    moved = true;
                    continue;
                }
                // The owner of one key does not change.
                Ok(Pushed::Elsewhere(_)) => {
                    let reason = "its key belongs to no bucket";
                    return Ok(Err(Refusal::new("WRONG_BUCKET", reason)));
                }
                Err(refusal) => refusal,
            };
            match refusal.reason {
                // All rows of a packed batch may belong to that one.
                Reason::WrongBucket { owner, .. } if !moved => {
                    bucket = Bucket(owner);
                    moved = true;
                }
                _ => return Ok(Err(refusal.into())),
            }
        }
    }

    fn push(
        &mut self,
        letter: &DeadLetter,
        bucket: Bucket,
    ) -> Result<Result<Pushed, Rejection>, Answer> {
        let bug = |text: String| Answer::from(Problem::from_kind(ErrorKind::Bug, text));
        let decoder = match self.decoders.entry(bucket) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let placement = Placement {
                    bucket,
                    buckets: self.table.buckets,
                };
                let made = match self.table.mode {
                    TableMode::Append => MessageDecoder::append(&self.schema),
                    TableMode::Upsert => MessageDecoder::upsert(&self.schema, Some(placement)),
                };
                let made = made.map_err(|error| bug(error.to_string()))?;
                new.insert(made.named(Arc::clone(&self.names)))
            }
        };
        let pushed = decoder.push(&WireMessage {
            offset: letter.source_offset,
            timestamp_ms: 0,
            key: letter.key.as_deref(),
            value: letter.value.as_deref(),
            encoding: letter.encoding.as_deref(),
            op: letter.op.as_deref(),
            dead_letter: None,
        });
        // Only the verdict is wanted.
        decoder.finish().map_err(|error| bug(error.to_string()))?;
        Ok(pushed)
    }
}
