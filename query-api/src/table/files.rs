//! What is known of a data file without reading it: size, counts, bounds, deleted rows.
//!
//! | declared type | bounds are | because |
//! | --- | --- | --- |
//! | int, long, date, time, timestamp_ns | exact | Delta keeps them as they are |
//! | timestamp | wide | Delta cuts them to milliseconds |
//! | string, uuid | wide | long ones are cut |
//! | float, double, decimal | wide | JSON numbers round |
//! | others | unknown | |
//!
//! Exact bounds may stand for values (`SELECT max(x)`), wide ones only rule files out. Bounds of a file
//! with deleted rows are wide. Bounds of floats count in files whose writer keeps NaN in mind: it lies
//! above all numbers, and most writers leave it out of their bounds.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::error::DataFusionError;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::arrow::arrow_reader::RowSelection;
use parquet::schema::types::SchemaDescriptor;
use tidelake_core::Bucket;
use tidelake_manifest::vector::DeletedRows;
use tidelake_manifest::{DataFile, DeltaTable};
use tidelake_schema::{Primitive, Type};
use tidelake_table::RowSet;
use tokio::sync::OnceCell;

use super::bounds::{Edge, bound};
use super::readers::Readers;
use super::shape::Shape;
use crate::error::QueryError;

/// Footers that are read at a time, of files whose rows the log does not count.
const FOOTERS_IN_FLIGHT_MAX: usize = 8;

/// Least and greatest value of a column in a file, and how many nulls.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Bound {
    pub min: Option<ScalarValue>,
    pub max: Option<ScalarValue>,
    /// Physical, deleted rows included.
    pub nulls: Option<u64>,
    pub exact: bool,
}

/// One live file of a version.
pub(crate) struct FileFacts {
    file: Arc<DataFile>,
    table: Arc<DeltaTable>,
    location: Path,
    shape: Arc<Shape>,
    bounds: OnceLock<Option<Vec<Bound>>>,
    /// Of the deletion vector.
    deleted_rows: OnceCell<Arc<RowSet>>,
    /// Where only these rows count, whatever the deletion vector says.
    picked: Option<Picked>,
    /// The file's columns that the table has; root columns by place, rising.
    columns: OnceLock<Arc<[usize]>>,
}

#[derive(Debug)]
struct Picked {
    rows: DeletedRows,
    selection: OnceCell<Arc<RowSelection>>,
}

