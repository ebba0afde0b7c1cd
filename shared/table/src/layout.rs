//! How the rows of a table stand in its files, by one version of its schema.
//!
//! ```text
//!  rows as they were decoded ─ fit ─► columns of this schema ─ stored ─► columns of a file
//!    (an older schema, maybe)           order, by field id              physical names, stored types
//! ```
//! A table's schema may change while rows are in memory: another engine renames a column, or puts one
//! in front of another. Rows carry the schema that they were decoded with; here each column finds its
//! place by what it is.
//!
//! Invariant: rows that were decoded with other columns than the schema has are refused. What the
//! messages say of a column that came meanwhile is only known to who decodes them again.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use tidelake_manifest::Metadata;
use tidelake_schema::arrow::{FIELD_ID_KEY, Identity, conform, storage_schema, to_arrow};
use tidelake_schema::delta::{PhysicalNames, physical_names};
use tidelake_schema::{SchemaError, TableSchema};

use crate::memtable::{Chunk, Deletes};
use crate::write::HIDDEN_COLUMNS;
use crate::{Sealed, TableError};

const MAPPING_MODE: &str = "delta.columnMapping.mode";

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FileLayout {
    logical: SchemaRef,
    /// The key's columns in key order; none without a key.
    keys: Option<SchemaRef>,
    /// Columns of a file, hidden ones aside.
    columns: SchemaRef,
    /// With the hidden ones.
    file: SchemaRef,
    by: Identity,
}

impl FileLayout {
    /// Of a table by its schema and its log's metadata.
    ///
    /// # Errors
    /// Where the metadata's schema can't be read.
    pub fn new(schema: &TableSchema, metadata: &Metadata) -> Result<Self, TableError> {
        let mode = metadata.configuration.get(MAPPING_MODE);
        Ok(if mode.is_some_and(|mode| mode != "none") {
            let names = physical_names(&metadata.schema_string)?;
            Self::of(schema, &names, Identity::Id)
        } else {
            Self::of(schema, &PhysicalNames::new(), Identity::Name)
        })
    }

    /// Of a table whose columns have their first names.
    pub fn plain(schema: &TableSchema) -> Self {
        Self::of(schema, &PhysicalNames::new(), Identity::Id)
    }

    fn of(schema: &TableSchema, names: &PhysicalNames, by: Identity) -> Self {
        let logical = to_arrow(schema);
        let key = schema.identifier_field_ids.iter().filter_map(|id| {
            let place = schema.fields.iter().position(|field| field.id == *id)?;
            Some(Arc::clone(&logical.fields()[place]))
        });
        let key: Vec<FieldRef> = key.collect();
        let columns = named(storage_schema(schema).fields(), names);
        let mut file: Vec<FieldRef> = columns.iter().cloned().collect();
        file.extend(hidden());
        Self {
            keys: (!key.is_empty()).then(|| Arc::new(Schema::new(key))),
            logical,
            columns: Arc::new(Schema::new(columns)),
            file: Arc::new(Schema::new(file)),
            by,
        }
    }

    /// The Arrow schema of a data file, hidden columns included.
    pub fn file_schema(&self) -> &SchemaRef {
        &self.file
    }

    /// Rows in memory as a file holds them, hidden columns aside.
    pub(crate) fn stored(&self, batch: &RecordBatch) -> Result<RecordBatch, TableError> {
        self.stored_as(batch, &self.columns)
    }

    /// The same of some columns: `columns` of a file, and those of the rows that they stand for.
    pub(crate) fn stored_as(
        &self,
        batch: &RecordBatch,
        columns: &SchemaRef,
    ) -> Result<RecordBatch, TableError> {
        conform(batch, columns, self.by).map_err(other_schema)
    }

    /// A bucket's rows and deletes as columns of this schema. Costs nothing where they are.
    pub(crate) fn fit(&self, sealed: Sealed) -> Result<Sealed, TableError> {
        let (logical, keys) = (&self.logical, self.keys.as_ref());
        let fits = |chunk: &Chunk| chunk.batch.schema_ref() == logical;
        let deletes = |deletes: &Deletes| Some(deletes.keys.schema_ref()) == keys;
        if sealed.chunks.iter().all(fits) && sealed.deletes.iter().all(deletes) {
            return Ok(sealed);
        }
        let chunks = sealed.chunks.iter().map(|chunk| {
            let batch = conform(&chunk.batch, logical, self.by)?;
            Ok(Chunk::new(batch, chunk.positions.clone()))
        });
        let chunks: Result<Arc<[Chunk]>, SchemaError> = chunks.collect();
        let deletes = sealed.deletes.iter().map(|removed| {
            let Some(key) = keys else {
                return Err(SchemaError::Batch {
                    path: String::new(),
                    expected: "a primary key".into(),
                    found: "none".into(),
                });
            };
            let keys = conform(&removed.keys, key, self.by)?;
            Ok(Deletes::new(keys, removed.positions.clone()))
        });
        let deletes: Result<Arc<[Deletes]>, SchemaError> = deletes.collect();
        Ok(Sealed {
            chunks: chunks.map_err(other_schema)?,
            deletes: deletes.map_err(other_schema)?,
            ..sealed
        })
    }
}

fn other_schema(error: SchemaError) -> TableError {
    TableError::OtherSchema {
        reason: error.to_string(),
    }
}

fn hidden() -> [FieldRef; 4] {
    let [bucket, offset, row, timestamp] = HIDDEN_COLUMNS;
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    [
        Arc::new(Field::new(bucket, DataType::Int32, false)),
        Arc::new(Field::new(offset, DataType::Int64, false)),
        Arc::new(Field::new(row, DataType::Int32, false)),
        Arc::new(Field::new(timestamp, time, false)),
    ]
}

/// The fields under the names that the table's files have, nested ones too. The insides of lists
/// and maps are named by the format of Parquet alone.
fn named(fields: &Fields, names: &PhysicalNames) -> Fields {
    if names.is_empty() {
        return fields.clone();
    }
    let fields = fields.iter().map(|field| {
        let id: Option<i32> = field
            .metadata()
            .get(FIELD_ID_KEY)
            .and_then(|id| id.parse().ok());
        let name = id.and_then(|id| names.get(&id)).unwrap_or(field.name());
        inside(field, names).with_name(name)
    });
    fields.collect()
}

/// A field whose own name stays.
fn inside(field: &Field, names: &PhysicalNames) -> Field {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(named(fields, names)),
        DataType::List(element) => DataType::List(Arc::new(inside(element, names))),
        DataType::Map(entries, sorted) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return field.clone();
            };
            let pair: Fields = pair.iter().map(|part| inside(part, names)).collect();
            let entries = entries
                .as_ref()
                .clone()
                .with_data_type(DataType::Struct(pair));
            DataType::Map(Arc::new(entries), *sorted)
        }
        _ => return field.clone(),
    };
    field.clone().with_data_type(data_type)
}

#[cfg(test)]
mod tests;
