//! The same routes over a broker that speaks Kafka's protocol.

use tidelake_core::{Bucket, Token, Watermark};
use tidelake_log::KafkaLog;
use tidelake_manifest::SnapshotCache;
use tidelake_testkit::EmbeddedBroker;

use super::*;
use crate::log::ClientLog;

async fn call(
    router: &Router,
    method: Method,
    path: &str,
    media_type: &str,
    body: String,
) -> Value {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media_type);
    let request = request
        .header("content-length", body.len())
        .body(Body::from(body))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    assert!(status.is_success(), "{path} {status} {body}");
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_lives_and_dies_on_a_real_log() {
    let mut broker = EmbeddedBroker::start().await.unwrap();
    let settings = Settings {
        kafka: broker.settings(),
        ..Settings::default()
    };
    let kafka = KafkaLog::new(settings.kafka.clone()).unwrap();
    let log: Arc<dyn TableLog> = Arc::new(ClientLog::new(&kafka).unwrap());
    let snapshots = SnapshotCache::new(1 << 20);
    let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
    let gateway = gateway(
        &settings,
        &Runtime::new(),
        store,
        (Arc::clone(&log), snapshots, None, Pace::default()),
    )
    .await
    .unwrap();
    let router = routes::routes(gateway);
    log.alive().await.unwrap();

    let tables = "/v1/tables";
    let first = call(&router, Method::POST, tables, JSON, orders().to_string()).await;
    let rows: String = (0..200_000)
        .map(|id| format!("{{\"id\":{id}}}\n"))
        .collect();
    let path = "/v1/tables/orders/records";
    let written = call(&router, Method::POST, path, NDJSON, rows).await;
    assert_eq!(written["records"], 200_000);
    let token = Token::parse(written["token"].as_str().unwrap()).unwrap();
    let described = call(
        &router,
        Method::GET,
        "/v1/tables/orders",
        JSON,
        String::new(),
    )
    .await;
    let end = |bucket: Bucket| {
        let end = described["end_offsets"][bucket.to_string()]
            .as_i64()
            .unwrap();
        Watermark(end)
    };
    assert!(
        token.iter().all(|(bucket, mark)| mark == end(bucket)),
        "{described}"
    );
    assert_eq!(
        described["lag_records"],
        token.iter().map(|(_, mark)| mark.0).sum::<i64>()
    );

    call(
        &router,
        Method::DELETE,
        "/v1/tables/orders",
        JSON,
        String::new(),
    )
    .await;
    let second = call(&router, Method::POST, tables, JSON, orders().to_string()).await;
    assert_ne!(first["topic_id"], second["topic_id"]);
    assert_eq!(second["end_offsets"], json!({"0": 0, "1": 0, "2": 0}));
    broker.stop().await.unwrap();
}

/// The answer to one record, posted until it is `status`: what is known of a topic is seconds old.
async fn until(router: &Router, status: u16) -> Value {
    let post = async || {
        let request = Request::post("/v1/tables/orders/records")
            .header("content-type", JSON)
            .header("content-length", 8)
            .body(Body::from(r#"{"id":1}"#))
            .unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let found = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        (found == status).then_some(body)
    };
    tidelake_testkit::wait_until("the answer", Duration::from_secs(30), post)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_again_on_a_real_log_is_refused_and_adopted() {
    let mut broker = EmbeddedBroker::start().await.unwrap();
    let settings = Settings {
        kafka: broker.settings(),
        ..Settings::default()
    };
    let kafka = KafkaLog::new(settings.kafka.clone()).unwrap();
    let log: Arc<dyn TableLog> = Arc::new(ClientLog::new(&kafka).unwrap());
    let snapshots = SnapshotCache::new(1 << 20);
    let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
    let over = (log.clone(), snapshots, None, Pace::default());
    let gateway = gateway(&settings, &Runtime::new(), store, over)
        .await
        .unwrap();
    let router = routes::routes(gateway);
    let tables = "/v1/tables";
    let made = call(&router, Method::POST, tables, JSON, orders().to_string()).await;
    let topic = made["topic"].as_str().unwrap();
    for _ in 0..6 {
        until(&router, 200).await;
    }
    log.delete_topic(topic).await.unwrap();
    let spec = tidelake_log::TopicSpec {
        name: topic.to_owned(),
        buckets: 3,
        retention_ms: None,
        config: std::collections::BTreeMap::default(),
    };
    log.create_topic(&spec).await.unwrap();
    let refused = until(&router, 409).await;
    assert_eq!(refused["code"], "TOPIC_REPLACED", "{refused}");
    let path = "/v1/tables/orders/adopt-topic";
    let adopted = call(&router, Method::POST, path, JSON, String::new()).await;
    assert_eq!(adopted["left_topic_id"], made["topic_id"]);
    until(&router, 200).await;
    broker.stop().await.unwrap();
}
