//! JSON records into Arrow columns, by the table's schema.
//!
//! | type | JSON |
//! | --- | --- |
//! | boolean | `true`, `false` |
//! | int, long | a number without point and exponent, within range |
//! | float, double | a number, rounded to the nearest; never infinite |
//! | decimal(p,s) | a number, or the same as string; exact or refused |
//! | date, time | `"2026-11-21"`, `"12:34:56.789012"` |
//! | timestamp, timestamp_ns | `"2026-11-21T12:34:56.789012"`; a space for `T` is taken |
//! | timestamptz, timestamptz_ns | the same with `Z` or `±HH:MM` |
//! | string | a string |
//! | uuid | a string, 8-4-4-4-12 hexadecimal digits; kept in lower case |
//! | fixed\[n\], binary | a string: base64, standard alphabet, padded |
//! | struct, list | an object, an array |
//! | map | an object if the key is string or uuid, else an array of `{"key":…,"value":…}` |
//!
//! A nullable field may be `null` or missing. Everything else is refused: unknown and doubled
//! fields, wrong types, values that would be changed by keeping them, text that is not JSON or not
//! UTF-8. A call adds all of its records or none.
//!
//! ```text
//! bytes ──► cursor (tokens) ──► read (type rules) ──► column (vectors, offsets, nulls) ──► RecordBatch
//! ```
//!
//! One pass, no tree and no allocation for each record. Names are tried in the order in which they
//! came last time, so any steady order costs one comparison a field. Since an unknown field is
//! refused before its value is read, nesting cannot go deeper than the schema.

mod column;
mod cursor;
pub mod encode;
mod faults;
mod finish;
mod keys;
mod maps;
pub(crate) mod read;
mod skip;
pub mod stream;
mod values;

pub use keys::key_too_large;

#[cfg(test)]
pub(crate) mod tests;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use tidelake_core::limits::{JSON_DEPTH_MAX, RECORD_BYTES_MAX};
use tidelake_schema::{SchemaError, TableSchema};

use crate::allowance::{Allowance, MESSAGE_DECODED_BYTES_MAX};
use crate::error::CodecError;
use crate::reject::{Checked, Fault, Reason, Rejection};
use column::Record;
use cursor::Cursor;
use read::Reader;

/// What a record may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonLimits {
    /// Bytes of one record.
    pub record_bytes_max: usize,
    /// Objects and arrays within each other, the record itself included.
    pub depth_max: usize,
    /// Bytes that the records of one call may become: `{}` within a list of structs is a value for
    /// each field. See [`Allowance`].
    pub decoded_bytes_max: usize,
}

impl Default for JsonLimits {
    fn default() -> Self {
        Self {
            record_bytes_max: RECORD_BYTES_MAX,
            depth_max: JSON_DEPTH_MAX,
            decoded_bytes_max: MESSAGE_DECODED_BYTES_MAX,
        }
    }
}

/// Collects records of one table as columns of [`tidelake_schema::arrow::to_arrow`].
///
/// ```
/// use tidelake_codec::json::{JsonDecoder, JsonLimits};
/// use tidelake_schema::TableSchema;
/// let schema = TableSchema::from_iceberg_json(
///     r#"{"type":"struct","fields":[{"id":1,"name":"id","required":true,"type":"long"}]}"#,
/// )?;
/// let mut decoder = JsonDecoder::new(&schema, JsonLimits::default())?;
/// assert_eq!(decoder.push_ndjson(b"{\"id\":1}\n{\"id\":2}\n")?, 2);
/// let refused = decoder.push_ndjson(b"{\"id\":3}\n{\"id\":\"x\"}\n").unwrap_err();
/// assert_eq!(refused.to_string(), r#"row 1, field "id": expected long, found string "x""#);
/// assert_eq!(decoder.finish()?.num_rows(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct JsonDecoder {
    schema: SchemaRef,
    record: Record,
    /// The places of the fields that are kept, in the order of the columns; none: all are.
    places: Option<Box<[usize]>>,
    rows: usize,
    reader: Reader,
    record_bytes_max: usize,
}

impl JsonDecoder {
    /// A decoder without rows; refuses a schema that is not valid.
    pub fn new(schema: &TableSchema, limits: JsonLimits) -> Result<Self, SchemaError> {
        schema.validate()?;
        Ok(Self {
            schema: tidelake_schema::arrow::to_arrow(schema),
            record: Record::new(&schema.fields),
            places: None,
            rows: 0,
            reader: Reader {
                depth_max: limits.depth_max,
                any_year: false,
                scratch: Vec::new(),
                allowance: Allowance::new(limits.decoded_bytes_max),
            },
            record_bytes_max: limits.record_bytes_max,
        })
    }

