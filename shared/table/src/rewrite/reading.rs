//! The rows of an input as the table's files have them now.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use parquet::arrow::async_reader::ParquetRecordBatchStream;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::file::metadata::ParquetMetaData;
use tidelake_manifest::{DataFile, DeltaTable};

use crate::TableError;
use crate::read::StoredFile;
use crate::rowset::RowSet;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 8192;

/// An input whose footer was read.
pub(super) struct Opened {
    path: String,
    builder: ParquetRecordBatchStreamBuilder<StoredFile>,
}

/// The rows of an input, in order.
pub(super) struct Rows {
    path: String,
    schema: SchemaRef,
    batches: ParquetRecordBatchStream<StoredFile>,
    /// The first row of the next batch.
    next: u32,
}

impl Opened {
    pub(super) async fn of(table: DeltaTable, file: Arc<DataFile>) -> Result<Self, TableError> {
        let stored = StoredFile::of(&table, &file);
        Ok(Self {
            path: file.path().to_owned(),
            builder: ParquetRecordBatchStreamBuilder::new(stored).await?,
        })
    }

    pub(super) fn footer(&self) -> &ParquetMetaData {
        self.builder.metadata()
    }

    pub(super) fn rows(&self) -> u64 {
        let rows = self.footer().file_metadata().num_rows();
        rows.unsigned_abs()
    }

    /// Its rows with the columns of `schema`.
    pub(super) fn read(self, schema: &SchemaRef) -> Result<Rows, TableError> {
        let roots = self.builder.parquet_schema().root_schema().get_fields();
        let wanted = roots.iter().enumerate().filter_map(|(place, root)| {
            let wanted = schema.column_with_name(root.name()).is_some();
            wanted.then_some(place)
        });
        let wanted: Vec<usize> = wanted.collect();
        let mask = ProjectionMask::roots(self.builder.parquet_schema(), wanted);
        let batches = self
            .builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()?;
        Ok(Rows {
            path: self.path,
            schema: Arc::clone(schema),
            batches,
            next: 0,
        })
    }
}

impl Rows {
    /// The next rows that are not deleted; none at the end. A batch may have none.
    pub(super) async fn next(
        &mut self,
        deleted: &RowSet,
    ) -> Result<Option<RecordBatch>, TableError> {
        let Some(batch) = self.batches.try_next().await? else {
            return Ok(None);
        };
        let first = self.next;
        let rows = batch.num_rows();
        self.next += u32::try_from(rows).unwrap_or(u32::MAX);
        let batch = as_stored(&batch, &self.schema, &self.path)?;
        if deleted.is_empty() {
            return Ok(Some(batch));
        }
        let kept = BooleanBuffer::collect_bool(rows, |row| !deleted.contains(first + row as u32));
        if kept.count_set_bits() == rows {
            return Ok(Some(batch));
        }
        Ok(Some(filter_record_batch(&batch, &kept.into())?))
    }
}

/// Rows of a file with the columns of another version of the schema. A column that came since has
/// no value; one whose type is another can't be told by its old values.
fn as_stored(
    batch: &RecordBatch,
    schema: &SchemaRef,
    path: &str,
) -> Result<RecordBatch, TableError> {
    let columns = schema.fields().iter().map(|field| {
        let reason = match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => return Ok(column.clone()),
            Some(column) => format!("has type {}", column.data_type()),
            None if field.is_nullable() => {
                return Ok(new_null_array(field.data_type(), batch.num_rows()));
            }
            None => "is missing".to_owned(),
        };
        let (name, expected) = (field.name(), field.data_type());
        Err(TableError::OtherSchema {
            reason: format!("column {name:?} of {path} {reason}, the table's is {expected}"),
        })
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}
