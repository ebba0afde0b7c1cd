//! Key columns of a data file, what an index is rebuilt from; and how many rows a file has.
//!
//! Columns are found by the names that the table's files have, or by their field ids where another
//! engine names them otherwise; never by their places.

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
use parquet::schema::types::TypePtr;
use tidelake_core::Bucket;
use tidelake_manifest::{DataFile, DeltaTable};
use tidelake_schema::arrow::{storage_schema, to_logical};
use tidelake_schema::delta::{physical_name, physical_names};
use tidelake_schema::{Field, TableSchema};
use tidelake_storage::Store;

use crate::TableError;
use crate::index::{Entries, KeySpec, Keys, sorted_order};
use crate::owners::Owners;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 64 * 1024;
/// How often a key is in memory at once while it is read.
const KEY_COPIES: u64 = 3;
/// What comes with the key of each row.
const KEY_ROW_BYTES: u64 = 48;

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

    /// The key of each row; with the bucket of each where `owners` is given.
    pub async fn read(
        &self,
        table: &DeltaTable,
        file: &DataFile,
        spec: &KeySpec,
        owners: Option<&Owners>,
    ) -> Result<RowKeys, TableError> {
        let opened = self.open(table, file).await?;
        self.read_opened(opened, spec, owners).await
    }

    /// Reads the footer of a file.
    pub(crate) async fn open(
        &self,
        table: &DeltaTable,
        file: &DataFile,
    ) -> Result<OpenedKeys, TableError> {
        let reader = StoredFile::of(table, file);
        // Types as Parquet says them: the files of other writers carry no Arrow schema of ours.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await?;
        let roots = builder.parquet_schema().root_schema().get_fields();
        let places = self.places(roots, file)?;
        Ok(OpenedKeys { builder, places })
    }

    pub(crate) async fn read_opened(
        &self,
        opened: OpenedKeys,
        spec: &KeySpec,
        owners: Option<&Owners>,
    ) -> Result<RowKeys, TableError> {
        let OpenedKeys { builder, places } = opened;
        let mask = ProjectionMask::roots(builder.parquet_schema(), places.iter().copied());
        let mut batches = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()?;
        let mut keys = Keys::new(spec.kind());
        let mut of_rows = owners.map(|_| Vec::new());
        while let Some(batch) = batches.try_next().await? {
            let batch = self.logical(&batch, &places)?;
            keys.append(&spec.keys(&batch)?);
            if let (Some(owners), Some(of_rows)) = (owners, &mut of_rows) {
                of_rows.extend(owners.of(&batch)?);
            }
        }
        Ok(RowKeys {
            keys,
            owners: of_rows,
        })
    }

    /// The keys of rows that have all columns of a file.
    pub(crate) fn of_rows(&self, batch: &RecordBatch, spec: &KeySpec) -> Result<Keys, TableError> {
        let columns = self.names.iter().zip(&self.schema.fields);
        let columns = columns.map(|(name, field)| {
            batch.column_by_name(name).cloned().ok_or_else(|| {
                let name = &field.name;
                TableError::Encode(format!("rows to write have no key column {name:?}"))
            })
        });
        let columns = columns.collect::<Result<_, _>>()?;
        let stored = RecordBatch::try_new(Arc::clone(&self.stored), columns)?;
        Ok(spec.keys(&to_logical(&stored, &self.schema)?)?)
    }

    /// The places of the key's columns among a file's root columns, in key order.
    fn places(&self, roots: &[TypePtr], file: &DataFile) -> Result<Vec<usize>, TableError> {
        let fields = self.names.iter().zip(&self.schema.fields);
        let places = fields.map(|(name, field)| {
            let named = roots.iter().position(|root| root.name() == name);
            let numbered = |root: &TypePtr| {
                let info = root.get_basic_info();
                info.has_id() && info.id() == field.id
            };
            let place = named.or_else(|| roots.iter().position(numbered));
            place.ok_or_else(|| TableError::Damaged {
                what: file.path().to_owned(),
                reason: format!("it has no column {name:?}, which is part of the primary key"),
            })
        });
        places.collect()
    }

    /// The key's columns in key order; `batch` has the root columns at `places` in the file's
    /// order.
    fn logical(&self, batch: &RecordBatch, places: &[usize]) -> Result<RecordBatch, TableError> {
        let mut columns = Vec::with_capacity(places.len());
        for (place, field) in places.iter().zip(self.stored.fields()) {
            let before = places.iter().filter(|other| *other < place).count();
            columns.push(cast(batch.column(before), field.data_type())?);
        }
        let stored = RecordBatch::try_new(Arc::clone(&self.stored), columns)?;
        Ok(to_logical(&stored, &self.schema)?)
    }
}