    /// Adds exactly one object, white space around it allowed.
    pub fn push_record(&mut self, json: &[u8]) -> Result<(), Rejection> {
        let before = self.rows;
        self.reader.allowance.renew();
        let mut cursor = Cursor::new(json, false);
        let pushed = self
            .next_record(&mut cursor)
            .and_then(|()| self.expect_end(&mut cursor));
        pushed.map_err(|fault| self.undo(before, *fault, 0))
    }

    /// Adds the records of many lines and tells how many; blank lines are skipped and not counted.
    /// The last line may lack its newline.
    pub fn push_ndjson(&mut self, lines: &[u8]) -> Result<usize, Rejection> {
        let before = self.rows;
        self.reader.allowance.renew();
        let mut cursor = Cursor::new(lines, true);
        loop {
            match cursor.next_token() {
                None => return Ok(self.rows - before),
                Some(b'\n') => {
                    cursor.advance(1);
                    continue;
                }
                Some(_) => {}
            }
            let row = self.rows - before;
            let pushed = self
                .next_record(&mut cursor)
                .and_then(|()| match cursor.next_token() {
                    None | Some(b'\n') => Ok(()),
                    Some(_) => Err(cursor.malformed("expected a newline after the record")),
                });
            pushed.map_err(|fault| self.undo(before, *fault, row))?;
        }
    }

    /// Adds the objects of one array, or one object, and tells how many. For bodies that are in
    /// memory anyway; [`stream::ArraySplitter`] is for those that are not.
    pub fn push_array(&mut self, json: &[u8]) -> Result<usize, Rejection> {
        let before = self.rows;
        self.reader.allowance.renew();
        let mut cursor = Cursor::new(json, false);
        if cursor.next_token() != Some(b'[') {
            return self.push_record(json).map(|()| 1);
        }
        let pushed = self
            .records(&mut cursor)
            .and_then(|()| self.expect_end(&mut cursor));
        match pushed {
            Ok(()) => Ok(self.rows - before),
            Err(fault) => {
                let row = self.rows - before;
                Err(self.undo(before, *fault, row))
            }
        }
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes allocated, near enough for a memory budget.
    pub fn bytes(&self) -> usize {
        self.record.bytes()
    }

    /// What the records of the last call that added some became, without room to grow.
    pub fn call_bytes(&self) -> usize {
        self.reader.allowance.taken()
    }

    /// Drops every row.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Drops the rows from `rows` on: what was pushed last goes first.
    pub fn truncate(&mut self, rows: usize) {
        if rows < self.rows {
            self.record.truncate(rows);
            self.rows = rows;
        }
    }

    /// Takes the rows; room for as many is kept.
    pub fn finish(&mut self) -> Result<RecordBatch, CodecError> {
        let rows = std::mem::take(&mut self.rows);
        let fields = self.schema.fields();
        let columns = match &self.places {
            None => self.record.columns(fields)?,
            Some(places) => self.record.picked(places, fields)?,
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = SchemaRef::clone(&self.schema);
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }

    fn records(&mut self, cursor: &mut Cursor<'_>) -> Checked<()> {
        cursor.advance(1);
        if cursor.next_token() == Some(b']') {
            cursor.advance(1);
            return Ok(());
        }
        loop {
            self.next_record(cursor)?;
            match cursor.next_token() {
                Some(b',') => cursor.advance(1),
                Some(b']') => break,
                _ => return Err(cursor.malformed("expected ',' or ']'")),
            }
        }
        cursor.advance(1);
        Ok(())
    }

    #[inline]
    fn next_record(&mut self, cursor: &mut Cursor<'_>) -> Checked<()> {
        let first = cursor.next_token();
        cursor.begin_record();
        if first != Some(b'{') {
            return Err(not_an_object(cursor, first));
        }
        self.reader.allowance.take(self.record.row_bytes)?;
        self.reader.object(cursor, &mut self.record, self.rows, 1)?;
        let text_bytes = cursor.position() - cursor.record_start();
        self.reader.allowance.take(text_bytes)?;
        if text_bytes > self.record_bytes_max {
            let max = self.record_bytes_max;
            return Err(Fault::new(Reason::TooLarge {
                what: "the record",
                max,
            }));
        }
        self.rows += 1;
        Ok(())
    }

    fn expect_end(&self, cursor: &mut Cursor<'_>) -> Checked<()> {
        match cursor.next_token() {
            None => Ok(()),
            Some(_) => Err(cursor.malformed("expected nothing more")),
        }
    }

    #[cold]
    fn undo(&mut self, rows: usize, fault: Fault, row: usize) -> Rejection {
        self.record.truncate(rows);
        self.rows = rows;
        fault.into_rejection(row)
    }
}

#[cold]
fn not_an_object(cursor: &Cursor<'_>, first: Option<u8>) -> Box<Fault> {
    match first {
        None => cursor.malformed("expected a record, found nothing"),
        Some(_) => {
            let found = cursor.found(cursor.position());
            Fault::new(Reason::NotAnObject { found })
        }
    }
}
