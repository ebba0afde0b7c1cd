//! Key columns of a data file: what an index is rebuilt from.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt, TryStreamExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use tidelake_manifest::{DataFile, DeltaTable};
use tidelake_schema::arrow::{storage_schema, to_logical};
use tidelake_schema::delta::{physical_name, physical_names};
use tidelake_schema::{Field, TableSchema};
use tidelake_storage::Store;

use crate::TableError;
use crate::index::{Entries, KeySpec, Keys, sorted_order};
use crate::load::blocking;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 64 * 1024;

/// The key columns of a table, as its files have them.
#[derive(Debug)]
pub struct KeyColumns {
    /// Only the key's fields, in key order.
    schema: TableSchema,
    stored: SchemaRef,
    /// Names in the files.
    names: Vec<String>,
}

impl KeyColumns {
    /// `delta_schema` is the schema string of the table's metadata, which knows the files' names.
    pub fn new(schema: &TableSchema, delta_schema: &str) -> Result<Self, TableError> {
        let fields: Vec<Field> = schema.identifier_fields().into_iter().cloned().collect();
        let known = physical_names(delta_schema)?;
        let name = |field: &Field| physical_name(field, &known).to_owned();
        let names = fields.iter().map(name).collect();
        let schema = TableSchema {
            schema_id: schema.schema_id,
            identifier_field_ids: schema.identifier_field_ids.clone(),
            fields,
        };
        let stored = storage_schema(&schema);
        Ok(Self {
            schema,
            stored,
            names,
        })
    }

    /// Every row's key with its row number, in key order. Files of other writers may hold a key
    /// several times: all of its rows are candidates.
    pub async fn entries(
        &self,
        table: &DeltaTable,
        file: &DataFile,
        spec: &KeySpec,
    ) -> Result<Entries, TableError> {
        let keys = self.keys(table, file, spec).await?;
        blocking(move || {
            let order = sorted_order(&keys);
            let sorted = keys.take(&order);
            Ok(Entries {
                keys: sorted,
                rows: order,
            })
        })
        .await
    }

    /// The key of each row, in the order of the rows.
    pub async fn keys(
        &self,
        table: &DeltaTable,
        file: &DataFile,
        spec: &KeySpec,
    ) -> Result<Keys, TableError> {
        let reader = StoredFile {
            store: table.store().clone(),
            name: file.path().to_owned(),
            size: file.size(),
        };
        // Types as Parquet says them: the files of other writers carry no Arrow schema of ours.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await?;
        let roots = builder.parquet_schema().root_schema().get_fields();
        let mut places = Vec::with_capacity(self.names.len());
        for name in &self.names {
            let place = roots.iter().position(|root| root.name() == name);
            places.push(place.ok_or_else(|| TableError::Damaged {
                what: file.path().to_owned(),
                reason: format!("it has no column {name:?}, which is part of the primary key"),
            })?);
        }
        let mask = ProjectionMask::roots(builder.parquet_schema(), places.iter().copied());
        let mut batches = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()?;
        let mut keys = Keys::new(spec.kind());
        while let Some(batch) = batches.try_next().await? {
            keys.append(&spec.keys(&self.logical(&batch)?)?);
        }
        Ok(keys)
    }

    fn logical(&self, batch: &RecordBatch) -> Result<RecordBatch, TableError> {
        let mut columns = Vec::with_capacity(self.names.len());
        for (name, field) in self.names.iter().zip(self.stored.fields()) {
            let column = batch
                .column_by_name(name)
                .ok_or_else(|| TableError::Encode(format!("column {name:?} was not read")))?;
            columns.push(cast(column, field.data_type())?);
        }
        let stored = RecordBatch::try_new(Arc::clone(&self.stored), columns)?;
        Ok(to_logical(&stored, &self.schema)?)
    }
}

/// A data file in the store, read range by range.
struct StoredFile {
    store: Store,
    name: String,
    size: u64,
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.store
            .get_range(&self.name, range)
            .map_err(|error| ParquetError::External(error.into()))
            .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        let size = self.size;
        async move {
            let reader = ParquetMetaDataReader::new();
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
