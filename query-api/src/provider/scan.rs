//! A pinned table as a DataFusion table: files of one version, and the tail behind them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Statistics};
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
use futures::{StreamExt, TryStreamExt};

use super::facts::FileFacts;
use super::prune;
use super::readers::Readers;
use super::shape::Shape;
use crate::metrics::QueryMetrics;
use crate::tail::TailRows;

/// Deletion vectors that are read at a time.
const VECTORS_IN_FLIGHT_MAX: usize = 8;
/// Unflushed rows below this go through one partition.
const TAIL_PARTITION_ROWS_MIN: usize = 16_384;

/// The rows of one table that one query sees.
#[derive(Clone)]
pub(crate) struct PinnedRows {
    pub shape: Arc<Shape>,
    pub files: Arc<Vec<Arc<FileFacts>>>,
    pub tail: TailRows,
    pub readers: Readers,
    pub store_url: ObjectStoreUrl,
    pub pushdown_filters: bool,
    pub metrics: QueryMetrics,
}

impl fmt::Debug for PinnedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedRows")
            .field("files", &self.files.len())
            .field("tail_rows", &self.tail.rows)
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
        if self.tail.rows > 0 {
            inputs.push(self.memory(partitions, projection, limit)?);
        }
        match inputs.len() {
            0 => {
                let schema = match projection {
                    Some(places) => Arc::new(self.shape.schema.project(places)?),
                    None => Arc::clone(&self.shape.schema),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
            1 => Ok(inputs.remove(0)),
            _ => UnionExec::try_new(inputs),
        }
    }
}

impl PinnedRows {
    fn kept(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<Arc<FileFacts>>> {
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

    async fn parquet(
        &self,
        partitions: usize,
        files: Vec<Arc<FileFacts>>,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
        state: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let scan = &self.shape.scan;
        let columns = self.columns_of_interest(projection, filters);
        let statistics: Vec<_> = files
            .iter()
            .map(|file| file.statistics(scan, &columns))
            .collect();
        let total = Statistics::try_merge_iter(statistics.iter().map(AsRef::as_ref), scan)?;
        let described = futures::stream::iter(files.into_iter().zip(statistics))
            .map(|(file, statistics)| self.describe(file, statistics))
            .buffered(VECTORS_IN_FLIGHT_MAX);
        let described: Vec<PartitionedFile> = described.try_collect().await?;

        let mut options = TableParquetOptions {
            global: state.config_options().execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        options.global.pushdown_filters = self.pushdown_filters;
        let readers: Arc<dyn ParquetFileReaderFactory> = Arc::new(self.readers.clone());
        let source = ParquetSource::new(ScanSchema::from(Arc::clone(scan)))
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(readers);
        let config = FileScanConfigBuilder::new(self.store_url.clone(), Arc::new(source))
            .with_file_groups(balanced(described, partitions))
            .with_statistics(total)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        let plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config);
        if self.shape.renamed {
            self.logical_names(plan, projection)
        } else {
            Ok(plan)
        }
    }

    /// Puts the columns' names of today over those that the files use.
    fn logical_names(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
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

    async fn describe(
        &self,
        file: Arc<FileFacts>,
        statistics: Arc<Statistics>,
    ) -> Result<PartitionedFile> {
        let described = PartitionedFile::new_from_meta(file.meta()).with_statistics(statistics);
        match file.selection(&self.readers).await? {
            Some(selection) => {
                Ok(described.with_extension(ParquetRowSelection::new(selection.as_ref().clone())))
            }
            None => Ok(described),
        }
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

    fn memory(
        &self,
        partitions: usize,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = if self.tail.rows < TAIL_PARTITION_ROWS_MIN {
            1
        } else {
            partitions
        };
        let mut groups = vec![(0, Vec::new()); partitions.max(1)];
        for batch in &self.tail.batches {
            if let Some(smallest) = groups.iter_mut().min_by_key(|(rows, _)| *rows) {
                smallest.0 += batch.num_rows();
                smallest.1.push(batch.clone());
            }
        }
        let groups: Vec<_> = groups.into_iter().map(|(_, group)| group).collect();
        let schema = Arc::clone(&self.shape.schema);
        let source = MemorySourceConfig::try_new(&groups, schema, projection.cloned())?;
        Ok(DataSourceExec::from_data_source(source.with_limit(limit)))
    }
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
