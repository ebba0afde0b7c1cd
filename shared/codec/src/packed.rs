//! A message of many rows: one Arrow IPC stream, LZ4, of one table's columns.
//!
//! Owns the value behind the header `tl-encoding: arrow`. The cost of a record must not include a
//! Kafka message, so the gateway packs; whoever produces directly may pack too, which is why
//! decoding trusts nothing: see [`crate::arrow_ipc`] for what is checked.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use tidelake_core::limits::MESSAGE_BYTES_MAX;
use tidelake_schema::TableSchema;

use crate::arrow_ipc::{Frames, StreamLimits, conform};
use crate::error::CodecError;
use crate::reject::{Reason, Rejection};

/// The value of the header `tl-encoding`.
pub const ENCODING: &str = "arrow";
/// Rows of one message.
pub const ROWS_MAX: usize = 1 << 20;
/// Bytes of one message's columns in memory.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;

const LIMITS: StreamLimits = StreamLimits {
    metadata_bytes_max: MESSAGE_BYTES_MAX,
    body_bytes_max: MESSAGE_BYTES_MAX,
    decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
    batch_rows_max: ROWS_MAX,
};

/// Encodes the rows of a batch of [`tidelake_schema::arrow::to_arrow`] columns. Refuses what
/// [`decode`] would refuse for its size; whether the result fits in a message is the caller's to
/// see.
pub fn encode(batch: &RecordBatch) -> Result<Bytes, CodecError> {
    let too_large = |what, found, max| Err(CodecError::TooLarge { what, found, max });
    if batch.num_rows() > ROWS_MAX {
        return too_large("rows", batch.num_rows(), ROWS_MAX);
    }
    let bytes = sliced_bytes(batch);
    if bytes > DECOMPRESSED_BYTES_MAX / 2 {
        return too_large("bytes", bytes, DECOMPRESSED_BYTES_MAX / 2);
    }
    let options =
        IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let out = Vec::with_capacity(1024 + bytes / 2);
    let mut writer = StreamWriter::try_new_with_options(out, batch.schema_ref(), options)?;
    writer.write(batch)?;
    writer.finish()?;
    Ok(writer.into_inner()?.into())
}

/// Decodes a message into columns of `schema`. Rows are counted from 0 within the message.
pub fn decode(message: &[u8], schema: &TableSchema) -> Result<RecordBatch, Rejection> {
    let whole = |reason| Rejection::of_row(0, reason);
    if message.len() > MESSAGE_BYTES_MAX {
        let reason = Reason::TooLarge {
            what: "the message",
            max: MESSAGE_BYTES_MAX,
        };
        return Err(whole(reason));
    }
    // A copy, since Arrow wants its buffers aligned.
    let stream = Buffer::from_slice_ref(message);
    let batches = Frames::new(LIMITS).read_all(stream).map_err(whole)?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows > ROWS_MAX {
        let detail = format!("{rows} rows in one message; use at most {ROWS_MAX}");
        return Err(whole(Reason::CorruptArrow { detail }));
    }
    let mut first_row = 0;
    let mut conformed = Vec::with_capacity(batches.len());
    for batch in &batches {
        conformed.push(conform(batch, schema, first_row)?);
        first_row += batch.num_rows();
    }
    if conformed.len() == 1
        && let Some(batch) = conformed.pop()
    {
        return Ok(batch);
    }
    let target = tidelake_schema::arrow::to_arrow(schema);
    concat_batches(&target, &conformed).map_err(|error| {
        whole(Reason::CorruptArrow {
            detail: error.to_string(),
        })
    })
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
