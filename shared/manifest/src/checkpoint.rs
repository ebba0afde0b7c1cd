//! Classic (V1) checkpoints: the state of a snapshot as one Parquet file, one row for each action.
//!
//! Writing makes `N.checkpoint.parquet`; reading also takes the old multi-part form and the columns
//! of other writers in whatever order. Rows come in groups of one kind, so that a group holds one
//! column of values and otherwise nulls, and memory for a group is all that building needs beside
//! the compressed bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListBuilder, MapBuilder,
    MapFieldNames, RecordBatch, StringArray, StringBuilder, StructArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Int64Type, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;
use tidelake_core::clock::UnixMillis;

use crate::action::{Add, Format, Metadata, NullableMap, Protocol, Remove, Txn, VectorDescriptor};
use crate::replay::Commit;
use crate::snapshot::Snapshot;

/// Actions in one batch on their way to or from the file.
const BATCH_ROWS: usize = 4096;

/// A checkpoint's bytes, and what `_last_checkpoint` says of it.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) bytes: Bytes,
    pub(crate) actions: u64,
    pub(crate) adds: u64,
}

/// Writes the state of a snapshot. Tombstones from before `expired_before_ms` are left out: older
/// files may have been deleted by then.
pub(crate) fn write(snapshot: &Snapshot, expired_before_ms: UnixMillis) -> Result<Written> {
    let schema = schema();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    // The plain Parquet types are what other engines expect, without a hint of ours.
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&schema), options)?;
    let mut actions = 0;
    let mut put = |column: &str, values: StructArray| -> Result<()> {
        actions += values.len() as u64;
        writer.write(&only(&schema, column, values)?)
    };
    put("protocol", protocols(&[snapshot.protocol()]))?;
    put("metaData", metadatas(&[snapshot.metadata()]))?;
    in_groups(snapshot.txns(), |group: &[&Txn]| put("txn", txns(group)))?;
    let adds = snapshot.files().map(|file| &file.add);
    in_groups(adds, |group: &[&Add]| put("add", self::adds(group)))?;
    let live = snapshot.tombstones().map(Arc::as_ref).filter(|remove| {
        remove
            .deletion_timestamp
            .is_none_or(|deleted| deleted >= expired_before_ms)
    });
    in_groups(live, |group: &[&Remove]| put("remove", removes(group)))?;
    let bytes = writer.into_inner()?.into();
    Ok(Written {
        bytes,
        actions,
        adds: snapshot.file_count() as u64,
    })
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

/// Reads a checkpoint, or one part of it, batch by batch.
pub(crate) fn read<E: From<ParquetError>>(
    bytes: Bytes,
    mut each: impl FnMut(Commit) -> Result<(), E>,
) -> Result<(), E> {
    // The Parquet types decide, not what another Arrow writer made of them.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let file = ArrowReaderMetadata::load(&bytes, options)?;
    // Parsed copies of statistics and partition values are for engines that plan on them.
    let leaves = file
        .parquet_schema()
        .columns()
        .iter()
        .enumerate()
        .filter_map(|(i, column)| {
            let parts = column.path().parts();
            let known = ["txn", "add", "remove", "metaData", "protocol"];
            let wanted = parts
                .first()
                .is_some_and(|top| known.contains(&top.as_str()));
            let copy = parts.get(1).is_some_and(|name| name.ends_with("_parsed"));
            (wanted && !copy).then_some(i)
        });
    let mask = ProjectionMask::leaves(file.parquet_schema(), leaves);
    let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, file)
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()?;
    for batch in batches {
        each(actions(&batch.map_err(ParquetError::from)?)?)?;
    }
    Ok(())
}

/// One row of a struct column.
#[derive(Clone, Copy)]
struct Row<'a> {
    of: &'a StructArray,
    row: usize,
}

impl<'a> Row<'a> {
    fn column(self, name: &str) -> Option<&'a ArrayRef> {
        self.of
            .column_by_name(name)
            .filter(|column| column.is_valid(self.row))
    }

    fn text(self, name: &str) -> Option<String> {
        Some(
            self.column(name)?
                .as_string_opt::<i32>()?
                .value(self.row)
                .to_owned(),
        )
    }

    fn long(self, name: &str) -> Option<i64> {
        Some(
            self.column(name)?
                .as_primitive_opt::<Int64Type>()?
                .value(self.row),
        )
    }

    fn int(self, name: &str) -> Option<i32> {
        Some(
            self.column(name)?
                .as_primitive_opt::<Int32Type>()?
                .value(self.row),
        )
    }

    fn flag(self, name: &str) -> Option<bool> {
        Some(self.column(name)?.as_boolean_opt()?.value(self.row))
    }

    fn map(self, name: &str) -> Option<NullableMap> {
        let entries = self.column(name)?.as_map_opt()?.value(self.row);
        let keys = entries.column(0).as_string_opt::<i32>()?;
        let values = entries.column(1).as_string_opt::<i32>()?;
        let texts = keys.iter().zip(values.iter());
        Some(
            texts
                .filter_map(|(k, v)| Some((k?.to_owned(), v.map(str::to_owned))))
                .collect(),
        )
    }

    fn plain_map(self, name: &str) -> Option<BTreeMap<String, String>> {
        Some(
            self.map(name)?
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?)))
                .collect(),
        )
    }

    fn list(self, name: &str) -> Option<Vec<String>> {
        let values = self.column(name)?.as_list_opt::<i32>()?.value(self.row);
        let texts = values.as_string_opt::<i32>()?;
        Some(texts.iter().flatten().map(str::to_owned).collect())
    }

    fn inner(self, name: &str) -> Option<Self> {
        Some(Self {
            of: self.column(name)?.as_struct_opt()?,
            row: self.row,
        })
    }
}

