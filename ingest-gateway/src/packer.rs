//! Rows to messages: one Arrow stream a message, within the broker's limit.
//!
//! A body whose rows fit one message becomes one message, so that readers see it whole or not at
//! all (P5): up to [`ROWS_MAX`] rows whose columns take up to [`COLUMN_BYTES_MAX`]. More rows are
//! cut at those bounds, except where that would encode to more than [`MESSAGE_VALUE_BYTES_MAX`].

mod bytes;

use std::sync::Arc;

use ::bytes::Bytes;
use arrow::array::RecordBatch;
use arrow::buffer::BooleanBuffer;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use tidelake_catalog::TableEntry;
use tidelake_codec::key::KeyText;
use tidelake_codec::packed::Wire;
use tidelake_codec::{CodecError, packed};
use tidelake_core::Bucket;
use tidelake_core::limits::MESSAGE_BYTES_MAX;

pub(crate) use self::bytes::column_bytes;

/// Rows of one message.
pub(crate) const ROWS_MAX: usize = 64 * 1024;
/// Bytes of one message's columns before encoding; LZ4 makes a third to all of them of it.
pub(crate) const COLUMN_BYTES_MAX: usize = 4 << 20;
/// Bytes of one message's value: what the broker takes, less room for headers and the record
/// batch around it.
pub(crate) const MESSAGE_VALUE_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;

/// A message's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed {
    pub rows: u32,
    pub value: Bytes,
    /// Where it must go; none where any bucket will do.
    pub bucket: Option<Bucket>,
    /// Before encoding.
    pub column_bytes: usize,
    /// More rows of the bucket may share its message.
    pub part: bool,
}

/// Why rows could not become a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error("row {row} takes {bytes} bytes, and a message may have {MESSAGE_VALUE_BYTES_MAX}")]
    RowTooLarge { row: u64, bytes: usize },
    #[error("rows could not be encoded: {0}")]
    Encode(String),
}

/// How a batch's rows are written.
#[derive(Debug, Clone)]
pub(crate) enum Encoder {
    /// The table's columns.
    Rows,
    /// The key's columns; every row deletes.
    Deletes,
    /// Columns of [`tidelake_codec::arrow_ipc::operations_schema`].
    Operations {
        table: Arc<TableEntry>,
        key: KeyText,
    },
}

impl Encoder {
    /// A message's value. Of a `part` other rows may follow that share its message in the end, so it
    /// keeps all columns.
    fn encode(&self, batch: &RecordBatch, part: bool, wire: &Wire) -> Result<Bytes, CodecError> {
        match self {
            Self::Deletes => {
                let all = BooleanBuffer::new_set(batch.num_rows());
                wire.encode(&packed::with_operations(batch, &all)?)
            }
            Self::Operations { table, key } if !part => {
                wire.encode(&packed::without_idle_columns(batch, &table.schema, key)?)
            }
            Self::Rows | Self::Operations { .. } => wire.encode(batch),
        }
    }

    /// One message of several, which are parts. Fails where they do not fit after all.
    pub(crate) fn merge(&self, parts: &[Bytes]) -> Result<Bytes, PackError> {
        let broken = |error: ArrowError| PackError::Encode(error.to_string());
        let mut batches = Vec::with_capacity(parts.len());
        for part in parts {
            for batch in StreamReader::try_new(part.as_ref(), None).map_err(broken)? {
                batches.push(batch.map_err(broken)?);
            }
        }
        let Some(first) = batches.first() else {
            return Err(PackError::Encode("nothing to merge".into()));
        };
        let whole = concat_batches(&first.schema(), &batches).map_err(broken)?;
        let encoded = match self {
            Self::Operations { table, key } => {
                packed::without_idle_columns(&whole, &table.schema, key)
                    .and_then(|batch| packed::encode(&batch))
            }
            // Parts say their columns' names in files; deletes have their column already.
            Self::Rows | Self::Deletes => packed::encode(&whole),
        };
        encoded.map_err(|error| PackError::Encode(error.to_string()))
    }
}

/// Collects rows, cuts them into messages. Holds less than one message's rows between calls.
#[derive(Debug)]
pub(crate) struct Packer {
    encoder: Encoder,
    wire: Arc<Wire>,
    bucket: Option<Bucket>,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
    /// Memory that the pending batches keep, which may be more than their rows take.
    held_bytes: usize,
    numbers: Numbers,
    /// Rows were handed on before there was a message's worth of them.
    cut: bool,
}

/// Which rows of the body the pending ones and those that follow are.
#[derive(Debug)]
enum Numbers {
    /// This one and what follows it.
    From(u64),
    Listed(Vec<u64>),
}

impl Packer {
    /// For rows that may go to any bucket.
    pub(crate) fn new(encoder: Encoder, wire: Arc<Wire>) -> Self {
        Self {
            encoder,
            wire,
            bucket: None,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            held_bytes: 0,
            numbers: Numbers::From(0),
            cut: false,
        }
    }

    /// For the rows of one bucket.
    pub(crate) fn of_bucket(encoder: Encoder, wire: Arc<Wire>, bucket: Bucket) -> Self {
        Self {
            bucket: Some(bucket),
            numbers: Numbers::Listed(Vec::new()),
            ..Self::new(encoder, wire)
        }
    }

