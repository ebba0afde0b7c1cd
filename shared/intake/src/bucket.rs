//! The intake of one bucket: its messages, in the order of their offsets.

use std::sync::Arc;

use tidelake_codec::{CodecError, Reason, Rejection};
use tidelake_core::clock::UnixMillis;
use tidelake_core::{Bucket, TopicId, headers};
use tidelake_manifest::Snapshot;
use tidelake_manifest::action::Txn;
use tidelake_schema::delta::PhysicalNames;
use tidelake_schema::{SchemaError, TableSchema};
use tidelake_table::{Chunk, Deletes, Positions};

use crate::decode::{
    DeadLetter, DecodedDeletes, DecodedRows, MessageDecoder, Placement, Pushed, WireMessage,
};
use crate::kind::{IntakeTable, TableKind};
use crate::origin::{OriginKey, Signed};
use crate::origins::{Judged, Origins};
use crate::seen::{Seen, Taken};

/// Why a bucket's intake can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    #[error("the table's schema can't be decoded into")]
    Schema(#[from] SchemaError),
}

/// Rows and deletes that were taken, in the order of their sequence.
#[derive(Debug, Clone, Default)]
pub struct Drained {
    pub chunks: Vec<Chunk>,
    pub deletes: Vec<Deletes>,
}

/// What the messages of one bucket count as. Keeps what it has taken until it is drained.
#[derive(Debug)]
pub struct BucketIntake {
    kind: TableKind,
    bucket: Bucket,
    buckets: u32,
    topic_id: TopicId,
    decoder: MessageDecoder,
    /// Of upsert tables.
    origins: Option<Box<(OriginKey, Origins)>>,
}

impl BucketIntake {
    /// The intake of a bucket that begins at a snapshot's watermark.
    pub fn open(
        table: &IntakeTable,
        bucket: Bucket,
        snapshot: &Snapshot,
    ) -> Result<Self, IntakeError> {
        let origins = match table.kind {
            TableKind::Upsert => Origins::of(snapshot, &table.topic_id, bucket),
            TableKind::Append | TableKind::DeadLetters => Origins::default(),
        };
        Self::with_origins(table, bucket, origins)
    }

    /// For whoever sees the topic, but not the table's log: a re-publication counts each time that
    /// it comes.
    pub fn without_origins(
        kind: TableKind,
        schema: &TableSchema,
        bucket: Bucket,
        buckets: u32,
    ) -> Result<Self, IntakeError> {
        let placement = Placement { bucket, buckets };
        let decoder = match kind {
            TableKind::Append => MessageDecoder::append(schema)?,
            TableKind::DeadLetters => MessageDecoder::dead_letters()?,
            TableKind::Upsert => MessageDecoder::upsert(schema, Some(placement))?,
        };
        Ok(Self {
            kind,
            bucket,
            buckets,
            topic_id: TopicId([0; 16]),
            decoder,
            origins: None,
        })
    }

    /// For a table whose columns are called otherwise in its files; see [`MessageDecoder::named`].
    pub fn named(self, names: Arc<PhysicalNames>) -> Self {
        Self {
            decoder: self.decoder.named(names),
            ..self
        }
    }

    fn with_origins(
        table: &IntakeTable,
        bucket: Bucket,
        origins: Origins,
    ) -> Result<Self, IntakeError> {
        let intake = Self::without_origins(table.kind, &table.schema, bucket, table.buckets)?
            .named(Arc::clone(&table.names));
        let origins = (table.kind == TableKind::Upsert)
            .then(|| Box::new((table.origin_key.clone(), origins)));
        Ok(Self {
            topic_id: table.topic_id,
            origins,
            ..intake
        })
    }

