//! A small world for tests: memory store, catalog, Delta tables, and a log in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use tidelake_catalog::{AddTable, Catalog, TableEntry, TableMode};
use tidelake_core::headers::{self, Headers};
use tidelake_core::{
    Bucket, Offset, TableId, TableName, TableVersion, TenantId, TopicId, Watermark, clock, ids,
};
use tidelake_intake::Seen;
use tidelake_intake::decode::{MessageDecoder, Placement, WireMessage};
use tidelake_log::{LogError, TopicInfo};
use tidelake_manifest::vector::DeletedRows;
use tidelake_manifest::{
    Add, CommitOutcome, CreateTable, DeltaTable, MarkMove, Snapshot, StatsCollector, Transaction,
    vector,
};
use tidelake_schema::{TableSchema, arrow as logical};
use tidelake_service::{Metrics, Runtime};
use tidelake_storage::{Store, StoreOptions};
use tidelake_table::index::IndexHome;
use tidelake_table::{
    Chunk, Deletes, FileSettings, Flush, FlushOutcome, FlushRows, Memtable, Positions, Sealed,
    StateLoader, UpsertBucket, VECTOR_IDS,
};
use tokio::sync::Notify;

use crate::engine::{Engine, Parts};
use crate::lookup::TableKeys;
use crate::metrics::QueryMetrics;
use crate::settings::QuerySettings;
use crate::tail::{Fed, Feed, Messages, RawMessage, TailSource};

/// Rows of one Parquet row group: small, so that files have several.
pub(crate) const ROW_GROUP_ROWS: usize = 16;

/// Messages by topic and bucket; offsets count from 0.
#[derive(Debug, Default)]
pub(crate) struct MemoryLog {
    held: Arc<Held>,
    pub broken: Mutex<bool>,
    asked: AtomicUsize,
}

#[derive(Debug, Default)]
struct Held {
    topics: Mutex<HashMap<String, Vec<Partition>>>,
    ids: Mutex<HashMap<String, TopicId>>,
    grown: Notify,
    delivered: AtomicUsize,
    /// Feeds that are held.
    feeds: AtomicUsize,
    stopped: AtomicBool,
}

#[derive(Debug, Default)]
struct Partition {
    start: i64,
    messages: Vec<Wire>,
}

/// Topic of commit events.
const COMMITS: &str = "commits";
/// Messages of one delivery.
const FED_MAX: i64 = 1000;

#[derive(Debug, Clone, Default)]
pub(crate) struct Wire {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub encoding: Option<Vec<u8>>,
    pub op: Option<Vec<u8>>,
}

impl Headers for Wire {
    fn is_empty(&self) -> bool {
        self.encoding.is_none() && self.op.is_none()
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        match name {
            headers::ENCODING => self.encoding.as_deref(),
            headers::OP => self.op.as_deref(),
            _ => None,
        }
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for name in [headers::ENCODING, headers::OP] {
            if let Some(value) = self.get(name) {
                visit(name, Some(value));
            }
        }
    }
}

impl Wire {
    pub(crate) fn json(text: &str) -> Self {
        Self {
            value: Some(text.as_bytes().to_vec()),
            ..Self::default()
        }
    }

    pub(crate) fn at(&self, offset: i64) -> WireMessage<'_> {
        WireMessage {
            offset,
            timestamp_ms: 0,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            encoding: self.encoding.as_deref(),
            op: self.op.as_deref(),
            dead_letter: None,
        }
    }

    pub(crate) fn tombstone(key: &str) -> Self {
        Self {
            key: Some(key.as_bytes().to_vec()),
            ..Self::default()
        }
    }
}

impl MemoryLog {
    /// Makes a topic, in place of one of the same name.
    pub(crate) fn add_topic(&self, topic: &str, id: TopicId, buckets: u32) {
        let partitions = (0..buckets).map(|_| Partition::default()).collect();
        self.held.ids.lock().insert(topic.into(), id);
        self.held.topics.lock().insert(topic.into(), partitions);
    }

    pub(crate) fn remove_topic(&self, topic: &str) {
        self.held.ids.lock().remove(topic);
        self.held.topics.lock().remove(topic);
    }

    pub(crate) fn add_partition(&self, topic: &str) {
        let mut topics = self.held.topics.lock();
        topics.get_mut(topic).unwrap().push(Partition::default());
    }

    /// Takes away what lies at or behind `end`.
    pub(crate) fn cut_back(&self, topic: &str, bucket: u32, end: usize) {
        let mut topics = self.held.topics.lock();
        topics.get_mut(topic).unwrap()[bucket as usize]
            .messages
            .truncate(end);
    }

