//! From a snapshot to the bytes of its checkpoint: each kind of action as one struct column.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int32Array, Int64Array, ListBuilder, MapBuilder, MapFieldNames,
    RecordBatch, StringArray, StringBuilder, StructArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::Compression;
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;

use super::BATCH_ROWS;
use crate::action::{Add, Metadata, NullableMap, Protocol, Remove, Txn, VectorDescriptor};
use crate::snapshot::Snapshot;

/// A checkpoint's bytes, and what `_last_checkpoint` says of it.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) bytes: Bytes,
    pub(crate) actions: u64,
    pub(crate) adds: u64,
}

/// A checkpoint in the making: the snapshot's state, then tombstones, as many as come.
pub(crate) struct Pen {
    schema: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
    actions: u64,
    adds: u64,
}

impl Pen {
    /// Writes the state of a snapshot.
    pub(crate) fn begin(snapshot: &Snapshot) -> Result<Self> {
        let schema = schema();
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .build();
        // The plain Parquet types are what other engines expect, without a hint of ours.
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&schema), options)?;
        let mut pen = Self {
            schema,
            writer,
            actions: 0,
            adds: snapshot.file_count() as u64,
        };
        pen.put("protocol", protocols(&[snapshot.protocol()]))?;
        pen.put("metaData", metadatas(&[snapshot.metadata()]))?;
        in_groups(snapshot.txns(), |group: &[&Txn]| {
            pen.put("txn", txns(group))
        })?;
        let adds = snapshot.files().map(|file| &file.add);
        in_groups(adds, |group: &[&Add]| pen.put("add", self::adds(group)))?;
        Ok(pen)
    }

    /// Adds files that are gone.
    pub(crate) fn removes(&mut self, of: &[Remove]) -> Result<()> {
        in_groups(of.iter(), |group: &[&Remove]| {
            self.put("remove", removes(group))
        })
    }

    fn put(&mut self, column: &str, values: StructArray) -> Result<()> {
        self.actions += values.len() as u64;
        self.writer.write(&only(&self.schema, column, values)?)
    }

    pub(crate) fn finish(self) -> Result<Written> {
        Ok(Written {
            bytes: self.writer.into_inner()?.into(),
            actions: self.actions,
            adds: self.adds,
        })
    }
}

fn in_groups<'a, T: 'a>(
    items: impl Iterator<Item = &'a T>,
    mut put: impl FnMut(&[&'a T]) -> Result<()>,
) -> Result<()> {
    let mut group = Vec::with_capacity(BATCH_ROWS.min(items.size_hint().1.unwrap_or(0)));
    for item in items {
        group.push(item);
        if group.len() == BATCH_ROWS {
            put(&group)?;
            group.clear();
        }
    }
    if group.is_empty() {
        Ok(())
    } else {
        put(&group)
    }
}

/// A batch in which only `column` has values.
fn only(schema: &SchemaRef, column: &str, values: StructArray) -> Result<RecordBatch> {
    let rows = values.len();
    let columns = schema.fields().iter().map(|field| {
        if field.name() == column {
            Arc::new(values.clone()) as ArrayRef
        } else {
            new_null_array(field.data_type(), rows)
        }
    });
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect())?)
}

fn schema() -> SchemaRef {
    let column = |name: &str, empty: StructArray| Field::new(name, empty.data_type().clone(), true);
    Arc::new(Schema::new(vec![
        column("txn", txns(&[])),
        column("add", adds(&[])),
        column("remove", removes(&[])),
        column("metaData", metadatas(&[])),
        column("protocol", protocols(&[])),
    ]))
}

/// A struct without nulls of nullable fields.
fn columns(fields: Vec<(&str, ArrayRef)>) -> StructArray {
    let (fields, arrays): (Vec<_>, Vec<_>) = fields
        .into_iter()
        .map(|(name, array)| (Field::new(name, array.data_type().clone(), true), array))
        .unzip();
    StructArray::new(Fields::from(fields), arrays, None)
}

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn longs(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

fn ints(values: impl Iterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(values.collect::<Int32Array>())
}

fn flags(values: impl Iterator<Item = Option<bool>>) -> ArrayRef {
    Arc::new(values.collect::<BooleanArray>())
}

fn maps<'a>(
    values: impl Iterator<Item = Option<Vec<(&'a String, Option<&'a String>)>>>,
) -> ArrayRef {
    let names = MapFieldNames {
        entry: "key_value".into(),
        key: "key".into(),
        value: "value".into(),
    };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for value in values {
        for (key, value) in value.iter().flatten() {
            builder.keys().append_value(key);
            builder.values().append_option(*value);
        }
        builder
            .append(value.is_some())
            .expect("as many keys as values");
    }
    Arc::new(builder.finish())
}

fn nullable(map: &NullableMap) -> Vec<(&String, Option<&String>)> {
    map.iter()
        .map(|(key, value)| (key, value.as_ref()))
        .collect()
}

fn plain(map: &BTreeMap<String, String>) -> Vec<(&String, Option<&String>)> {
    map.iter().map(|(key, value)| (key, Some(value))).collect()
}

