//! How the files of a scan are read: as one plan, without the rows that do not count.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::config::{ConfigOptions, TableParquetOptions};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema as ScanSchema;
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use parquet::arrow::arrow_reader::RowSelection;
use tidelake_core::Bucket;
use tidelake_table::RowSet;

use super::super::batches;
use super::super::fields::FieldsInFiles;
use super::super::live::{self, DeletedByFile, LiveRows};
use super::super::unopened::Unopened;
use super::PinnedRows;
use crate::table::facts::FileFacts;
/// What the statistics of single files may take in a plan; where they would take more, the plan has
/// only those of all files together.
const STATISTICS_BYTES_MAX: usize = 32 << 20;
/// Files whose statistics are merged at a time.
const FILES_MERGED: usize = 256;

impl PinnedRows {
    pub(super) async fn parquet(
        &self,
        files: Vec<Arc<FileFacts>>,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
        state: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = self.columns_of_interest(projection, filters);
        let most = state.config().batch_size();
        let batch_rows = batches::rows(&self.readers, &self.shape, &files, &columns, most).await?;
        let hidden = self.hidden(&files).await?;
        let mut selections = Vec::with_capacity(files.len());
        for file in &files {
            selections.push(file.selection(&self.readers).await?);
        }
        let prepared = Prepared {
            files,
            columns,
            batch_rows,
            hidden,
            selections,
        };
        self.planned(prepared, projection, limit, state.config_options())
    }

    /// The plan that `unopened` stands for.
    pub(in super::super) fn opened(
        &self,
        unopened: &Unopened,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let files: Vec<_> = unopened.files.iter().map(Arc::new).collect();
        self.metrics.files_scanned.inc_by(files.len() as u64);
        let prepared = Prepared {
            columns: unopened.columns.clone(),
            batch_rows: unopened.batch_rows,
            hidden: vec![None; files.len()],
            selections: vec![None; files.len()],
            files,
        };
        self.planned(prepared, unopened.projection.as_ref(), None, config)
    }

    fn planned(
        &self,
        prepared: Prepared,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Prepared {
            files,
            columns,
            batch_rows,
            hidden,
            selections,
        } = prepared;
        let hides = hidden.iter().any(Option::is_some);
        let scan = &self.shape.scan;
        let of = |place: usize, hidden: u64| files[place].statistics(scan, &columns, hidden);
        let each = files.len() * scan.fields().len() * size_of::<ColumnStatistics>();
        let mut described = Vec::with_capacity(files.len());
        for (number, (file, selection)) in files.iter().zip(selections).enumerate() {
            let mut part = PartitionedFile::new_from_meta(file.meta());
            if hides {
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                part.partition_values = vec![ScalarValue::UInt32(Some(number))];
            }
            if each <= STATISTICS_BYTES_MAX {
                part = part.with_statistics(of(number, 0));
            }
            if let Some(picked) = selection {
                part = part.with_extension(ParquetRowSelection::new(picked.as_ref().clone()));
            }
            described.push(part);
        }
        let scanned = FileScan {
            files: described,
            total: merged(scan, files.len(), |place| of(place, 0))?,
            batch_rows,
            partitions: config.execution.target_partitions,
            numbered: hides,
            // It would count rows that are deleted.
            limit: limit.filter(|_| !hides),
        };
        let plan = self.source(scanned, projection, config)?;
        if !hides {
            return self.logical_names(plan, projection);
        }
        let count = |place: usize| hidden[place].as_ref().map_or(0, |set| u64::from(set.len()));
        let live = merged(scan, files.len(), |place| of(place, count(place)))?;
        let live = match projection {
            Some(_) => live.project(projection),
            None => live,
        };
        let deleted: DeletedByFile = Arc::new(hidden);
        let plan: Arc<dyn ExecutionPlan> = Arc::new(LiveRows::new(plan, deleted, Arc::new(live)));
        self.logical_names(plan, projection)
    }

