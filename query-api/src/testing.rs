//! A small world for tests: memory store, catalog, Delta tables, and a log in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use tidelake_catalog::{AddTable, Catalog, TableEntry, TableMode};
use tidelake_codec::message::{MessageDecoder, WireMessage};
use tidelake_core::{
    Bucket, Offset, TableId, TableName, TableVersion, TenantId, TopicId, Watermark, clock, ids,
};
use tidelake_log::LogError;
use tidelake_manifest::vector::DeletedRows;
use tidelake_manifest::{
    Add, CommitOutcome, CreateTable, DeltaTable, MarkMove, Snapshot, StatsCollector, Transaction,
    vector,
};
use tidelake_schema::{TableSchema, arrow as logical};
use tidelake_service::{Metrics, Runtime};
use tidelake_storage::{Store, StoreOptions};

use crate::engine::{Engine, Parts};
use crate::metrics::QueryMetrics;
use crate::settings::QuerySettings;
use crate::tail::{Messages, RawMessage, TailSource};

/// Rows of one Parquet row group: small, so that files have several.
pub(crate) const ROW_GROUP_ROWS: usize = 16;

/// Messages by topic and bucket; offsets count from 0.
#[derive(Debug, Default)]
pub(crate) struct MemoryLog {
    topics: Mutex<HashMap<String, Vec<Partition>>>,
    /// Reads made.
    pub reads: AtomicUsize,
    /// Messages handed out.
    pub delivered: AtomicUsize,
    pub broken: Mutex<bool>,
}

#[derive(Debug, Default)]
struct Partition {
    start: i64,
    messages: Vec<Wire>,
}

#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub value: Option<Vec<u8>>,
    pub encoding: Option<Vec<u8>>,
    pub op: Option<Vec<u8>>,
}

impl Wire {
    pub(crate) fn json(text: &str) -> Self {
        Self {
            value: Some(text.as_bytes().to_vec()),
            encoding: None,
            op: None,
        }
    }
}

impl MemoryLog {
    pub(crate) fn push(&self, topic: &str, bucket: u32, message: Wire) -> i64 {
        let mut topics = self.topics.lock();
        let partition = &mut topics.get_mut(topic).unwrap()[bucket as usize];
        partition.messages.push(message);
        partition.messages.len() as i64 - 1
    }

    pub(crate) fn end(&self, topic: &str, bucket: u32) -> i64 {
        self.topics.lock()[topic][bucket as usize].messages.len() as i64
    }

    /// Retention removes what lies before `start`.
    pub(crate) fn cut(&self, topic: &str, bucket: u32, start: i64) {
        self.topics.lock().get_mut(topic).unwrap()[bucket as usize].start = start;
    }

    pub(crate) fn messages(&self, topic: &str, bucket: u32, from: i64, to: i64) -> Vec<Wire> {
        let topics = self.topics.lock();
        topics[topic][bucket as usize].messages[from as usize..to as usize].to_vec()
    }
}

struct Part {
    bucket: Bucket,
    messages: Vec<(i64, Wire)>,
}

impl Messages for Part {
    fn visit(&self, visit: &mut dyn FnMut(RawMessage<'_>)) {
        for (offset, message) in &self.messages {
            visit(RawMessage {
                bucket: self.bucket,
                offset: *offset,
                timestamp_ms: 0,
                value: message.value.as_deref(),
                encoding: message.encoding.as_deref(),
                op: message.op.as_deref(),
            });
        }
    }
}

#[async_trait]
impl TailSource for MemoryLog {
    async fn ends(&self, topic: &str, buckets: u32) -> Result<Vec<(Bucket, Offset)>, LogError> {
        if *self.broken.lock() {
            return Err(LogError::Unavailable {
                what: "ends".into(),
                reason: "broken".into(),
            });
        }
        let ends = (0..buckets).map(|bucket| (Bucket(bucket), Offset(self.end(topic, bucket))));
        Ok(ends.collect())
    }

    async fn start(&self, topic: &str, bucket: Bucket) -> Result<Offset, LogError> {
        Ok(Offset(self.topics.lock()[topic][bucket.0 as usize].start))
    }

