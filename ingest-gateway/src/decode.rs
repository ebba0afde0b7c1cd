//! A body's bytes into messages: decompress, cut into records, decode, pack, spool. Runs on a
//! blocking thread for all but small bodies.
//!
//! No work for a single record happens here: blocks of whole records go to the decoder, columns
//! come out. Memory: one block, one decoder of at most [`crate::packer::ROWS_MAX`] rows, one message, and what the
//! body's [`Room`] lets one batch become; for upsert tables also what [`crate::route`] holds.

mod columns;
mod room;
mod sink;

use std::io::{self, Read};
use std::sync::Arc;

use arrow::array::RecordBatch;
use tidelake_codec::arrow_ipc;
use tidelake_codec::json::stream::{ArraySplitter, LineSplitter};
use tidelake_codec::{Allowance, Reason, Rejection};
use tidelake_core::limits::RECORD_BYTES_MAX;

use crate::body::{Capped, Chunks, Coding, Fault};
use crate::packer::{Encoder, PackError, column_bytes};
use crate::spool::{Spool, SpoolError};
use crate::tables::LoggedTable;
use columns::{Columns, row_bytes_min, rows_of_message};
use room::SMALL_DECODED_BYTES_MAX;
use sink::Sink;

pub(crate) use room::Room;

/// Bytes read before records are cut out of them.
const BLOCK_BYTES: usize = 256 * 1024;

/// What a body's bytes are, decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One object, or an array of objects.
    Json,
    Ndjson,
    /// An Arrow IPC stream.
    Arrow,
}

/// What is done with the records of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// They are written, except those of which an Arrow stream says otherwise.
    Write,
    /// Their keys are deleted, in an upsert table.
    Delete,
}

/// A body to decode.
#[derive(Debug)]
pub(crate) struct Work {
    pub chunks: Chunks,
    pub coding: Coding,
    /// Decompressed.
    pub bytes_max: u64,
    pub format: Format,
    pub operation: Operation,
    /// Its schema is that of the table's log.
    pub table: LoggedTable,
    pub room: Room,
    pub spool: Spool,
}

/// A body whose every record fits the table.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub spool: Spool,
    /// Bytes of the body, decompressed.
    pub bytes: u64,
}

/// Why a body was refused. Nothing of it is anywhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is empty")]
    Empty,
    #[error(transparent)]
    Fault(Fault),
    /// `row` counts from the body's first record.
    #[error("row {row} was refused: {rejection}")]
    Rejected { row: u64, rejection: Rejection },
    #[error("a small body became more than {SMALL_DECODED_BYTES_MAX} bytes")]
    Outgrown,
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A mistake of ours.
    #[error("the table's schema can't be decoded: {0}")]
    Schema(String),
    #[error("the decoder failed: {0}")]
    Worker(String),
}

impl BodyError {
    /// True where a record that can be read does not fit the table's schema: another schema may take
    /// it.
    pub(crate) fn is_by_schema(&self) -> bool {
        let Self::Rejected { rejection, .. } = self else {
            return false;
        };
        let is_large = matches!(
            rejection.reason,
            Reason::TooLarge { .. } | Reason::DecodedTooLarge { .. } | Reason::BatchTooLarge { .. }
        );
        !is_large && !rejection.reason.is_malformed()
    }

    /// True where more room may help.
    pub(crate) fn wants_room(&self) -> bool {
        match self {
            Self::Outgrown => true,
            Self::Rejected { rejection, .. } => {
                matches!(rejection.reason, Reason::DecodedTooLarge { .. })
            }
            _ => false,
        }
    }
}

impl From<Rejection> for BodyError {
    /// Of a rejection whose row counts from the body's first record.
    fn from(rejection: Rejection) -> Self {
        Self::Rejected {
            row: rejection.row as u64,
            rejection,
        }
    }
}

