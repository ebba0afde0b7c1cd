//! Upsert tables: made, written to and deleted from.

use std::collections::BTreeMap;

use arrow::array::{
    ArrayRef, AsArray, Int8Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::Int64Type;
use arrow::ipc::writer::StreamWriter;
use tidelake_codec::key::KeyText;
use tidelake_codec::packed;
use tidelake_core::partition::bucket_of;
use tidelake_core::{Bucket, Offset, Token, Watermark};
use tidelake_intake::decode::{MessageDecoder, Placement, WireMessage};
use tidelake_log::headers;
use tidelake_schema::TableSchema;

use super::*;

const TOPIC: &str = "tidelake.default.orders";
const PATH: &str = "/v1/tables/orders/records";
const BUCKETS: u32 = 3;

/// Of a key of region and id.
fn upserts() -> Value {
    json!({
        "name": "orders",
        "buckets": BUCKETS,
        "mode": "upsert",
        "schema": { "type": "struct", "identifier-field-ids": [2, 1], "fields": [
            { "id": 1, "name": "id", "required": true, "type": "long" },
            { "id": 2, "name": "region", "required": true, "type": "string" },
            { "id": 3, "name": "n", "required": true, "type": "int" },
        ] },
    })
}

async fn with_upserts() -> Harness {
    let harness = Harness::new().await;
    harness.create(upserts()).await.answered();
    harness
}

fn text(id: i64) -> String {
    format!("[\"r{}\",{id}]", id % 4)
}

fn record(id: i64, n: i64) -> Value {
    json!({ "id": id, "region": format!("r{}", id % 4), "n": n })
}

fn key(id: i64) -> Value {
    json!({ "id": id, "region": format!("r{}", id % 4) })
}

fn ndjson(records: impl IntoIterator<Item = Value>) -> String {
    records
        .into_iter()
        .map(|record| format!("{record}\n"))
        .collect()
}

fn arrow(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// An id and what becomes of it: nothing where it is deleted.
type Change = (i64, Option<i32>);

/// What each bucket's log says in order, message by message. Every message goes through the decoder that the flusher has, placement and all.
fn changes(harness: &Harness) -> Vec<Vec<Vec<Change>>> {
    let schema = TableSchema::from_iceberg_value(&upserts()["schema"]).unwrap();
    let key = KeyText::new(&schema).unwrap().unwrap();
    let buckets = harness.log.messages(TOPIC).into_iter().enumerate();
    let buckets = buckets.map(|(bucket, messages)| {
        let placement = Placement {
            bucket: Bucket(bucket as u32),
            buckets: BUCKETS,
        };
        let mut decoder = MessageDecoder::upsert(&schema, Some(placement)).unwrap();
        let messages = messages.into_iter().map(|message| {
            let (name, value) = &message.headers[0];
            assert_eq!(
                (name.clone(), value.as_ref()),
                (headers::ENCODING.into(), headers::ENCODING_ARROW)
            );
            assert_eq!((message.headers.len(), &message.key), (1, &None));
            let value = message.value.unwrap();
            let pushed = decoder.push(&WireMessage {
                offset: 0,
                timestamp_ms: 0,
                key: None,
                value: Some(&value),
                encoding: Some(headers::ENCODING_ARROW),
                op: None,
                dead_letter: None,
            });
            pushed.unwrap();
            let packed = packed::decode_upserts(&value, &schema, &key).unwrap();
            let ids = |batch: &RecordBatch| {
                let ids = batch.column_by_name("id").unwrap();
                ids.as_primitive::<Int64Type>().values().to_vec()
            };
            let ns = packed.rows.column_by_name("n").unwrap();
            let ns = ns
                .as_primitive::<arrow::datatypes::Int32Type>()
                .values()
                .to_vec();
            let written = ids(&packed.rows).into_iter().zip(ns.into_iter().map(Some));
            let mut all: BTreeMap<_, _> = packed.row_numbers.into_iter().zip(written).collect();
            if let Some((keys, numbers)) = packed.deletes {
                let deleted = ids(&keys).into_iter().map(|id| (id, None));
                all.extend(numbers.into_iter().zip(deleted));
            }
            all.into_values().collect()
        });
        messages.collect()
    });
    buckets.collect()
}

/// The rows that live after all of it.
fn live(harness: &Harness) -> BTreeMap<i64, i32> {
    let mut rows = BTreeMap::new();
    for (id, n) in changes(harness).into_iter().flatten().flatten() {
        match n {
            Some(n) => rows.insert(id, n),
            None => rows.remove(&id),
        };
    }
    rows
}

fn token(text: &Value) -> BTreeMap<Bucket, Watermark> {
    Token::parse(text.as_str().unwrap())
        .unwrap()
        .iter()
        .collect()
}

#[tokio::test]
async fn an_upsert_table_is_made_with_its_key_and_deletion_vectors() {
    let harness = Harness::new().await;
    let made = harness.create(upserts()).await.answered();
    assert_eq!(made["mode"], "upsert");
    assert_eq!(made["primary_key"], json!(["region", "id"]));
    assert_eq!(made["schema"]["identifier-field-ids"], json!([2, 1]));
    assert_eq!(harness.get("/v1/tables/orders").await.answered(), made);
    let log = harness
        .store
        .get("default/orders/_delta_log/00000000000000000000.json")
        .await
        .unwrap();
    let log = String::from_utf8(log.to_vec()).unwrap();
    assert!(
        log.contains("\"delta.enableDeletionVectors\":\"true\""),
        "{log}"
    );
    assert!(
        log.contains("\"readerFeatures\":[\"deletionVectors\"]"),
        "{log}"
    );
    assert!(!log.contains("delta.appendOnly\":\"true"), "{log}");

    // What an append table of the same columns left in its place is another table.
    let other = Harness::new().await;
    let mut append = upserts();
    append["mode"] = json!("append");
    append["schema"]
        .as_object_mut()
        .unwrap()
        .remove("identifier-field-ids");
    let described = other.create(append).await.answered();
    assert_eq!(described["primary_key"], json!([]));
    for entry in other.store.list("_tidelake/catalog").await.unwrap() {
        other.store.delete(entry.location.as_ref()).await.unwrap();
    }
    let again = other.another().await;
    again
        .create(upserts())
        .await
        .is_problem(409, "LOCATION_TAKEN");
}

#[tokio::test]
async fn a_key_that_can_be_none_is_refused_with_the_reason() {
    let harness = Harness::new().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = upserts();
        change(&mut body["schema"]);
        body
    };
    let cases: [(Value, &str); 7] = [
        (
            with(&|s| s["identifier-field-ids"] = json!([])),
            "needs a primary key",
        ),
        (
            with(&|s| s["identifier-field-ids"] = json!([9])),
            "not the id of a top-level field",
        ),
        (
            with(&|s| s["identifier-field-ids"] = json!([1, 1])),
            "given twice",
        ),
        (
            with(&|s| s["fields"][0]["required"] = json!(false)),
            "must be required",
        ),
        (
            with(&|s| s["fields"][0]["type"] = json!("double")),
            "cannot be a double",
        ),
        (
            with(&|s| {
                s["fields"][0]["type"] = json!({"type": "struct", "fields": [
                    {"id": 10, "name": "x", "required": true, "type": "long"}]});
            }),
            "cannot be a struct",
        ),
        (
            with(&|s| {
                s["identifier-field-ids"] = json!([10]);
                s["fields"][2]["type"] = json!({"type": "struct", "fields": [
                    {"id": 10, "name": "x", "required": true, "type": "long"}]});
            }),
            "not the id of a top-level field",
        ),
    ];
    for (body, reason) in cases {
        let reply = harness.create(body).await;
        let problem = reply.is_problem(422, "INVALID_SCHEMA");
        assert!(
            problem["detail"].as_str().unwrap().contains(reason),
            "{problem}"
        );
        assert!(
            problem["field"].as_str().unwrap().starts_with("schema"),
            "{problem}"
        );
    }
    assert_eq!(harness.log.topics(), Vec::<String>::new());
}

#[tokio::test]
async fn a_body_is_one_message_for_each_bucket_of_its_keys_and_the_token_covers_them() {
    let harness = with_upserts().await;
    let ids = 0..200_i64;
    let columns = || -> Vec<(&str, ArrayRef)> {
        let regions = ids.clone().map(|id| format!("r{}", id % 4));
        vec![
            (
                "n",
                Arc::new(Int16Array::from_iter_values(
                    ids.clone().map(|id| id as i16),
                )),
            ),
            ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
            ("region", Arc::new(StringArray::from_iter_values(regions))),
        ]
    };
    let records: Vec<_> = ids.clone().map(|id| record(id, id)).collect();
    let sent = [
        harness.post(NDJSON, ndjson(records.clone())).await,
        harness.post(JSON, json!(records).to_string()).await,
        harness.post(ARROW, arrow(columns())).await,
    ];
    for (index, reply) in sent.into_iter().enumerate() {
        let body = reply.answered();
        assert_eq!(body["records"], 200);
        let mark = Watermark::after(Offset(index as i64));
        let all = (0..BUCKETS).map(|bucket| (Bucket(bucket), mark)).collect();
        assert_eq!(token(&body["token"]), all);
    }
    for (bucket, messages) in changes(&harness).into_iter().enumerate() {
        let owned = |id: &i64| bucket_of(text(*id).as_bytes(), BUCKETS).0 == bucket as u32;
        let expected: Vec<_> = ids
            .clone()
            .filter(owned)
            .map(|id| (id, Some(id as i32)))
            .collect();
        assert_eq!(messages, vec![expected; 3]);
    }
    let one = harness
        .post(JSON, record(7, 7).to_string())
        .await
        .answered();
    let owner = bucket_of(text(7).as_bytes(), BUCKETS);
    assert_eq!(token(&one["token"]), [(owner, Watermark(4))].into());
}

#[tokio::test]
async fn of_a_key_given_twice_the_later_wins_deletes_among_them() {
    let harness = with_upserts().await;
    let twice = ndjson((0..100).map(|n| record(n % 10, n)));
    harness.post(NDJSON, twice).await.answered();
    assert_eq!(
        live(&harness),
        (0..10).map(|id| (id, 90 + id as i32)).collect()
    );
    // 1: written, deleted; 2: deleted, written; 3: deleted; 4: written. Only keys of deletes count.
    let ids = [1, 2, 3, 1, 2, 4_i64];
    let regions = ids.map(|id| format!("r{}", id % 4));
    let body = arrow(vec![
        ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef),
        ("region", Arc::new(StringArray::from_iter_values(regions))),
        (
            "n",
            Arc::new(Int64Array::from(vec![
                Some(7),
                Some(1 << 40),
                None,
                None,
                Some(8),
                Some(9),
            ])),
        ),
        ("__op", Arc::new(Int32Array::from(vec![0, 1, 1, 1, 0, 0]))),
    ]);
    let reply = harness.post(ARROW, body).await.answered();
    assert_eq!(reply["records"], 6);
    let expected = [
        (0, 90),
        (2, 8),
        (4, 9),
        (5, 95),
        (6, 96),
        (7, 97),
        (8, 98),
        (9, 99),
    ];
    assert_eq!(live(&harness), expected.into());
}

