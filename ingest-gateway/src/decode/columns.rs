//! Records as text into columns, in portions that fit one message.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Fields};
use tidelake_codec::json::JsonDecoder;
use tidelake_codec::key::KeyBuilder;
use tidelake_codec::{CodecError, Reason, Rejection};
use tidelake_schema::SchemaError;

use super::BodyError;
use super::sink::Sink;
use crate::packer::{COLUMN_BYTES_MAX, Encoder, ROWS_MAX};

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
pub(super) struct Columns {
    decoder: Decoder,
    /// What a row takes at least, null in every field.
    row_bytes_min: usize,
    /// Bytes of the records that the decoder holds, as text or as values.
    held_bytes: usize,
}

impl Columns {
    pub(super) fn new(sink: &Sink) -> Result<Self, BodyError> {
        let schema = &sink.table.entry.schema;
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
    pub(super) fn push_lines(&mut self, lines: &[u8], sink: &mut Sink) -> Result<(), BodyError> {
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

    pub(super) fn push_record(&mut self, record: &[u8], sink: &mut Sink) -> Result<(), BodyError> {
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

    pub(super) fn flush(&mut self, sink: &mut Sink) -> Result<(), BodyError> {
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
pub(super) fn rows_of_message(row_bytes_min: usize) -> usize {
    (COLUMN_BYTES_MAX / row_bytes_min).clamp(1, ROWS_MAX)
}

/// Where the `lines_max`-th line of `lines` ends.
pub(super) fn end_of_lines(lines: &[u8], lines_max: usize) -> usize {
    // A record takes two bytes at least, and a blank line is no row.
    if lines.len() / 2 <= lines_max {
        return lines.len();
    }
    let mut ends = lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.nth(lines_max - 1)
        .map_or(lines.len(), |(end, _)| end + 1)
}

/// Where the line that the middle is in ends, or else the first line; none of a single line.
pub(super) fn middle_of_lines(lines: &[u8]) -> Option<usize> {
    let newline = |byte: &u8| *byte == b'\n';
    let half = lines.len() / 2;
    let end = match lines[half..].iter().position(newline) {
        Some(end) if half + end + 1 < lines.len() => half + end,
        _ => lines[..half].iter().rposition(newline)?,
    };
    Some(end + 1)
}

pub(super) fn row_bytes_min(fields: &Fields) -> usize {
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
