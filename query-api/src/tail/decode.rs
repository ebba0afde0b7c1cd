//! Messages to rows, off the async threads: what came can hold many megabytes of JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::IntCounter;
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_codec::message::{
    DecodedDeletes, DecodedRows, MessageDecoder, Placement, Pushed, WireMessage,
};
use tidelake_core::{Bucket, Offset, TopicId};
use tidelake_manifest::Snapshot;
use tidelake_schema::TableSchema;
use tidelake_table::origins::{Origin, Origins};
use tidelake_table::{Chunk, Deletes, Positions};

use super::{Fed, RawMessage};
use crate::error::QueryError;

/// What came of one bucket.
#[derive(Debug, Default)]
pub(super) struct Came {
    pub chunks: Vec<Chunk>,
    pub deletes: Vec<Deletes>,
    /// The offset after the last that was read.
    pub reached: Offset,
}

/// What the messages are.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Append,
    Keyed,
    DeadLetters,
}

/// Decoders by bucket, kept from one batch of messages to the next.
#[derive(Debug)]
pub(super) struct Decoders {
    schema: Arc<TableSchema>,
    kind: Kind,
    buckets: u32,
    topic: TopicId,
    /// Where the buckets' tails begin.
    snapshot: Arc<Snapshot>,
    rejected: IntCounter,
    by_bucket: BTreeMap<Bucket, Decoder>,
}

#[derive(Debug)]
struct Decoder {
    messages: MessageDecoder,
    /// Of upsert tables: re-publications that were taken.
    origins: Option<Origins>,
}

impl Decoders {
    pub(super) fn new(
        entry: &TableEntry,
        schema: Arc<TableSchema>,
        snapshot: Arc<Snapshot>,
        rejected: IntCounter,
    ) -> Self {
        Self {
            schema,
            kind: match entry.mode {
                _ if entry.is_dead_letters() => Kind::DeadLetters,
                TableMode::Append => Kind::Append,
                TableMode::Upsert => Kind::Keyed,
            },
            buckets: entry.buckets,
            topic: entry.topic_id,
            snapshot,
            rejected,
            by_bucket: BTreeMap::new(),
        }
    }

    /// The tails begin behind a newer snapshot now, which may cover what was never read here.
    pub(super) fn rebased(&mut self, snapshot: &Arc<Snapshot>) {
        self.snapshot = Arc::clone(snapshot);
        for (bucket, decoder) in &mut self.by_bucket {
            if let Some(origins) = &mut decoder.origins {
                origins.committed(snapshot, &self.topic, *bucket);
            }
        }
    }

    fn decoder(&self, bucket: Bucket) -> Result<Decoder, QueryError> {
        let placement = Placement {
            bucket,
            buckets: self.buckets,
        };
        let (messages, origins) = match self.kind {
            Kind::Append => (MessageDecoder::new(&self.schema)?, None),
            Kind::DeadLetters => (MessageDecoder::dead_letters()?, None),
            Kind::Keyed => (
                MessageDecoder::keyed(&self.schema, Some(placement))?,
                Some(Origins::of(&self.snapshot, &self.topic, bucket)),
            ),
        };
        Ok(Decoder { messages, origins })
    }

    /// Decodes what lies at or behind `reached`; what lies before was decoded already.
    pub(super) fn decode(
        &mut self,
        fed: &Fed,
        reached: &BTreeMap<Bucket, Offset>,
    ) -> Result<BTreeMap<Bucket, Came>, QueryError> {
        let mut came: BTreeMap<Bucket, Came> = BTreeMap::new();
        let mut failed = None;
        fed.messages.visit(&mut |message| {
            let bucket = message.bucket;
            let known = reached.get(&bucket);
            if known.is_none_or(|reached| message.offset < reached.0) {
                return;
            }
            if !self.by_bucket.contains_key(&bucket) {
                match self.decoder(bucket) {
                    Ok(decoder) => _ = self.by_bucket.insert(bucket, decoder),
                    Err(error) => {
                        failed = Some(error);
                        return;
                    }
                }
            }
            let Some(decoder) = self.by_bucket.get_mut(&bucket) else {
                return;
            };
            let came = came.entry(bucket).or_default();
            came.reached = came.reached.max(Offset(message.offset + 1));
            if !decoder.take(&message, self.buckets) {
                self.rejected.inc();
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        for (bucket, end) in &fed.ends {
            if reached.get(bucket).is_some_and(|reached| reached < end) {
                let came = came.entry(*bucket).or_default();
                came.reached = came.reached.max(*end);
            }
        }
        for (bucket, came) in &mut came {
            let Some(decoder) = self.by_bucket.get_mut(bucket) else {
                continue;
            };
            let decoded = decoder
                .messages
                .finish()
                .map_err(|error| QueryError::Engine(error.to_string()))?;
            came.chunks = decoded.rows.into_iter().map(chunk).collect();
            came.deletes = decoded.deletes.into_iter().map(deletes).collect();
        }
        Ok(came)
    }
}

impl Decoder {
    /// What the flusher makes of a message: false where it is a dead letter, and no row. A record of
    /// another bucket is none either: it comes again where it belongs, and counts there once.
    fn take(&mut self, message: &RawMessage<'_>, buckets: u32) -> bool {
        let wire = WireMessage {
            offset: message.offset,
            timestamp_ms: message.timestamp_ms,
            key: message.key,
            value: message.value,
            encoding: message.encoding,
            op: message.op,
            letter: message.letter,
        };
        let (Some(header), Some(origins)) = (message.origin, &mut self.origins) else {
            return self.messages.push(&wire).is_ok();
        };
        let Some(origin) = Origin::parse(header, message.bucket, buckets) else {
            return false;
        };
        if !origins.is_new(origin) {
            return true;
        }
        match self.messages.push(&wire) {
            Ok(Pushed::Elsewhere(_)) | Err(_) => false,
            Ok(_) => {
                origins.take(origin);
                true
            }
        }
    }
}

fn chunk(rows: DecodedRows) -> Chunk {
    let positions = Positions {
        offsets: rows.offsets,
        rows: rows.rows,
        timestamps_ms: rows.timestamps_ms,
    };
    Chunk::new(rows.batch, positions)
}

fn deletes(deletes: DecodedDeletes) -> Deletes {
    let positions = Positions {
        offsets: deletes.offsets,
        rows: deletes.rows,
        timestamps_ms: deletes.timestamps_ms,
    };
    Deletes::new(deletes.keys, positions)
}
