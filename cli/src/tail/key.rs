//! `--key`: the rows of one primary key, told by its text.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use tidelake_codec::key::{KeyBuilder, KeyText, TextColumn};
use tidelake_core::partition::bucket_of;
use tidelake_core::{Bucket, ErrorKind};
use tidelake_intake::TableKind;
use tidelake_schema::TableSchema;

use super::described::Described;
use crate::failure::Failure;

/// One primary key.
pub(super) struct KeyFilter {
    key: KeyText,
    /// The canonical text.
    text: Vec<u8>,
    pub(super) bucket: Bucket,
}

impl KeyFilter {
    pub(super) fn new(key: &str, table: &Described) -> Result<Self, Failure> {
        let schema = &table.schema;
        let keys = KeyText::new(schema).map_err(|error| unusable(&error))?;
        let Some(keys) = keys else {
            let message = format!("table {} has no primary key", table.name);
            return Err(Failure::usage(message).hint("leave --key out"));
        };
        let mut builder = KeyBuilder::of(&keys, schema).map_err(|error| unusable(&error))?;
        builder
            .push_text(key.as_bytes())
            .map_err(|why| Failure::usage(format!("--key {key}: no key of the table: {why}")))?;
        let mut text = Vec::new();
        builder.append_last(&keys, &mut text);
        Ok(Self {
            bucket: match table.kind {
                // Dead letters lie where their source was, not where their key says.
                TableKind::DeadLetters => Bucket(0),
                _ => bucket_of(&text, table.buckets),
            },
            key: keys,
            text,
        })
    }

    pub(super) fn adopt(&mut self, schema: &TableSchema) -> Result<(), Failure> {
        if let Some(keys) = KeyText::new(schema).map_err(|error| unusable(&error))? {
            self.key = keys;
        }
        Ok(())
    }

    /// Which rows are of the key; `deletes` are keys alone.
    pub(super) fn decide(
        &self,
        batch: &RecordBatch,
        deletes: bool,
    ) -> Result<BooleanArray, Failure> {
        let mut texts = TextColumn::default();
        let written = match deletes {
            true => self.key.write_keys(batch, &mut texts),
            false => self.key.write_rows(batch, &mut texts),
        };
        written.map_err(|error| Failure::failed(error.to_string()))?;
        let wanted = BooleanBuffer::collect_bool(texts.len(), |row| texts.get(row) == self.text);
        Ok(BooleanArray::new(wanted, None))
    }
}

pub(super) fn unusable(error: &dyn std::error::Error) -> Failure {
    Failure::of(
        "the table's schema can't be used",
        ErrorKind::Invalid,
        error,
    )
}
