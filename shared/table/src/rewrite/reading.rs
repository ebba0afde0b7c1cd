//! The rows of an input as the table's files have them now.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use parquet::arrow::async_reader::ParquetRecordBatchStream;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use tidelake_manifest::{DataFile, DeltaTable};

use crate::TableError;
use crate::read::StoredFile;
use crate::rowset::RowSet;

/// Rows decoded at a time, at most, and about how many bytes of them.
const BATCH_ROWS_MAX: u64 = 8192;
const BATCH_BYTES: u64 = 4 << 20;
/// What a value of fixed length, or the place of another, takes in memory at most.
const VALUE_BYTES: u64 = 16;

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

    /// So many rows take about [`BATCH_BYTES`] once they are decoded. A dictionary that repeats one
    /// long text is small in the file, and large in memory.
    fn batch_rows(&self) -> usize {
        let groups = self.footer().row_groups().iter();
        let rows = groups.map(|group| {
            let bytes = group.columns().iter().map(decoded_bytes);
            let bytes = bytes.fold(0, u64::saturating_add).max(1);
            BATCH_BYTES.saturating_mul(group.num_rows().unsigned_abs()) / bytes
        });
        let rows = rows.min().unwrap_or(BATCH_ROWS_MAX);
        usize::try_from(rows.clamp(1, BATCH_ROWS_MAX)).unwrap_or(1)
    }

    /// Its rows with the columns of `schema`.
    pub(super) fn read(self, schema: &SchemaRef) -> Result<Rows, TableError> {
        let roots = self.builder.parquet_schema().root_schema().get_fields();
        let wanted = roots.iter().enumerate().filter_map(|(place, root)| {
            let wanted = schema.column_with_name(root.name()).is_some();
            wanted.then_some(place)
        });
        let wanted: Vec<usize> = wanted.collect();
        let batch_rows = self.batch_rows();
        let mask = ProjectionMask::roots(self.builder.parquet_schema(), wanted);
        let batches = self
            .builder
            .with_projection(mask)
            .with_batch_size(batch_rows)
            .build()?;
        Ok(Rows {
            path: self.path,
            schema: Arc::clone(schema),
            batches,
            next: 0,
        })
    }
}

/// What the values of a chunk take once they are decoded.
fn decoded_bytes(chunk: &ColumnChunkMetaData) -> u64 {
    let values = chunk
        .num_values()
        .unsigned_abs()
        .saturating_mul(VALUE_BYTES);
    let texts = chunk.unencoded_byte_array_data_bytes();
    // Where it is not said, pages tell at least what they hold.
    let texts = texts.unwrap_or(chunk.uncompressed_size());
    values.saturating_add(texts.unsigned_abs())
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use parquet::arrow::ArrowWriter;
    use tidelake_core::{clock, ids};
    use tidelake_manifest::Add;
    use tidelake_storage::{Store, StoreOptions};

    use super::*;

    async fn opened(width: usize, rows: usize) -> Opened {
        let texts = (0..rows).map(|_| Some("a".repeat(width)));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(0..rows as i64)),
            Arc::new(texts.collect::<StringArray>()),
        ];
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("text", DataType::Utf8, true),
        ]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
        writer.write(&batch).unwrap();
        let bytes = writer.into_inner().unwrap();
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        let add = Add {
            path: "f.parquet".into(),
            size: bytes.len() as i64,
            ..Add::default()
        };
        store.put("f.parquet", bytes.into()).await.unwrap();
        let table = DeltaTable::new(store, clock::system(), ids::random());
        let file = Arc::new(DataFile::of(add).unwrap());
        Opened::of(table, file).await.unwrap()
    }

    #[tokio::test]
    async fn batches_are_of_bytes_also_where_a_text_repeats() {
        assert_eq!(opened(10, 10_000).await.batch_rows(), 8192);
        let wide = opened(1_000_000, 50).await;
        assert_eq!(wide.batch_rows(), 4);
        let mut rows = wide.read(&Arc::new(Schema::new(vec![Field::new(
            "text",
            DataType::Utf8,
            true,
        )])));
        let rows = rows.as_mut().unwrap();
        let batch = rows.next(&RowSet::default()).await.unwrap().unwrap();
        assert_eq!(batch.num_rows(), 4);
    }
}
