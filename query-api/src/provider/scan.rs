//! A pinned table as a DataFusion table: files of one version, and the tail behind them.
//!
//! ```text
//!  filters name whole keys ─► index ─► row selections of few files, rows of the tail
//!  else: files ─► prune ─► Parquet ─► live rows ─┐
//!        tail ─► rows that count ────────────────┴► union
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, ScalarValue, Statistics};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema as ScanSchema;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use parquet::arrow::arrow_reader::RowSelection;
use tidelake_core::Bucket;
use tidelake_table::RowSet;

use super::fields::FieldsInFiles;
use super::fresh;
use super::live::{self, DeletedByFile, LiveRows};
use super::points;
use super::prune;
use crate::error::QueryError;
use crate::metrics::QueryMetrics;
use crate::table::files::FileFacts;
use crate::table::readers::Readers;
use crate::table::shape::Shape;
use crate::tail::View;
use crate::tail::{Finder, Found};

/// Unflushed rows below this go through one partition.
const TAIL_PARTITION_ROWS_MIN: usize = 16_384;

/// The rows of one table that one query sees.
#[derive(Clone)]
pub(crate) struct PinnedRows {
    pub shape: Arc<Shape>,
    pub files: Arc<Vec<Arc<FileFacts>>>,
    /// What the log holds behind the files; none where only committed rows count.
    pub view: Option<Arc<View>>,
    /// Where the rows of keys are; none where that is not known of this version.
    pub finder: Option<Finder>,
    pub readers: Readers,
    pub store_url: ObjectStoreUrl,
    pub pushdown_filters: bool,
    pub metrics: QueryMetrics,
}