    pub(crate) fn push(&self, topic: &str, bucket: u32, message: Wire) -> i64 {
        let mut topics = self.held.topics.lock();
        let partition = &mut topics.get_mut(topic).unwrap()[bucket as usize];
        partition.messages.push(message);
        let offset = partition.messages.len() as i64 - 1;
        drop(topics);
        self.held.grown.notify_waiters();
        offset
    }

    pub(crate) fn end(&self, topic: &str, bucket: u32) -> i64 {
        self.held.end(topic, bucket)
    }

    /// Retention removes what lies before `start`.
    pub(crate) fn cut(&self, topic: &str, bucket: u32, start: i64) {
        self.held.topics.lock().get_mut(topic).unwrap()[bucket as usize].start = start;
    }

    pub(crate) fn messages(&self, topic: &str, bucket: u32, from: i64, to: i64) -> Vec<Wire> {
        self.held.messages(topic, bucket, from, to)
    }

    /// As the flusher tells of a commit.
    pub(crate) fn announce(&self, id: &TableId, version: TableVersion) {
        let event = serde_json::json!({"event": "commit", "tenant": id.tenant,
            "table": id.table, "version": version, "watermarks": {}});
        self.push(COMMITS, 0, Wire::json(&event.to_string()));
    }

    /// Nothing is delivered while it is held.
    pub(crate) fn hold(&self, held: bool) {
        self.held.stopped.store(held, Ordering::SeqCst);
        self.held.grown.notify_waiters();
    }

    /// Requests for the log's ends.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Messages handed out.
    pub(crate) fn delivered(&self) -> usize {
        self.held.delivered.load(Ordering::SeqCst)
    }

    /// Topics that are being followed.
    pub(crate) fn feeds(&self) -> usize {
        self.held.feeds.load(Ordering::SeqCst)
    }
}

impl Held {
    fn end(&self, topic: &str, bucket: u32) -> i64 {
        let topics = self.topics.lock();
        let partitions = topics.get(topic);
        let partition = partitions.and_then(|all| all.get(bucket as usize));
        partition.map_or(0, |found| found.messages.len() as i64)
    }

    fn messages(&self, topic: &str, bucket: u32, from: i64, to: i64) -> Vec<Wire> {
        let topics = self.topics.lock();
        topics[topic][bucket as usize].messages[from as usize..to as usize].to_vec()
    }
}

struct MemoryFeed {
    held: Arc<Held>,
    topic: String,
    positions: Vec<(Bucket, i64)>,
}

impl MemoryFeed {
    fn new(held: &Arc<Held>, topic: &str, positions: Vec<(Bucket, i64)>) -> Self {
        held.feeds.fetch_add(1, Ordering::SeqCst);
        Self {
            held: held.clone(),
            topic: topic.into(),
            positions,
        }
    }

    fn ready(&mut self) -> Result<Option<Fed>, LogError> {
        if self.held.stopped.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let mut found = Vec::new();
        for (bucket, at) in &mut self.positions {
            let topics = self.held.topics.lock();
            let start = topics
                .get(&self.topic)
                .map_or(0, |all| all[bucket.0 as usize].start);
            drop(topics);
            if *at < start {
                return Err(LogError::OffsetOutOfRange {
                    topic: self.topic.clone(),
                    bucket: *bucket,
                    offset: *at,
                    start,
                    end: self.held.end(&self.topic, bucket.0),
                });
            }
            let to = self.held.end(&self.topic, bucket.0).min(*at + FED_MAX);
            if *at < to {
                let messages = self.held.messages(&self.topic, bucket.0, *at, to);
                found.extend((*at..to).map(|offset| (*bucket, offset)).zip(messages));
                *at = to;
            }
        }
        if found.is_empty() {
            return Ok(None);
        }
        if self.topic != COMMITS {
            self.held.delivered.fetch_add(found.len(), Ordering::SeqCst);
        }
        Ok(Some(Fed {
            messages: Box::new(Part(found)),
            ends: Vec::new(),
        }))
    }
}

