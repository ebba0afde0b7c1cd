//! Rows that filters name by their keys: those of files by row selections, those of the tail as they
//! are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::Session;
use datafusion::common::Statistics;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use parquet::arrow::arrow_reader::RowSelection;

use super::super::{batches, fresh};
use super::PinnedRows;
use super::read::FileScan;
use crate::tail::{Found, KeyIndex};

impl PinnedRows {
    /// The rows of these keys and no others: filters that are left are the plan's above. `None` where
    /// only a scan finds them.
    pub(super) async fn found(
        &self,
        index: &KeyIndex,
        keys: RecordBatch,
        projection: Option<&Vec<usize>>,
        state: &dyn Session,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(found) = index.find(&self.readers, keys).await? else {
            return Ok(None);
        };
        let mut by_file: BTreeMap<Arc<str>, BTreeSet<u32>> = BTreeMap::new();
        let mut fresh_rows = Vec::new();
        let mut of_tail = BTreeSet::new();
        for found in found.into_iter().flatten() {
            match found {
                Found::File { path, row } => _ = by_file.entry(path).or_default().insert(row),
                Found::Tail { piece, row } => {
                    if of_tail.insert((Arc::clone(&piece.name), row))
                        && let Some((batch, row)) = piece.locate(row)
                    {
                        fresh_rows.push(fresh::project(&batch.slice(row, 1), projection)?);
                    }
                }
            }
        }
        let mut files = Vec::with_capacity(by_file.len());
        let mut described = Vec::with_capacity(by_file.len());
        for (path, rows) in by_file {
            let file = Arc::new(index.pinned().indexed_file(&path)?);
            let selection = selected(&rows, file.physical_rows(&self.readers).await?);
            described.push(
                PartitionedFile::new_from_meta(file.meta())
                    .with_extension(ParquetRowSelection::new(selection)),
            );
            files.push(file);
        }
        let mut inputs = Vec::with_capacity(2);
        if !described.is_empty() {
            let columns = self.columns_of_interest(projection, &[]);
            let most = state.config().batch_size();
            let scan = FileScan {
                files: described,
                total: Statistics::new_unknown(&self.shape.scan),
                batch_rows: batches::rows(&self.readers, &self.shape, &files, &columns, most)
                    .await?,
                partitions: 1,
                numbered: false,
                limit: None,
            };
            let plan = self.source(scan, projection, state.config_options())?;
            inputs.push(self.logical_names(plan, projection)?);
        }
        if !fresh_rows.is_empty() {
            inputs.push(self.memory(1, fresh_rows, projection, None)?);
        }
        self.union(inputs, projection).map(Some)
    }
}

/// Selects single rows of a file of `total` rows.
fn selected(rows: &BTreeSet<u32>, total: u64) -> RowSelection {
    let ranges = rows.iter().map(|row| *row as usize..*row as usize + 1);
    let last = rows.last().map_or(0, |row| u64::from(*row) + 1);
    let total = usize::try_from(total.max(last)).unwrap_or(usize::MAX);
    RowSelection::from_consecutive_ranges(ranges, total)
}
