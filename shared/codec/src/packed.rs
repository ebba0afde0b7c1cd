//! A message of many rows: one Arrow IPC stream, LZ4, of one table's columns.
//!
//! Owns the value behind the header `tl-encoding: arrow`. The cost of a record must not include a
//! Kafka message, so the gateway packs; whoever produces directly may pack too, which is why
//! decoding trusts nothing: see [`crate::arrow_ipc`] for what is checked.
//!
//! Messages of a table with a primary key may delete: a column [`OPERATION_COLUMN`] (Int8: 0 upsert,
//! 1 delete) stands in those that do. Of rows that delete only the key's columns count; a message
//! that does nothing else has no other columns.
//!
//! What the gateway packs names its columns so that they are found under whatever name they have
//! when the message is read: by [`Wire::encode`], see [`COLUMN_KEY`].

mod names;

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, Int8Array, RecordBatch};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use tidelake_core::limits::MESSAGE_BYTES_MAX;
use tidelake_schema::TableSchema;
use tidelake_schema::evolution::Columns;

use crate::allowance::{Allowance, Exceeded, MESSAGE_DECODED_BYTES_MAX};
use crate::arrow_ipc::{
    Frames, OPERATION_COLUMN, StreamLimits, conform, conform_operations, deletes, has_operations,
};
use crate::error::CodecError;
use crate::key::KeyText;
use crate::reject::{Reason, Rejection};

pub use names::{COLUMN_KEY, Wire};

/// The value of the header `tl-encoding`.
pub const ENCODING: &str = "arrow";
/// Rows of one message.
pub const ROWS_MAX: usize = 1 << 20;
/// Bytes of one message's columns before encoding. Half of what a reader allows them, since its
/// schema may have gained columns, and since it holds the message beside them.
pub const COLUMN_BYTES_MAX: usize = MESSAGE_DECODED_BYTES_MAX / 2;

const LIMITS: StreamLimits = StreamLimits {
    metadata_bytes_max: MESSAGE_BYTES_MAX,
    body_bytes_max: MESSAGE_BYTES_MAX,
    decoded_bytes_max: MESSAGE_DECODED_BYTES_MAX,
    batch_rows_max: ROWS_MAX,
};

/// Encodes the rows of a batch of [`tidelake_schema::arrow::to_arrow`] columns. Refuses what
/// [`decode`] would refuse for its size; whether the result fits in a message is the caller's to
/// see.
pub fn encode(batch: &RecordBatch) -> Result<Bytes, CodecError> {
    write(batch, batch.schema_ref())
}

/// The batch's buffers under `schema`, which has the same columns but may say more of them.
fn write(batch: &RecordBatch, schema: &SchemaRef) -> Result<Bytes, CodecError> {
    let too_large = |what, found, max| Err(CodecError::TooLarge { what, found, max });
    if batch.num_rows() > ROWS_MAX {
        return too_large("rows", batch.num_rows(), ROWS_MAX);
    }
    let bytes = sliced_bytes(batch);
    if bytes > COLUMN_BYTES_MAX {
        return too_large("bytes", bytes, COLUMN_BYTES_MAX);
    }
    let options =
        IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let out = Vec::with_capacity(1024 + bytes / 2);
    let mut writer = StreamWriter::try_new_with_options(out, schema, options)?;
    writer.write(batch)?;
    writer.finish()?;
    Ok(writer.into_inner()?.into())
}

/// [`encode`] of rows of which those in `deletes` delete. Their columns beside the key's may be
/// null, also where the table requires a value: the batch's own schema must allow it.
pub fn encode_with(
    batch: &RecordBatch,
    deletes: Option<&BooleanBuffer>,
) -> Result<Bytes, CodecError> {
    match deletes.filter(|deletes| deletes.count_set_bits() > 0) {
        None => encode(batch),
        Some(deletes) => encode(&with_operations(batch, deletes)?),
    }
}