impl Drop for MemoryFeed {
    fn drop(&mut self) {
        self.held.feeds.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Feed for MemoryFeed {
    async fn next(&mut self) -> Result<Fed, LogError> {
        let held = self.held.clone();
        loop {
            let mut grown = std::pin::pin!(held.grown.notified());
            grown.as_mut().enable();
            if let Some(fed) = self.ready()? {
                return Ok(fed);
            }
            grown.await;
        }
    }
}

struct Part(Vec<((Bucket, i64), Wire)>);

impl Messages for Part {
    fn visit(&self, visit: &mut dyn FnMut(RawMessage<'_>)) {
        for ((bucket, offset), message) in &self.0 {
            let seen = Seen {
                offset: Offset(*offset),
                timestamp_ms: 0,
                key: message.key.as_deref(),
                value: message.value.as_deref(),
                headers: message,
            };
            visit(RawMessage {
                bucket: *bucket,
                seen,
            });
        }
    }
}

#[async_trait]
impl TailSource for MemoryLog {
    async fn ends(&self, topic: &str, buckets: u32) -> Result<Vec<(Bucket, Offset)>, LogError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if *self.broken.lock() {
            return Err(LogError::Unavailable {
                what: "ends".into(),
                reason: "broken".into(),
            });
        }
        // As over a network: others may come to wait meanwhile.
        tokio::task::yield_now().await;
        let ends = (0..buckets).map(|bucket| (Bucket(bucket), Offset(self.end(topic, bucket))));
        Ok(ends.collect())
    }

    async fn describe(&self, topic: &str) -> Result<Option<TopicInfo>, LogError> {
        let topics = self.held.topics.lock();
        Ok(topics.get(topic).map(|partitions| TopicInfo {
            id: self.held.ids.lock()[topic],
            buckets: partitions.len() as u32,
        }))
    }

    async fn start(&self, topic: &str, bucket: Bucket) -> Result<Offset, LogError> {
        Ok(Offset(
            self.held.topics.lock()[topic][bucket.0 as usize].start,
        ))
    }

    fn follow(&self, topic: &str, from: &[(Bucket, Offset)]) -> Result<Box<dyn Feed>, LogError> {
        let positions = from.iter().map(|(bucket, at)| (*bucket, at.0)).collect();
        Ok(Box::new(MemoryFeed::new(&self.held, topic, positions)))
    }

    fn commits(&self) -> Result<Box<dyn Feed>, LogError> {
        let end = self.held.end(COMMITS, 0);
        let positions = vec![(Bucket(0), end)];
        Ok(Box::new(MemoryFeed::new(&self.held, COMMITS, positions)))
    }
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
        log.add_topic(COMMITS, TopicId([0; 16]), 1);
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
            mode: if schema.identifier_fields().is_empty() {
                TableMode::Append
            } else {
                TableMode::Upsert
            },
            schema: schema.clone(),
            buckets,
            topic_id: TopicId(incarnation.into_bytes()),
            properties: BTreeMap::new(),
            created_ms: 0,
            dead_letters_topic_id: None,
            restores: 0,
        };
        let store = self.store.scoped(&entry.location());
        let delta = DeltaTable::new(store, self.clock.clone(), ids::random());
        let spec = CreateTable {
            name: name.into(),
            schema: schema.clone(),
            append_only: false,
            properties: BTreeMap::new(),
            first_version: TableVersion(0),
        };
        let snapshot = Arc::clone(delta.create(spec).await.unwrap().snapshot());
        self.log.add_topic(&entry.topic, entry.topic_id, buckets);
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

    /// Status and JSON of a GET.
    pub(crate) async fn get(&self, path: &str) -> (u16, serde_json::Value) {
        let request = axum::http::Request::get(path).body(Body::empty()).unwrap();
        self.status_of(request).await
    }

    /// Status and JSON of a POST.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> (u16, serde_json::Value) {
        let request = axum::http::Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        self.status_of(request).await
    }

    async fn status_of(&self, request: axum::http::Request<Body>) -> (u16, serde_json::Value) {
        let (parts, bytes) = self.http(request).await;
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&bytes)));
        (parts.status.as_u16(), value)
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

/// An append table that no catalog knows.
pub(crate) fn entry(name: &str, buckets: u32) -> TableEntry {
    let schema = r#"{"type": "struct", "fields": [
        {"id": 1, "name": "id", "type": "long", "required": true}]}"#;
    TableEntry {
        topic: name.into(),
        id: TableId::new(
            TenantId::new("default").unwrap(),
            TableName::new(name).unwrap(),
        ),
        mode: TableMode::Append,
        schema: TableSchema::from_iceberg_json(schema).unwrap(),
        buckets,
        topic_id: TopicId([1; 16]),
        properties: BTreeMap::new(),
        created_ms: 0,
        dead_letters_topic_id: None,
        restores: 0,
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
            let sealed = self.sealed(bucket, from, to);
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

    fn sealed(&self, bucket: u32, from: i64, to: i64) -> Sealed {
        let placement = Placement {
            bucket: Bucket(bucket),
            buckets: self.entry.buckets,
        };
        let mut decoder = MessageDecoder::upsert(&self.schema, Some(placement)).unwrap();
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
            for (name, bytes) in pen.finish() {
                self.delta.store().put(&name, bytes.into()).await.unwrap();
            }
            descriptor
        };
        let stats = file.widened_stats().unwrap();
        let add = Add {
            deletion_vector: Some(descriptor),
            stats: Some(stats),
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

/// Waits until it is so.
pub(crate) async fn until(mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        let mut looks = tokio::time::interval(Duration::from_millis(2));
        while !done().await {
            looks.tick().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
    waited.expect("it happens in time");
}