/// Decodes the whole body, or refuses it.
pub(crate) fn run(work: Work) -> Result<Decoded, BodyError> {
    let faults = work.chunks.faults();
    let mut sink = Sink::new(&work.table, work.operation, work.room, work.spool)?;
    let outcome = work
        .chunks
        .decompressed(work.coding, work.bytes_max)
        .map_err(|error| BodyError::Worker(error.to_string()))
        .and_then(|mut body| {
            match work.format {
                Format::Json => json(&mut body, &mut sink)?,
                Format::Ndjson => ndjson(&mut body, &mut sink)?,
                Format::Arrow => arrow(&mut body, &mut sink).map_err(|error| {
                    if body.passed() == 0 {
                        BodyError::Empty
                    } else {
                        error
                    }
                })?,
            }
            sink.finish()?;
            Ok(body.passed())
        });
    // Bytes that ended early look malformed to whoever reads them: what ended them comes first.
    match (faults.take(), outcome) {
        (Some(fault), _) => Err(BodyError::Fault(fault)),
        (None, Ok(bytes)) => {
            let mut spool = sink.spool;
            spool.rewind(sink.encoder);
            Ok(Decoded { spool, bytes })
        }
        (None, Err(error)) => Err(error),
    }
}

/// Reads until `to` is full or the body ends.
fn fill(body: &mut impl Read, to: &mut [u8]) -> Result<usize, BodyError> {
    let mut filled = 0;
    while filled < to.len() {
        match body.read(&mut to[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BodyError::Fault(Fault::CutShort(error.to_string()))),
        }
    }
    Ok(filled)
}

fn ndjson(body: &mut impl Read, sink: &mut Sink) -> Result<(), BodyError> {
    let mut columns = Columns::new(sink)?;
    let mut splitter = LineSplitter::new(RECORD_BYTES_MAX);
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let filled = fill(body, &mut block)?;
        if filled == 0 {
            break;
        }
        splitter.feed(&block[..filled], |lines| columns.push_lines(lines, sink))?;
    }
    splitter.finish(|line| columns.push_lines(line, sink))?;
    columns.flush(sink)?;
    if sink.rows == 0 {
        Err(BodyError::Empty)
    } else {
        Ok(())
    }
}

fn json(body: &mut impl Read, sink: &mut Sink) -> Result<(), BodyError> {
    let mut columns = Columns::new(sink)?;
    let mut splitter = ArraySplitter::new(RECORD_BYTES_MAX);
    let mut block = vec![0; BLOCK_BYTES];
    let mut blank = true;
    loop {
        let filled = fill(body, &mut block)?;
        if filled == 0 {
            break;
        }
        blank = blank && block[..filled].iter().all(u8::is_ascii_whitespace);
        splitter.feed(&block[..filled], |record| columns.push_record(record, sink))?;
    }
    if blank {
        return Err(BodyError::Empty);
    }
    splitter.finish()?;
    columns.flush(sink)
}

fn arrow<R: Read>(body: &mut Capped<R>, sink: &mut Sink) -> Result<(), BodyError> {
    let mut reader = arrow_ipc::StreamReader::new(&mut *body, sink.room.arrow());
    // Columns that the batch lacks become nulls: of many rows, many more bytes than came.
    let arrow = tidelake_schema::arrow::to_arrow(&sink.table.entry.schema);
    let rows_max = rows_of_message(row_bytes_min(arrow.fields()));
    while let Some(batch) = reader.next() {
        let batch = batch?;
        let allowance = reader.allowance();
        let mut start = 0;
        // Also a batch of no rows is looked at: its columns must fit.
        while start == 0 || start < batch.num_rows() {
            let piece = batch.slice(start, rows_max.min(batch.num_rows() - start));
            start += piece.num_rows().max(1);
            let piece = conform(&piece, allowance.clone(), sink)?;
            sink.decoded(piece.num_rows(), column_bytes(&piece))?;
            sink.take(piece)?;
        }
    }
    Ok(())
}

fn conform(
    batch: &RecordBatch,
    mut allowance: Allowance,
    sink: &mut Sink,
) -> Result<RecordBatch, BodyError> {
    let (schema, allowance) = (&sink.table.entry.schema, &mut allowance);
    // The reader counts from the stream's beginning, as the body does.
    let first_row = sink.rows as usize;
    Ok(match (&sink.key, &sink.encoder) {
        (Some(key), Encoder::Deletes) => {
            arrow_ipc::conform_keys(batch, schema, key, first_row, allowance)?
        }
        (Some(key), _) if arrow_ipc::has_operations(batch) => {
            let (table, key) = (Arc::clone(&sink.table.entry), key.clone());
            let batch = arrow_ipc::conform_operations(batch, schema, &key, first_row, allowance)?;
            // One stream has one schema: all its batches have operations, or none.
            sink.encoder = Encoder::Operations { table, key };
            batch
        }
        _ => arrow_ipc::conform(batch, schema, first_row, allowance)?,
    })
}

#[cfg(test)]
mod tests;
