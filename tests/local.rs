//! `tidelake local` as a new user meets it.

use std::io::Write;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::ipc::writer::StreamWriter;
use serde_json::json;
use tidelake_core::Bucket;
use tidelake_log::{KafkaSettings, Message, Producer, ProducerSettings};
use tidelake_testkit::{WAIT_MAX, wait_until};
use tidelake_tests::Installation;

use crate::{lines, numbered};

const COUNT: &str = "SELECT count(*), count(DISTINCT id) FROM t";

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_is_answered_by_sql_and_survives_a_restart() {
    let mut local = Installation::start().await.unwrap();
    let client = local.client.clone();
    let created = client.create_table("t", &numbered(), 3).await.unwrap();
    assert_eq!(created["topic"], "tidelake.default.t");

    every_way_in(&local).await;

    // Fresh at once, committed after a flush, the same after a restart.
    assert_eq!(
        client.sql(COUNT, "latest").await.unwrap(),
        [json!([12, 12])]
    );
    let flushed = client.flush("t").await.unwrap();
    assert_eq!(
        client.sql(COUNT, "committed").await.unwrap(),
        [json!([12, 12])]
    );
    let before = client
        .sql("SELECT * FROM t ORDER BY id", "latest")
        .await
        .unwrap();
    local.process.stop().await.unwrap();
    local.restart().await.unwrap();
    let client = local.client.clone();
    assert_eq!(
        client
            .sql("SELECT * FROM t ORDER BY id", "latest")
            .await
            .unwrap(),
        before
    );

    // Time travel: version 0 is empty, the flushed version has everything, later rows change neither.
    client
        .ndjson("t", &lines(100..110))
        .await
        .unwrap()
        .ok()
        .unwrap();
    client.flush("t").await.unwrap();
    let version = flushed["version"].as_u64().unwrap();
    for (version, rows) in [(0, 0), (version, 12)] {
        let at = client
            .sql_with(COUNT, json!({"as_of_version": version}))
            .await
            .unwrap();
        assert_eq!(at.ok().unwrap()["rows"][0][0], rows, "version {version}");
    }
    let history = client
        .sql("SELECT * FROM table_history('t')", "committed")
        .await
        .unwrap();
    assert!(history.len() >= 3, "{history:?}");
    let files = client
        .sql("SELECT * FROM table_files('t')", "committed")
        .await
        .unwrap();
    assert!(files.len() >= 2, "{files:?}");
}

/// Twelve records: JSON array, one object, NDJSON, gzip, Arrow with a narrower type, Kafka.
#[expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]
async fn every_way_in(local: &Installation) {
    let client = &local.client;
    let array = r#"[{"id":1,"note":"a"},{"id":2}]"#;
    let answer = client
        .post("/v1/tables/t/records", "application/json", array)
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(answer["records"], 2);
    let one = client
        .post("/v1/tables/t/records", "application/json", r#"{"id":3}"#)
        .await
        .unwrap();
    assert_eq!(one.ok().unwrap()["records"], 1);
    client
        .ndjson("t", &lines(4..6))
        .await
        .unwrap()
        .ok()
        .unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines(6..8).as_bytes()).unwrap();
    let request = client
        .http
        .post(format!("{}/v1/tables/t/records", client.gateway))
        .header("content-type", "application/x-ndjson")
        .header("content-encoding", "gzip")
        .body(gzip.finish().unwrap());
    client.send(request).await.unwrap().ok().unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "note",
            std::sync::Arc::new(StringArray::from(vec!["x", "y"])),
        ),
        ("id", std::sync::Arc::new(Int32Array::from(vec![8, 9]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    let arrow = stream.into_inner().unwrap();
    let mime = "application/vnd.apache.arrow.stream";
    client
        .post("/v1/tables/t/records", mime, arrow)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let kafka = KafkaSettings {
        bootstrap: local.kafka.clone(),
        ..KafkaSettings::default()
    };
    let producer = Producer::new(&kafka, ProducerSettings::default()).unwrap();
    for id in 10..13u32 {
        let value = format!("{{\"id\":{id}}}");
        producer
            .send(Message::new("tidelake.default.t", Bucket(id % 3), value))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_commits_what_was_accepted() {
    let mut local =
        Installation::start_with(&[], &[("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "3600000")])
            .await
            .unwrap();
    local
        .client
        .create_table("t", &numbered(), 2)
        .await
        .unwrap();
    local
        .client
        .ndjson("t", &lines(0..1000))
        .await
        .unwrap()
        .ok()
        .unwrap();
    // The flusher has taken the rows in: only then does the shutdown have something to commit.
    let taken = "tidelake_flusher_records_total{table=\"t\",tenant=\"default\"}";
    wait_until("the rows to be read", WAIT_MAX, async || {
        let metric = local.client.metric(&local.client.gateway, taken);
        (metric.await.ok()? >= 1000.0).then_some(())
    })
    .await
    .unwrap();
    local.process.stop().await.unwrap();
    local.restart().await.unwrap();
    assert_eq!(
        local.client.sql(COUNT, "committed").await.unwrap(),
        [json!([1000, 1000])]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_read_your_writes_at_both_consistencies() {
    let local = Installation::start().await.unwrap();
    local
        .client
        .create_table("t", &numbered(), 2)
        .await
        .unwrap();
    let answer = local
        .client
        .ndjson("t", &lines(0..10))
        .await
        .unwrap()
        .ok()
        .unwrap();
    let token = answer["token"].as_str().unwrap();
    for consistency in ["latest", "committed"] {
        let more = json!({"consistency": consistency, "token": token, "timeout_ms": 60_000});
        let found = local
            .client
            .sql_with(COUNT, more)
            .await
            .unwrap()
            .ok()
            .unwrap();
        assert_eq!(found["rows"][0], json!([10, 10]), "{consistency}");
    }
    let path = format!("/v1/tables/t/status?token={token}");
    let status = local.client.get(&path).await.unwrap().ok().unwrap();
    assert_eq!(
        (&status["accepted"], &status["committed"]),
        (&json!(true), &json!(true))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_tells_how_it_is() {
    let local = Installation::start().await.unwrap();
    for base in [&local.client.gateway, &local.client.query] {
        for path in ["/livez", "/readyz", "/health", "/version"] {
            // It may be unready for a moment: a busy log answers late.
            wait_until(&format!("{base}{path}"), WAIT_MAX, async || {
                let request = local.client.http.get(format!("{base}{path}"));
                let status = request.send().await.ok()?.status();
                (status == 200).then_some(())
            })
            .await
            .unwrap();
        }
    }
    let request = local
        .client
        .http
        .get(format!("{}/metrics", local.client.gateway));
    let metrics = request.send().await.unwrap().text().await.unwrap();
    for name in [
        "tidelake_flusher_buffer_bytes",
        "tidelake_flusher_buckets_stopped",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
}
