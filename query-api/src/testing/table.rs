//! A table and the pen to write it: as the flusher does, and as other engines do.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use tidelake_catalog::TableEntry;
use tidelake_core::{Bucket, TableVersion, Watermark, ids};
use tidelake_intake::decode::{MessageDecoder, Placement};
use tidelake_manifest::action::TAG_LEVEL;
use tidelake_manifest::vector::DeletedRows;
use tidelake_manifest::{
    Add, CommitOutcome, DeltaTable, MarkMove, Snapshot, Stats, StatsCollector, Transaction,
    VectorDescriptor, vector,
};
use tidelake_schema::{TableSchema, arrow as logical};
use tidelake_table::index::IndexHome;
use tidelake_table::{
    Chunk, Deletes, FileLayout, FileSettings, Flush, FlushOutcome, FlushRows, Memtable, Positions,
    Sealed, StateLoader, UpsertBucket, VECTOR_IDS, encode,
};

use super::{TestLog, Wire};
use crate::table::keys::TableKeys;

/// Rows of one Parquet row group: small, so that files have several.
const ROW_GROUP_ROWS: usize = 16;
const PAGE_ROWS: usize = 4;

/// A table and the pen to write it.
pub(crate) struct TestTable {
    pub entry: Arc<TableEntry>,
    pub delta: DeltaTable,
    pub schema: TableSchema,
    pub log: TestLog,
    pub snapshot: Arc<Snapshot>,
    files: usize,
}

impl TestTable {
    pub(super) fn new(
        entry: Arc<TableEntry>,
        delta: DeltaTable,
        schema: TableSchema,
        log: TestLog,
        snapshot: Arc<Snapshot>,
    ) -> Self {
        Self {
            entry,
            delta,
            schema,
            log,
            snapshot,
            files: 0,
        }
    }

    /// Appends records to the log.
    pub(crate) fn push(&self, bucket: u32, records: &[serde_json::Value]) {
        for record in records {
            self.log
                .push(&self.entry.topic, bucket, Wire::json(&record.to_string()));
        }
    }

    pub(crate) fn watermark(&self, bucket: u32) -> i64 {
        let mark = self
            .snapshot
            .watermark(&self.entry.topic_id, Bucket(bucket));
        mark.unwrap_or_default().0
    }

    /// Commits a bucket's messages up to `to` as one file, as the flusher does.
    pub(crate) async fn flush(&mut self, bucket: u32, to: i64) -> TableVersion {
        let sealed = self.sealed(bucket, self.watermark(bucket), to, None);
        let layout = FileLayout::plain(&self.schema);
        let settings = FileSettings {
            row_group_rows_max: ROW_GROUP_ROWS,
            page_rows_max: PAGE_ROWS,
            ..FileSettings::default()
        };
        let file = encode(&layout, &[sealed], settings).unwrap();
        let tags = BTreeMap::from([(TAG_LEVEL.to_owned(), Some("0".to_owned()))]);
        let adds = match file {
            Some(file) => vec![Add {
                tags: Some(tags),
                ..self.store(file.bytes, &file.stats).await
            }],
            None => vec![],
        };
        self.commit_up_to(bucket, to, adds).await
    }

    /// The same by another writer: its files are Parquet's own writer's, require no field inside of
    /// structs, and bear no tags.
    pub(crate) async fn flush_foreign(&mut self, bucket: u32, to: i64) -> TableVersion {
        let batch = self.decode(bucket, self.watermark(bucket), to);
        let adds = match batch {
            Some(batch) => vec![self.write_stored(optional(&self.stored(&batch))).await],
            None => vec![],
        };
        self.commit_up_to(bucket, to, adds).await
    }

    async fn commit_up_to(&mut self, bucket: u32, to: i64, adds: Vec<Add>) -> TableVersion {
        let mark = MarkMove {
            topic_id: self.entry.topic_id,
            bucket: Bucket(bucket),
            from: Watermark(self.watermark(bucket)),
            to: Watermark(to),
        };
        self.commit(Transaction::flush(adds, vec![mark])).await
    }