    /// Reads files as `scan` says.
    pub(super) fn source(
        &self,
        scan: FileScan,
        projection: Option<&Vec<usize>>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let FileScan {
            files,
            mut total,
            batch_rows,
            partitions,
            numbered,
            limit,
        } = scan;
        let scan = &self.shape.scan;
        let width = scan.fields().len();
        let schema = ScanSchema::builder(Arc::clone(scan));
        let (schema, projection) = if numbered {
            let mut places = projection.cloned().unwrap_or_else(|| (0..width).collect());
            places.extend([width, width + 1]);
            let schema = schema
                .with_table_partition_cols(vec![live::file_column()])
                .with_virtual_columns(vec![live::row_column()]);
            (schema.build(), Some(places))
        } else {
            (schema.build(), projection.cloned())
        };
        if numbered {
            // Of the file's number, and of the row's.
            let unknown = [
                ColumnStatistics::new_unknown(),
                ColumnStatistics::new_unknown(),
            ];
            total.column_statistics.extend(unknown);
        }
        let mut options = TableParquetOptions {
            global: config.execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        options.global.pushdown_filters = self.pushdown_filters;
        let readers: Arc<dyn ParquetFileReaderFactory> = Arc::new(self.readers.clone());
        let source = ParquetSource::new(schema)
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(readers);
        let config = FileScanConfigBuilder::new(self.store_url.clone(), Arc::new(source))
            .with_file_groups(balanced(files, partitions))
            .with_statistics(total)
            .with_projection_indices(projection)?
            .with_limit(limit)
            .with_batch_size(Some(batch_rows))
            .with_expr_adapter(Some(Arc::new(FieldsInFiles)))
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// Rows of each file that do not count: deleted by the version, or superseded by the tail.
    async fn hidden(&self, files: &[Arc<FileFacts>]) -> Result<Vec<Option<Arc<RowSet>>>> {
        let mut hidden: Vec<_> = files.iter().map(|file| self.superseded(file)).collect();
        let unknown = (0..files.len()).filter(|place| hidden[*place].is_none());
        let unknown: Vec<usize> = unknown.collect();
        let committed = unknown.iter().map(|place| Arc::clone(&files[*place]));
        let committed: Vec<_> = committed.collect();
        let deleted = FileFacts::deleted_rows(&committed, &self.readers).await?;
        for (place, deleted) in unknown.into_iter().zip(deleted) {
            hidden[place] = deleted;
        }
        for known in &mut hidden {
            known.take_if(|set| set.is_empty());
        }
        Ok(hidden)
    }

    /// Rows of a file that do not count any more behind the tail, those that the version deletes
    /// among them; none where the tail's state does not know the file.
    pub(super) fn superseded(&self, file: &FileFacts) -> Option<Arc<RowSet>> {
        let tails = self.view.iter().flat_map(|view| &view.buckets);
        let mut upserts = tails.filter(|(_, tail)| tail.upsert.is_some()).peekable();
        upserts.peek()?;
        let buckets = file.buckets();
        let holds = |bucket: &Bucket| buckets.as_ref().is_none_or(|all| all.contains(bucket));
        let mut known: Option<Arc<RowSet>> = None;
        for deleted in upserts
            .filter(|(bucket, _)| holds(bucket))
            .filter_map(|(_, tail)| tail.upsert.as_ref())
            .filter_map(|upsert| upsert.fresh.deleted(file.name()))
        {
            match &mut known {
                None => known = Some(Arc::clone(deleted)),
                // Files of other writers belong to all buckets.
                Some(known) => Arc::make_mut(known).union(deleted),
            }
        }
        known
    }
}

/// Files, and all that had to be read to plan their scan.
struct Prepared {
    files: Vec<Arc<FileFacts>>,
    /// Those whose statistics matter.
    columns: BTreeSet<usize>,
    batch_rows: usize,
    /// Of each file the rows that do not count, if there are any; or those that do, where they were
    /// picked.
    hidden: Vec<Option<Arc<RowSet>>>,
    selections: Vec<Option<Arc<RowSelection>>>,
}

/// What a scan of files is made of.
pub(super) struct FileScan {
    pub files: Vec<PartitionedFile>,
    /// Statistics of all files together.
    pub total: Statistics,
    /// Rows that are decoded at a time.
    pub batch_rows: usize,
    pub partitions: usize,
    /// Adds the columns that [`LiveRows`] takes.
    pub numbered: bool,
    pub limit: Option<usize>,
}

/// Statistics of `files` files as one, made of a few at a time.
fn merged(
    schema: &SchemaRef,
    files: usize,
    of: impl Fn(usize) -> Arc<Statistics>,
) -> Result<Statistics> {
    let mut parts = Vec::with_capacity(files.div_ceil(FILES_MERGED));
    for from in (0..files).step_by(FILES_MERGED) {
        let part: Vec<_> = (from..files.min(from + FILES_MERGED)).map(&of).collect();
        parts.push(Statistics::try_merge_iter(
            part.iter().map(AsRef::as_ref),
            schema,
        )?);
    }
    Statistics::try_merge_iter(parts.iter(), schema)
}

/// Files in groups of like size, each group in the order of the table.
fn balanced(files: Vec<PartitionedFile>, groups: usize) -> Vec<FileGroup> {
    let groups = groups.clamp(1, files.len().max(1));
    let mut by_size: Vec<_> = files
        .iter()
        .map(|file| file.object_meta.size)
        .enumerate()
        .collect();
    by_size.sort_by_key(|(place, size)| (std::cmp::Reverse(*size), *place));
    let mut bytes = vec![0u64; groups];
    let mut group_of = vec![0; files.len()];
    for (place, size) in by_size {
        let smallest = (0..groups).min_by_key(|group| bytes[*group]).unwrap_or(0);
        bytes[smallest] += size;
        group_of[place] = smallest;
    }
    let mut grouped = vec![Vec::new(); groups];
    for (file, group) in files.into_iter().zip(group_of) {
        grouped[group].push(file);
    }
    grouped
        .into_iter()
        .filter(|group| !group.is_empty())
        .map(FileGroup::new)
        .collect()
}
