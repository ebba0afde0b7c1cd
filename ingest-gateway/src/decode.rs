//! A body's bytes into messages: decompress, cut into records, decode, pack, spool. Runs on a
//! blocking thread for all but small bodies.
//!
//! No work for a single record happens here: blocks of whole records go to the decoder, columns
//! come out. Memory: one block, one decoder of at most [`ROWS_MAX`] rows, one message, and what the
//! body's [`Room`] lets one batch become; for upsert tables also what [`crate::route`] holds.

use std::io::{self, Read};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Fields};
use tidelake_catalog::{TableEntry, TableMode};
use tidelake_codec::arrow_ipc::{self, StreamLimits};
use tidelake_codec::json::stream::{ArraySplitter, LineSplitter};
use tidelake_codec::json::{JsonDecoder, JsonLimits};
use tidelake_codec::key::{KeyBuilder, KeyText};
use tidelake_codec::{Allowance, CodecError, Reason, Rejection, packed};
use tidelake_core::limits::RECORD_BYTES_MAX;
use tidelake_schema::SchemaError;

use crate::body::{Capped, Chunks, Coding, Fault};
use crate::packer::{COLUMN_BYTES_MAX, Encoder, PackError, Packed, Packer, ROWS_MAX, column_bytes};
use crate::route::Router;
use crate::spool::{Spool, SpoolError};

/// Bytes read before records are cut out of them.
const BLOCK_BYTES: usize = 256 * 1024;

/// What the whole of a small body may become before it is handled as a stream.
const SMALL_DECODED_BYTES_MAX: usize = 4 << 20;

/// The memory that a body's records may take on their way, taken before they are decoded: by the
/// places that the body has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// A body that is in memory whole, and is decoded where it arrived.
    Small,
    /// So many bytes for one batch.
    Stream(usize),
}

impl Room {
    fn batch_bytes(self) -> usize {
        match self {
            Self::Small => SMALL_DECODED_BYTES_MAX / 4,
            Self::Stream(bytes) => bytes,
        }
    }

    /// An Arrow batch is held whole, so its sender must keep it small.
    fn arrow(self) -> StreamLimits {
        StreamLimits {
            metadata_bytes_max: 4 << 20,
            body_bytes_max: 64 << 20,
            decoded_bytes_max: self.batch_bytes(),
            batch_rows_max: 4 << 20,
        }
    }

    fn json(self) -> JsonLimits {
        JsonLimits {
            // What fits no message need not be decoded.
            decoded_bytes_max: self.batch_bytes().min(packed::COLUMN_BYTES_MAX),
            ..JsonLimits::default()
        }
    }
}

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
    pub table: Arc<TableEntry>,
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

/// Where columns go.
struct Sink {
    table: Arc<TableEntry>,
    /// Of upsert tables.
    key: Option<KeyText>,
    encoder: Encoder,
    /// Made for the first rows: an Arrow stream says by its schema what it brings.
    way: Option<Way>,
    room: Room,
    spool: Spool,
    /// Rows of the body so far.
    rows: u64,
    /// What they became.
    decoded_bytes: usize,
}

enum Way {
    /// To whose turn it is.
    AnyBucket(Packer),
    ByKey(Box<Router>),
}