impl fmt::Debug for FileFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileFacts")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl FileFacts {
    pub(crate) fn new(table: &Arc<DeltaTable>, file: &Arc<DataFile>, shape: &Arc<Shape>) -> Self {
        Self {
            location: table.store().path(file.path()),
            file: Arc::clone(file),
            table: Arc::clone(table),
            shape: Arc::clone(shape),
            bounds: OnceLock::new(),
            deleted_rows: OnceCell::new(),
            picked: None,
            columns: OnceLock::new(),
        }
    }

    /// The same file, of which `rows` (positions) and no others count.
    pub(crate) fn picked(
        table: &Arc<DeltaTable>,
        file: &Arc<DataFile>,
        shape: &Arc<Shape>,
        rows: DeletedRows,
    ) -> Self {
        let selection = OnceCell::new();
        Self {
            picked: Some(Picked { rows, selection }),
            ..Self::new(table, file, shape)
        }
    }

    /// True where these are the facts of exactly this file with this deletion vector.
    pub(crate) fn is_of(&self, file: &Arc<DataFile>) -> bool {
        Arc::ptr_eq(&self.file, file) || self.file.add == file.add
    }

    /// Relative to the table.
    pub(crate) fn name(&self) -> &str {
        self.file.path()
    }

    pub(crate) fn size(&self) -> u64 {
        self.file.size()
    }

    /// The buckets that it has rows of, where its writer says so.
    pub(crate) fn buckets(&self) -> Option<Vec<Bucket>> {
        self.file.buckets()
    }

    /// Physical rows.
    pub(crate) fn records(&self) -> Option<u64> {
        self.file.num_records()
    }

    pub(crate) fn deleted(&self) -> u64 {
        self.file.deleted_rows()
    }

    pub(crate) fn live_rows(&self) -> Option<u64> {
        match &self.picked {
            Some(picked) => Some(picked.rows.len()),
            None => self.file.live_rows(),
        }
    }

    /// True where every row of the file counts.
    fn is_whole(&self) -> bool {
        self.file.dv().is_none() && self.picked.is_none()
    }

    pub(crate) fn modified_ms(&self) -> i64 {
        self.file.add.modification_time
    }

    pub(crate) fn tags_json(&self) -> String {
        let tags = self.file.add.tags.clone().unwrap_or_default();
        serde_json::to_string(&tags).unwrap_or_else(|_| "{}".to_owned())
    }

    /// The file as the object store knows it: no request is needed.
    pub(crate) fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            location: self.location.clone(),
            last_modified: chrono::DateTime::from_timestamp_millis(self.modified_ms())
                .unwrap_or_default(),
            size: self.size(),
            e_tag: None,
            version: None,
        }
    }

    /// The table's columns among the file's (root columns by place, rising); worked out once.
    pub(crate) fn columns(&self, file: &SchemaDescriptor) -> Arc<[usize]> {
        let worked_out = || {
            let wanted: HashSet<&str> = self
                .shape
                .scan
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            let roots = file.root_schema().get_fields().iter().enumerate();
            let roots = roots.filter(|(_, root)| wanted.contains(root.name()));
            roots.map(|(place, _)| place).collect()
        };
        Arc::clone(self.columns.get_or_init(worked_out))
    }

    /// Bounds of every column, in the order of the shape; worked out once.
    pub(crate) fn bounds(&self) -> Option<&[Bound]> {
        self.bounds.get_or_init(|| self.read_bounds()).as_deref()
    }

    fn read_bounds(&self) -> Option<Vec<Bound>> {
        let stats = self.file.stats()?;
        let exact_file = stats.tight_bounds.unwrap_or(true) && self.is_whole();
        let floats = self.file.float_bounds_cover_nan();
        let columns = self.shape.table.fields.iter().zip(self.shape.scan.fields());
        let bounds = columns.map(|(declared, field)| {
            let name = field.name().as_str();
            let nulls = stats
                .null_count
                .get(name)
                .and_then(serde_json::Value::as_u64);
            let Type::Primitive(primitive) = &declared.ty else {
                return Bound {
                    nulls,
                    ..Bound::default()
                };
            };
            let usable = floats || !matches!(primitive, Primitive::Float | Primitive::Double);
            let edge = |values: &serde_json::Map<String, serde_json::Value>, edge| {
                if !usable {
                    return None;
                }
                bound(values.get(name)?, *primitive, edge)?
                    .cast_to(field.data_type())
                    .ok()
            };
            Bound {
                min: edge(&stats.min_values, Edge::Least),
                max: edge(&stats.max_values, Edge::Greatest),
                nulls,
                exact: exact_file && keeps_values(*primitive),
            }
        });
        Some(bounds.collect())
    }

    /// Statistics as plans use them, of the columns of interest; the others are unknown, which spares
    /// a wide table most of the work. `hidden` rows do not count.
    pub(crate) fn statistics(
        &self,
        schema: &SchemaRef,
        columns: &BTreeSet<usize>,
        hidden: u64,
    ) -> Arc<Statistics> {
        let mut statistics = Statistics::new_unknown(schema);
        let rows = match &self.picked {
            Some(picked) => Some(picked.rows.len()),
            None => self.records().map(|rows| rows.saturating_sub(hidden)),
        };
        if let Some(rows) = rows.and_then(|rows| usize::try_from(rows).ok()) {
            statistics.num_rows = Precision::Exact(rows);
        }
        let size = usize::try_from(self.size()).unwrap_or(usize::MAX);
        statistics.total_byte_size = Precision::Inexact(size);
        if let Some(bounds) = self.bounds() {
            for &place in columns {
                if let Some(bound) = bounds.get(place) {
                    statistics.column_statistics[place] =
                        column(bound, hidden > 0 || self.picked.is_some());
                }
            }
        }
        Arc::new(statistics)
    }

    /// The rows that count, where they were picked.
    pub(crate) async fn selection(
        &self,
        readers: &Readers,
    ) -> Result<Option<Arc<RowSelection>>, QueryError> {
        let Some(picked) = &self.picked else {
            return Ok(None);
        };
        let read = || self.pick(&picked.rows, readers);
        let selection = picked.selection.get_or_try_init(read).await?;
        Ok(Some(Arc::clone(selection)))
    }

    /// The rows that the file's deletion vector names. Kept once it was read.
    pub(crate) async fn deleted_rows(
        &self,
        readers: &Readers,
    ) -> Result<Option<Arc<RowSet>>, QueryError> {
        if self.picked.is_some() {
            return Ok(None);
        }
        let Some(descriptor) = self.file.dv() else {
            return Ok(None);
        };
        let read = || async {
            let rows = self.table.deleted_rows(descriptor).await?;
            self.usable(&rows, readers).await
        };
        Ok(Some(Arc::clone(
            self.deleted_rows.get_or_try_init(read).await?,
        )))
    }

    /// Reads the deletion vectors of files of one table that were not read yet, so that
    /// [`Self::deleted_rows`] has them: those that lie in one object with one request.
    pub(crate) async fn read_vectors(
        files: &[Arc<Self>],
        readers: &Readers,
    ) -> Result<(), QueryError> {
        let unread = |facts: &&Arc<Self>| {
            let counts = facts.picked.is_none() && facts.file.dv().is_some();
            counts && !facts.deleted_rows.initialized()
        };
        let unread: Vec<&Arc<Self>> = files.iter().filter(unread).collect();
        let Some(first) = unread.first() else {
            return Ok(());
        };
        let of: Vec<_> = unread.iter().map(|facts| Arc::clone(&facts.file)).collect();
        let rows = first.table.deleted_rows_of(&of).await?;
        // Futures before the stream: a closure over borrowed ones makes one that can't be sent.
        let mut keeping = Vec::with_capacity(unread.len());
        for (facts, rows) in unread.into_iter().zip(rows) {
            keeping.push(async move {
                let read = || async { facts.usable(&rows, readers).await };
                facts.deleted_rows.get_or_try_init(read).await.map(|_| ())
            });
        }
        let keeping = futures::stream::iter(keeping).buffer_unordered(FOOTERS_IN_FLIGHT_MAX);
        keeping.try_collect().await
    }

    /// What a vector names, where all of it is in the file.
    async fn usable(
        &self,
        rows: &DeletedRows,
        readers: &Readers,
    ) -> Result<Arc<RowSet>, QueryError> {
        let total = self.physical_rows(readers).await?;
        let beyond = rows.max().is_some_and(|last| last >= total);
        let set = RowSet::from_deleted_rows(rows).filter(|_| !beyond);
        let set = set.ok_or_else(|| self.unusable_vector(&"it names rows beyond the end"))?;
        Ok(Arc::new(set))
    }

    async fn pick(
        &self,
        rows: &DeletedRows,
        readers: &Readers,
    ) -> Result<Arc<RowSelection>, QueryError> {
        let total = self.physical_rows(readers).await?;
        let selection = only(rows, total)
            .ok_or_else(|| self.unusable_vector(&"it names rows beyond the end"))?;
        Ok(Arc::new(selection))
    }

    /// By the log, or else by the file's footer.
    pub(crate) async fn physical_rows(&self, readers: &Readers) -> Result<u64, QueryError> {
        if let Some(total) = self.records() {
            return Ok(total);
        }
        let footer = readers.footer(&self.location, self.size()).await;
        let footer = footer.map_err(DataFusionError::from)?;
        Ok(u64::try_from(footer.file_metadata().num_rows()).unwrap_or(0))
    }

    fn unusable_vector(&self, reason: &dyn fmt::Display) -> QueryError {
        QueryError::Corrupt(format!(
            "the deletion vector of {}: {reason}",
            self.location
        ))
    }
}