#[tokio::test]
async fn deletes_take_keys_or_whole_rows_in_every_format() {
    let harness = with_upserts().await;
    let all = ndjson((0..30).map(|id| record(id, 1)));
    harness.post(NDJSON, all).await.answered();
    let keys: Vec<_> = (0..3).map(key).collect();
    let mut row = record(3, 1);
    row["n"] = json!(["anything", {"at": "all"}]);
    let reply = harness
        .call(Method::DELETE, PATH, json!(keys).to_string())
        .await
        .answered();
    assert_eq!(reply["records"], 3);
    let reply = harness
        .call(Method::DELETE, PATH, row.to_string())
        .await
        .answered();
    assert_eq!(reply["records"], 1);
    assert_eq!(token(&reply["token"]).len(), 1);
    let by_op = Request::post(format!("{PATH}?op=delete"))
        .header("content-type", NDJSON)
        .body(ndjson((4..7).map(key)).into());
    harness.send(by_op.unwrap()).await.answered();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("region", Arc::new(StringArray::from(vec!["r3", "r0"]))),
        ("n", Arc::new(StringArray::from(vec!["not", "read"]))),
        ("id", Arc::new(Int64Array::from(vec![7, 8]))),
    ];
    let by_arrow = Request::delete(PATH)
        .header("content-type", ARROW)
        .body(arrow(columns).into());
    let reply = harness.send(by_arrow.unwrap()).await.answered();
    assert_eq!(reply["records"], 2);
    assert_eq!(live(&harness), (9..30).map(|id| (id, 1)).collect());
    let none = harness.call(Method::DELETE, PATH, "[]").await.answered();
    assert_eq!(
        none,
        json!({"records": 0, "token": Token::default().to_string()})
    );
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a list of bad bodies and what is said of them"
)]
async fn every_bad_key_or_operation_is_named_and_its_body_is_nowhere() {
    let harness = with_upserts().await;
    let good = ndjson([record(1, 1)]);
    let large = "x".repeat(17 << 10);
    let large = format!(
        "{good}{}",
        ndjson([json!({"id": 1, "region": large, "n": 1})])
    );
    let post = [
        (json!({"region": "a", "n": 1}), 422, "MISSING_FIELD", "id"),
        (
            json!({"id": null, "region": "a", "n": 1}),
            422,
            "NULL_IN_REQUIRED",
            "id",
        ),
    ];
    for (record, status, code, field) in post {
        let body = format!("{good}{}", ndjson([record]));
        let reply = harness.post(NDJSON, body).await;
        let problem = reply.is_problem(status, code);
        assert_eq!(
            (&problem["row"], &problem["field"]),
            (&json!(1), &json!(field))
        );
    }
    let reply = harness.post(NDJSON, large.clone()).await;
    let problem = reply.is_problem(413, "TOO_LARGE");
    assert_eq!(problem["row"], 1);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("the primary key as text"),
        "{problem}"
    );

    let good_key = key(1);
    let deletes = [
        (r#"{"id":1}"#, 422, "MISSING_FIELD", json!("region")),
        (
            r#"{"id":1,"region":null}"#,
            422,
            "NULL_IN_REQUIRED",
            json!("region"),
        ),
        (r#"{"id":"1","region":"a"}"#, 422, "WRONG_TYPE", json!("id")),
        (
            r#"{"id":1,"region":"a","nope":1}"#,
            422,
            "UNKNOWN_FIELD",
            json!("nope"),
        ),
        ("17", 400, "NOT_AN_OBJECT", Value::Null),
    ];
    for (body, status, code, field) in deletes {
        let body = format!("[{good_key},{body}]");
        let reply = harness.call(Method::DELETE, PATH, body).await;
        let problem = reply.is_problem(status, code);
        assert_eq!(
            (&problem["row"], &problem["field"]),
            (&json!(1), &field),
            "{problem}"
        );
    }
    let by_op = |body: String| {
        let request = Request::post(format!("{PATH}?op=delete")).header("content-type", NDJSON);
        harness.send(request.body(body.into()).unwrap())
    };
    by_op(large).await.is_problem(413, "TOO_LARGE");
    by_op(String::new()).await.is_problem(400, "EMPTY_BODY");

    let columns = |ops: ArrayRef| -> Vec<(&str, ArrayRef)> {
        vec![
            ("id", Arc::new(Int64Array::from(vec![1, 2]))),
            ("region", Arc::new(StringArray::from(vec!["a", "b"]))),
            ("n", Arc::new(Int64Array::from(vec![1, 2]))),
            ("__op", ops),
        ]
    };
    let unknown = columns(Arc::new(Int8Array::from(vec![0, 2])));
    let reply = harness.post(ARROW, arrow(unknown)).await;
    let problem = reply.is_problem(422, "UNKNOWN_OPERATION");
    assert_eq!(
        (&problem["row"], &problem["field"]),
        (&json!(1), &json!("__op"))
    );
    let fine = columns(Arc::new(Int8Array::from(vec![0, 1])));
    let twice = Request::delete(PATH)
        .header("content-type", ARROW)
        .body(arrow(fine.clone()).into());
    harness
        .send(twice.unwrap())
        .await
        .is_problem(422, "OPERATION_TWICE");
    let query = harness
        .call(Method::DELETE, &format!("{PATH}?op=upsert"), "[]")
        .await;
    query.is_problem(400, "INVALID_QUERY");
    assert_eq!(harness.log.message_count(), 0);

    let append = with_orders().await;
    let operations: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1]))),
        ("__op", Arc::new(Int8Array::from(vec![0]))),
    ];
    let reply = append.post(ARROW, arrow(operations)).await;
    assert_eq!(reply.is_problem(422, "NO_PRIMARY_KEY")["field"], "__op");
    let reply = append.call(Method::DELETE, PATH, r#"{"id":1}"#).await;
    let problem = reply.is_problem(422, "NO_PRIMARY_KEY");
    assert!(
        problem["hint"].as_str().unwrap().contains("upsert"),
        "{problem}"
    );
    assert_eq!(append.log.message_count(), 0);
}