/// An action that can't be read must not go missing: then the checkpoint is of no use.
fn actions(batch: &RecordBatch) -> Result<Commit> {
    /// The rows in which a column has an action.
    fn rows<'a>(batch: &'a RecordBatch, column: &str) -> impl Iterator<Item = Row<'a>> {
        let of = batch
            .column_by_name(column)
            .and_then(|column| column.as_struct_opt());
        let rows = of.map_or(0, StructArray::len);
        let rows = (0..rows).filter_map(move |row| Some(Row { of: of?, row }));
        rows.filter(|row| row.of.is_valid(row.row))
    }
    let mut commit = Commit::default();
    for row in rows(batch, "protocol") {
        commit.protocol = Some(Protocol {
            min_reader_version: row.int("minReaderVersion").unwrap_or(1),
            min_writer_version: row.int("minWriterVersion").unwrap_or(1),
            reader_features: row.list("readerFeatures"),
            writer_features: row.list("writerFeatures"),
        });
    }
    let whole = |what: &str| ParquetError::General(format!("{what} lacks a required column"));
    for row in rows(batch, "metaData") {
        commit.metadata = Some(metadata(row).ok_or_else(|| whole("metaData"))?);
    }
    for row in rows(batch, "txn") {
        commit.txns.push(txn(row).ok_or_else(|| whole("txn"))?);
    }
    for row in rows(batch, "add") {
        commit.adds.push(add(row).ok_or_else(|| whole("add"))?);
    }
    for row in rows(batch, "remove") {
        commit
            .removes
            .push(remove(row).ok_or_else(|| whole("remove"))?);
    }
    Ok(commit)
}

fn txn(row: Row<'_>) -> Option<Txn> {
    Some(Txn {
        app_id: row.text("appId")?,
        version: row.long("version")?,
        last_updated: row.long("lastUpdated"),
    })
}

fn metadata(row: Row<'_>) -> Option<Metadata> {
    let format = row.inner("format").map(|format| Format {
        provider: format.text("provider").unwrap_or_default(),
        options: format.plain_map("options").unwrap_or_default(),
    });
    Some(Metadata {
        id: row.text("id")?,
        name: row.text("name"),
        description: row.text("description"),
        format: format.unwrap_or_default(),
        schema_string: row.text("schemaString")?,
        partition_columns: row.list("partitionColumns").unwrap_or_default(),
        created_time: row.long("createdTime"),
        configuration: row.plain_map("configuration").unwrap_or_default(),
    })
}

/// A vector that is there but can't be read would bring deleted rows back.
fn vector(row: Row<'_>) -> Option<Option<VectorDescriptor>> {
    let Some(vector) = row.inner("deletionVector") else {
        return Some(None);
    };
    Some(Some(VectorDescriptor {
        storage_type: vector.text("storageType")?,
        path_or_inline_dv: vector.text("pathOrInlineDv")?,
        offset: vector.int("offset"),
        size_in_bytes: vector.int("sizeInBytes")?,
        cardinality: vector.long("cardinality")?,
    }))
}

fn add(row: Row<'_>) -> Option<Add> {
    Some(Add {
        path: row.text("path")?,
        partition_values: row.map("partitionValues").unwrap_or_default(),
        size: row.long("size").unwrap_or(0),
        modification_time: row.long("modificationTime").unwrap_or(0),
        data_change: row.flag("dataChange").unwrap_or(false),
        stats: row.text("stats"),
        tags: row.map("tags"),
        deletion_vector: vector(row)?,
    })
}

fn remove(row: Row<'_>) -> Option<Remove> {
    Some(Remove {
        path: row.text("path")?,
        deletion_timestamp: row.long("deletionTimestamp"),
        data_change: row.flag("dataChange").unwrap_or(false),
        extended_file_metadata: row.flag("extendedFileMetadata"),
        partition_values: row.map("partitionValues"),
        size: row.long("size"),
        deletion_vector: vector(row)?,
    })
}