/// The batch with a column of operations: rows in `deletes` delete.
pub fn with_operations(
    batch: &RecordBatch,
    deletes: &BooleanBuffer,
) -> Result<RecordBatch, CodecError> {
    let operations: Int8Array = deletes.iter().map(i8::from).collect::<Vec<_>>().into();
    let operation = Arc::new(Field::new(OPERATION_COLUMN, DataType::Int8, false));
    let fields = batch.schema_ref().fields().iter().cloned();
    let schema = Schema::new(fields.chain([operation]).collect::<Vec<_>>());
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(operations));
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

/// A batch of [`crate::arrow_ipc::operations_schema`] as a message holds it: without operations
/// where nothing is deleted, without other columns than the key's where nothing is written. Fields
/// keep their metadata.
pub fn without_idle_columns(
    batch: &RecordBatch,
    schema: &TableSchema,
    key: &KeyText,
) -> Result<RecordBatch, CodecError> {
    let deletes = deletes_of(batch)?.count_set_bits();
    let last = batch.num_columns() - 1;
    if deletes == 0 {
        let columns = batch.columns()[..last].to_vec();
        let given = batch.schema_ref().fields().iter().zip(&schema.fields);
        let fields = given
            .map(|(given, field)| Arc::new(given.as_ref().clone().with_nullable(!field.required)));
        let target = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(RecordBatch::try_new(target, columns)?)
    } else if deletes == batch.num_rows() {
        let places: Vec<_> = key.columns().iter().copied().chain([last]).collect();
        Ok(batch.project(&places)?)
    } else {
        Ok(batch.clone())
    }
}

/// Which rows delete, of a batch that was conformed and has operations.
fn deletes_of(batch: &RecordBatch) -> Result<BooleanBuffer, CodecError> {
    let operations = batch
        .column_by_name(OPERATION_COLUMN)
        .and_then(|column| column.as_primitive_opt::<Int8Type>())
        .ok_or_else(|| ArrowError::SchemaError("a batch of operations is wanted".into()))?;
    Ok(deletes(operations))
}

/// A decoded message of a table with a primary key.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The rows that are written: the table's columns.
    pub rows: RecordBatch,
    /// Their numbers within the message.
    pub row_numbers: Vec<u32>,
    /// The keys that are deleted, as columns of [`crate::key::key_schema`], and the numbers of
    /// their rows; none where there are none.
    pub deletes: Option<(RecordBatch, Vec<u32>)>,
}

/// [`decode`] for a table with a primary key: `key` is that of `schema`.
pub fn decode_upserts(
    message: &[u8],
    schema: &TableSchema,
    key: &KeyText,
) -> Result<Packed, Rejection> {
    decode_upserts_into(message, names::plain(schema), key)
}

/// [`decode_upserts`] of a table whose columns may have been renamed since.
pub fn decode_upserts_into(
    message: &[u8],
    columns: Columns<'_>,
    key: &KeyText,
) -> Result<Packed, Rejection> {
    let allowance = &mut Allowance::of_message();
    let schema = columns.schema;
    let batches = read(message, columns, allowance)?;
    // One stream has one schema.
    if !batches.first().is_some_and(has_operations) {
        let rows = conform_all(&batches, schema, allowance)?;
        return Ok(Packed {
            row_numbers: (0..rows.num_rows() as u32).collect(),
            rows,
            deletes: None,
        });
    }
    let corrupt = |error: ArrowError| whole(corrupt(&error));
    let bug = |error: CodecError| {
        whole(Reason::CorruptArrow {
            detail: error.to_string(),
        })
    };
    let (mut written, mut deleted) = (Vec::new(), Vec::new());
    let (mut row_numbers, mut deleted_numbers) = (Vec::new(), Vec::new());
    let target = tidelake_schema::arrow::to_arrow(schema);
    let mut first_row = 0;
    for batch in &batches {
        let batch = conform_operations(batch, schema, key, first_row, allowance)?;
        // Rows and deletes are copied apart.
        allowance.take(sliced_bytes(&batch)).map_err(exceeded)?;
        let mask = deletes_of(&batch).map_err(bug)?;
        let number = |row: usize| (first_row + row) as u32;
        deleted_numbers.extend(mask.set_indices().map(number));
        let upserts = !&mask;
        row_numbers.extend(upserts.set_indices().map(number));
        let keys = batch.project(key.columns()).map_err(corrupt)?;
        deleted.push(filter_record_batch(&keys, &BooleanArray::new(mask, None)).map_err(corrupt)?);
        let rows =
            filter_record_batch(&batch, &BooleanArray::new(upserts, None)).map_err(corrupt)?;
        let columns = rows.columns()[..target.fields().len()].to_vec();
        written.push(RecordBatch::try_new(Arc::clone(&target), columns).map_err(corrupt)?);
        first_row += batch.num_rows();
    }
    let rows = concat_batches(&target, &written).map_err(corrupt)?;
    let deletes = match deleted_numbers.is_empty() {
        true => None,
        false => {
            let keys = concat_batches(key.schema(), &deleted).map_err(corrupt)?;
            Some((keys, deleted_numbers))
        }
    };
    Ok(Packed {
        rows,
        row_numbers,
        deletes,
    })
}