#[tokio::test]
async fn a_large_body_is_spooled_and_every_bucket_gets_full_messages_in_order() {
    let harness = Harness::with(|settings| settings.ingest.spool_memory_bytes = 1 << 18).await;
    harness.create(upserts()).await.answered();
    let rows = 250_000_i64;
    let body = ndjson((0..rows).map(|n| record(n % 100_000, n)));
    let reply = harness.post(NDJSON, body).await.answered();
    assert_eq!(reply["records"], rows);
    let changes = changes(&harness);
    for messages in &changes {
        let all: Vec<_> = messages.concat();
        assert!(
            all.windows(2).all(|pair| pair[0].1 < pair[1].1),
            "the body's order"
        );
        let sizes: Vec<_> = messages.iter().map(Vec::len).collect();
        assert!(sizes.len() == 2 && sizes[0] > 40_000, "{sizes:?}");
    }
    assert_eq!(
        changes.iter().flatten().map(Vec::len).sum::<usize>(),
        rows as usize
    );
    assert_eq!(harness.gateway.spool.memory_bytes(), 0);
    assert_eq!(harness.gateway.spool.disk_bytes(), 0);
}

#[tokio::test]
async fn a_log_that_acknowledges_a_part_leaves_the_outcome_unknown() {
    let harness = with_upserts().await;
    harness.log.acknowledge_only(1);
    let reply = harness
        .post(NDJSON, ndjson((0..100).map(|id| record(id, 1))))
        .await;
    let problem = reply.is_problem(503, "LOG_UNAVAILABLE");
    assert!(
        problem["detail"].as_str().unwrap().contains("unknown"),
        "{problem}"
    );
}
