//! Dead letters to rows of [`tidelake_schema::dead_letters`].
//!
//! Anybody can write to a dead-letter topic, and there is no topic for the dead letters of dead
//! letters: so every message becomes a row, whatever it is. What its headers do not say is filled in,
//! and says so by its code.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::SchemaRef;
use tidelake_core::headers::{self, dead_letter as names};
use tidelake_schema::arrow::{UTC, to_arrow};
use tidelake_schema::dead_letters::{self, NO_BUCKET};

use super::{DecodedRows, POSITION_BYTES, Pushed, WireMessage};
use tidelake_codec::CodecError;
use tidelake_codec::temporal::{StampKind, parse_timestamp};

/// Code of a message that does not say which record it is about.
const NO_SOURCE: &str = "NO_SOURCE";
const NO_SOURCE_REASON: &str = "the message does not say which record it is about";
/// Code of a dead letter that does not say what was wrong.
const NO_REASON: &str = "UNKNOWN";
const NO_REASON_REASON: &str = "the dead letter gives no reason";

/// Times that every reader can print: years 0001 to 9999.
const TIMES_MS: (i64, i64) = (-62_135_596_800_000, 253_402_300_799_999);

/// What the headers of a dead letter say, unread.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeadLetter<'a> {
    code: Option<&'a [u8]>,
    reason: Option<&'a [u8]>,
    field: Option<&'a [u8]>,
    row: Option<&'a [u8]>,
    source_bucket: Option<&'a [u8]>,
    source_offset: Option<&'a [u8]>,
    source_timestamp: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    schema: Option<&'a [u8]>,
    dead_at: Option<&'a [u8]>,
    replayed_at: Option<&'a [u8]>,
    replayed_to: Option<&'a [u8]>,
}

