//! A table's columns as queries see them, and under which names and types its files hold them.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use tidelake_manifest::Metadata;
use tidelake_schema::{Primitive, TableSchema, Type, arrow as logical, delta};

use crate::error::QueryError;

/// Key in a field's metadata: the declared type where Arrow has no such type.
pub(crate) const DECLARED_TYPE: &str = "tidelake.type";

/// A uuid as columns have it, from a text of any case; none where the text is no uuid.
pub(crate) fn canonical_uuid(text: &str) -> Option<String> {
    let hyphens = [8, 13, 18, 23];
    let fits = |(at, byte): (usize, u8)| match hyphens.contains(&at) {
        true => byte == b'-',
        false => byte.is_ascii_hexdigit(),
    };
    let is_uuid = text.len() == 36 && text.bytes().enumerate().all(fits);
    is_uuid.then(|| text.to_ascii_lowercase())
}

/// The hidden columns that identify a row wherever compaction moves it.
pub(crate) const SEQUENCE: [(&str, DataType); 3] = [
    ("__bucket", DataType::Int32),
    ("__offset", DataType::Int64),
    ("__row", DataType::Int32),
];

/// Columns of one version of a table.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// What queries see: logical types; strings and binaries as views, which scan faster; nested
    /// fields are optional.
    pub schema: SchemaRef,
    /// The same columns under the names that files use.
    pub scan: SchemaRef,
    /// The declared types.
    pub table: Arc<TableSchema>,
    pub renamed: bool,
    /// The names of `scan`.
    names: HashSet<String>,
}

/// Physical names that are left over from elsewhere mean nothing without the mode.
fn is_mapped(metadata: &Metadata) -> bool {
    let mode = metadata.configuration.get("delta.columnMapping.mode");
    mode.is_some_and(|mode| mode != "none")
}

/// True where both make the same shape.
pub(crate) fn is_same(a: &Metadata, b: &Metadata) -> bool {
    a.schema_string == b.schema_string && is_mapped(a) == is_mapped(b)
}

impl Shape {
    /// Where column mapping is on, files have the physical names that the metadata gives.
    pub(crate) fn new(table: Arc<TableSchema>, metadata: &Metadata) -> Result<Self, QueryError> {
        let physical = match is_mapped(metadata) {
            true => delta::physical_names(&metadata.schema_string)?,
            false => delta::PhysicalNames::new(),
        };
        let arrow = logical::to_arrow(&table);
        let mut fields = Vec::with_capacity(arrow.fields().len());
        let mut scanned = Vec::with_capacity(arrow.fields().len());
        for (field, declared) in arrow.fields().iter().zip(&table.fields) {
            let mut metadata = field.metadata().clone();
            if let Type::Primitive(primitive @ (Primitive::Uuid | Primitive::Fixed(_))) =
                &declared.ty
            {
                metadata.insert(DECLARED_TYPE.to_owned(), primitive.to_string());
            }
            let shown = Field::new(field.name(), view(field.data_type()), field.is_nullable())
                .with_metadata(metadata);
            let name = physical.get(&declared.id).unwrap_or(field.name());
            scanned.push(shown.clone().with_name(name));
            fields.push(shown);
        }
        let mut nested = Vec::new();
        table
            .fields
            .iter()
            .for_each(|field| nested_ids(&field.ty, &mut nested));
        if let Some(id) = nested.iter().find(|id| physical.contains_key(id)) {
            return Err(QueryError::Unsupported(format!(
                "the nested field with id {id} was renamed by another engine; renamed nested \
                 fields can't be read yet"
            )));
        }
        let renamed = scanned
            .iter()
            .zip(&fields)
            .any(|(a, b)| a.name() != b.name());
        let schema = Arc::new(Schema::new(fields));
        let scan = if renamed {
            Arc::new(Schema::new(scanned))
        } else {
            Arc::clone(&schema)
        };
        Ok(Self {
            names: names(&scan),
            schema,
            scan,
            table,
            renamed,
        })
    }

    /// The same columns, and behind them those that say where a row came from: null in files of other
    /// writers.
    pub(crate) fn with_sequence(&self) -> Self {
        let hidden = || {
            SEQUENCE
                .into_iter()
                .map(|(name, data_type)| Field::new(name, data_type, true))
        };
        let extended = |schema: &SchemaRef| -> SchemaRef {
            let fields = schema.fields().iter().map(|field| field.as_ref().clone());
            Arc::new(Schema::new(fields.chain(hidden()).collect::<Vec<_>>()))
        };
        let scan = extended(&self.scan);
        Self {
            schema: extended(&self.schema),
            names: names(&scan),
            scan,
            table: Arc::clone(&self.table),
            renamed: self.renamed,
        }
    }

    /// True where a column of a file is one of these.
    pub(crate) fn is_scanned(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether a column has uuids, which other engines may have written in capitals.
    pub(crate) fn is_uuid(&self, place: usize) -> bool {
        let field = self.table.fields.get(place);
        field.is_some_and(|field| field.ty == Type::Primitive(Primitive::Uuid))
    }

    /// Places of the primary key's columns, in key order. None in append tables.
    pub(crate) fn key(&self) -> Vec<usize> {
        let fields = &self.table.fields;
        let places = self
            .table
            .identifier_field_ids
            .iter()
            .filter_map(|id| fields.iter().position(|field| field.id == *id));
        places.collect()
    }

    /// A decoded batch of logical columns, as queries see it. Views share the batch's buffers.
    pub(crate) fn scanned(&self, batch: &RecordBatch) -> Result<RecordBatch, QueryError> {
        let columns = batch
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| {
                if column.data_type() == field.data_type() {
                    Ok(Arc::clone(column))
                } else {
                    cast(column, field.data_type())
                }
            });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::clone(&self.schema);
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }
}

fn names(schema: &Schema) -> HashSet<String> {
    let names = schema.fields().iter().map(|field| field.name().clone());
    names.collect()
}

fn view(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 => DataType::Utf8View,
        DataType::Binary => DataType::BinaryView,
        other => optional_inside(other),
    }
}

/// The type with nothing required inside of it but the keys of maps. Other engines write all nested
/// fields as optional, whatever the table's schema says; such a file would not fit it.
fn optional_inside(data_type: &DataType) -> DataType {
    let inside = |field: &FieldRef, nullable: bool| {
        let data_type = optional_inside(field.data_type());
        let field = field.as_ref().clone().with_data_type(data_type);
        Arc::new(field.with_nullable(nullable))
    };
    match data_type {
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| inside(field, true)).collect())
        }
        DataType::List(element) => DataType::List(inside(element, true)),
        DataType::Map(entries, sorted) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return data_type.clone();
            };
            let pair = pair.iter().enumerate();
            let pair = pair.map(|(at, part)| inside(part, at > 0)).collect();
            let entries = entries.as_ref().clone();
            let entries = entries.with_data_type(DataType::Struct(pair));
            DataType::Map(Arc::new(entries), *sorted)
        }
        other => other.clone(),
    }
}

/// Ids of struct fields below the top level: what another engine can rename.
fn nested_ids(ty: &Type, ids: &mut Vec<i32>) {
    match ty {
        Type::Primitive(_) => {}
        Type::Struct(fields) => {
            for field in fields {
                ids.push(field.id);
                nested_ids(&field.ty, ids);
            }
        }
        Type::List(list) => nested_ids(&list.element, ids),
        Type::Map(map) => {
            nested_ids(&map.key, ids);
            nested_ids(&map.value, ids);
        }
    }
}
