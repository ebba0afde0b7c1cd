//! CSV (RFC 4180) with a header line.
//!
//! Null is an empty field, empty text is `""`; NaN and infinities are `NaN`, `Infinity`, `-Infinity`;
//! nested values are JSON.

use bytes::Bytes;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;

use super::json::writer;
use super::{Encoder, OddFloats};
use crate::error::QueryError;

/// Writes the header before the first row.
#[derive(Debug)]
pub(super) struct Csv {
    header: Vec<u8>,
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
        Self { header }
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
                    continue;
                }
                value.clear();
                write(row, &mut value);
                write_json(&value, &mut out)?;
            }
            out.extend_from_slice(b"\r\n");
        }
        Ok(out.into())
    }

    fn finish(&mut self) -> Result<Bytes, QueryError> {
        Ok(std::mem::take(&mut self.header).into())
    }
}

/// A JSON value as a field: a string's content, anything else as it stands.
fn write_json(value: &[u8], out: &mut Vec<u8>) -> Result<(), QueryError> {
    match value.first() {
        Some(b'"') => {
            let text: String = serde_json::from_slice(value)
                .map_err(|error| QueryError::Engine(error.to_string()))?;
            write_field(&text, out);
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
    out.push(b'"');
    for (place, part) in text.split('"').enumerate() {
        if place > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}