    async fn read(
        &self,
        topic: &str,
        ranges: Vec<(Bucket, Offset, Offset)>,
        _deadline: Duration,
    ) -> Result<Vec<Box<dyn Messages>>, LogError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let mut parts: Vec<Box<dyn Messages>> = Vec::new();
        for (bucket, from, to) in ranges {
            let start = self.topics.lock()[topic][bucket.0 as usize].start;
            if from.0 < start {
                let topic = topic.to_owned();
                return Err(LogError::OffsetOutOfRange {
                    topic,
                    bucket,
                    offset: from.0,
                });
            }
            // As the real one: a little more than was asked for may come.
            let to = (to.0 + 2).min(self.end(topic, bucket.0));
            let messages: Vec<_> = (from.0..to)
                .zip(self.messages(topic, bucket.0, from.0, to))
                .collect();
            self.delivered.fetch_add(messages.len(), Ordering::SeqCst);
            parts.push(Box::new(Part { bucket, messages }));
        }
        Ok(parts)
    }

    fn close(&self, _topic: &str) {}
}

/// Everything a query needs.
pub(crate) struct World {
    pub store: Store,
    pub catalog: Catalog,
    pub log: Arc<MemoryLog>,
    pub engine: Engine,
    pub clock: Arc<clock::ManualClock>,
    pub runtime: Runtime,
}

impl World {
    pub(crate) async fn new(settings: QuerySettings) -> Self {
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        let clock = Arc::new(clock::ManualClock::at(1_800_000_000_000));
        let catalog = Catalog::open(&store, clock.clone(), ids::random())
            .await
            .unwrap();
        let log = Arc::new(MemoryLog::default());
        let engine = Engine::new(Parts {
            settings,
            store: store.clone(),
            catalog: catalog.clone(),
            tail: log.clone(),
            clock: clock.clone(),
            ids: ids::random(),
            metrics: QueryMetrics::new(&Metrics::new()),
        })
        .unwrap();
        Self {
            store,
            catalog,
            log,
            engine,
            clock,
            runtime: Runtime::new(),
        }
    }

    /// Creates a table of the default tenant.
    pub(crate) async fn table(&self, name: &str, schema: &str, buckets: u32) -> TestTable {
        self.table_of("default", name, schema, buckets).await
    }

    pub(crate) async fn table_of(
        &self,
        tenant: &str,
        name: &str,
        schema: &str,
        buckets: u32,
    ) -> TestTable {
        let id = TableId::new(
            TenantId::new(tenant).unwrap(),
            TableName::new(name).unwrap(),
        );
        let schema = TableSchema::from_iceberg_json(schema).unwrap();
        let incarnation = ids::random().next_uuid();
        let entry = TableEntry {
            topic: format!("tidelake.{tenant}.{name}.{incarnation}"),
            id,
            mode: TableMode::Append,
            schema: schema.clone(),
            buckets,
            topic_id: TopicId(incarnation.into_bytes()),
            properties: BTreeMap::new(),
            created_ms: 0,
        };
        let store = self.store.scoped(&entry.location());
        let delta = DeltaTable::new(store, self.clock.clone(), ids::random());
        let spec = CreateTable {
            name: name.into(),
            schema: schema.clone(),
            append_only: false,
            properties: BTreeMap::new(),
        };
        let snapshot = Arc::clone(delta.create(spec).await.unwrap().snapshot());
        let partitions = (0..buckets).map(|_| Partition::default()).collect();
        self.log
            .topics
            .lock()
            .insert(entry.topic.clone(), partitions);
        let added = self.catalog.add_table(entry).await.unwrap();
        let AddTable::Added(entry) = added else {
            panic!("{added:?}")
        };
        TestTable {
            entry,
            delta,
            schema,
            log: self.log.clone(),
            snapshot,
            files: 0,
        }
    }

    /// Sends a request through the router.
    pub(crate) async fn http(
        &self,
        request: axum::http::Request<Body>,
    ) -> (axum::http::response::Parts, Vec<u8>) {
        use tower::ServiceExt;
        let router = crate::routes::router(self.engine.clone(), &self.runtime);
        let response = router.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX)
            .await
            .unwrap_or_default();
        (parts, bytes.to_vec())
    }

    /// Posts a JSON body to `/v1/sql`.
    pub(crate) async fn sql(
        &self,
        body: serde_json::Value,
    ) -> (axum::http::response::Parts, serde_json::Value) {
        let request = axum::http::Request::post("/v1/sql")
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let (parts, bytes) = self.http(request).await;
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&bytes)));
        (parts, value)
    }

    /// Rows of a query that must succeed.
    pub(crate) async fn rows(&self, sql: &str) -> serde_json::Value {
        self.rows_of(serde_json::json!({ "sql": sql })).await
    }

    pub(crate) async fn rows_of(&self, body: serde_json::Value) -> serde_json::Value {
        let (parts, mut value) = self.sql(body.clone()).await;
        assert_eq!(parts.status, 200, "{body}: {value}");
        value["rows"].take()
    }

    /// The code of the problem that a query must end with.
    pub(crate) async fn code(&self, body: serde_json::Value) -> (u16, String) {
        let (parts, value) = self.sql(body.clone()).await;
        let code = value["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{body}: {value}"));
        (parts.status.as_u16(), code.to_owned())
    }
}