fn lists<'a>(values: impl Iterator<Item = Option<&'a Vec<String>>>) -> ArrayRef {
    let field = Field::new("element", DataType::Utf8, true);
    let mut builder = ListBuilder::new(StringBuilder::new()).with_field(field);
    for value in values {
        for text in value.into_iter().flatten() {
            builder.values().append_value(text);
        }
        builder.append(value.is_some());
    }
    Arc::new(builder.finish())
}

fn vectors<'a>(values: impl Iterator<Item = Option<&'a VectorDescriptor>> + Clone) -> ArrayRef {
    let present: Vec<bool> = values.clone().map(|value| value.is_some()).collect();
    let each = || values.clone();
    let (fields, arrays, _) = columns(vec![
        (
            "storageType",
            texts(each().map(|v| Some(v?.storage_type.as_str()))),
        ),
        (
            "pathOrInlineDv",
            texts(each().map(|v| Some(v?.path_or_inline_dv.as_str()))),
        ),
        ("offset", ints(each().map(|v| v?.offset))),
        ("sizeInBytes", ints(each().map(|v| Some(v?.size_in_bytes)))),
        ("cardinality", longs(each().map(|v| Some(v?.cardinality)))),
    ])
    .into_parts();
    Arc::new(StructArray::new(fields, arrays, Some(present.into())))
}

fn txns(of: &[&Txn]) -> StructArray {
    columns(vec![
        (
            "appId",
            texts(of.iter().map(|txn| Some(txn.app_id.as_str()))),
        ),
        ("version", longs(of.iter().map(|txn| Some(txn.version)))),
        ("lastUpdated", longs(of.iter().map(|txn| txn.last_updated))),
    ])
}

fn adds(of: &[&Add]) -> StructArray {
    columns(vec![
        ("path", texts(of.iter().map(|add| Some(add.path.as_str())))),
        (
            "partitionValues",
            maps(of.iter().map(|add| Some(nullable(&add.partition_values)))),
        ),
        ("size", longs(of.iter().map(|add| Some(add.size)))),
        (
            "modificationTime",
            longs(of.iter().map(|add| Some(add.modification_time))),
        ),
        // A checkpoint changes no data.
        ("dataChange", flags(of.iter().map(|_| Some(false)))),
        ("stats", texts(of.iter().map(|add| add.stats.as_deref()))),
        (
            "tags",
            maps(of.iter().map(|add| add.tags.as_ref().map(nullable))),
        ),
        (
            "deletionVector",
            vectors(of.iter().map(|add| add.deletion_vector.as_ref())),
        ),
    ])
}

fn removes(of: &[&Remove]) -> StructArray {
    columns(vec![
        (
            "path",
            texts(of.iter().map(|remove| Some(remove.path.as_str()))),
        ),
        (
            "deletionTimestamp",
            longs(of.iter().map(|remove| remove.deletion_timestamp)),
        ),
        ("dataChange", flags(of.iter().map(|_| Some(false)))),
        (
            "extendedFileMetadata",
            flags(of.iter().map(|remove| remove.extended_file_metadata)),
        ),
        (
            "partitionValues",
            maps(
                of.iter()
                    .map(|remove| remove.partition_values.as_ref().map(nullable)),
            ),
        ),
        ("size", longs(of.iter().map(|remove| remove.size))),
        (
            "deletionVector",
            vectors(of.iter().map(|remove| remove.deletion_vector.as_ref())),
        ),
    ])
}

fn metadatas(of: &[&Metadata]) -> StructArray {
    let format = columns(vec![
        (
            "provider",
            texts(
                of.iter()
                    .map(|metadata| Some(metadata.format.provider.as_str())),
            ),
        ),
        (
            "options",
            maps(
                of.iter()
                    .map(|metadata| Some(plain(&metadata.format.options))),
            ),
        ),
    ]);
    columns(vec![
        (
            "id",
            texts(of.iter().map(|metadata| Some(metadata.id.as_str()))),
        ),
        (
            "name",
            texts(of.iter().map(|metadata| metadata.name.as_deref())),
        ),
        (
            "description",
            texts(of.iter().map(|metadata| metadata.description.as_deref())),
        ),
        ("format", Arc::new(format)),
        (
            "schemaString",
            texts(
                of.iter()
                    .map(|metadata| Some(metadata.schema_string.as_str())),
            ),
        ),
        (
            "partitionColumns",
            lists(of.iter().map(|metadata| Some(&metadata.partition_columns))),
        ),
        (
            "createdTime",
            longs(of.iter().map(|metadata| metadata.created_time)),
        ),
        (
            "configuration",
            maps(
                of.iter()
                    .map(|metadata| Some(plain(&metadata.configuration))),
            ),
        ),
    ])
}

fn protocols(of: &[&Protocol]) -> StructArray {
    columns(vec![
        (
            "minReaderVersion",
            ints(of.iter().map(|p| Some(p.min_reader_version))),
        ),
        (
            "minWriterVersion",
            ints(of.iter().map(|p| Some(p.min_writer_version))),
        ),
        (
            "readerFeatures",
            lists(of.iter().map(|p| p.reader_features.as_ref())),
        ),
        (
            "writerFeatures",
            lists(of.iter().map(|p| p.writer_features.as_ref())),
        ),
    ])
}
