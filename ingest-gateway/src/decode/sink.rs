//! Where a body's columns go: to the packer of whose turn it is, or to the buckets of their keys.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidelake_catalog::TableMode;
use tidelake_codec::key::KeyText;

use super::room::SMALL_DECODED_BYTES_MAX;
use super::{BodyError, Operation, Room};
use crate::packer::{Encoder, Packed, Packer};
use crate::route::Router;
use crate::spool::Spool;
use crate::tables::LoggedTable;

/// Where columns go.
pub(super) struct Sink {
    pub(super) table: LoggedTable,
    /// Of upsert tables.
    pub(super) key: Option<KeyText>,
    pub(super) encoder: Encoder,
    /// Made for the first rows: an Arrow stream says by its schema what it brings.
    way: Option<Way>,
    pub(super) room: Room,
    pub(super) spool: Spool,
    /// Rows of the body so far.
    pub(super) rows: u64,
    /// What they became.
    decoded_bytes: usize,
}

enum Way {
    /// To whose turn it is.
    AnyBucket(Packer),
    ByKey(Box<Router>),
}

impl Sink {
    pub(super) fn new(
        table: &LoggedTable,
        operation: Operation,
        room: Room,
        spool: Spool,
    ) -> Result<Self, BodyError> {
        let key = match table.entry.mode {
            TableMode::Append => None,
            TableMode::Upsert => KeyText::new(&table.entry.schema)
                .map_err(|error| BodyError::Schema(error.to_string()))?,
        };
        Ok(Self {
            table: table.clone(),
            key,
            encoder: match operation {
                Operation::Write => Encoder::Rows,
                Operation::Delete => Encoder::Deletes,
            },
            way: None,
            room,
            spool,
            rows: 0,
            decoded_bytes: 0,
        })
    }

    /// Counts what was decoded.
    pub(super) fn decoded(&mut self, rows: usize, bytes: usize) -> Result<(), BodyError> {
        self.rows += rows as u64;
        self.decoded_bytes = self.decoded_bytes.saturating_add(bytes);
        if self.room == Room::Small && self.decoded_bytes > SMALL_DECODED_BYTES_MAX {
            return Err(BodyError::Outgrown);
        }
        Ok(())
    }

    /// One batch of the table's columns, of the key's, or of operations, as the encoder wants them.
    pub(super) fn take(&mut self, batch: RecordBatch) -> Result<(), BodyError> {
        let (encoder, wire) = (&self.encoder, &self.table.wire);
        let way = self.way.get_or_insert_with(|| match &self.key {
            None => Way::AnyBucket(Packer::new(encoder.clone(), Arc::clone(wire))),
            Some(key) => {
                let buckets = self.table.entry.buckets;
                let router = Router::new(key.clone(), buckets, encoder.clone(), wire);
                Way::ByKey(Box::new(router))
            }
        });
        let spool = &mut self.spool;
        let mut sink = |message: Packed| Ok(spool.push(message)?);
        match way {
            Way::AnyBucket(packer) => packer.push(batch, &mut sink),
            Way::ByKey(router) => router.push(batch, &mut sink),
        }
    }

    pub(super) fn finish(&mut self) -> Result<(), BodyError> {
        let spool = &mut self.spool;
        let mut sink = |message: Packed| Ok(spool.push(message)?);
        match &mut self.way {
            None => Ok(()),
            Some(Way::AnyBucket(packer)) => packer.finish(&mut sink),
            Some(Way::ByKey(router)) => router.finish(&mut sink),
        }
    }
}
