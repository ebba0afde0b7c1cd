//! Primary keys of one table: decoders that keep nothing else, keys given as text, and the key of a
//! row that stands in the growing columns.

use arrow::datatypes::SchemaRef;
use tidelake_core::limits::KEY_TEXT_BYTES_MAX;
use tidelake_schema::{SchemaError, TableSchema};

use super::column::{Column, Record, Values};
use super::cursor::Cursor;
use super::faults::invalid;
use super::read::{Reader, close, fill_missing};
use super::{JsonDecoder, JsonLimits};
use crate::reject::{Checked, Fault, Reason, Rejection, excerpt};

impl JsonDecoder {
    /// A decoder that keeps the fields at `places` only and gives them in that order, as columns of
    /// `keys`. Other fields of the table are read over, whatever they hold.
    pub(crate) fn of_keys(
        schema: &TableSchema,
        places: &[usize],
        keys: &SchemaRef,
        limits: JsonLimits,
    ) -> Result<Self, SchemaError> {
        let mut decoder = Self::new(schema, limits)?;
        decoder.schema = SchemaRef::clone(keys);
        decoder.record = Record::of_places(&schema.fields, places);
        decoder.places = Some(places.into());
        decoder.reader.any_year = true;
        Ok(decoder)
    }

    /// Adds the key that `text` stands for; for decoders of keys.
    pub(crate) fn push_key_text(&mut self, text: &[u8]) -> Result<(), Rejection> {
        if text.len() > KEY_TEXT_BYTES_MAX {
            return Err(Rejection::of_row(0, key_too_large()));
        }
        let row = self.rows;
        let places = self.places.as_deref().unwrap_or_default();
        let read = match places {
            [place] => {
                let slot = &mut self.record.slots[*place];
                single(&mut self.reader, &mut slot.column, text)
                    .map_err(|fault| fault.inside(&slot.name))
            }
            places => several(&mut self.reader, &mut self.record, places, text),
        };
        match read.and_then(|()| fill_missing(&mut self.record, row)) {
            Ok(()) => {
                self.rows += 1;
                Ok(())
            }
            Err(fault) => {
                let Rejection { field, reason, .. } = self.undo(row, *fault, 0);
                let (found, detail) = (shown(text), reason.to_string());
                Err(Rejection {
                    row: 0,
                    field,
                    reason: Reason::InvalidKey { found, detail },
                })
            }
        }
    }

    /// Appends the key text of the last row, whose key's fields are at `places`.
    #[inline]
    pub fn append_last_key(&self, places: &[usize], out: &mut Vec<u8>) {
        let Some(row) = self.rows.checked_sub(1) else {
            return;
        };
        let cell = |place: &usize| self.record.slots[*place].column.cell(row);
        crate::key::append_key(places.iter().filter_map(cell), places.len(), out);
    }
}

/// The reason to refuse a record whose key's text is above the limit.
pub fn key_too_large() -> Reason {
    Reason::TooLarge {
        what: "the primary key as text",
        max: KEY_TEXT_BYTES_MAX,
    }
}

fn shown(text: &[u8]) -> String {
    format!("{:?}", excerpt(text))
}

/// The text of a key's only column: without quotes.
fn single(reader: &mut Reader, column: &mut Column, text: &[u8]) -> Checked<()> {
    match &mut column.values {
        Values::String(bytes) => {
            if let Err(error) = std::str::from_utf8(text) {
                let offset = error.valid_up_to();
                return Err(Fault::new(Reason::InvalidUtf8 { offset }));
            }
            bytes.data.extend_from_slice(text);
            close(bytes)?;
            column.nulls.append_non_null();
            Ok(())
        }
        Values::Boolean(_)
        | Values::Byte(_)
        | Values::Short(_)
        | Values::Int(_)
        | Values::Long(_) => whole(reader, column, text),
        values => {
            let plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | 0..0x20);
            if !text.iter().all(plain) {
                let (expected, detail) = (values.name(), "a character that none has");
                return Err(invalid(expected, shown(text), detail));
            }
            // Without escapes the reader needs no scratch of its own.
            let mut quoted = std::mem::take(&mut reader.scratch);
            quoted.clear();
            quoted.push(b'"');
            quoted.extend_from_slice(text);
            quoted.push(b'"');
            let read = whole(reader, column, &quoted);
            reader.scratch = quoted;
            read
        }
    }
}

/// One JSON value and nothing around it.
fn whole(reader: &mut Reader, column: &mut Column, json: &[u8]) -> Checked<()> {
    let mut cursor = Cursor::new(json, false);
    let blank = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
    if blank(json.first()) || blank(json.last()) {
        return Err(cursor.malformed("white space around the key"));
    }
    reader.value(&mut cursor, column, 1)?;
    expect_end(&mut cursor)
}

/// A key of several columns: a JSON array in key order.
fn several(reader: &mut Reader, record: &mut Record, places: &[usize], text: &[u8]) -> Checked<()> {
    let mut cursor = Cursor::new(text, false);
    for (index, place) in places.iter().enumerate() {
        let opening = if index == 0 { b'[' } else { b',' };
        if cursor.next_token() != Some(opening) {
            return Err(cursor.malformed("expected an array of the key's columns in key order"));
        }
        cursor.advance(1);
        let slot = &mut record.slots[*place];
        reader
            .value(&mut cursor, &mut slot.column, 1)
            .map_err(|fault| fault.inside(&slot.name))?;
    }
    if cursor.next_token() != Some(b']') {
        return Err(cursor.malformed("expected ']' behind the key's last column"));
    }
    cursor.advance(1);
    expect_end(&mut cursor)
}

fn expect_end(cursor: &mut Cursor<'_>) -> Checked<()> {
    match cursor.next_token() {
        None => Ok(()),
        Some(_) => Err(cursor.malformed("expected nothing more")),
    }
}