    /// Commits messages of an upsert table up to `to` of each bucket named, as the flusher does.
    pub(crate) async fn flush_upserts(&mut self, ends: &[(u32, i64)]) -> TableVersion {
        let schema_string = &self.snapshot.metadata().schema_string;
        let home = Arc::new(IndexHome::memory());
        let keys = TableKeys::of(&Arc::new(self.schema.clone()), self.entry.buckets).unwrap();
        let owners = keys.unwrap().owners();
        let loader = StateLoader::new(&self.schema, schema_string, owners, home).unwrap();
        let loader = loader.unwrap();
        let mut buckets = Vec::new();
        for &(bucket, to) in ends {
            let from = self.watermark(bucket);
            let (snapshot, at) = (&self.snapshot, Bucket(bucket));
            let (state, _) = loader.load(&self.delta, snapshot, at, None).await.unwrap();
            let placement = Placement {
                bucket: at,
                buckets: self.entry.buckets,
            };
            let sealed = self.sealed(bucket, from, to, Some(placement));
            let file_id = ids::random().next_uuid();
            buckets.push(UpsertBucket {
                sealed,
                state,
                file_id,
            });
        }
        let flush = Flush {
            topic_id: self.entry.topic_id,
            rows: FlushRows::Upsert {
                loader,
                buckets,
                vector_ids: (0..VECTOR_IDS).map(|_| ids::random().next_uuid()).collect(),
            },
            txns: Vec::new(),
            files: FileSettings {
                row_group_rows_max: ROW_GROUP_ROWS,
                ..FileSettings::default()
            },
            reason: "test",
            now_ms: 1,
        };
        let flushed = flush.run(&self.delta, &self.snapshot).await;
        match flushed.unwrap().outcome {
            FlushOutcome::Committed(flushed) => {
                self.snapshot = flushed.snapshot;
                flushed.version
            }
            FlushOutcome::Conflicted(conflict) => panic!("{conflict:?}"),
        }
    }

    /// Messages as they are flushed; of an upsert table with its placement.
    fn sealed(&self, bucket: u32, from: i64, to: i64, upsert: Option<Placement>) -> Sealed {
        let mut decoder = match upsert {
            Some(placement) => MessageDecoder::upsert(&self.schema, Some(placement)),
            None => MessageDecoder::append(&self.schema),
        }
        .unwrap();
        let messages = self.log.messages(&self.entry.topic, bucket, from, to);
        for (offset, message) in (from..).zip(&messages) {
            let _ = decoder.push(&message.at(offset));
        }
        let decoded = decoder.finish().unwrap();
        let mut memtable = Memtable::new(Bucket(bucket), Watermark(from));
        for rows in decoded.rows {
            let positions = Positions {
                offsets: rows.offsets,
                rows: rows.rows,
                timestamps_ms: rows.timestamps_ms,
            };
            memtable.push(Chunk::new(rows.batch, positions));
        }
        for deletes in decoded.deletes {
            let positions = Positions {
                offsets: deletes.offsets,
                rows: deletes.rows,
                timestamps_ms: deletes.timestamps_ms,
            };
            memtable.delete(Deletes::new(deletes.keys, positions));
        }
        memtable.advance(Watermark(to));
        memtable.seal()
    }

    fn decode(&self, bucket: u32, from: i64, to: i64) -> Option<RecordBatch> {
        let mut decoder = MessageDecoder::append(&self.schema).unwrap();
        let messages = self.log.messages(&self.entry.topic, bucket, from, to);
        for (offset, message) in (from..).zip(&messages) {
            let _ = decoder.push(&message.at(offset));
        }
        let parts = decoder.finish().unwrap().rows;
        let first = parts.first()?.batch.schema();
        let batches: Vec<_> = parts.iter().map(|part| &part.batch).collect();
        Some(datafusion::arrow::compute::concat_batches(&first, batches).unwrap())
    }