    /// Takes a message in. Messages must come in the order of their offsets, each once.
    pub fn take(&mut self, seen: &Seen<'_>) -> Taken {
        let origin = match self.origin_of(seen) {
            Some(Signed::InTopicLeft) => return Taken::Repeated,
            Some(Signed::Here(origin)) => Some(origin),
            None => None,
        };
        if let (Some(origin), Some(origins)) = (origin, &mut self.origins) {
            match origins.1.judge(origin) {
                Judged::New => {}
                Judged::Repeated => return Taken::Repeated,
                Judged::TooFar => return refused("a re-publication this far ahead of its source"),
            }
        }
        let taken = match self.push(seen) {
            Ok(Pushed::Rows(rows)) => Taken::Rows(rows),
            Ok(Pushed::Marker) => Taken::Marker,
            // Republished once: whoever sent it counted the buckets in another way.
            Ok(Pushed::Elsewhere(_)) if origin.is_some() => {
                refused("a re-published record of another bucket's key")
            }
            Ok(Pushed::Elsewhere(bucket)) => Taken::Misrouted(bucket),
            Err(why) => Taken::Refused(why),
        };
        // A refused one is a dead letter, once: its repetition must not make a second.
        if let (Some(origin), Some(origins)) = (origin, &mut self.origins) {
            origins.1.take(origin);
        }
        taken
    }

    fn origin_of(&self, seen: &Seen<'_>) -> Option<Signed> {
        let (key, _) = self.origins.as_deref()?;
        key.read(seen.header(headers::ORIGIN)?, self.bucket, self.buckets)
    }

    fn push(&mut self, seen: &Seen<'_>) -> Result<Pushed, Rejection> {
        let dead = self.kind == TableKind::DeadLetters;
        let dead_letter = dead.then(|| DeadLetter::read(|name| seen.header(name)));
        self.decoder.push(&WireMessage {
            offset: seen.offset.0,
            timestamp_ms: seen.timestamp_ms,
            key: seen.key,
            value: seen.value,
            encoding: seen.header(headers::ENCODING),
            op: seen.header(headers::OP),
            dead_letter: dead_letter.as_ref(),
        })
    }

    /// The key text of the record for which [`Taken::Misrouted`] was told last. Records of one text
    /// must be sent on one after the other: a message's own key need not tell them.
    pub fn misrouted_key(&self) -> &[u8] {
        self.decoder.key_elsewhere()
    }

    /// Records that wait to be drained, deletes among them.
    pub fn rows(&self) -> usize {
        self.decoder.rows()
    }

    /// Memory of the records that wait to be drained, and room that is kept for more.
    pub fn bytes(&self) -> usize {
        self.decoder.bytes()
    }

    /// Hands over what was taken since the last call.
    ///
    /// # Errors
    /// No record's fault: what was taken is lost to this intake, and must be read again.
    pub fn drain(&mut self) -> Result<Drained, CodecError> {
        let decoded = self.decoder.finish()?;
        Ok(Drained {
            chunks: decoded.rows.into_iter().map(chunk).collect(),
            deletes: decoded.deletes.into_iter().map(deletes).collect(),
        })
    }

    /// Gives back the room that is kept for more records. For a bucket that has fallen quiet; call
    /// it after [`Self::drain`].
    pub fn shrink(&mut self) {
        self.decoder.shrink();
    }

    /// The transactions that the next commit of the bucket has to hold, together with everything
    /// taken so far.
    pub fn seal_origins(&mut self, now_ms: UnixMillis) -> Vec<Txn> {
        let Some(origins) = &mut self.origins else {
            return Vec::new();
        };
        origins.1.seal(&self.topic_id, self.bucket, now_ms)
    }

    /// A snapshot may cover more than was read here: what it took counts as taken.
    pub fn rebased(&mut self, snapshot: &Snapshot) {
        if let Some(origins) = &mut self.origins {
            origins.1.committed(snapshot, &self.topic_id, self.bucket);
        }
    }
}

fn refused(what: &'static str) -> Taken {
    Taken::Refused(Rejection::of_row(0, Reason::Unsupported { what }))
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

#[cfg(test)]
mod tests;