/// True where Delta's JSON keeps the type's values as they are.
fn keeps_values(primitive: Primitive) -> bool {
    matches!(
        primitive,
        Primitive::Byte
            | Primitive::Short
            | Primitive::Int
            | Primitive::Long
            | Primitive::Date
            | Primitive::Time
            | Primitive::TimestampNs
            | Primitive::TimestampTzNs
    )
}

/// `hiding`: some rows of the file do not count.
fn column(bound: &Bound, hiding: bool) -> ColumnStatistics {
    let value = |value: &Option<ScalarValue>| match value {
        Some(value) if bound.exact && !hiding => Precision::Exact(value.clone()),
        Some(value) => Precision::Inexact(value.clone()),
        None => Precision::Absent,
    };
    let null_count = match bound.nulls.and_then(|nulls| usize::try_from(nulls).ok()) {
        // Without deleted rows the count is exact; none is none in any case.
        Some(nulls) if nulls == 0 || !hiding => Precision::Exact(nulls),
        Some(nulls) => Precision::Inexact(nulls),
        None => Precision::Absent,
    };
    let (min_value, max_value) = (value(&bound.min), value(&bound.max));
    ColumnStatistics {
        null_count,
        min_value,
        max_value,
        ..ColumnStatistics::new_unknown()
    }
}

/// These rows of `total`.
fn only(rows: &DeletedRows, total: u64) -> Option<RowSelection> {
    if rows.max().is_some_and(|last| last >= total) {
        return None;
    }
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    for row in rows {
        let row = usize::try_from(row).ok()?;
        match ranges.last_mut() {
            Some(range) if range.end == row => range.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    let total = usize::try_from(total).ok()?;
    Some(RowSelection::from_consecutive_ranges(
        ranges.into_iter(),
        total,
    ))
}