    /// Writes a data file: storage types, a hidden column, several row groups.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Add {
        self.write_stored(self.stored(batch)).await
    }

    fn stored(&self, batch: &RecordBatch) -> RecordBatch {
        logical::to_storage(batch, &self.schema).unwrap()
    }

    async fn write_stored(&mut self, stored: RecordBatch) -> Add {
        let mut stats = StatsCollector::new(32);
        stats.update(&stored);
        let mut fields: Vec<_> = stored.schema().fields().iter().cloned().collect();
        fields.insert(0, Arc::new(Field::new("__offset", DataType::Int64, false)));
        let mut columns = stored.columns().to_vec();
        let offsets: Int64Array = (0..stored.num_rows() as i64).collect();
        columns.insert(0, Arc::new(offsets));
        let stored = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_write_batch_size(PAGE_ROWS)
            .set_statistics_enabled(EnabledStatistics::Page)
            .build();
        let mut writer =
            ArrowWriter::try_new(Vec::new(), stored.schema(), Some(properties)).unwrap();
        writer.write(&stored).unwrap();
        let bytes = writer.into_inner().unwrap();
        self.store(bytes.into(), &stats.finish()).await
    }

    async fn store(&mut self, bytes: Bytes, stats: &Stats) -> Add {
        self.files += 1;
        let path = format!("part-{:05}.parquet", self.files);
        let size = bytes.len() as i64;
        self.delta.store().put(&path, bytes).await.unwrap();
        Add {
            path,
            size,
            data_change: true,
            stats: Some(stats.to_json()),
            ..Add::default()
        }
    }

    pub(crate) async fn commit(&mut self, tx: Transaction) -> TableVersion {
        match self.delta.commit(&self.snapshot, tx).await.unwrap() {
            CommitOutcome::Committed { version, snapshot } => {
                self.snapshot = snapshot;
                version
            }
            CommitOutcome::Conflicted(conflict) => panic!("{conflict:?}"),
        }
    }

    /// Deletes rows of a file by position, as another engine would.
    pub(crate) async fn delete(&mut self, path: &str, rows: &[u64]) -> TableVersion {
        let deleted: DeletedRows = rows.iter().copied().collect();
        if rows.len().is_multiple_of(2) {
            let vectors = vec![(path, vector::inline(&deleted))];
            return self.commit_vectors(vectors).await;
        }
        self.delete_of_files(&[(path, rows)]).await
    }

    /// Deletes rows of many files by position in one commit, whose vectors lie in one object.
    pub(crate) async fn delete_of_files(&mut self, files: &[(&str, &[u64])]) -> TableVersion {
        let mut pen = vector::VectorFile::new(ids::random().next_uuid());
        let mut vectors = Vec::with_capacity(files.len());
        for (path, rows) in files {
            vectors.push((*path, pen.push(&rows.iter().copied().collect())));
        }
        for (name, bytes) in pen.finish() {
            self.delta.store().put(&name, bytes.into()).await.unwrap();
        }
        self.commit_vectors(vectors).await
    }

    async fn commit_vectors(&mut self, vectors: Vec<(&str, VectorDescriptor)>) -> TableVersion {
        let mut tx = Transaction {
            operation: "DELETE".into(),
            ..Transaction::default()
        };
        for (path, vector) in vectors {
            let file = self.snapshot.file(path).unwrap();
            tx.adds.push(Add {
                deletion_vector: Some(vector),
                stats: Some(file.widened_stats().unwrap()),
                ..file.add.clone()
            });
            tx.removes.push(file.add.to_remove(1_800_000_000_000, true));
        }
        self.commit(tx).await
    }
}

/// The rows with nothing required inside of structs.
fn optional(batch: &RecordBatch) -> RecordBatch {
    fn inside(data_type: &DataType) -> DataType {
        let optional = |field: &FieldRef| {
            let inner = inside(field.data_type());
            let field = field.as_ref().clone().with_data_type(inner);
            Arc::new(field.with_nullable(true))
        };
        match data_type {
            DataType::Struct(fields) => DataType::Struct(fields.iter().map(optional).collect()),
            DataType::List(element) => DataType::List(optional(element)),
            other => other.clone(),
        }
    }
    let schema = batch.schema();
    let fields = schema.fields().iter().map(|field| {
        let inner = inside(field.data_type());
        field.as_ref().clone().with_data_type(inner)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap());
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
}
