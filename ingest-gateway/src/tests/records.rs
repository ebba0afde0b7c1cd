use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tidelake_codec::packed;
use tidelake_core::{Bucket, Offset, TableId, TableName, TenantId, Token, TopicId, Watermark};
use tidelake_log::headers;
use tidelake_manifest::{CommitOutcome, DeltaTable, MarkMove, Transaction};
use tidelake_schema::TableSchema;

use super::*;

const TOPIC: &str = "tidelake.default.orders";

/// The ids of the rows that stand in the log, message by message.
fn rows_in_log(harness: &Harness) -> Vec<Vec<i64>> {
    let schema = TableSchema::from_iceberg_value(&orders()["schema"]).unwrap();
    let mut messages = Vec::new();
    for message in harness.log.messages(TOPIC).into_iter().flatten() {
        assert_eq!(
            message.headers,
            [(headers::ENCODING.into(), Bytes::from_static(b"arrow"))]
        );
        assert_eq!(message.key, None);
        let batch = packed::decode(&message.value.unwrap(), &schema).unwrap();
        let ids = batch
            .column(0)
            .as_any()
            .downcast_ref::<Int64Array>()
            .unwrap();
        messages.push(ids.values().to_vec());
    }
    messages
}

fn token(text: &Value) -> BTreeMap<Bucket, Watermark> {
    Token::parse(text.as_str().unwrap())
        .unwrap()
        .iter()
        .collect()
}