impl<'a> DeadLetter<'a> {
    /// Asks for each header by its name.
    pub fn read(header: impl Fn(&'static str) -> Option<&'a [u8]>) -> Self {
        Self {
            code: header(names::CODE),
            reason: header(names::REASON),
            field: header(names::FIELD),
            row: header(names::ROW),
            source_bucket: header(names::SOURCE_BUCKET),
            source_offset: header(names::SOURCE_OFFSET),
            source_timestamp: header(names::SOURCE_TIMESTAMP),
            key: header(names::KEY),
            schema: header(headers::SCHEMA),
            dead_at: header(names::DEAD_AT),
            replayed_at: header(names::REPLAYED_AT),
            replayed_to: header(names::REPLAYED_TO),
        }
    }

    /// Where the record stands in its table's topic.
    fn source(&self) -> Option<(i32, i64)> {
        let bucket: i32 = number(self.source_bucket)?;
        let offset: i64 = number(self.source_offset)?;
        (bucket >= NO_BUCKET && offset >= 0).then_some((bucket, offset))
    }
}

fn number<T: std::str::FromStr>(header: Option<&[u8]>) -> Option<T> {
    std::str::from_utf8(header?).ok()?.parse().ok()
}

/// Milliseconds of an RFC 3339 timestamp with an offset, as answers to SQL print it; parts of a
/// millisecond are cut.
pub fn timestamp_ms(text: &str) -> Option<i64> {
    let kind = StampKind {
        nanos: false,
        zoned: true,
    };
    let micros = parse_timestamp(text.as_bytes(), kind).ok()?;
    Some(micros.div_euclid(1000))
}

/// Rows of dead letters, column by column.
#[derive(Debug)]
pub(super) struct DeadLetters {
    schema: SchemaRef,
    source_bucket: Int32Builder,
    source_offset: Int64Builder,
    code: StringBuilder,
    reason: StringBuilder,
    field: StringBuilder,
    row: Int32Builder,
    source_timestamp: TimestampMicrosecondBuilder,
    key: BinaryBuilder,
    value: BinaryBuilder,
    encoding: StringBuilder,
    op: StringBuilder,
    schema_version: StringBuilder,
    dead_at: TimestampMicrosecondBuilder,
    replayed_at: TimestampMicrosecondBuilder,
    replayed_to: StringBuilder,
    offsets: Vec<i64>,
    timestamps_ms: Vec<i64>,
    bytes: usize,
}

impl DeadLetters {
    pub(super) fn new() -> Self {
        let times = || TimestampMicrosecondBuilder::new().with_timezone(UTC);
        Self {
            schema: to_arrow(dead_letters::schema()),
            source_bucket: Int32Builder::new(),
            source_offset: Int64Builder::new(),
            code: StringBuilder::new(),
            reason: StringBuilder::new(),
            field: StringBuilder::new(),
            row: Int32Builder::new(),
            source_timestamp: times(),
            key: BinaryBuilder::new(),
            value: BinaryBuilder::new(),
            encoding: StringBuilder::new(),
            op: StringBuilder::new(),
            schema_version: StringBuilder::new(),
            dead_at: times(),
            replayed_at: times(),
            replayed_to: StringBuilder::new(),
            offsets: Vec::new(),
            timestamps_ms: Vec::new(),
            bytes: 0,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.offsets.len()
    }

    /// Memory they hold, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, message: &WireMessage<'_>) -> Pushed {
        let none = DeadLetter::default();
        let letter = message.dead_letter.unwrap_or(&none);
        let source = letter.source();
        if source.is_none() && message.op == Some(headers::OP_FLUSH) {
            return Pushed::Marker;
        }
        let (bucket, offset) = source.unwrap_or((NO_BUCKET, message.offset));
        self.source_bucket.append_value(bucket);
        self.source_offset.append_value(offset);
        let (no_code, no_reason) = match source {
            Some(_) => (NO_REASON, NO_REASON_REASON),
            None => (NO_SOURCE, NO_SOURCE_REASON),
        };
        // Of a message without a source, key and value are its own: nothing else is known of it.
        let key = match source {
            Some(_) => letter.key,
            None => letter.key.or(message.key),
        };
        let texts = [
            letter.code.or(Some(no_code.as_bytes())),
            letter.reason.or(Some(no_reason.as_bytes())),
            letter.field,
            message.encoding,
            message.op,
            letter.schema,
            letter.replayed_to,
        ];
        let columns = [
            &mut self.code,
            &mut self.reason,
            &mut self.field,
            &mut self.encoding,
            &mut self.op,
            &mut self.schema_version,
            &mut self.replayed_to,
        ];
        for (column, text) in columns.into_iter().zip(texts) {
            column.append_option(text.map(String::from_utf8_lossy));
        }
        self.row.append_option(number::<i32>(letter.row));
        self.key.append_option(key);
        self.value.append_option(message.value);
        let own_ms = message.timestamp_ms;
        let at = |header| micros(number(header).unwrap_or(own_ms));
        self.source_timestamp
            .append_value(at(letter.source_timestamp));
        self.dead_at.append_value(at(letter.dead_at));
        // A time that can't be read must not make a replayed letter an open one.
        let replayed = letter.replayed_at.or(letter.replayed_to);
        self.replayed_at
            .append_option(replayed.map(|_| at(letter.replayed_at)));
        self.offsets.push(message.offset);
        self.timestamps_ms.push(own_ms);
        let sizes = texts.iter().chain([&key, &message.value]);
        let variable: usize = sizes.map(|part| part.map_or(0, <[u8]>::len)).sum();
        self.bytes += variable + FIXED_BYTES;
        Pushed::Rows(1)
    }

    /// Hands the rows over; `None` where there are none.
    pub(super) fn finish(&mut self) -> Result<Option<DecodedRows>, CodecError> {
        if self.offsets.is_empty() {
            return Ok(None);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.source_bucket.finish()),
            Arc::new(self.source_offset.finish()),
            Arc::new(self.code.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.field.finish()),
            Arc::new(self.row.finish()),
            Arc::new(self.source_timestamp.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.encoding.finish()),
            Arc::new(self.op.finish()),
            Arc::new(self.schema_version.finish()),
            Arc::new(self.dead_at.finish()),
            Arc::new(self.replayed_at.finish()),
            Arc::new(self.replayed_to.finish()),
        ];
        self.bytes = 0;
        let offsets = std::mem::take(&mut self.offsets);
        Ok(Some(DecodedRows {
            batch: RecordBatch::try_new(Arc::clone(&self.schema), columns)?,
            rows: vec![0; offsets.len()],
            offsets,
            timestamps_ms: std::mem::take(&mut self.timestamps_ms),
        }))
    }
}

/// What a row takes besides its texts and bytes.
const FIXED_BYTES: usize = 15 * 8 + POSITION_BYTES;

fn micros(ms: i64) -> i64 {
    ms.clamp(TIMES_MS.0, TIMES_MS.1) * 1000
}
