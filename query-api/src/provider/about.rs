//! Tables about tables: history, files, columns, and the tenant's `information_schema`.
//!
//! Everything here is built when a query asks for it, from what the query has pinned; DataFusion's own
//! `information_schema` would show settings and functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use tidelake_core::TenantId;
use tidelake_manifest::{CommitSummary, NamedSnapshot};

use crate::error::QueryError;
use crate::table::files::Files;
use crate::table::shape::Shape;
use crate::table::type_names::type_name;

/// The catalog's name in `information_schema`.
pub(crate) const CATALOG: &str = "tidelake";
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";
/// What the tenant's `information_schema` holds.
pub(crate) const INFORMATION: [&str; 4] = ["tables", "columns", "views", "schemata"];

/// One of [`INFORMATION`], without any row.
pub(crate) fn information(
    tenant: &TenantId,
    name: &str,
) -> Result<Arc<dyn TableProvider>, QueryError> {
    Ok(Arc::new(match name {
        "tables" => tables(tenant, &[])?,
        "columns" => all_columns(tenant, &[])?,
        "views" => views()?,
        "schemata" => schemata(tenant)?,
        other => return Err(no_information(other)),
    }))
}

pub(crate) fn no_information(name: &str) -> QueryError {
    QueryError::Unsupported(format!(
        "information_schema.{name} is not there; there are {}",
        INFORMATION.join(", ")
    ))
}

fn table(columns: Vec<(Field, ArrayRef)>) -> Result<MemTable, QueryError> {
    let batch = batch(columns)?;
    Ok(MemTable::try_new(batch.schema(), vec![vec![batch]])?)
}

fn batch(columns: Vec<(Field, ArrayRef)>) -> Result<RecordBatch, QueryError> {
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

fn text<T: Into<Option<String>>>(
    name: &str,
    nullable: bool,
    values: impl IntoIterator<Item = T>,
) -> (Field, ArrayRef) {
    let values: StringArray = values.into_iter().map(Into::into).collect();
    (Field::new(name, DataType::Utf8, nullable), Arc::new(values))
}

fn long<T: Into<Option<i64>>>(
    name: &str,
    nullable: bool,
    values: impl IntoIterator<Item = T>,
) -> (Field, ArrayRef) {
    let values: Int64Array = values.into_iter().map(Into::into).collect();
    (
        Field::new(name, DataType::Int64, nullable),
        Arc::new(values),
    )
}

fn moment(name: &str, millis: impl IntoIterator<Item = i64>) -> (Field, ArrayRef) {
    let values: TimestampMicrosecondArray = millis
        .into_iter()
        .map(|ms| Some(ms.saturating_mul(1000)))
        .collect();
    let zone: Arc<str> = Arc::from("UTC");
    let ty = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::clone(&zone)));
    (
        Field::new(name, ty, false),
        Arc::new(values.with_timezone(zone)),
    )
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Rows of `table_history('t')`: one for each version.
pub(super) fn history(commits: &[CommitSummary]) -> Result<RecordBatch, QueryError> {
    batch(vec![
        long(
            "version",
            false,
            commits.iter().map(|commit| signed(commit.version.0)),
        ),
        moment(
            "timestamp",
            commits.iter().map(|commit| commit.timestamp_ms),
        ),
        text(
            "operation",
            false,
            commits.iter().map(|commit| commit.operation.clone()),
        ),
        text(
            "commit_id",
            true,
            commits.iter().map(|commit| commit.commit_id.clone()),
        ),
        long(
            "rows_added",
            false,
            commits.iter().map(|commit| signed(commit.rows_added)),
        ),
        long(
            "files_added",
            false,
            commits.iter().map(|commit| signed(commit.files_added)),
        ),
        long(
            "files_removed",
            false,
            commits.iter().map(|commit| signed(commit.files_removed)),
        ),
        long(
            "rows_deleted",
            true,
            commits.iter().map(|commit| commit.rows_deleted.map(signed)),
        ),
        text(
            "engine",
            true,
            commits.iter().map(|commit| commit.engine.clone()),
        ),
        text(
            "watermarks",
            false,
            commits.iter().map(|commit| {
                let marks = commit.watermarks.iter();
                json(
                    &marks
                        .map(|(bucket, mark)| (bucket.0, mark.0))
                        .collect::<BTreeMap<_, _>>(),
                )
            }),
        ),
        text(
            "metrics",
            false,
            commits.iter().map(|commit| json(&commit.metrics)),
        ),
        text(
            "parameters",
            false,
            commits.iter().map(|commit| json(&commit.parameters)),
        ),
    ])
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned())
}

/// `table_files('t')`: one row for each data file of the version.
pub(crate) fn files(files: &Files) -> Result<MemTable, QueryError> {
    table(vec![
        text(
            "path",
            false,
            files.iter().map(|file| file.name().to_owned()),
        ),
        long(
            "size_bytes",
            false,
            files.iter().map(|file| signed(file.size())),
        ),
        long(
            "rows",
            true,
            files.iter().map(|file| file.live_rows().map(signed)),
        ),
        long(
            "deleted_rows",
            false,
            files.iter().map(|file| signed(file.deleted())),
        ),
        moment("modified", files.iter().map(|file| file.modified_ms())),
        text("tags", false, files.iter().map(|file| file.tags_json())),
    ])
}

