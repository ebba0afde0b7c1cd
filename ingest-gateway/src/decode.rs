//! A body's bytes into messages: decompress, cut into records, decode, pack, spool. Runs on a
//! blocking thread for all but small bodies.
//!
//! No work for a single record happens here: blocks of whole records go to the decoder, columns
//! come out. Memory: one block, one decoder of at most [`ROWS_MAX`] rows, one message.

use std::io::{self, Read};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Fields};
use tidelake_catalog::TableEntry;
use tidelake_codec::Rejection;
use tidelake_codec::arrow_ipc::{self, StreamLimits};
use tidelake_codec::json::stream::{ArraySplitter, LineSplitter};
use tidelake_codec::json::{JsonDecoder, JsonLimits};
use tidelake_core::limits::RECORD_BYTES_MAX;
use tidelake_schema::TableSchema;

use crate::body::{Capped, Chunks, Coding, Fault};
use crate::packer::{COLUMN_BYTES_MAX, PackError, Packed, Packer, ROWS_MAX};
use crate::spool::{Spool, SpoolError};

/// Bytes read before records are cut out of them.
const BLOCK_BYTES: usize = 256 * 1024;

/// A batch is held whole, so its sender must keep it small.
const ARROW_LIMITS: StreamLimits = StreamLimits {
    metadata_bytes_max: 4 << 20,
    body_bytes_max: 64 << 20,
    decompressed_bytes_max: 128 << 20,
    batch_rows_max: 4 << 20,
};

/// What a body's bytes are, decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One object, or an array of objects.
    Json,
    Ndjson,
    /// An Arrow IPC stream.
    Arrow,
}

/// A body to decode.
#[derive(Debug)]
pub(crate) struct Work {
    pub chunks: Chunks,
    pub coding: Coding,
    /// Decompressed.
    pub bytes_max: u64,
    pub format: Format,
    pub table: Arc<TableEntry>,
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
    let mut sink = Sink {
        packer: Packer::default(),
        spool: work.spool,
        rows: 0,
    };
    let outcome = work
        .chunks
        .decompressed(work.coding, work.bytes_max)
        .map_err(|error| BodyError::Worker(error.to_string()))
        .and_then(|mut body| {
            match work.format {
                Format::Json => json(&mut body, &work.table.schema, &mut sink)?,
                Format::Ndjson => ndjson(&mut body, &work.table.schema, &mut sink)?,
                Format::Arrow => {
                    arrow(&mut body, &work.table.schema, &mut sink).map_err(|error| {
                        if body.passed() == 0 {
                            BodyError::Empty
                        } else {
                            error
                        }
                    })?
                }
            }
            sink.finish()?;
            Ok(body.passed())
        });
    // Bytes that ended early look malformed to whoever reads them: what ended them comes first.
    match (faults.take(), outcome) {
        (Some(fault), _) => Err(BodyError::Fault(fault)),
        (None, Ok(bytes)) => {
            sink.spool.rewind()?;
            Ok(Decoded {
                spool: sink.spool,
                bytes,
            })
        }
        (None, Err(error)) => Err(error),
    }
}

/// Where columns go.
struct Sink {
    packer: Packer,
    spool: Spool,
    /// Rows of the body so far.
    rows: u64,
}

impl Sink {
    fn take(&mut self, batch: RecordBatch) -> Result<(), BodyError> {
        let spool = &mut self.spool;
        self.packer.push(batch, &mut |message: Packed| {
            Ok::<_, BodyError>(spool.push(message)?)
        })
    }

