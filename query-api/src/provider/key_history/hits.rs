//! Every row of a key in a table's files, whether it counts or not.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchemaBuilder;
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::logical_expr::lit;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::filter::FilterExec;
use futures::TryStreamExt;
use parquet::arrow::RowNumber;

use super::super::scan::PinnedRows;
use super::Key;
use crate::error::QueryError;
use crate::table::facts::FileFacts;
use crate::table::shape::{SEQUENCE, Shape};

/// Columns of the scan that no file has: which file a row is of, and where in it.
const FILE: &str = "__file";
const POSITION: &str = "__position";

/// Every row of the key, live or not.
pub(super) struct Hits {
    pub(super) rows: RecordBatch,
    /// Of each row: file, position, sequence.
    pub(super) files: Vec<usize>,
    pub(super) positions: Vec<u64>,
    pub(super) sequences: Vec<Option<(i32, i64, i32)>>,
    pub(super) of_file: HashMap<usize, Vec<usize>>,
}

impl Hits {
    pub(super) async fn read(
        state: &SessionState,
        rows: &PinnedRows,
        shape: &Shape,
        key: &Key,
        files: &[Arc<FileFacts>],
    ) -> Result<Self, QueryError> {
        let file = Field::new(FILE, DataType::Int32, false);
        let position = Field::new(POSITION, DataType::Int64, false).with_extension_type(RowNumber);
        let schema = TableSchemaBuilder::new(Arc::clone(&shape.scan))
            .with_table_partition_cols(vec![Arc::new(file)])
            .with_virtual_columns(vec![Arc::new(position)])
            .build();
        let all = Arc::clone(schema.table_schema());
        let filter = key.filter(&shape.scan, files).unwrap_or_else(|| lit(true));
        let df_schema = DFSchema::try_from(Arc::clone(&all))?;
        let predicate = state.create_physical_expr(filter, &df_schema)?;

        let mut options = TableParquetOptions {
            global: state.config_options().execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        // Few rows of many: the other columns are read for those alone.
        options.global.pushdown_filters = true;
        let readers: Arc<dyn ParquetFileReaderFactory> = Arc::new(rows.readers.clone());
        let source = ParquetSource::new(schema)
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(readers)
            .with_predicate(Arc::clone(&predicate));
        let partitions = state.config_options().execution.target_partitions.max(1);
        let mut groups = vec![Vec::new(); partitions.min(files.len()).max(1)];
        let count = groups.len();
        for (number, file) in files.iter().enumerate() {
            let mut described = PartitionedFile::new_from_meta(file.meta());
            let number_of_file = i32::try_from(number).unwrap_or(i32::MAX);
            described.partition_values = vec![ScalarValue::Int32(Some(number_of_file))];
            groups[number % count].push(described);
        }
        rows.metrics.files_scanned.inc_by(files.len() as u64);
        let groups: Vec<_> = groups.into_iter().map(FileGroup::new).collect();
        let config = FileScanConfigBuilder::new(rows.store_url.clone(), Arc::new(source))
            .with_file_groups(groups)
            .build();
        let plan = FilterExec::try_new(predicate, DataSourceExec::from_data_source(config))?;
        let mut stream = execute_stream(Arc::new(plan), state.task_ctx())?;
        let pool = Arc::clone(&state.runtime_env().memory_pool);
        let reservation = MemoryConsumer::new("key_history").register(&pool);
        let mut batches = Vec::new();
        while let Some(batch) = stream.try_next().await? {
            reservation.try_grow(batch.get_array_memory_size())?;
            batches.push(batch);
        }
        Self::of(concat_batches(&all, &batches)?, shape)
    }

    fn of(rows: RecordBatch, shape: &Shape) -> Result<Self, QueryError> {
        let lost = || QueryError::Engine("a column of the key's rows is missing".into());
        let columns = shape.schema.fields().len();
        let sequence = columns - SEQUENCE.len();
        let int = |place: usize| rows.column(place).as_primitive_opt::<Int32Type>();
        let long = |place: usize| rows.column(place).as_primitive_opt::<Int64Type>();
        let (bucket, offset, row) = (int(sequence), long(sequence + 1), int(sequence + 2));
        let (bucket, offset, row) = (
            bucket.ok_or_else(lost)?,
            offset.ok_or_else(lost)?,
            row.ok_or_else(lost)?,
        );
        let files = int(columns).ok_or_else(lost)?.values().iter();
        let files: Vec<usize> = files.map(|f| usize::try_from(*f).unwrap_or(0)).collect();
        let positions = long(columns + 1).ok_or_else(lost)?.values().iter();
        let positions = positions.map(|p| u64::try_from(*p).unwrap_or(0)).collect();
        let sequences = (0..rows.num_rows()).map(|at| {
            let known = bucket.is_valid(at) && offset.is_valid(at) && row.is_valid(at);
            known.then(|| (bucket.value(at), offset.value(at), row.value(at)))
        });
        let sequences = sequences.collect();
        let mut of_file: HashMap<usize, Vec<usize>> = HashMap::new();
        for (hit, file) in files.iter().enumerate() {
            of_file.entry(*file).or_default().push(hit);
        }
        Ok(Self {
            rows,
            files,
            positions,
            sequences,
            of_file,
        })
    }

    pub(super) fn is_same(&self, a: usize, b: usize) -> bool {
        self.sequences[a].is_some() && self.sequences[a] == self.sequences[b]
    }
}
