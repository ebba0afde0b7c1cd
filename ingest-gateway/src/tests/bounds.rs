//! Bodies that are slow, and bodies that are more than they look: neither keeps others out.

use arrow::array::{ArrayRef, DictionaryArray, Int8Array, Int64Array, RecordBatch, StringArray};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use futures::StreamExt;

use super::*;

/// Columns `c0` to `c<n>` of one type, all nullable.
fn wide(name: &str, columns: usize, ty: Value) -> Value {
    let field = |i| json!({ "id": i + 1, "name": format!("c{i}"), "required": false, "type": ty });
    let fields: Vec<_> = (0..columns).map(field).collect();
    json!({ "name": name, "buckets": 1, "schema": { "type": "struct", "fields": fields } })
}

fn dictionaries(columns: usize, value_bytes: usize, rows: usize) -> Vec<u8> {
    let values: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(value_bytes)]));
    let words: ArrayRef = Arc::new(DictionaryArray::new(Int8Array::from(vec![0; rows]), values));
    let columns = (0..columns).map(|i| (format!("c{i}"), Arc::clone(&words)));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let options = IpcWriteOptions::default()
        .try_with_compression(Some(CompressionType::LZ4_FRAME))
        .unwrap();
    let schema = batch.schema();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn a_small_body_that_becomes_too_much_is_refused_whole() {
    let harness = Harness::new().await;
    harness
        .create(wide("orders", 12, json!("string")))
        .await
        .answered();
    let body = dictionaries(12, 256 << 10, 1000);
    assert!(body.len() < 64 << 10);
    let reply = harness.post(ARROW, body).await;
    let problem = reply.is_problem(413, "TOO_LARGE");
    assert!(
        problem["detail"].as_str().unwrap().contains("bytes"),
        "{problem}"
    );
    assert_eq!(harness.log.message_count(), 0);
    // What becomes several MiB is a stream's work, and fine.
    let body = dictionaries(12, 16 << 10, 100);
    let accepted = harness.post(ARROW, body).await.answered();
    assert_eq!(accepted["records"], 100);
}

#[tokio::test]
async fn an_arrow_batch_that_is_too_large_is_no_malformed_body() {
    let harness = Harness::new().await;
    harness
        .create(wide("orders", 1, json!("long")))
        .await
        .answered();
    let rows = (64 << 20) / 8 + 1;
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1; rows]));
    let batch = RecordBatch::try_from_iter([("c0", column)]).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let reply = harness.post(ARROW, writer.into_inner().unwrap()).await;
    let problem = reply.is_problem(413, "TOO_LARGE");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("write smaller batches"), "{detail}");
}

#[tokio::test]
async fn nested_records_are_refused_where_one_is_too_much_and_taken_where_all_are() {
    let fields: Vec<_> = (0..200)
        .map(
            |i| json!({ "id": 10 + i, "name": format!("f{i}"), "required": false, "type": "long" }),
        )
        .collect();
    let list = json!({ "type": "list", "element-id": 9, "element-required": false,
        "element": { "type": "struct", "fields": fields } });
    let harness = Harness::new().await;
    harness.create(wide("orders", 1, list)).await.answered();
    let record = |elements: usize| format!("{{\"c0\":[{}]}}\n", vec!["{}"; elements].join(","));
    let reply = harness.post(NDJSON, record(100_000)).await;
    assert_eq!(reply.is_problem(413, "TOO_LARGE")["row"], 0);
    assert_eq!(harness.log.message_count(), 0);
    // 100 records of 1.8 MB each in one block of 10 KB a record.
    let body: String = (0..100).map(|_| record(1_000)).collect();
    let accepted = harness.post(NDJSON, body).await.answered();
    assert_eq!(accepted["records"], 100);
}

#[tokio::test]
async fn a_batch_that_lacks_most_of_the_columns_is_taken() {
    let harness = Harness::with(|settings| settings.ingest.streams_max = 1).await;
    harness
        .create(wide("orders", 150, json!("decimal(38,0)")))
        .await
        .answered();
    let ids: ArrayRef = Arc::new(arrow::array::Int64Array::from_iter_values(0..30_000));
    let batch = RecordBatch::try_from_iter([("c0", ids)]).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    let accepted = harness
        .post(ARROW, writer.into_inner().unwrap())
        .await
        .answered();
    assert_eq!(accepted["records"], 30_000);
}

#[tokio::test]
async fn bodies_that_drip_give_their_places_back_and_leave_some_to_others() {
    let harness = Harness::with(|settings| {
        settings.ingest.streams_max = 4;
        settings.ingest.body_rate_window_ms = 300;
        settings.ingest.waiting_timeout_ms = 20_000;
    })
    .await;
    harness.create(orders()).await.answered();
    let tenant =
        |request: http::request::Builder, tenant: &str| request.header("x-tidelake-tenant", tenant);
    let request = Request::builder().method(Method::POST).uri("/v1/tables");
    let request = tenant(request, "other").body(orders().to_string().into());
    harness.send(request.unwrap()).await.answered();
    // A byte every 20 ms, for ever.
    let dripping = || {
        let ticks = tokio::time::interval(Duration::from_millis(20));
        let drips = futures::stream::unfold(ticks, |mut ticks| async move {
            ticks.tick().await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ticks))
        });
        let request = Request::post("/v1/tables/orders/records").header("content-type", NDJSON);
        let router = harness.router.clone();
        let request = request.body(Body::from_stream(drips.boxed())).unwrap();
        tokio::spawn(async move { router.oneshot(request).await.unwrap().status() })
    };
    let slow: Vec<_> = (0..8).map(|_| dripping()).collect();
    while !harness
        .runtime
        .metrics
        .render()
        .contains("bodies_in_flight 8")
    {
        tokio::task::yield_now().await;
    }
    // The other tenant is not kept waiting by them at all.
    let body = (0..5_000)
        .map(|i| format!("{{\"id\":{i}}}\n"))
        .collect::<String>();
    let request = Request::post("/v1/tables/orders/records").header("content-type", NDJSON);
    let request = tenant(request, "other").body(body.into()).unwrap();
    harness.send(request).await.answered();
    for status in slow {
        assert_eq!(status.await.unwrap(), 408);
    }
    assert_eq!(
        harness
            .log
            .messages("tidelake.default.orders")
            .concat()
            .len(),
        0
    );
}