/// A table and the pen to write it.
pub(crate) struct TestTable {
    pub entry: Arc<TableEntry>,
    pub delta: DeltaTable,
    pub schema: TableSchema,
    pub log: Arc<MemoryLog>,
    pub snapshot: Arc<Snapshot>,
    files: usize,
}

impl TestTable {
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
        let from = self.watermark(bucket);
        let batch = self.decode(bucket, from, to);
        let mark = MarkMove {
            topic_id: self.entry.topic_id,
            bucket: Bucket(bucket),
            from: Watermark(from),
            to: Watermark(to),
        };
        let adds = match batch {
            Some(batch) => vec![self.write(&batch).await],
            None => vec![],
        };
        self.commit(Transaction::flush(adds, vec![mark])).await
    }

    fn decode(&self, bucket: u32, from: i64, to: i64) -> Option<RecordBatch> {
        let mut decoder = MessageDecoder::new(&self.schema).unwrap();
        let messages = self.log.messages(&self.entry.topic, bucket, from, to);
        for (offset, message) in (from..).zip(&messages) {
            let _ = decoder.push(&WireMessage {
                offset,
                timestamp_ms: 0,
                value: message.value.as_deref(),
                encoding: message.encoding.as_deref(),
                op: message.op.as_deref(),
            });
        }
        let parts = decoder.finish().unwrap();
        let first = parts.first()?.batch.schema();
        let batches: Vec<_> = parts.iter().map(|part| &part.batch).collect();
        Some(datafusion::arrow::compute::concat_batches(&first, batches).unwrap())
    }

    /// Writes a data file: storage types, a hidden column, several row groups.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Add {
        let stored = logical::to_storage(batch, &self.schema).unwrap();
        let mut stats = StatsCollector::new(32);
        stats.update(&stored);
        let mut fields: Vec<_> = stored.schema().fields().iter().cloned().collect();
        fields.insert(0, Arc::new(Field::new("__offset", DataType::Int64, false)));
        let mut columns = stored.columns().to_vec();
        let offsets: Int64Array = (0..batch.num_rows() as i64).collect();
        columns.insert(0, Arc::new(offsets));
        let stored = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_data_page_row_count_limit(4)
            .set_write_batch_size(4)
            .set_statistics_enabled(EnabledStatistics::Page)
            .build();
        let mut writer =
            ArrowWriter::try_new(Vec::new(), stored.schema(), Some(properties)).unwrap();
        writer.write(&stored).unwrap();
        let bytes = writer.into_inner().unwrap();
        self.files += 1;
        let path = format!("part-{:05}.parquet", self.files);
        let size = bytes.len() as i64;
        self.delta.store().put(&path, bytes.into()).await.unwrap();
        Add {
            path,
            size,
            data_change: true,
            stats: Some(stats.finish().to_json()),
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
        let file = Arc::clone(self.snapshot.file(path).unwrap());
        let deleted: DeletedRows = rows.iter().copied().collect();
        let descriptor = if rows.len().is_multiple_of(2) {
            vector::inline(&deleted)
        } else {
            let mut pen = vector::VectorFile::new(ids::random().next_uuid());
            let descriptor = pen.push(&deleted);
            let (name, bytes) = pen.finish();
            self.delta.store().put(&name, bytes.into()).await.unwrap();
            descriptor
        };
        let stats = file.stats().unwrap().clone().widened();
        let add = Add {
            deletion_vector: Some(descriptor),
            stats: Some(stats.to_json()),
            ..file.add.clone()
        };
        let remove = file.add.to_remove(1_800_000_000_000, true);
        self.commit(Transaction {
            operation: "DELETE".into(),
            adds: vec![add],
            removes: vec![remove],
            ..Transaction::default()
        })
        .await
    }
}