/// `table_snapshots('t')`: one row for each name.
pub(crate) fn snapshots(named: &[NamedSnapshot]) -> Result<MemTable, QueryError> {
    let batch = snapshot_rows(named)?;
    Ok(MemTable::try_new(batch.schema(), vec![vec![batch]])?)
}

/// The rows of [`snapshots`].
pub(crate) fn snapshot_rows(named: &[NamedSnapshot]) -> Result<RecordBatch, QueryError> {
    batch(vec![
        text(
            "name",
            false,
            named.iter().map(|named| named.name.to_string()),
        ),
        long(
            "version",
            false,
            named.iter().map(|named| signed(named.version.0)),
        ),
        moment("created_at", named.iter().map(|named| named.created_ms)),
        moment("timestamp", named.iter().map(|named| named.version_ms)),
    ])
}

/// `DESCRIBE t`.
pub(crate) fn columns(shape: &Shape) -> Result<MemTable, QueryError> {
    let fields = shape.schema.fields();
    table(vec![
        text(
            "column_name",
            false,
            fields.iter().map(|field| field.name().clone()),
        ),
        text(
            "data_type",
            false,
            fields.iter().map(|field| type_name(field)),
        ),
        text(
            "is_nullable",
            false,
            fields.iter().map(|field| yes_no(field.is_nullable())),
        ),
        text(
            "comment",
            true,
            shape.table.fields.iter().map(|field| field.doc.clone()),
        ),
    ])
}

fn yes_no(yes: bool) -> String {
    if yes {
        "YES".to_owned()
    } else {
        "NO".to_owned()
    }
}

/// `information_schema.tables`
pub(crate) fn tables(tenant: &TenantId, names: &[String]) -> Result<MemTable, QueryError> {
    let own = names
        .iter()
        .map(|name| (tenant.as_str(), name.as_str(), "BASE TABLE"));
    let views = INFORMATION
        .iter()
        .map(|name| (INFORMATION_SCHEMA, *name, "VIEW"));
    let all: Vec<_> = own.chain(views).collect();
    table(vec![
        text(
            "table_catalog",
            false,
            all.iter().map(|_| CATALOG.to_owned()),
        ),
        text(
            "table_schema",
            false,
            all.iter().map(|(schema, _, _)| (*schema).to_owned()),
        ),
        text(
            "table_name",
            false,
            all.iter().map(|(_, name, _)| (*name).to_owned()),
        ),
        text(
            "table_type",
            false,
            all.iter().map(|(_, _, kind)| (*kind).to_owned()),
        ),
    ])
}

/// `information_schema.columns`
pub(crate) fn all_columns(
    tenant: &TenantId,
    tables: &[(String, Arc<Shape>)],
) -> Result<MemTable, QueryError> {
    let all: Vec<_> = tables
        .iter()
        .flat_map(|(name, shape)| {
            let fields = shape.schema.fields().iter().zip(&shape.table.fields);
            fields
                .enumerate()
                .map(move |(place, (field, declared))| (name, place, field, declared))
        })
        .collect();
    let places: Int32Array = all
        .iter()
        .map(|(_, place, _, _)| i32::try_from(place + 1).ok())
        .collect();
    let required: BooleanArray = all
        .iter()
        .map(|(_, _, field, _)| Some(!field.is_nullable()))
        .collect();
    table(vec![
        text(
            "table_catalog",
            false,
            all.iter().map(|_| CATALOG.to_owned()),
        ),
        text(
            "table_schema",
            false,
            all.iter().map(|_| tenant.to_string()),
        ),
        text(
            "table_name",
            false,
            all.iter().map(|(name, ..)| (*name).clone()),
        ),
        text(
            "column_name",
            false,
            all.iter().map(|(_, _, field, _)| field.name().clone()),
        ),
        (
            Field::new("ordinal_position", DataType::Int32, true),
            Arc::new(places),
        ),
        text("column_default", true, all.iter().map(|_| None::<String>)),
        text(
            "is_nullable",
            false,
            all.iter()
                .map(|(_, _, field, _)| yes_no(field.is_nullable())),
        ),
        text(
            "data_type",
            false,
            all.iter().map(|(_, _, field, _)| type_name(field)),
        ),
        (
            Field::new("required", DataType::Boolean, true),
            Arc::new(required),
        ),
        text(
            "comment",
            true,
            all.iter().map(|(_, _, _, declared)| declared.doc.clone()),
        ),
    ])
}

/// `information_schema.views`: there are none.
pub(crate) fn views() -> Result<MemTable, QueryError> {
    let none = || std::iter::empty::<String>();
    table(vec![
        text("table_catalog", false, none()),
        text("table_schema", false, none()),
        text("table_name", false, none()),
        text("definition", true, none()),
    ])
}

/// `information_schema.schemata`
pub(crate) fn schemata(tenant: &TenantId) -> Result<MemTable, QueryError> {
    let names = [tenant.to_string(), INFORMATION_SCHEMA.to_owned()];
    table(vec![
        text(
            "catalog_name",
            false,
            names.iter().map(|_| CATALOG.to_owned()),
        ),
        text("schema_name", false, names.iter().cloned()),
    ])
}
