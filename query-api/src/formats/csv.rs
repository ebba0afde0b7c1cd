//! CSV (RFC 4180) with a header line.
//!
//! Null is an empty field, empty text is `""`; in an answer of one column, whose rows would be blank
//! lines, null is `NULL` beside texts (of which one that reads so is quoted) and `""` beside all else.
//! NaN and infinities are `NaN`, `Infinity`, `-Infinity`;
//! nested values are JSON.

use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;

use super::json::writer;
use super::{Encoder, End, OddFloats};
use crate::error::QueryError;

/// A null among texts of one column.
const NULL: &str = "NULL";

/// Columns of which a value may be an empty text.
fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
    )
}

/// Writes the header before the first row.
#[derive(Debug)]
pub(super) struct Csv {
    header: Vec<u8>,
    null: &'static [u8],
    /// Texts that would be taken for a null are quoted.
    quoted: &'static str,
}

impl Csv {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        let mut header = Vec::new();
        for (place, field) in schema.fields().iter().enumerate() {
            if place > 0 {
                header.push(b',');
            }
            write_field(field.name(), &mut header);
        }
        header.extend_from_slice(b"\r\n");
        // A row of one empty field would be a blank line, which readers skip.
        let (null, quoted): (&[u8], _) = match schema.fields().as_ref() {
            [only] if is_text(only.data_type()) => (NULL.as_bytes(), NULL),
            [_] => (b"\"\"", ""),
            _ => (b"", ""),
        };
        Self {
            header,
            null,
            quoted,
        }
    }
}

impl Encoder for Csv {
    fn write(&mut self, batch: &RecordBatch) -> Result<Bytes, QueryError> {
        let columns = batch.columns().iter();
        let writers = columns.map(|column| writer(column.as_ref(), OddFloats::Text));
        let writers = writers.collect::<Result<Vec<_>, _>>()?;
        let mut out = std::mem::take(&mut self.header);
        let mut value = Vec::new();
        for row in 0..batch.num_rows() {
            for (place, write) in writers.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                if batch.column(place).is_null(row) {
                    out.extend_from_slice(self.null);
                    continue;
                }
                value.clear();
                write(row, &mut value);
                write_json(&value, self.quoted, &mut out)?;
            }
            out.extend_from_slice(b"\r\n");
        }
        Ok(out.into())
    }

    fn finish(&mut self, _: End) -> Result<Bytes, QueryError> {
        Ok(std::mem::take(&mut self.header).into())
    }
}

/// A JSON value as a field: a string's content, anything else as it stands.
fn write_json(value: &[u8], quoted: &str, out: &mut Vec<u8>) -> Result<(), QueryError> {
    match value.first() {
        Some(b'"') => {
            let text: String = serde_json::from_slice(value)
                .map_err(|error| QueryError::Engine(error.to_string()))?;
            match !text.is_empty() && text == quoted {
                true => write_quoted(&text, out),
                false => write_field(&text, out),
            }
        }
        Some(b'[' | b'{') => write_field(&String::from_utf8_lossy(value), out),
        _ if value == b"null" => {}
        _ => out.extend_from_slice(value),
    }
    Ok(())
}

fn write_field(text: &str, out: &mut Vec<u8>) {
    let special = |byte: u8| matches!(byte, b'"' | b',' | b'\r' | b'\n');
    let padded = text.starts_with(' ') || text.ends_with(' ');
    if !text.is_empty() && !padded && !text.bytes().any(special) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    write_quoted(text, out);
}

fn write_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for (place, part) in text.split('"').enumerate() {
        if place > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}