impl Sink {
    fn new(
        table: &Arc<TableEntry>,
        operation: Operation,
        room: Room,
        spool: Spool,
    ) -> Result<Self, BodyError> {
        let key = match table.mode {
            TableMode::Append => None,
            TableMode::Upsert => {
                KeyText::new(&table.schema).map_err(|error| BodyError::Schema(error.to_string()))?
            }
        };
        Ok(Self {
            table: Arc::clone(table),
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
    fn decoded(&mut self, rows: usize, bytes: usize) -> Result<(), BodyError> {
        self.rows += rows as u64;
        self.decoded_bytes = self.decoded_bytes.saturating_add(bytes);
        if self.room == Room::Small && self.decoded_bytes > SMALL_DECODED_BYTES_MAX {
            return Err(BodyError::Outgrown);
        }
        Ok(())
    }

    /// One batch of the table's columns, of the key's, or of operations, as the encoder wants them.
    fn take(&mut self, batch: RecordBatch) -> Result<(), BodyError> {
        let encoder = &self.encoder;
        let way = self.way.get_or_insert_with(|| match &self.key {
            None => Way::AnyBucket(Packer::new(encoder.clone())),
            Some(key) => {
                let router = Router::new(key.clone(), self.table.buckets, encoder.clone());
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

    fn finish(&mut self) -> Result<(), BodyError> {
        let spool = &mut self.spool;
        let mut sink = |message: Packed| Ok(spool.push(message)?);
        match &mut self.way {
            None => Ok(()),
            Some(Way::AnyBucket(packer)) => packer.finish(&mut sink),
            Some(Way::ByKey(router)) => router.finish(&mut sink),
        }
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
    let arrow = tidelake_schema::arrow::to_arrow(&sink.table.schema);
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
    let (schema, allowance) = (&sink.table.schema, &mut allowance);
    // The reader counts from the stream's beginning, as the body does.
    let first_row = sink.rows as usize;
    Ok(match (&sink.key, &sink.encoder) {
        (Some(key), Encoder::Deletes) => {
            arrow_ipc::conform_keys(batch, schema, key, first_row, allowance)?
        }
        (Some(key), _) if arrow_ipc::has_operations(batch) => {
            let (table, key) = (Arc::clone(&sink.table), key.clone());
            let batch = arrow_ipc::conform_operations(batch, schema, &key, first_row, allowance)?;
            // One stream has one schema: all its batches have operations, or none.
            sink.encoder = Encoder::Operations { table, key };
            batch
        }
        _ => arrow_ipc::conform(batch, schema, first_row, allowance)?,
    })
}

/// Records become columns: those of the table, or those of its key.
enum Decoder {
    Rows(Box<JsonDecoder>),
    Keys(Box<KeyBuilder>),
}

impl Decoder {
    fn push_ndjson(&mut self, lines: &[u8]) -> Result<usize, Rejection> {
        match self {
            Self::Rows(rows) => rows.push_ndjson(lines),
            Self::Keys(keys) => keys.push_ndjson(lines),
        }
    }

    fn push_record(&mut self, record: &[u8]) -> Result<(), Rejection> {
        match self {
            Self::Rows(rows) => rows.push_record(record),
            Self::Keys(keys) => keys.push_object(record),
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.rows(),
            Self::Keys(keys) => keys.rows(),
        }
    }

    fn call_bytes(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.call_bytes(),
            Self::Keys(keys) => keys.call_bytes(),
        }
    }

    fn finish(&mut self) -> Result<RecordBatch, CodecError> {
        match self {
            Self::Rows(rows) => rows.finish(),
            Self::Keys(keys) => keys.finish(),
        }
    }
}

/// The decoder's rows on their way to the packer.
struct Columns {
    decoder: Decoder,
    /// What a row takes at least, null in every field.
    row_bytes_min: usize,
    /// Bytes of the records that the decoder holds, as text or as values.
    held_bytes: usize,
}

impl Columns {
    fn new(sink: &Sink) -> Result<Self, BodyError> {
        let schema = &sink.table.schema;
        let unusable = |error: SchemaError| BodyError::Schema(error.to_string());
        let (decoder, arrow) = match (&sink.key, &sink.encoder) {
            (Some(key), Encoder::Deletes) => {
                let keys = KeyBuilder::new(schema).map_err(unusable)?;
                let keys = keys.ok_or_else(|| BodyError::Schema("no primary key".into()))?;
                (Decoder::Keys(Box::new(keys)), Arc::clone(key.schema()))
            }
            _ => {
                let rows = JsonDecoder::new(schema, sink.room.json()).map_err(unusable)?;
                let arrow = tidelake_schema::arrow::to_arrow(schema);
                (Decoder::Rows(Box::new(rows)), arrow)
            }
        };
        Ok(Self {
            decoder,
            row_bytes_min: row_bytes_min(arrow.fields()),
            held_bytes: 0,
        })
    }

    /// Takes whole lines. Short lines may become many wide rows, so they are taken in portions.
    fn push_lines(&mut self, lines: &[u8], sink: &mut Sink) -> Result<(), BodyError> {
        let rows_max = rows_of_message(self.row_bytes_min);
        let mut rest = lines;
        while !rest.is_empty() {
            let end = end_of_lines(rest, rows_max);
            let (portion, behind) = rest.split_at(end);
            self.push_portion(portion, sink)?;
            rest = behind;
        }
        Ok(())
    }

    /// Lines that become too much together are taken in halves, down to single ones.
    fn push_portion(&mut self, lines: &[u8], sink: &mut Sink) -> Result<(), BodyError> {
        let rejection = match self.decoder.push_ndjson(lines) {
            Ok(rows) => return self.pushed(rows, lines.len(), sink),
            Err(rejection) => rejection,
        };
        let middle = match rejection.reason {
            Reason::DecodedTooLarge { .. } => middle_of_lines(lines),
            _ => None,
        };
        let Some(middle) = middle else {
            return Err(at(sink.rows as usize, rejection));
        };
        self.flush(sink)?;
        let (first, second) = lines.split_at(middle);
        self.push_portion(first, sink)?;
        self.push_portion(second, sink)
    }

    fn push_record(&mut self, record: &[u8], sink: &mut Sink) -> Result<(), BodyError> {
        self.decoder
            .push_record(record)
            .map_err(|rejection| at(sink.rows as usize, rejection))?;
        self.pushed(1, record.len(), sink)
    }

    /// Hands the rows on where as many again would be too many for a message.
    fn pushed(&mut self, rows: usize, bytes: usize, sink: &mut Sink) -> Result<(), BodyError> {
        let decoded = self.decoder.call_bytes();
        sink.decoded(rows, decoded)?;
        // Text may take more than its values, and values more than their text.
        let bytes = decoded.max(bytes);
        self.held_bytes += bytes;
        let held = self.decoder.rows();
        let full = held + rows > ROWS_MAX || self.held_bytes + bytes > COLUMN_BYTES_MAX;
        if full { self.flush(sink) } else { Ok(()) }
    }

    fn flush(&mut self, sink: &mut Sink) -> Result<(), BodyError> {
        self.held_bytes = 0;
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

/// Rows of so many bytes at least that one message may have.
fn rows_of_message(row_bytes_min: usize) -> usize {
    (COLUMN_BYTES_MAX / row_bytes_min).clamp(1, ROWS_MAX)
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

/// Where the line that the middle is in ends, or else the first line; none of a single line.
fn middle_of_lines(lines: &[u8]) -> Option<usize> {
    let newline = |byte: &u8| *byte == b'\n';
    let half = lines.len() / 2;
    let end = match lines[half..].iter().position(newline) {
        Some(end) if half + end + 1 < lines.len() => half + end,
        _ => lines[..half].iter().rposition(newline)?,
    };
    Some(end + 1)
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