/// A file whose key columns can be read: it is known what that takes.
pub(crate) struct OpenedKeys {
    builder: ParquetRecordBatchStreamBuilder<StoredFile>,
    places: Vec<usize>,
}

impl OpenedKeys {
    /// Memory that reading takes until the keys are a run: the keys as they are read, sorted, and
    /// as entries, with their row numbers and buckets. Estimated.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let metadata = self.builder.metadata();
        let roots = self.builder.parquet_schema();
        let key = |leaf: usize| self.places.contains(&roots.get_column_root_idx(leaf));
        let groups = metadata.row_groups().iter().map(|group| {
            let columns = group.columns().iter().enumerate();
            let columns = columns.filter(|(leaf, _)| key(*leaf));
            let sizes = columns.map(|(_, column)| column.uncompressed_size().unsigned_abs());
            sizes.fold(0, u64::saturating_add)
        });
        let stored = groups.fold(0, u64::saturating_add);
        let rows = metadata.file_metadata().num_rows().unsigned_abs();
        let rows = rows.saturating_mul(KEY_ROW_BYTES);
        stored.saturating_mul(KEY_COPIES).saturating_add(rows)
    }
}

/// The keys of a file in the order of its rows. Files of other writers may hold a key several
/// times.
#[derive(Debug)]
pub struct RowKeys {
    keys: Keys,
    /// The bucket of each row's key; none where all are of one bucket.
    owners: Option<Vec<u32>>,
}

impl RowKeys {
    /// Of rows of one bucket.
    pub(crate) fn of_one_bucket(keys: Keys) -> Self {
        Self { keys, owners: None }
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The bucket of each row's key, where they were asked for.
    pub fn owners(&self) -> Option<&[u32]> {
        self.owners.as_deref()
    }

    /// Every row's key with its row number, in key order. All rows of a key are candidates.
    pub fn entries(&self) -> Entries {
        self.sorted((0..self.keys.len() as u32).collect())
    }

    /// Those of one bucket: of keys whose buckets are known only its own.
    pub fn entries_of(&self, bucket: Bucket) -> Entries {
        let Some(owners) = &self.owners else {
            return self.entries();
        };
        let own = owners.iter().enumerate();
        let own = own.filter(|(_, owner)| **owner == bucket.0);
        self.sorted(own.map(|(row, _)| row as u32).collect())
    }

    fn sorted(&self, rows: Vec<u32>) -> Entries {
        let own;
        let keys = if rows.len() == self.keys.len() {
            &self.keys
        } else {
            own = self.keys.take(&rows);
            &own
        };
        let order = sorted_order(keys);
        Entries {
            keys: keys.take(&order),
            rows: order.iter().map(|place| rows[*place as usize]).collect(),
        }
    }
}

/// How many rows a file has, by itself.
pub(crate) async fn rows_of_footer(table: &DeltaTable, file: &DataFile) -> Result<u64, TableError> {
    let mut reader = StoredFile::of(table, file);
    let footer = reader.get_metadata(None).await?;
    let rows = footer.file_metadata().num_rows();
    u64::try_from(rows).map_err(|_| TableError::Damaged {
        what: file.path().to_owned(),
        reason: format!("its footer counts {rows} rows"),
    })
}

/// A data file in the store, read range by range.
pub(crate) struct StoredFile {
    store: Store,
    name: String,
    size: u64,
}

impl StoredFile {
    pub(crate) fn of(table: &DeltaTable, file: &DataFile) -> Self {
        Self {
            store: table.store().clone(),
            name: file.path().to_owned(),
            size: file.size(),
        }
    }
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
