//! Keys from text and JSON into columns.

use arrow::array::RecordBatch;
use tidelake_schema::{SchemaError, TableSchema};

use super::KeyText;
use crate::json::{JsonDecoder, JsonLimits};
use crate::{CodecError, Rejection};

/// Collects keys of one table as columns of [`super::key_schema`]. A call adds all of its keys or
/// none; rows in rejections count from the call's first.
///
/// ```
/// use tidelake_codec::key::{KeyBuilder, KeyText, TextColumn};
/// use tidelake_schema::TableSchema;
/// let schema = TableSchema::from_iceberg_json(
///     r#"{"identifier-field-ids":[2,1],"fields":[
///         {"id":1,"name":"id","required":true,"type":"long"},
///         {"id":2,"name":"region","required":true,"type":"string"}]}"#,
/// )?;
/// let mut keys = KeyBuilder::new(&schema)?.expect("the table has a key");
/// keys.push_text(br#"["eu", 1]"#)?;
/// keys.push_object(br#"{"id":2,"region":"us"}"#)?;
/// let mut texts = TextColumn::default();
/// KeyText::new(&schema)?.expect("the table has a key").write_keys(&keys.finish()?, &mut texts)?;
/// assert_eq!(texts.iter().collect::<Vec<_>>(), [br#"["eu",1]"#, br#"["us",2]"#]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct KeyBuilder {
    json: JsonDecoder,
}

impl KeyBuilder {
    /// None for a table without a primary key; refuses a schema that is not valid.
    pub fn new(schema: &TableSchema) -> Result<Option<Self>, SchemaError> {
        match KeyText::new(schema)? {
            None => Ok(None),
            Some(key) => Self::of(&key, schema).map(Some),
        }
    }

    /// The same for a key that is known already; `schema` is that of `key`.
    pub fn of(key: &KeyText, schema: &TableSchema) -> Result<Self, SchemaError> {
        let limits = JsonLimits::default();
        let json = JsonDecoder::of_keys(schema, key.columns(), key.schema(), limits)?;
        Ok(Self { json })
    }

    /// Adds the key that a key text stands for, canonical or not.
    pub fn push_text(&mut self, text: &[u8]) -> Result<(), Rejection> {
        self.json.push_key_text(text)
    }

    /// Adds the key of one object. It may have other fields of the table: they are read over,
    /// whatever they hold.
    pub fn push_object(&mut self, json: &[u8]) -> Result<(), Rejection> {
        self.json.push_record(json)
    }

    /// Adds the keys of many lines of objects, and tells how many; blank lines are skipped.
    pub fn push_ndjson(&mut self, lines: &[u8]) -> Result<usize, Rejection> {
        self.json.push_ndjson(lines)
    }

    /// Adds the keys of an array of objects, or of one object, and tells how many.
    pub fn push_array(&mut self, json: &[u8]) -> Result<usize, Rejection> {
        self.json.push_array(json)
    }

    /// Keys so far.
    pub fn rows(&self) -> usize {
        self.json.rows()
    }

    /// Bytes allocated, near enough for a memory budget.
    pub fn bytes(&self) -> usize {
        self.json.bytes()
    }

    /// As [`JsonDecoder::call_bytes`].
    pub fn call_bytes(&self) -> usize {
        self.json.call_bytes()
    }

    /// Drops the keys from `rows` on.
    pub fn truncate(&mut self, rows: usize) {
        self.json.truncate(rows);
    }

    /// The text of the last key, appended.
    pub fn append_last(&self, key: &KeyText, out: &mut Vec<u8>) {
        self.json.append_last_key(key.columns(), out);
    }

    /// Takes the keys; room for as many is kept.
    pub fn finish(&mut self) -> Result<RecordBatch, CodecError> {
        self.json.finish()
    }
}