/// Decodes a message into columns of `schema`. Rows are counted from 0 within the message. Refuses
/// what would take more than [`MESSAGE_DECODED_BYTES_MAX`].
pub fn decode(message: &[u8], schema: &TableSchema) -> Result<RecordBatch, Rejection> {
    decode_into(message, names::plain(schema))
}

/// [`decode`] into the columns of a table that may have been renamed since.
pub fn decode_into(message: &[u8], columns: Columns<'_>) -> Result<RecordBatch, Rejection> {
    let allowance = &mut Allowance::of_message();
    let batches = read(message, columns, allowance)?;
    conform_all(&batches, columns.schema, allowance)
}

fn whole(reason: Reason) -> Rejection {
    Rejection::of_row(0, reason)
}

fn exceeded(exceeded: Exceeded) -> Rejection {
    whole(exceeded.into())
}

fn corrupt(error: &ArrowError) -> Reason {
    Reason::CorruptArrow {
        detail: error.to_string(),
    }
}

/// The batches of a message as they were sent, under the names that their columns have now.
fn read(
    message: &[u8],
    columns: Columns<'_>,
    allowance: &mut Allowance,
) -> Result<Vec<RecordBatch>, Rejection> {
    if message.len() > MESSAGE_BYTES_MAX {
        let reason = Reason::TooLarge {
            what: "the message",
            max: MESSAGE_BYTES_MAX,
        };
        return Err(whole(reason));
    }
    allowance.take(message.len()).map_err(exceeded)?;
    // A copy, since Arrow wants its buffers aligned.
    let stream = Buffer::from_slice_ref(message);
    let batches = Frames::new(LIMITS)
        .read_all(stream, allowance)
        .map_err(whole)?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows > ROWS_MAX {
        let detail = format!("{rows} rows in one message; use at most {ROWS_MAX}");
        return Err(whole(Reason::CorruptArrow { detail }));
    }
    names::resolved(batches, columns).map_err(|error| whole(corrupt(&error)))
}

fn conform_all(
    batches: &[RecordBatch],
    schema: &TableSchema,
    allowance: &mut Allowance,
) -> Result<RecordBatch, Rejection> {
    let mut first_row = 0;
    let mut conformed = Vec::with_capacity(batches.len());
    for batch in batches {
        conformed.push(conform(batch, schema, first_row, allowance)?);
        first_row += batch.num_rows();
    }
    if conformed.len() == 1
        && let Some(batch) = conformed.pop()
    {
        return Ok(batch);
    }
    // Several become one by a copy.
    let bytes = conformed.iter().map(sliced_bytes);
    let bytes = bytes.fold(0, usize::saturating_add);
    allowance.take(bytes).map_err(exceeded)?;
    let target = tidelake_schema::arrow::to_arrow(schema);
    concat_batches(&target, &conformed).map_err(|error| whole(corrupt(&error)))
}

/// Bytes of the rows themselves, where they share buffers with others.
fn sliced_bytes(batch: &RecordBatch) -> usize {
    let sliced = |column: &arrow::array::ArrayRef| {
        column
            .to_data()
            .get_slice_memory_size()
            .unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(sliced).sum()
}

#[cfg(test)]
mod tests;
