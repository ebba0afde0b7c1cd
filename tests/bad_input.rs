//! P2: wrong input is refused with what, where and why, and leaves nothing; straight through Kafka it
//! becomes a dead letter and stops nobody.

use serde_json::{Value, json};
use tidelake_core::{Bucket, Offset};
use tidelake_log::{
    Admin, KafkaSettings, Message, Producer, ProducerSettings, TailReader, headers,
};
use tidelake_testkit::WAIT_MAX;
use tidelake_tests::Installation;

use crate::{lines, numbered};

fn typed() -> Value {
    json!({"type": "struct", "schema-id": 0, "fields": [
        {"id": 1, "name": "id", "required": true, "type": "int"},
        {"id": 2, "name": "price", "required": false, "type": "decimal(6,2)"},
        {"id": 3, "name": "pt", "required": false, "type": {"type": "struct", "fields": [
            {"id": 4, "name": "x", "required": true, "type": "double"}]}},
        {"id": 5, "name": "tags", "required": false, "type": {
            "type": "list", "element-id": 6, "element": "string", "element-required": true}},
        {"id": 7, "name": "day", "required": false, "type": "date"},
    ]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bad_record_refuses_its_whole_body_and_is_named() {
    let local = Installation::start().await.unwrap();
    let client = &local.client;
    client.create_table("t", &typed(), 2).await.unwrap();
    // Record, expected status, expected field.
    let bad = [
        (r#"{"id":1,"nope":2}"#, 422, Some("nope")),
        (r#"{"price":"1.00"}"#, 422, Some("id")),
        (r#"{"id":null}"#, 422, Some("id")),
        (r#"{"id":"1"}"#, 422, Some("id")),
        (r#"{"id":1.5}"#, 422, Some("id")),
        (r#"{"id":2147483648}"#, 422, Some("id")),
        (r#"{"id":1,"id":2}"#, 422, Some("id")),
        (r#"{"id":1,"price":"1.234"}"#, 422, Some("price")),
        (r#"{"id":1,"price":"12345.00"}"#, 422, Some("price")),
        (r#"{"id":1,"pt":{"x":"a"}}"#, 422, Some("pt.x")),
        (r#"{"id":1,"pt":{}}"#, 422, Some("pt.x")),
        (r#"{"id":1,"tags":["a",null]}"#, 422, Some("tags[1]")),
        (r#"{"id":1,"day":"2026-02-30"}"#, 422, Some("day")),
        (r#"{"id":1"#, 400, None),
        (r#"[1]"#, 400, None),
        ("{\"id\":1,\"tags\":[\"\u{1}\"]}", 400, None),
    ];
    for (record, status, field) in bad {
        let body = format!("{{\"id\":1}}\n{{\"id\":2}}\n{record}\n{{\"id\":3}}\n");
        let answer = client.ndjson("t", &body).await.unwrap();
        let said = format!("{record} gave {answer:?}");
        assert!(
            answer.status == status || (status == 400 && answer.status == 422),
            "{said}"
        );
        assert_eq!(answer.body["row"], 2, "{said}");
        assert!(!answer.code().is_empty(), "{said}");
        if let Some(field) = field {
            assert_eq!(answer.body["field"], field, "{said}");
        }
    }
    let utf8 = [
        b"{\"id\":1}\n{\"id\":2,\"tags\":[\"".as_slice(),
        b"\xff\xfe",
        b"\"]}\n",
    ]
    .concat();
    let answer = client
        .post("/v1/tables/t/records", "application/x-ndjson", utf8)
        .await
        .unwrap();
    assert!(matches!(answer.status, 400 | 422), "{answer:?}");
    assert_eq!(answer.body["row"], 1, "{answer:?}");
    // A bad record late in a body of many messages: nothing of it either.
    let mut late = lines(0..60_000).replace(",\"note\"", ",\"tags\":[],\"nope\"");
    late = late
        .lines()
        .map(|line| format!("{}}}\n", line.split(",\"nope\"").next().unwrap()))
        .collect();
    late.push_str("{\"id\":false}\n");
    let answer = client.ndjson("t", &late).await.unwrap();
    assert_eq!(
        (answer.status, &answer.body["row"]),
        (422, &json!(60_000)),
        "{answer:?}"
    );
    let described = client.get("/v1/tables/t").await.unwrap().ok().unwrap();
    assert_eq!(
        described["end_offsets"],
        json!({"0": 0, "1": 0}),
        "nothing is in the log"
    );
    assert_eq!(
        client
            .sql("SELECT count(*) FROM t", "latest")
            .await
            .unwrap(),
        [json!([0])]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_told_why() {
    let local = Installation::start().await.unwrap();
    let client = &local.client;
    client.create_table("t", &numbered(), 1).await.unwrap();
    let json_type = "application/json";
    let table =
        |name: &str| json!({"name": name, "mode": "append", "schema": numbered()}).to_string();
    let cases = [
        ("/v1/tables/t/records", json_type, String::new(), 400),
        ("/v1/tables/t/records", "text/html", "x".into(), 415),
        (
            "/v1/tables/absent/records",
            json_type,
            "{\"id\":1}".into(),
            404,
        ),
        (
            "/v1/tables/t/records?op=delete",
            json_type,
            "{\"id\":1}".into(),
            422,
        ),
        ("/v1/tables", json_type, table("t"), 409),
        ("/v1/tables", json_type, table("Not A Name"), 422),
        ("/v1/tables", json_type, "{".into(), 400),
        ("/v1/nothing", json_type, "{}".into(), 404),
    ];
    for (path, mime, body, status) in cases {
        let answer = client.post(path, mime, body.clone()).await.unwrap();
        let fits = answer.status == status || (status == 422 && answer.status == 400);
        assert!(fits, "{path} {body}: {answer:?}");
        assert!(!answer.code().is_empty(), "{path} {body}: {answer:?}");
    }
    let sql = [
        "SELECT * FROM absent",
        "SELECT nope FROM t",
        "SELEC 1",
        "SELECT * FROM '/etc/passwd'",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "COPY t TO '/tmp/x.csv'",
        "SET datafusion.execution.batch_size = 1",
        "INSERT INTO t VALUES (1, 'x')",
        "DROP TABLE t",
        "SELECT 1; SELECT 2",
    ];
    for statement in sql {
        let answer = client.sql_with(statement, json!({})).await.unwrap();
        assert!(
            (400..500).contains(&answer.status),
            "{statement}: {answer:?}"
        );
        assert!(!answer.code().is_empty(), "{statement}: {answer:?}");
    }
    let slow = "SELECT count(*) FROM generate_series(1, 100000000000)";
    let answer = client
        .sql_with(slow, json!({"timeout_ms": 300}))
        .await
        .unwrap();
    assert_eq!(answer.status, 504, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_record_through_kafka_becomes_a_dead_letter_and_stops_nobody() {
    let mut local = Installation::start().await.unwrap();
    local
        .client
        .create_table("t", &numbered(), 1)
        .await
        .unwrap();
    let kafka = KafkaSettings {
        bootstrap: local.kafka.clone(),
        ..KafkaSettings::default()
    };
    let producer = Producer::new(&kafka, ProducerSettings::default()).unwrap();
    let topic = "tidelake.default.t";
    let bad: [&[u8]; 4] = [
        b"not json",
        b"{\"id\":\"x\"}",
        b"\0\0\0\0\x01avro",
        b"{\"id\":1}{\"id\":2}",
    ];
    let mut offsets = Vec::new();
    for (n, value) in bad.iter().enumerate() {
        let good = format!("{{\"id\":{n}}}");
        producer
            .send(Message::new(topic, Bucket(0), good))
            .await
            .unwrap();
        offsets.push(
            producer
                .send(Message::new(topic, Bucket(0), value.to_vec()))
                .await
                .unwrap(),
        );
    }
    producer
        .send(Message::marker(topic, Bucket(0), Vec::new()))
        .await
        .unwrap();
    producer
        .send(Message::new(topic, Bucket(0), "{\"id\":99}"))
        .await
        .unwrap();
    local.client.flush("t").await.unwrap();
    for consistency in ["latest", "committed"] {
        let ids = local
            .client
            .ids("SELECT id FROM t ORDER BY id", consistency)
            .await
            .unwrap();
        assert_eq!(ids, [0, 1, 2, 3, 99], "{consistency}");
    }
    let dead_letters = format!("{topic}.dlq");
    let ends = Admin::new(&kafka)
        .unwrap()
        .end_offsets(&dead_letters, &[Bucket(0)])
        .await
        .unwrap();
    assert_eq!(ends, [(Bucket(0), Offset(5))]);
    let reader = TailReader::open(&kafka, &dead_letters).unwrap();
    let range = vec![(Bucket(0), Offset(0), Offset(5))];
    let batches = reader.read(range, WAIT_MAX).await.unwrap();
    let found: Vec<_> = batches
        .iter()
        .flat_map(tidelake_log::MessageBatch::iter)
        .collect();
    for ((message, value), offset) in found.iter().zip(bad).zip(offsets) {
        let header = |name| String::from_utf8_lossy(message.header(name).unwrap()).into_owned();
        assert_eq!(message.value(), Some(value));
        assert_eq!(header(headers::dead_letter::SOURCE_TOPIC), topic);
        assert_eq!(header(headers::dead_letter::SOURCE_BUCKET), "0");
        assert_eq!(
            header(headers::dead_letter::SOURCE_OFFSET),
            offset.to_string()
        );
        assert!(!header(headers::dead_letter::REASON).is_empty());
        assert!(!header(headers::dead_letter::CODE).is_empty());
    }
    assert_eq!(found[4].value(), None, "a tombstone has no value");
    let request = local
        .client
        .http
        .get(format!("{}/metrics", local.client.gateway));
    let metrics = request.send().await.unwrap().text().await.unwrap();
    let counted = "tidelake_dead_letters_total{table=\"t\",tenant=\"default\"} 5";
    assert!(metrics.contains(counted), "{metrics}");
    local.process.stop().await.unwrap();
}
