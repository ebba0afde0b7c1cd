//! Rows to messages: one Arrow stream a message, within the broker's limit.
//!
//! A body whose rows fit one message becomes one message, so that readers see it whole or not at
//! all (P5): up to [`ROWS_MAX`] rows whose columns take up to [`COLUMN_BYTES_MAX`]. More rows are
//! cut at those bounds, except where that would encode to more than [`MESSAGE_VALUE_BYTES_MAX`].

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use bytes::Bytes;
use tidelake_codec::{CodecError, packed};
use tidelake_core::limits::MESSAGE_BYTES_MAX;

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
}

/// Why rows could not become a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error("row {row} takes {bytes} bytes, and a message may have {MESSAGE_VALUE_BYTES_MAX}")]
    RowTooLarge { row: u64, bytes: usize },
    #[error("rows could not be encoded: {0}")]
    Encode(String),
}

/// Collects rows, cuts them into messages. Holds less than one message's rows between calls.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
    /// The body's row that the first pending one is.
    first_row: u64,
}

impl Packer {
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

    fn keep(&mut self, batch: RecordBatch, bytes: usize) {
        self.pending_rows += batch.num_rows();
        self.pending_bytes += bytes;
        self.pending.push(batch);
    }

    fn emit<E: From<PackError>>(
        &mut self,
        sink: &mut impl FnMut(Packed) -> Result<(), E>,
    ) -> Result<(), E> {
        let pending = std::mem::take(&mut self.pending);
        let first_row = self.first_row;
        self.first_row += self.pending_rows as u64;
        self.pending_rows = 0;
        self.pending_bytes = 0;
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
        encode(&batch, first_row, sink)
    }
}

/// Encodes the rows as one message if they fit, else as two halves, and so on.
fn encode<E: From<PackError>>(
    batch: &RecordBatch,
    first_row: u64,
    sink: &mut impl FnMut(Packed) -> Result<(), E>,
) -> Result<(), E> {
    let rows = batch.num_rows();
    let bytes = column_bytes(batch);
    // LZ4 may well make a small message of them, but not so surely that trying pays.
    if rows == 1 || bytes <= MESSAGE_VALUE_BYTES_MAX {
        let encoded_bytes = match packed::encode(batch) {
            Ok(value) if value.len() <= MESSAGE_VALUE_BYTES_MAX => {
                return sink(Packed {
                    rows: rows as u32,
                    value,
                });
            }
            Ok(value) => value.len(),
            Err(CodecError::TooLarge { .. }) => bytes,
            Err(error) => return Err(PackError::Encode(error.to_string()).into()),
        };
        if rows == 1 {
            return Err(PackError::RowTooLarge {
                row: first_row,
                bytes: encoded_bytes,
            }
            .into());
        }
    }
    let half = rows / 2;
    encode(&batch.slice(0, half), first_row, sink)?;
    encode(
        &batch.slice(half, rows - half),
        first_row + half as u64,
        sink,
    )
}

/// Bytes that a batch's rows take, without what lies outside of its slice.
pub(crate) fn column_bytes(batch: &RecordBatch) -> usize {
    batch
        .columns()
        .iter()
        .map(|column| array_bytes(column.as_ref()))
        .sum()
}

fn array_bytes(array: &dyn Array) -> usize {
    let rows = array.len();
    let validity = if array.nulls().is_some() {
        rows.div_ceil(8)
    } else {
        0
    };
    let values = match array.data_type() {
        DataType::Boolean => rows.div_ceil(8),
        DataType::Utf8 => 4 * rows + spanned(array.as_string::<i32>().value_offsets()),
        DataType::Binary => 4 * rows + spanned(array.as_binary::<i32>().value_offsets()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            4 * rows + child_bytes(list.values().as_ref(), offsets)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            4 * rows + child_bytes(map.entries(), map.value_offsets())
        }
        DataType::Struct(_) => array
            .as_struct()
            .columns()
            .iter()
            .map(|column| array_bytes(column.as_ref()))
            .sum(),
        other => match other.primitive_width() {
            Some(width) => width * rows,
            None => array.to_data().get_slice_memory_size().unwrap_or(0),
        },
    };
    validity + values
}

fn span(offsets: &[i32]) -> (usize, usize) {
    match (offsets.first(), offsets.last()) {
        (Some(first), Some(last)) => (*first as usize, (*last - *first) as usize),
        _ => (0, 0),
    }
}

fn spanned(offsets: &[i32]) -> usize {
    span(offsets).1
}

fn child_bytes(child: &dyn Array, offsets: &[i32]) -> usize {
    let (first, len) = span(offsets);
    array_bytes(child.slice(first, len).as_ref())
}

#[cfg(test)]
mod tests;