impl fmt::Debug for PinnedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedRows")
            .field("files", &self.files.len())
            .field("latest", &self.view.is_some())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for PinnedRows {
    fn schema(&self) -> datafusion::arrow::datatypes::SchemaRef {
        Arc::clone(&self.shape.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters prune files, row groups and pages; what is left is filtered above.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(finder) = &self.finder
            && let Some(keys) = points::keys(finder.keys(), filters)?
        {
            return self.found(finder, keys, projection, state).await;
        }
        let files = self.kept(state, filters)?;
        self.metrics.files_scanned.inc_by(files.len() as u64);
        self.metrics
            .files_pruned
            .inc_by((self.files.len() - files.len()) as u64);
        let limit = limit.filter(|_| filters.is_empty());
        let partitions = state.config().target_partitions();
        let mut inputs = Vec::with_capacity(2);
        if !files.is_empty() {
            inputs.push(
                self.parquet(partitions, files, projection, filters, limit, state)
                    .await?,
            );
        }
        if let Some(view) = &self.view {
            let batches = fresh::rows(view, projection)?;
            if !batches.is_empty() {
                inputs.push(self.memory(partitions, batches, projection, limit)?);
            }
        }
        self.union(inputs, projection)
    }
}

impl PinnedRows {
    pub(super) fn kept(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Vec<Arc<FileFacts>>> {
        let Some(filter) = conjunction(filters.iter().cloned()) else {
            return Ok(self.files.as_ref().clone());
        };
        let schema = &self.shape.schema;
        let df_schema = DFSchema::try_from(Arc::clone(schema))?;
        let predicate = state.create_physical_expr(filter, &df_schema)?;
        let keep = prune::keep(&predicate, schema, &self.files)?;
        let kept = self.files.iter().zip(keep).filter(|(_, keep)| *keep);
        Ok(kept.map(|(file, _)| Arc::clone(file)).collect())
    }

    fn union(
        &self,
        mut inputs: Vec<Arc<dyn ExecutionPlan>>,
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match inputs.len() {
            0 => Ok(Arc::new(EmptyExec::new(self.projected(projection)?))),
            1 => Ok(inputs.remove(0)),
            _ => UnionExec::try_new(inputs),
        }
    }

    fn projected(
        &self,
        projection: Option<&Vec<usize>>,
    ) -> Result<datafusion::arrow::datatypes::SchemaRef> {
        Ok(match projection {
            Some(places) => Arc::new(self.shape.schema.project(places)?),
            None => Arc::clone(&self.shape.schema),
        })
    }

    async fn parquet(
        &self,
        partitions: usize,
        files: Vec<Arc<FileFacts>>,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
        state: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = self.columns_of_interest(projection, filters);
        let hidden = self.hidden(&files).await?;
        let hides = hidden.iter().any(Option::is_some);

        let scan = &self.shape.scan;
        let statistics = |hidden: &dyn Fn(usize) -> u64| -> Vec<Arc<Statistics>> {
            let files = files.iter().enumerate();
            files
                .map(|(place, file)| file.statistics(scan, &columns, hidden(place)))
                .collect()
        };
        let physical = statistics(&|_| 0);
        let mut described = Vec::with_capacity(files.len());
        for (number, (file, statistics)) in files.iter().zip(&physical).enumerate() {
            let mut part = PartitionedFile::new_from_meta(file.meta());
            if hides {
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                part.partition_values = vec![ScalarValue::UInt32(Some(number))];
            }
            part = part.with_statistics(Arc::clone(statistics));
            if let Some(picked) = file.selection(&self.readers).await? {
                let selection = ParquetRowSelection::new(picked.as_ref().clone());
                part = part.with_extension(selection);
            }
            described.push(part);
        }
        let plan = if hides {
            let count = |place: usize| hidden[place].as_ref().map_or(0, |set| u64::from(set.len()));
            let live =
                Statistics::try_merge_iter(statistics(&count).iter().map(AsRef::as_ref), scan)?;
            let live = Arc::new(match projection {
                Some(_) => live.project(projection),
                None => live,
            });
            // A limit would count rows that are deleted.
            let numbered = self.source(described, true, partitions, projection, None, state)?;
            let deleted: DeletedByFile = Arc::new(hidden);
            Arc::new(LiveRows::new(numbered, deleted, live)) as Arc<dyn ExecutionPlan>
        } else {
            self.source(described, false, partitions, projection, limit, state)?
        };
        self.logical_names(plan, projection)
    }

    /// Reads files; `numbered` adds the columns that [`LiveRows`] takes.
    fn source(
        &self,
        files: Vec<PartitionedFile>,
        numbered: bool,
        partitions: usize,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
        state: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
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
        let statistics = files.iter().filter_map(|file| file.statistics.as_deref());
        let with_number = schema.schema_without_virtual_columns();
        let mut total = Statistics::try_merge_iter(statistics, with_number)?;
        if numbered {
            let unknown = datafusion::common::ColumnStatistics::new_unknown();
            total.column_statistics.push(unknown);
        }
        let mut options = TableParquetOptions {
            global: state.config_options().execution.parquet.clone(),
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
            .with_expr_adapter(Some(Arc::new(FieldsInFiles)))
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// Rows of each file that do not count: deleted by the version, or superseded by the tail.
    async fn hidden(&self, files: &[Arc<FileFacts>]) -> Result<Vec<Option<Arc<RowSet>>>> {
        let mut hidden: Vec<_> = files.iter().map(|file| self.superseded(file)).collect();
        let committed = files.iter().zip(&hidden);
        let committed = committed.filter(|(_, known)| known.is_none());
        let committed: Vec<_> = committed.map(|(file, _)| Arc::clone(file)).collect();
        FileFacts::read_vectors(&committed, &self.readers).await?;
        for (file, known) in files.iter().zip(&mut hidden) {
            if known.is_none() {
                *known = file.deleted_rows(&self.readers).await?;
            }
            known.take_if(|set| set.is_empty());
        }
        Ok(hidden)
    }

    /// Rows of a file that do not count any more behind the tail, those that the version deletes
    /// among them; none where the tail's state does not know the file.
    fn superseded(&self, file: &FileFacts) -> Option<Arc<RowSet>> {
        let buckets = file.buckets();
        let holds = |bucket: &Bucket| buckets.as_ref().is_none_or(|all| all.contains(bucket));
        let tails = self.view.iter().flat_map(|view| &view.buckets);
        let mut known: Option<Arc<RowSet>> = None;
        for deleted in tails
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

    /// The rows of these keys and no others: filters that are left are the plan's above.
    async fn found(
        &self,
        finder: &Finder,
        keys: RecordBatch,
        projection: Option<&Vec<usize>>,
        state: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let search = finder.clone();
        let found = tokio::task::spawn_blocking(move || search.find(&keys)).await;
        let found = found.map_err(|error| QueryError::Engine(error.to_string()))??;
        let mut by_file: BTreeMap<Arc<str>, BTreeSet<u32>> = BTreeMap::new();
        let mut batches = Vec::new();
        let mut of_tail = BTreeSet::new();
        for found in found.into_iter().flatten() {
            match found {
                Found::File { path, row } => _ = by_file.entry(path).or_default().insert(row),
                Found::Tail { piece, row } => {
                    if of_tail.insert((Arc::clone(&piece.name), row))
                        && let Some((batch, row)) = piece.locate(row)
                    {
                        batches.push(fresh::project(&batch.slice(row, 1), projection)?);
                    }
                }
            }
        }
        let mut described = Vec::with_capacity(by_file.len());
        for (path, rows) in by_file {
            let file = finder.file(&path)?;
            let selection = selected(&rows, file.physical_rows(&self.readers).await?);
            described.push(
                PartitionedFile::new_from_meta(file.meta())
                    .with_extension(ParquetRowSelection::new(selection)),
            );
        }
        let mut inputs = Vec::with_capacity(2);
        if !described.is_empty() {
            let plan = self.source(described, false, 1, projection, None, state)?;
            inputs.push(self.logical_names(plan, projection)?);
        }
        if !batches.is_empty() {
            inputs.push(self.memory(1, batches, projection, None)?);
        }
        self.union(inputs, projection)
    }

    /// Puts the columns' names of today over those that the files use.
    fn logical_names(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !self.shape.renamed {
            return Ok(plan);
        }
        let schema = &self.shape.schema;
        let places = projection
            .cloned()
            .unwrap_or_else(|| (0..schema.fields().len()).collect());
        let scanned = plan.schema();
        let named = places.iter().enumerate().map(|(at, place)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(scanned.field(at).name(), at));
            (column, schema.field(*place).name().clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(
            named.collect::<Vec<_>>(),
            plan,
        )?))
    }

    /// Columns whose statistics can matter: what is projected and what is filtered.
    fn columns_of_interest(
        &self,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
    ) -> BTreeSet<usize> {
        let schema = &self.shape.schema;
        let mut columns: BTreeSet<usize> = match projection {
            Some(places) => places.iter().copied().collect(),
            None => (0..schema.fields().len()).collect(),
        };
        for filter in filters {
            let names = filter.column_refs();
            columns.extend(
                names
                    .iter()
                    .filter_map(|name| schema.index_of(name.name()).ok()),
            );
        }
        columns
    }

    /// Rows that are in memory, projected already.
    fn memory(
        &self,
        partitions: usize,
        batches: Vec<RecordBatch>,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let partitions = if rows < TAIL_PARTITION_ROWS_MIN {
            1
        } else {
            partitions
        };
        let mut groups = vec![(0, Vec::new()); partitions.max(1)];
        for batch in batches {
            if let Some(smallest) = groups.iter_mut().min_by_key(|(rows, _)| *rows) {
                smallest.0 += batch.num_rows();
                smallest.1.push(batch);
            }
        }
        let groups: Vec<_> = groups.into_iter().map(|(_, group)| group).collect();
        let source = MemorySourceConfig::try_new(&groups, self.projected(projection)?, None)?;
        Ok(DataSourceExec::from_data_source(source.with_limit(limit)))
    }
}

/// Selects single rows of a file of `total` rows.
fn selected(rows: &BTreeSet<u32>, total: u64) -> RowSelection {
    let ranges = rows.iter().map(|row| *row as usize..*row as usize + 1);
    let last = rows.last().map_or(0, |row| u64::from(*row) + 1);
    let total = usize::try_from(total.max(last)).unwrap_or(usize::MAX);
    RowSelection::from_consecutive_ranges(ranges, total)
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
