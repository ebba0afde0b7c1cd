//! What a key of one table is, and how it is read.

use std::sync::Arc;

use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tidelake_codec::Rejection;
use tidelake_codec::key::{KeyBuilder, KeyError, KeyText, TextColumn};
use tidelake_schema::{Primitive, TableSchema, Type};
use tidelake_table::index::KeySpec;
use tidelake_table::{Owners, Unowned};

use super::shape::canonical_uuid;
use crate::error::QueryError;

/// Builders kept between lookups.
const BUILDERS_MAX: usize = 16;

/// The primary key of one version of a table.
#[derive(Debug)]
pub(crate) struct TableKeys {
    spec: KeySpec,
    text: KeyText,
    table: Arc<TableSchema>,
    buckets: u32,
    idle: Mutex<Vec<KeyBuilder>>,
}

impl TableKeys {
    /// `None` for a table without a primary key.
    pub(crate) fn of(table: &Arc<TableSchema>, buckets: u32) -> Result<Option<Self>, QueryError> {
        let (Some(spec), Some(text)) = (KeySpec::of(table), KeyText::new(table)?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            spec,
            text,
            table: Arc::clone(table),
            buckets,
            idle: Mutex::default(),
        }))
    }

    /// The key's columns in key order, logical types.
    pub(crate) fn schema(&self) -> &SchemaRef {
        self.text.schema()
    }

    pub(crate) fn spec(&self) -> &KeySpec {
        &self.spec
    }

    /// The rule by which records are put into buckets, as the table engine wants it.
    pub(crate) fn owners(&self) -> Owners {
        let (text, buckets) = (self.text.clone(), self.buckets);
        Owners::new(buckets, move |keys| {
            let mut owners = Vec::with_capacity(keys.num_rows());
            match text.key_buckets(keys, buckets, &mut owners) {
                Ok(()) => Ok(owners),
                Err(KeyError::Rejected(_)) => Err(Unowned::Key),
                Err(KeyError::Codec(error)) => Err(Unowned::Columns(error.to_string())),
            }
        })
    }

    /// The key that a text stands for.
    pub(crate) fn of_text(&self, text: &[u8]) -> Result<RecordBatch, QueryError> {
        self.build(|builder| builder.push_text(text))
    }

    /// Keys as JSON: objects, or bare values where the key is one column.
    pub(crate) fn of_json(&self, keys: &[&RawValue]) -> Result<RecordBatch, QueryError> {
        self.build(|builder| {
            for (row, key) in keys.iter().enumerate() {
                let json = key.get();
                let pushed = match json.as_bytes().first() {
                    Some(b'{' | b'[') => builder.push_object(json.as_bytes()),
                    Some(b'"') => match serde_json::from_str::<String>(json) {
                        Ok(text) => builder.push_text(text.as_bytes()),
                        // Serde has read it before.
                        Err(_) => builder.push_text(json.as_bytes()),
                    },
                    _ if json == "null" => builder.push_object(json.as_bytes()),
                    _ => builder.push_text(json.as_bytes()),
                };
                pushed.map_err(|rejection| rejection.shifted(row))?;
            }
            Ok(())
        })
    }

    fn build(
        &self,
        push: impl FnOnce(&mut KeyBuilder) -> Result<(), Rejection>,
    ) -> Result<RecordBatch, QueryError> {
        let idle = self.idle.lock().pop();
        let mut builder = match idle {
            Some(builder) => builder,
            None => KeyBuilder::new(&self.table)?
                .ok_or_else(|| QueryError::Engine("the table has no key".into()))?,
        };
        // One that failed may hold half of it: it is dropped.
        push(&mut builder).map_err(QueryError::Key)?;
        let keys = builder
            .finish()
            .map_err(|error| QueryError::Engine(error.to_string()))?;
        let mut idle = self.idle.lock();
        if idle.len() < BUILDERS_MAX {
            idle.push(builder);
        }
        Ok(keys)
    }

    /// A value as the rows of a key column hold it; none where no row can. It has the column's type.
    pub(crate) fn possible(&self, column: usize, value: ScalarValue) -> Option<ScalarValue> {
        let id = self.table.identifier_field_ids.get(column);
        let mut fields = self.table.fields.iter();
        let field = id.and_then(|id| fields.find(|field| field.id == *id));
        match field.map(|field| &field.ty) {
            Some(Type::Primitive(Primitive::Uuid)) => {
                let text = value.try_as_str().flatten()?;
                Some(ScalarValue::Utf8(Some(canonical_uuid(text)?)))
            }
            Some(Type::Primitive(Primitive::Fixed(bytes))) => match &value {
                ScalarValue::Binary(Some(found)) if found.len() != *bytes as usize => None,
                _ => Some(value),
            },
            _ => Some(value),
        }
    }

    /// The bucket that would show each key, also one that no message can carry.
    pub(crate) fn buckets(&self, keys: &RecordBatch) -> Result<Vec<u32>, QueryError> {
        Ok(self.owners().of(keys)?)
    }

    /// The text of a row's key; `batch` has the table's columns, as queries see them.
    pub(crate) fn text_of(&self, batch: &RecordBatch, row: usize) -> Result<String, QueryError> {
        let key = self.text.columns().iter().zip(self.schema().fields());
        let columns =
            key.map(|(place, field)| cast(&batch.column(*place).slice(row, 1), field.data_type()));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let key = RecordBatch::try_new(Arc::clone(self.schema()), columns)?;
        let mut texts = TextColumn::default();
        self.text.write_keys(&key, &mut texts).map_err(refused)?;
        let text = texts.iter().next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

fn refused(error: KeyError) -> QueryError {
    match error {
        KeyError::Rejected(rejection) => QueryError::Key(rejection),
        KeyError::Codec(error) => QueryError::Engine(error.to_string()),
    }
}
