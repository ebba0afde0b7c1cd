//! From the bytes of a checkpoint to its actions, by column name.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::{ParquetError, Result};

use super::BATCH_ROWS;
use crate::action::{Add, Format, Metadata, NullableMap, Protocol, Remove, Txn, VectorDescriptor};
use crate::commit_file::Commit;

/// The actions that make a snapshot.
pub(crate) const STATE: &[&str] = &["txn", "add", "metaData", "protocol"];
/// The files that are gone.
pub(crate) const REMOVES: &[&str] = &["remove"];

/// Reads actions of these kinds from a checkpoint, or one part of it, batch by batch.
pub(crate) fn read<E: From<ParquetError>>(
    bytes: Bytes,
    kinds: &[&str],
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
            let wanted = parts
                .first()
                .is_some_and(|top| kinds.contains(&top.as_str()));
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
