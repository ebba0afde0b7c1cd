//! A small world for tests: memory store, catalog, Delta tables, and the log in memory.

mod log;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use tidelake_catalog::{AddTable, Catalog, TableEntry, TableMode};
use tidelake_core::{TableId, TableName, TableVersion, TenantId, TopicId, clock, ids};
use tidelake_manifest::{CreateTable, DeltaTable, SnapshotCache};
use tidelake_schema::TableSchema;
use tidelake_service::{Metrics, Runtime};
use tidelake_storage::{Store, StoreOptions};
use tidelake_table::index::IndexHome;

use crate::engine::{Engine, Parts};
use crate::metrics::QueryMetrics;
use crate::settings::QuerySettings;

pub(crate) use log::{TestLog, Wire};
pub(crate) use table::TestTable;

/// Everything a query needs.
pub(crate) struct World {
    pub store: Store,
    pub catalog: Catalog,
    pub log: TestLog,
    pub engine: Engine,
    pub clock: Arc<clock::ManualClock>,
    pub runtime: Runtime,
}

impl World {
    pub(crate) async fn new(settings: QuerySettings) -> Self {
        Self::with_indexes(settings, None).await
    }

    /// With key indexes in a place of the test's own.
    pub(crate) async fn with_indexes(settings: QuerySettings, indexes: Option<IndexHome>) -> Self {
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        let clock = Arc::new(clock::ManualClock::at(1_800_000_000_000));
        let catalog = Catalog::open(&store, clock.clone(), ids::random())
            .await
            .unwrap();
        let log = TestLog::new(clock.clone()).await;
        let engine = Engine::new(Parts {
            snapshots: SnapshotCache::new(settings.snapshot_cache_bytes_max),
            settings,
            store: store.clone(),
            catalog: catalog.clone(),
            tail: log.tail(),
            indexes,
            pace: Default::default(),
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
        let topic = format!("tidelake.{tenant}.{name}");
        let topic_id = self.log.add_topic(&topic, buckets).await;
        let entry = TableEntry {
            topic,
            id,
            mode: if schema.identifier_fields().is_empty() {
                TableMode::Append
            } else {
                TableMode::Upsert
            },
            schema: schema.clone(),
            buckets,
            topic_id,
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
        let added = self.catalog.add_table(entry).await.unwrap();
        let AddTable::Added(entry) = added else {
            panic!("{added:?}")
        };
        TestTable::new(entry, delta, schema, self.log.clone(), snapshot)
    }

    /// Sends a request through the router.
    pub(crate) async fn http(
        &self,
        request: axum::http::Request<Body>,
    ) -> (axum::http::response::Parts, Vec<u8>) {
        let response = self.response(request).await;
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX)
            .await
            .unwrap_or_default();
        (parts, bytes.to_vec())
    }

    /// Sends a request through the router; the body is still to be read.
    pub(crate) async fn response(
        &self,
        request: axum::http::Request<Body>,
    ) -> axum::http::Response<Body> {
        use tower::ServiceExt;
        let router = crate::http::router(self.engine.clone(), &self.runtime);
        router.oneshot(request).await.unwrap()
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