    fn finish(&mut self) -> Result<(), BodyError> {
        let spool = &mut self.spool;
        self.packer
            .finish(&mut |message: Packed| Ok::<_, BodyError>(spool.push(message)?))
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

fn ndjson(body: &mut impl Read, schema: &TableSchema, sink: &mut Sink) -> Result<(), BodyError> {
    let mut columns = Columns::new(schema)?;
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

fn json(body: &mut impl Read, schema: &TableSchema, sink: &mut Sink) -> Result<(), BodyError> {
    let mut columns = Columns::new(schema)?;
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

fn arrow<R: Read>(
    body: &mut Capped<R>,
    schema: &TableSchema,
    sink: &mut Sink,
) -> Result<(), BodyError> {
    let reader = arrow_ipc::StreamReader::new(&mut *body, ARROW_LIMITS);
    for batch in reader {
        let first_row = sink.rows as usize;
        // The reader counts from the stream's beginning, as the body does.
        let batch = arrow_ipc::conform(&batch?, schema, first_row)?;
        sink.rows += batch.num_rows() as u64;
        sink.take(batch)?;
    }
    Ok(())
}

/// The decoder's rows on their way to the packer.
struct Columns {
    decoder: JsonDecoder,
    /// What a row takes at least, null in every field.
    row_bytes_min: usize,
    /// Bytes of the records that the decoder holds.
    fed_bytes: usize,
}

impl Columns {
    fn new(schema: &TableSchema) -> Result<Self, BodyError> {
        let decoder = JsonDecoder::new(schema, JsonLimits::default())
            .map_err(|error| BodyError::Schema(error.to_string()))?;
        let row_bytes_min = row_bytes_min(tidelake_schema::arrow::to_arrow(schema).fields());
        Ok(Self {
            decoder,
            row_bytes_min,
            fed_bytes: 0,
        })
    }

    /// Takes whole lines. Short lines may become many wide rows, so they are taken in portions.
    fn push_lines(&mut self, lines: &[u8], sink: &mut Sink) -> Result<(), BodyError> {
        let rows_max = (COLUMN_BYTES_MAX / self.row_bytes_min).clamp(1, ROWS_MAX);
        let mut rest = lines;
        while !rest.is_empty() {
            let end = end_of_lines(rest, rows_max);
            let (portion, behind) = rest.split_at(end);
            let rows = self
                .decoder
                .push_ndjson(portion)
                .map_err(|rejection| at(sink.rows as usize, rejection))?;
            self.pushed(rows, portion.len(), sink)?;
            rest = behind;
        }
        Ok(())
    }

    fn push_record(&mut self, record: &[u8], sink: &mut Sink) -> Result<(), BodyError> {
        self.decoder
            .push_record(record)
            .map_err(|rejection| at(sink.rows as usize, rejection))?;
        self.pushed(1, record.len(), sink)
    }

    /// Hands the rows on where as many again would be too many for a message.
    fn pushed(&mut self, rows: usize, bytes: usize, sink: &mut Sink) -> Result<(), BodyError> {
        sink.rows += rows as u64;
        self.fed_bytes += bytes;
        let held = self.decoder.rows();
        let full = held + rows > ROWS_MAX
            || self.fed_bytes + bytes > COLUMN_BYTES_MAX
            || (held + rows) * self.row_bytes_min > COLUMN_BYTES_MAX;
        if full { self.flush(sink) } else { Ok(()) }
    }

    fn flush(&mut self, sink: &mut Sink) -> Result<(), BodyError> {
        self.fed_bytes = 0;
        if self.decoder.rows() == 0 {
            return Ok(());
        }
        let batch = self
            .decoder
            .finish()
            .map_err(|error| BodyError::Worker(error.to_string()))?;
        sink.take(batch)
    }
}

/// Where the `lines_max`-th line of `lines` ends.
fn end_of_lines(lines: &[u8], lines_max: usize) -> usize {
    // A record takes two bytes at least, and a blank line is no row.
    if lines.len() / 2 <= lines_max {
        return lines.len();
    }
    let mut ends = lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.nth(lines_max - 1)
        .map_or(lines.len(), |(end, _)| end + 1)
}

fn row_bytes_min(fields: &Fields) -> usize {
    fields
        .iter()
        .map(|field| value_bytes_min(field.data_type()))
        .sum::<usize>()
        .max(1)
}

fn value_bytes_min(ty: &DataType) -> usize {
    match ty {
        DataType::Struct(fields) => row_bytes_min(fields),
        // Offsets, and nothing behind them.
        DataType::Utf8 | DataType::Binary | DataType::List(_) | DataType::Map(..) => 4,
        other => other.primitive_width().unwrap_or(1),
    }
}

fn at(first_row: usize, rejection: Rejection) -> BodyError {
    rejection.shifted(first_row).into()
}

#[cfg(test)]
mod tests;