fn arrow_body(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn ndjson(rows: usize) -> String {
    (0..rows)
        .map(|id| format!("{{\"id\":{id},\"note\":\"some words {id}\"}}\n"))
        .collect()
}

#[tokio::test]
async fn each_content_type_and_coding_becomes_one_message_and_buckets_take_turns() {
    let harness = with_orders().await;
    let body = ndjson(3);
    let array = r#"[{"id":0},{"id":1,"note":null},{"id":2}]"#;
    let arrow = arrow_body(vec![("id", Arc::new(Int32Array::from(vec![0, 1, 2])))]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(body.as_bytes(), 1).unwrap();
    let sent = [
        harness.post(NDJSON, body.clone()).await,
        harness.post("application/json; charset=UTF-8", array).await,
        harness.post(ARROW, arrow).await,
        harness
            .post_with(
                &[("content-type", NDJSON), ("content-encoding", "gzip")],
                gzip,
            )
            .await,
        harness
            .post_with(
                &[("content-type", NDJSON), ("content-encoding", "zstd")],
                zstd,
            )
            .await,
        harness.post(&NDJSON.to_uppercase(), body).await,
    ];
    for (index, reply) in sent.into_iter().enumerate() {
        let body = reply.answered();
        assert_eq!(body["records"], 3);
        let mark = Watermark::after(Offset(index as i64 / 3));
        assert_eq!(
            token(&body["token"]),
            BTreeMap::from([(Bucket(index as u32 % 3), mark)])
        );
    }
    assert_eq!(rows_in_log(&harness), vec![vec![0, 1, 2]; 6]);
}

#[tokio::test]
async fn a_large_body_is_streamed_into_several_messages() {
    let harness = Harness::with(|settings| settings.ingest.spool_memory_bytes = 1 << 20).await;
    harness.create(orders()).await.answered();
    let rows = 150_000;
    let body = ndjson(rows);
    let chunks: Vec<Result<Bytes, std::io::Error>> = body
        .as_bytes()
        .chunks(50_000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    let request = Request::post("/v1/tables/orders/records")
        .header("content-type", NDJSON)
        .body(Body::from_stream(futures::stream::iter(chunks)))
        .unwrap();
    let reply = harness.send(request).await.answered();
    assert_eq!(reply["records"], rows);
    let mut ids: Vec<i64> = rows_in_log(&harness).concat();
    ids.sort_unstable();
    assert_eq!(ids, (0..rows as i64).collect::<Vec<_>>());
    assert_eq!(token(&reply["token"]).len(), 3);
    assert_eq!(harness.gateway.spool.memory_bytes(), 0);
    assert_eq!(harness.gateway.spool.disk_bytes(), 0);
    let metrics = harness.runtime.metrics.render();
    let counted = "accepted_records_total{table=\"orders\",tenant=\"default\"} 150000";
    assert!(metrics.contains(counted), "{metrics}");
    let bytes = format!(
        "accepted_bytes_total{{table=\"orders\",tenant=\"default\"}} {}",
        body.len()
    );
    assert!(metrics.contains(&bytes), "{metrics}");
}

#[tokio::test]
async fn every_bad_record_is_named_and_its_body_is_nowhere() {
    let harness = with_orders().await;
    let cases = [
        (r#"{"id":1}{"#, 400, "MALFORMED_JSON", 0, None),
        ("{\"id\":1}\n{\"id\":", 400, "MALFORMED_JSON", 1, Some("id")),
        ("{\"id\":1}\n[1]\n", 400, "NOT_AN_OBJECT", 1, None),
        (
            "{\"id\":1}\n{\"id\":\"1\"}\n",
            422,
            "WRONG_TYPE",
            1,
            Some("id"),
        ),
        (
            "{\"id\":1}\n{\"id\":1.5}\n",
            422,
            "NOT_AN_INTEGER",
            1,
            Some("id"),
        ),
        (
            "{\"id\":1}\n\n{\"id\":null}\n",
            422,
            "NULL_IN_REQUIRED",
            1,
            Some("id"),
        ),
        ("{\"note\":\"a\"}\n", 422, "MISSING_FIELD", 0, Some("id")),
        (
            "{\"id\":1,\"nope\":1}\n",
            422,
            "UNKNOWN_FIELD",
            0,
            Some("nope"),
        ),
        (
            "{\"id\":1,\"id\":1}\n",
            422,
            "DUPLICATE_FIELD",
            0,
            Some("id"),
        ),
        (
            "{\"id\":1,\"pt\":{\"x\":true}}\n",
            422,
            "WRONG_TYPE",
            0,
            Some("pt.x"),
        ),
        (
            "{\"id\":1,\"tags\":[1,2,\"c\"]}\n",
            422,
            "WRONG_TYPE",
            0,
            Some("tags[2]"),
        ),
        (
            "{\"id\":1,\"pt\":{\"x\":3000000000}}\n",
            422,
            "OUT_OF_RANGE",
            0,
            Some("pt.x"),
        ),
    ];
    for (body, status, code, row, field) in cases {
        let reply = harness.post(NDJSON, body).await;
        let problem = reply.is_problem(status, code);
        assert_eq!(problem["row"], row, "{problem}");
        assert_eq!(
            problem.get("field").and_then(Value::as_str),
            field,
            "{problem}"
        );
    }
    let rows = 70_000;
    let late = format!("{}{{\"id\":\"x\"}}\n", ndjson(rows));
    let reply = harness.post(NDJSON, late).await;
    let problem = reply.is_problem(422, "WRONG_TYPE");
    assert_eq!(problem["row"], rows);
    let arrow = arrow_body(vec![("id", Arc::new(StringArray::from(vec!["1", "x"])))]);
    let reply = harness.post(ARROW, arrow).await;
    assert_eq!(reply.status, 422, "{}", reply.body);
    assert_eq!(reply.body["field"], "id");
    let reply = harness.post(ARROW, "not arrow at all").await;
    reply.is_problem(400, "CORRUPT_ARROW");
    assert_eq!(harness.log.message_count(), 0);
    let metrics = harness.runtime.metrics.render();
    assert!(
        metrics.contains("rejected_requests_total{code=\"NOT_AN_INTEGER\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn every_wrong_request_is_refused_before_its_body_counts() {
    let harness = with_orders().await;
    let good = r#"{"id":1}"#;
    for media_type in [
        "text/plain",
        "text/csv",
        "application/json; charset=latin1",
        "",
    ] {
        harness
            .post(media_type, good)
            .await
            .is_problem(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    harness
        .post_with(&[], good)
        .await
        .is_problem(415, "UNSUPPORTED_MEDIA_TYPE");
    for coding in ["br", "gzip, zstd", "deflate"] {
        let headers = [("content-type", JSON), ("content-encoding", coding)];
        harness
            .post_with(&headers, good)
            .await
            .is_problem(415, "UNSUPPORTED_ENCODING");
    }
    let headers = [("content-type", JSON), ("content-encoding", "gzip")];
    harness
        .post_with(&headers, good)
        .await
        .is_problem(400, "MALFORMED_ENCODING");
    for (media_type, body) in [(JSON, ""), (JSON, " "), (NDJSON, "\n\n"), (ARROW, "")] {
        harness
            .post(media_type, body)
            .await
            .is_problem(400, "EMPTY_BODY");
    }
    let path = "/v1/tables/orders/records";
    let delete = harness
        .call(Method::POST, &format!("{path}?op=delete"), good)
        .await;
    delete.is_problem(422, "NO_PRIMARY_KEY");
    let unknown = harness
        .call(Method::POST, &format!("{path}?op=merge"), good)
        .await;
    unknown.is_problem(400, "INVALID_QUERY");
    let nowhere = harness
        .call(Method::POST, "/v1/tables/nope/records", good)
        .await;
    nowhere.is_problem(404, "TABLE_NOT_FOUND");
    assert_eq!(harness.log.message_count(), 0);
    let empty = harness.post(JSON, "[]").await.answered();
    assert_eq!(
        empty,
        json!({"records": 0, "token": Token::default().to_string()})
    );
    let upsert = harness
        .call(Method::POST, &format!("{path}?op=upsert"), good)
        .await;
    assert_eq!(upsert.answered()["records"], 1);
}

#[tokio::test]
async fn a_record_that_no_message_can_hold_is_too_large() {
    let harness = with_orders().await;
    let large = |bytes: usize| {
        format!(
            "{{\"id\":1}}\n{{\"id\":2,\"note\":\"{}\"}}\n",
            "x".repeat(bytes)
        )
    };
    let reply = harness.post(NDJSON, large(5 << 20)).await;
    assert_eq!(reply.is_problem(413, "RECORD_TOO_LARGE")["row"], 1);
    assert_eq!(harness.log.message_count(), 0);
    harness.post(NDJSON, large(3 << 20)).await.answered();
    // What LZ4 can't shorten.
    let mut state = 1u64;
    let noise: String = (0..9 << 20)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from(33 + ((state >> 33) % 90) as u8)
        })
        .collect();
    let arrow = arrow_body(vec![
        ("id", Arc::new(Int64Array::from(vec![7, 8]))),
        ("note", Arc::new(StringArray::from(vec!["a", &noise]))),
    ]);
    let before = harness.log.message_count();
    let reply = harness.post(ARROW, arrow).await;
    assert_eq!(reply.is_problem(413, "RECORD_TOO_LARGE")["row"], 1);
    assert_eq!(harness.log.message_count(), before);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let harness = Harness::with(|settings| settings.ingest.body_bytes_max = 100_000).await;
    harness.create(orders()).await.answered();
    harness
        .post(NDJSON, ndjson(10_000))
        .await
        .is_problem(413, "BODY_TOO_LARGE");
    let bomb = zstd::encode_all(ndjson(10_000).as_bytes(), 3).unwrap();
    assert!(bomb.len() < 100_000);
    let headers = [("content-type", NDJSON), ("content-encoding", "zstd")];
    harness
        .post_with(&headers, bomb)
        .await
        .is_problem(413, "BODY_TOO_LARGE");
    assert_eq!(harness.log.message_count(), 0);
}

#[tokio::test]
async fn a_log_that_is_away_or_stops_half_way_says_what_is_known() {
    let harness = with_orders().await;
    harness.log.set_down(true);
    let reply = harness.post(JSON, r#"{"id":1}"#).await;
    let problem = reply.is_problem(503, "LOG_UNAVAILABLE");
    assert!(
        problem["hint"]
            .as_str()
            .unwrap()
            .contains("nothing was written"),
        "{problem}"
    );
    assert_eq!(reply.headers["retry-after"], "1");
    harness.log.set_down(false);
    harness.log.acknowledge_only(1);
    let reply = harness.post(NDJSON, ndjson(150_000)).await;
    let problem = reply.is_problem(503, "LOG_UNAVAILABLE");
    assert!(
        problem["detail"].as_str().unwrap().contains("unknown"),
        "{problem}"
    );
    assert_eq!(harness.gateway.spool.memory_bytes(), 0);
}

#[tokio::test]
async fn a_client_that_goes_away_or_sleeps_leaves_nothing() {
    let harness = Harness::with(|settings| settings.ingest.body_idle_timeout_ms = 50).await;
    harness.create(orders()).await.answered();
    let body = |end: Option<Result<Bytes, std::io::Error>>| {
        let start = futures::stream::iter([Ok(Bytes::from(ndjson(2000)))]);
        match end {
            Some(end) => Body::from_stream(start.chain(futures::stream::iter([end]))),
            None => Body::from_stream(start.chain(futures::stream::pending())),
        }
    };
    let request = |body| {
        Request::post("/v1/tables/orders/records")
            .header("content-type", NDJSON)
            .body(body)
            .unwrap()
    };
    let reset = Err(std::io::Error::other("connection reset"));
    let reply = harness.send(request(body(Some(reset)))).await;
    reply.is_problem(400, "BODY_CUT_SHORT");
    let reply = harness.send(request(body(None))).await;
    reply.is_problem(408, "BODY_TIMEOUT");
    let gone = harness.send(request(body(None))).now_or_never();
    assert!(gone.is_none());
    assert_eq!(harness.log.message_count(), 0);
}

#[tokio::test]
async fn too_many_bodies_at_a_time_are_told_to_come_back() {
    let harness = Harness::with(|settings| {
        settings.ingest.streams_max = 1;
        settings.ingest.waiting_max = 0;
    })
    .await;
    harness.create(orders()).await.answered();
    let place = harness
        .gateway
        .admission
        .stream(&TenantId::default(), 1)
        .await
        .unwrap();
    let reply = harness.post(NDJSON, ndjson(5_000)).await;
    reply.is_problem(503, "OVERLOADED");
    assert_eq!(reply.headers["retry-after"], "1");
    harness.post(NDJSON, ndjson(2)).await.answered();
    drop(place);
    harness.post(NDJSON, ndjson(5_000)).await.answered();
}

#[tokio::test]
async fn rows_never_land_in_a_table_that_was_made_anew_meanwhile() {
    let harness = with_orders().await;
    let (to, from) = futures::channel::mpsc::unbounded::<Result<Bytes, std::io::Error>>();
    to.unbounded_send(Ok(ndjson(100).into())).unwrap();
    let request = Request::post("/v1/tables/orders/records")
        .header("content-type", NDJSON)
        .body(Body::from_stream(from))
        .unwrap();
    let router = harness.router.clone();
    let slow = tokio::spawn(async move { router.oneshot(request).await.unwrap() });
    while harness
        .runtime
        .metrics
        .render()
        .contains("bodies_in_flight 0")
    {
        tokio::task::yield_now().await;
    }
    harness
        .call(Method::DELETE, "/v1/tables/orders", Body::empty())
        .await
        .answered();
    harness.create(orders()).await.answered();
    drop(to);
    let response = tokio::time::timeout(Duration::from_secs(10), slow)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(response.status(), 409);
    assert_eq!(harness.log.message_count(), 0);
}

/// Plays the flusher: moves every bucket's watermark to the end of the log.
async fn commit_all(harness: &Harness, topic_id: TopicId) {
    let (clock, ids) = (harness.runtime.clock.clone(), harness.runtime.ids.clone());
    let table = DeltaTable::new(harness.store.scoped("default/orders"), clock, ids);
    let base = table.snapshot().await.unwrap();
    let mut transaction = Transaction::flush(Vec::new(), Vec::new());
    for (bucket, messages) in harness.log.messages(TOPIC).iter().enumerate() {
        let bucket = Bucket(bucket as u32);
        let from = base.watermark(&topic_id, bucket).unwrap_or_default();
        let to = Watermark(messages.len() as i64);
        if to > from {
            transaction.marks.push(MarkMove {
                topic_id,
                bucket,
                from,
                to,
            });
        }
    }
    let outcome = table.commit(&base, transaction).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed { .. }));
}

fn topic_id(harness: &Harness) -> TopicId {
    let id = TableId::new(TenantId::default(), TableName::new("orders").unwrap());
    let table = harness
        .gateway
        .tables
        .current(&id)
        .now_or_never()
        .unwrap()
        .unwrap();
    table.entry.topic_id
}

#[tokio::test]
async fn status_tells_accepted_from_committed() {
    let harness = with_orders().await;
    let token = harness.post(JSON, r#"{"id":1}"#).await.answered()["token"].clone();
    let path = format!("/v1/tables/orders/status?token={}", token.as_str().unwrap());
    let status = harness.get(&path).await.answered();
    assert_eq!(status["accepted"], true);
    assert_eq!(status["committed"], false);
    assert_eq!(status["watermarks"], json!({"0": 0, "1": 0, "2": 0}));
    assert_eq!(status["end_offsets"], json!({"0": 1, "1": 0, "2": 0}));
    let ahead = Token::new([(Bucket(2), Watermark(9))]);
    let status = harness
        .get(&format!("/v1/tables/orders/status?token={ahead}"))
        .await
        .answered();
    assert_eq!(status["accepted"], false);
    let waited = format!("{path}&wait_ms=60000");
    let (waited, ()) = tokio::join!(
        harness.get(&waited),
        commit_all(&harness, topic_id(&harness))
    );
    let status = waited.answered();
    assert_eq!(status["committed"], true);
    assert_eq!(status["version"], 1);
    assert_eq!(
        harness.get("/v1/tables/orders").await.answered()["lag_records"],
        0
    );
    let foreign = Token::new([(Bucket(3), Watermark(1))]);
    for text in ["nonsense".to_owned(), String::new(), foreign.to_string()] {
        let reply = harness
            .get(&format!("/v1/tables/orders/status?token={text}"))
            .await;
        reply.is_problem(400, "INVALID_TOKEN");
    }
}

#[tokio::test]
async fn flush_asks_every_bucket_and_waits_for_the_commit() {
    let harness = with_orders().await;
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    let path = "/v1/tables/orders/flush?timeout_ms=30";
    let late = harness.call(Method::POST, path, Body::empty()).await;
    let problem = late.is_problem(504, "FLUSH_TIMEOUT");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("bucket 0 is at 0 of 2"), "{detail}");
    assert!(detail.contains("bucket 2 is at 0 of 1"), "{detail}");
    for messages in harness.log.messages(TOPIC) {
        let marker = messages.last().unwrap();
        assert_eq!(marker.value, None);
        assert_eq!(
            marker.headers,
            [(headers::OP.into(), Bytes::from_static(b"flush"))]
        );
    }
    let id = topic_id(&harness);
    let flusher = async {
        while harness.log.message_count() < 7 {
            tokio::task::yield_now().await;
        }
        commit_all(&harness, id).await;
    };
    let flush = harness.call(Method::POST, "/v1/tables/orders/flush", Body::empty());
    let (flushed, ()) = tokio::join!(flush, flusher);
    let flushed = flushed.answered();
    assert_eq!(flushed["version"], 1);
    let marks = token(&flushed["token"]);
    assert_eq!(marks[&Bucket(0)], Watermark(3));
    assert_eq!(marks[&Bucket(2)], Watermark(2));
}

#[tokio::test]
async fn a_client_in_the_middle_of_a_refused_body_gets_to_read_why() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let harness = with_orders().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = harness.runtime.shutdown.clone();
    let server = tokio::spawn(tidelake_service::serve(
        listener,
        harness.router.clone(),
        shutdown.clone(),
    ));
    let rest = ndjson(400_000);
    let body = format!("{{\"id\":\"x\"}}\n{rest}");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/tables/orders/records HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: {NDJSON}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer));
    read.await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    assert!(answer.contains("WRONG_TYPE"), "{answer}");
    shutdown.trigger();
    tokio::time::timeout(Duration::from_secs(20), server)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}
