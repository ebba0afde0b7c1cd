//! The gateway over HTTP, with a log in memory.

mod bounds;
mod broker;
mod dead_letters;
mod memory_log;
mod other_engines;
mod pace;
mod records;
mod tables;
mod topics;
mod undrop;
mod upserts;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use tidelake_core::clock::ManualClock;
use tower::ServiceExt;

use super::*;
use memory_log::MemoryLog;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const ARROW: &str = "application/vnd.apache.arrow.stream";

struct Harness {
    gateway: Gateway,
    router: Router,
    log: Arc<MemoryLog>,
    store: Store,
    runtime: Runtime,
    settings: Settings,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Reply {
    #[track_caller]
    fn is_problem(&self, status: u16, code: &str) -> &Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.body["code"], code, "{}", self.body);
        assert_eq!(self.body["status"], status);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert!(
            self.body["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty())
        );
        &self.body
    }

    #[track_caller]
    fn answered(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.body);
        self.body
    }
}

impl Harness {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        settings.tables.catalog_age_ms_max = 0;
        settings.tables.undrop_grace_ms = 0;
        change(&mut settings);
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let runtime = Runtime {
            clock,
            ..Runtime::new()
        };
        Self::over(store, Arc::default(), settings, runtime).await
    }

    async fn over(store: Store, log: Arc<MemoryLog>, settings: Settings, runtime: Runtime) -> Self {
        let shared: Arc<dyn TableLog> = log.clone();
        let snapshots = tidelake_manifest::SnapshotCache::new(1 << 20);
        let over = (shared, snapshots, None, Pace::default());
        let gateway = gateway(&settings, &runtime, store.clone(), over)
            .await
            .unwrap();
        let router = routes::routes(gateway.clone());
        Self {
            gateway,
            router,
            log,
            store,
            runtime,
            settings,
        }
    }

    /// Another gateway over the same store and log.
    async fn another(&self) -> Self {
        let (settings, runtime) = (self.settings.clone(), self.runtime.clone());
        Self::over(self.store.clone(), self.log.clone(), settings, runtime).await
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 24).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn call(&self, method: Method, path: &str, body: impl Into<Body>) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", JSON);
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, Body::empty()).await
    }

    async fn create(&self, body: Value) -> Reply {
        self.call(Method::POST, "/v1/tables", body.to_string())
            .await
    }

    async fn post(&self, media_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        self.post_with(&[("content-type", media_type)], body).await
    }

    /// Posts records to `orders`, with a length as clients send it.
    async fn post_with(&self, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Reply {
        let body = body.into();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/v1/tables/orders/records")
            .header("content-length", body.len());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }
}

fn orders() -> Value {
    json!({
        "name": "orders",
        "buckets": 3,
        "mode": "append",
        "properties": { "retention_ms": 60_000 },
        "schema": { "type": "struct", "fields": [
            { "id": 1, "name": "id", "required": true, "type": "long" },
            { "id": 2, "name": "note", "required": false, "type": "string" },
            { "id": 3, "name": "pt", "required": false, "type": { "type": "struct", "fields": [
                { "id": 4, "name": "x", "required": false, "type": "int" } ] } },
            { "id": 5, "name": "tags", "required": false, "type": {
                "type": "list", "element-id": 6, "element-required": false, "element": "int" } },
        ] },
    })
}

/// A gateway with the table `orders`.
async fn with_orders() -> Harness {
    let harness = Harness::new().await;
    harness.create(orders()).await.answered();
    harness
}