    /// Memory that the pending rows hold, about.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// [`Self::push`] for one bucket's rows, which are those `numbers` of the body.
    pub(crate) fn push_numbered<E: From<PackError>>(
        &mut self,
        batch: RecordBatch,
        numbers: impl Iterator<Item = u64>,
        sink: &mut impl FnMut(Packed) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Numbers::Listed(listed) = &mut self.numbers {
            listed.extend(numbers);
        }
        self.push(batch, sink)
    }

    /// Takes more rows of the body; full messages go to `sink`.
    pub(crate) fn push<E: From<PackError>>(
        &mut self,
        batch: RecordBatch,
        sink: &mut impl FnMut(Packed) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = batch;
        while rest.num_rows() > 0 {
            let (rows, bytes) = (rest.num_rows(), column_bytes(&rest));
            let rows_free = ROWS_MAX - self.pending_rows;
            let bytes_free = COLUMN_BYTES_MAX.saturating_sub(self.pending_bytes);
            if rows <= rows_free && bytes <= bytes_free {
                self.keep(rest, bytes);
                break;
            }
            // Half a message is enough: topping it up would cost a copy of its columns.
            if 2 * self.pending_rows > ROWS_MAX || 2 * self.pending_bytes > COLUMN_BYTES_MAX {
                self.emit(sink)?;
                continue;
            }
            // Taking the rows for equally large; `emit` deals with those that are not.
            let fitting = (bytes_free as u128 * rows as u128 / bytes.max(1) as u128) as usize;
            let take = fitting.min(rows_free).min(rows);
            if take == 0 && self.pending_rows > 0 {
                self.emit(sink)?;
                continue;
            }
            let take = take.max(1);
            let head = rest.slice(0, take);
            let head_bytes = column_bytes(&head);
            self.keep(head, head_bytes);
            rest = rest.slice(take, rows - take);
            self.emit(sink)?;
        }
        Ok(())
    }

    /// The last message.
    pub(crate) fn finish<E: From<PackError>>(
        &mut self,
        sink: &mut impl FnMut(Packed) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.pending_rows > 0 {
            self.emit(sink)
        } else {
            Ok(())
        }
    }

    /// Hands the pending rows on early, to be merged with those of their bucket that follow.
    pub(crate) fn cut<E: From<PackError>>(
        &mut self,
        sink: &mut impl FnMut(Packed) -> Result<(), E>,
    ) -> Result<(), E> {
        self.cut = true;
        self.finish(sink)
    }

    fn keep(&mut self, batch: RecordBatch, bytes: usize) {
        self.pending_rows += batch.num_rows();
        self.pending_bytes += bytes;
        self.held_bytes += batch.get_array_memory_size() + batch.num_rows() * size_of::<u64>();
        self.pending.push(batch);
    }

    fn emit<E: From<PackError>>(
        &mut self,
        sink: &mut impl FnMut(Packed) -> Result<(), E>,
    ) -> Result<(), E> {
        let pending = std::mem::take(&mut self.pending);
        let rows = std::mem::take(&mut self.pending_rows);
        self.pending_bytes = 0;
        self.held_bytes = 0;
        let numbers = match &mut self.numbers {
            Numbers::From(first) => {
                let before = *first;
                *first += rows as u64;
                Numbers::From(before)
            }
            Numbers::Listed(all) => Numbers::Listed(all.drain(..rows).collect()),
        };
        let batch = match <[RecordBatch; 1]>::try_from(pending) {
            Ok([batch]) => batch,
            Err(batches) => {
                let Some(first) = batches.first() else {
                    return Ok(());
                };
                concat_batches(&first.schema(), &batches)
                    .map_err(|error| PackError::Encode(error.to_string()))?
            }
        };
        self.encode(&batch, 0, &numbers, sink)
    }

    /// Encodes the rows as one message if they fit, else as two halves, and so on. `first` counts
    /// from the beginning of `numbers`.
    fn encode<E: From<PackError>>(
        &self,
        batch: &RecordBatch,
        first: usize,
        numbers: &Numbers,
        sink: &mut impl FnMut(Packed) -> Result<(), E>,
    ) -> Result<(), E> {
        let rows = batch.num_rows();
        let bytes = column_bytes(batch);
        // LZ4 may well make a small message of them, but not so surely that trying pays.
        if rows == 1 || bytes <= MESSAGE_VALUE_BYTES_MAX {
            let encoded_bytes = match self.encoder.encode(batch, self.cut, &self.wire) {
                Ok(value) if value.len() <= MESSAGE_VALUE_BYTES_MAX => {
                    return sink(Packed {
                        rows: rows as u32,
                        value,
                        bucket: self.bucket,
                        column_bytes: bytes,
                        part: self.cut,
                    });
                }
                Ok(value) => value.len(),
                Err(CodecError::TooLarge { .. }) => bytes,
                Err(error) => return Err(PackError::Encode(error.to_string()).into()),
            };
            if rows == 1 {
                return Err(PackError::RowTooLarge {
                    row: numbers.get(first),
                    bytes: encoded_bytes,
                }
                .into());
            }
        }
        let half = rows / 2;
        self.encode(&batch.slice(0, half), first, numbers, sink)?;
        self.encode(&batch.slice(half, rows - half), first + half, numbers, sink)
    }
}

impl Numbers {
    fn get(&self, index: usize) -> u64 {
        match self {
            Self::From(first) => first + index as u64,
            Self::Listed(all) => all.get(index).copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
