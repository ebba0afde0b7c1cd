//! A pinned table as a DataFusion table: files of one version, and the tail behind them.
//!
//! ```text
//!  filters name whole keys ─► index ─► row selections of few files, rows of the tail
//!  else: files ─► prune ─► Parquet ─► live rows ─┐
//!        tail ─► rows that count ────────────────┴► union
//! ```

mod found;
mod read;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::counted::CountedRows;
use super::unopened::Unopened;
use super::{batches, fresh, points, prune};
use crate::metrics::QueryMetrics;
use crate::table::facts::FileFacts;
use crate::table::files::Files;
use crate::table::readers::Readers;
use crate::table::shape::Shape;
use crate::tail::{KeyIndex, UpsertState, View};

/// Unflushed rows below this go through one partition.
const TAIL_PARTITION_ROWS_MIN: usize = 16_384;

/// The data files that a scan may have to read.
#[derive(Debug, Clone)]
pub(crate) enum Candidates {
    /// Those of a version that filters do not rule out.
    Pruned(Arc<Files>),
    /// These, whatever the filters.
    Chosen(Arc<Vec<Arc<FileFacts>>>),
}

impl Candidates {
    fn len(&self) -> usize {
        match self {
            Self::Pruned(files) => files.len(),
            Self::Chosen(files) => files.len(),
        }
    }
}

/// The rows of one table that one query sees.
#[derive(Clone)]
pub(crate) struct PinnedRows {
    pub shape: Arc<Shape>,
    pub files: Candidates,
    /// What the log holds behind the files; none where only committed rows count.
    pub view: Option<Arc<View>>,
    /// Where the rows of keys are; none for tables without keys.
    pub index: Option<KeyIndex>,
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
    fn schema(&self) -> SchemaRef {
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
        if let Some(index) = &self.index
            && let Some(keys) = points::keys(index.keys(), filters)?
            && let Some(found) = self.found(index, keys, projection, state).await?
        {
            return Ok(found);
        }
        if let Some(counted) = self.counted(projection, filters, limit)? {
            return Ok(counted);
        }
        if filters.is_empty()
            && limit.is_none()
            && let Candidates::Pruned(files) = &self.files
            && let Some(unopened) = self.unopened(files, projection, state).await?
        {
            let mut inputs: Vec<Arc<dyn ExecutionPlan>> = vec![Arc::new(unopened)];
            inputs.extend(self.fresh(projection, None, state)?);
            return self.union(inputs, projection);
        }
        let files = self.kept(state, filters)?;
        self.metrics.files_scanned.inc_by(files.len() as u64);
        self.metrics
            .files_pruned
            .inc_by((self.files.len() - files.len()) as u64);
        let limit = limit.filter(|_| filters.is_empty());
        let mut inputs = Vec::with_capacity(2);
        if !files.is_empty() {
            inputs.push(
                self.parquet(files, projection, filters, limit, state)
                    .await?,
            );
        }
        inputs.extend(self.fresh(projection, limit, state)?);
        self.union(inputs, projection)
    }
}

impl PinnedRows {
    pub(super) fn kept(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Vec<Arc<FileFacts>>> {
        let files = match &self.files {
            Candidates::Pruned(files) => files,
            Candidates::Chosen(files) => return Ok(files.as_ref().clone()),
        };
        let Some(filter) = conjunction(filters.iter().cloned()) else {
            return Ok(files.iter().map(Arc::new).collect());
        };
        let schema = &self.shape.schema;
        let df_schema = DFSchema::try_from(Arc::clone(schema))?;
        let predicate = state.create_physical_expr(filter, &df_schema)?;
        Ok(prune::keep(&predicate, schema, files))
    }

    /// The rows of the tail, if there are any.
    fn fresh(
        &self,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
        state: &dyn Session,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(view) = &self.view else {
            return Ok(None);
        };
        let batches = fresh::rows(view, projection)?;
        if batches.is_empty() {
            return Ok(None);
        }
        let partitions = state.config().target_partitions();
        self.memory(partitions, batches, projection, limit)
            .map(Some)
    }

    /// The scan of all files, where none of their rows is hidden.
    async fn unopened(
        &self,
        files: &Arc<Files>,
        projection: Option<&Vec<usize>>,
        state: &dyn Session,
    ) -> Result<Option<Unopened>> {
        let tails = self.view.iter().flat_map(|view| view.buckets.values());
        let mut tails = tails.filter(|tail| tail.upsert.is_some());
        if files.len() == 0 || !files.is_whole() || tails.next().is_some() {
            return Ok(None);
        }
        let columns = self.columns_of_interest(projection, &[]);
        let most = state.config().batch_size();
        let batch_rows = match batches::fixed(&self.shape, &columns, most) {
            Some(rows) => rows,
            None => {
                let files: Vec<_> = files.iter().map(Arc::new).collect();
                batches::rows(&self.readers, &self.shape, &files, &columns, most).await?
            }
        };
        let (rows, partitions) = (self.clone(), state.config().target_partitions());
        Unopened::new(rows, files, projection, columns, batch_rows, partitions).map(Some)
    }

    /// The scan of no columns that only counts, where the number of rows is known without the files.
    fn counted(
        &self,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if !filters.is_empty() || projection.is_none_or(|places| !places.is_empty()) {
            return Ok(None);
        }
        let rows = match &self.files {
            Candidates::Pruned(files) => self.live_rows(files),
            Candidates::Chosen(_) => None,
        };
        let Some(mut rows) = rows.and_then(|rows| usize::try_from(rows).ok()) else {
            return Ok(None);
        };
        if let Some(view) = &self.view {
            let tail = fresh::rows(view, projection)?;
            rows += tail.iter().map(RecordBatch::num_rows).sum::<usize>();
        }
        let rows = limit.map_or(rows, |limit| rows.min(limit));
        let schema = self.projected(projection)?;
        Ok(Some(Arc::new(CountedRows::new(schema, rows))))
    }

    /// Rows of the files that count; none where a file does not tell.
    fn live_rows(&self, files: &Files) -> Option<u64> {
        let mut rows = files.live_rows()?;
        let tails = self.view.iter().flat_map(|view| view.buckets.values());
        let upserts = tails.filter_map(|tail| tail.upsert.as_ref());
        let changed: BTreeSet<&str> = upserts.flat_map(UpsertState::superseding).collect();
        for path in changed {
            // What is no file of the version is a piece of the tail.
            let Some(file) = files.find(path) else {
                continue;
            };
            // The version's own deleted rows are left out already, and among those hidden.
            if let Some(hidden) = self.superseded(&file) {
                rows = (rows + file.deleted()).saturating_sub(u64::from(hidden.len()));
            }
        }
        Some(rows)
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

    pub(super) fn projected(&self, projection: Option<&Vec<usize>>) -> Result<SchemaRef> {
        Ok(match projection {
            Some(places) => Arc::new(self.shape.schema.project(places)?),
            None => Arc::clone(&self.shape.schema),
        })
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
