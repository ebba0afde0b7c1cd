use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tidelake_catalog::{DropTable, TableEntry};
use tidelake_codec::json::{JsonDecoder, JsonLimits};
use tidelake_codec::packed;
use tidelake_core::headers::{self, REPLAY};
use tidelake_core::partition::bucket_of;
use tidelake_core::{Bucket, TableId, TableName, TenantId};
use tidelake_intake::decode::{DeadLetter, MessageDecoder, Pushed, WireMessage};
use tidelake_log::{Message, RefusedFor};
use tidelake_schema::TableSchema;

use super::memory_log::LOG_MS;
use super::*;

const REPLAY_PATH: &str = "/v1/tables/orders/dead-letters/replay";
const ORDERS: &str = "tidelake.default.orders";
const LETTERS: &str = "tidelake.default.orders.dlq";

fn upserts() -> Value {
    let mut orders = orders();
    orders["mode"] = json!("upsert");
    orders["schema"]["identifier-field-ids"] = json!([1]);
    orders
}

async fn with(table: Value) -> Harness {
    let harness = Harness::new().await;
    harness.create(table).await.answered();
    harness
}

fn base64(bytes: impl AsRef<[u8]>) -> Value {
    STANDARD.encode(bytes).into()
}

fn letter(offset: i64, value: &str) -> Value {
    json!({"source_bucket": 1, "source_offset": offset, "value": base64(value)})
}

impl Harness {
    async fn replay(&self, letters: Value) -> Reply {
        let body = json!({ "letters": letters }).to_string();
        self.call(Method::POST, REPLAY_PATH, body).await
    }
}

fn headers_of(message: &Message) -> BTreeMap<&str, &str> {
    let headers = message.headers.iter();
    headers
        .map(|(name, value)| (name.as_ref(), std::str::from_utf8(value).unwrap()))
        .collect()
}

/// The dead-letter topic through the decoder that the flusher has.
fn rows(harness: &Harness) -> arrow::array::RecordBatch {
    let mut decoder = MessageDecoder::dead_letters().unwrap();
    for (offset, message) in (0..).zip(&harness.log.messages(LETTERS)[0]) {
        let header = |name: &str| {
            let mut found = message.headers.iter().filter(|(known, _)| known == name);
            found.next().map(|(_, value)| value.as_ref())
        };
        let letter = DeadLetter::read(header);
        let pushed = decoder.push(&WireMessage {
            offset,
            timestamp_ms: 999,
            key: message.key.as_deref(),
            value: message.value.as_deref(),
            encoding: header(headers::ENCODING),
            op: header(headers::OP),
            dead_letter: Some(&letter),
        });
        assert_eq!(pushed, Ok(Pushed::Rows(1)));
    }
    let mut parts = decoder.finish().unwrap().rows;
    assert_eq!(parts.len(), 1);
    parts.remove(0).batch
}

fn texts(batch: &arrow::array::RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = batch.column_by_name(column).unwrap().as_string::<i32>();
    column.iter().map(|text| text.map(str::to_owned)).collect()
}

fn times_ms(batch: &arrow::array::RecordBatch, column: &str) -> Vec<i64> {
    let column = batch.column_by_name(column).unwrap();
    let column = column.as_primitive::<TimestampMicrosecondType>();
    column.values().iter().map(|micros| micros / 1000).collect()
}

#[tokio::test]
async fn a_table_s_dead_letters_are_a_table_that_nobody_else_writes() {
    let harness = with_orders().await;
    let listed = harness.get("/v1/tables").await.answered();
    assert_eq!(listed["tables"].as_array().map(Vec::len), Some(1));
    let listed = harness.get("/v1/tables?all=true").await.answered();
    assert_eq!(listed["tables"][1]["name"], "orders__dead_letters");
    let path = "/v1/tables/orders__dead_letters";
    let described = harness.get(path).await.answered();
    assert_eq!(described, listed["tables"][1]);
    assert_eq!(described["topic"], LETTERS);
    assert_eq!(described["mode"], "upsert");
    assert_eq!(
        described["primary_key"],
        json!(["source_bucket", "source_offset"])
    );
    assert_eq!(
        (&described["buckets"], &described["version"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(harness.log.spec(LETTERS).retention_ms, Some(60_000));

    let mine = [
        (Method::POST, "/records", r#"{"id":1}"#),
        (Method::DELETE, "/records", r#"{"id":1}"#),
        (Method::POST, "/flush", ""),
        (Method::POST, "/dead-letters/replay", r#"{"letters":[]}"#),
        (Method::DELETE, "", ""),
    ];
    for (method, rest, body) in mine {
        let refused = harness.call(method, &format!("{path}{rest}"), body).await;
        refused.is_problem(422, "DEAD_LETTER_TABLE");
    }
    let named = json!({"name": "orders__dead_letters", "schema": orders()["schema"]});
    harness.create(named).await.is_problem(422, "RESERVED_NAME");
    assert_eq!(harness.log.message_count(), 0);
    let absent = "/v1/tables/absent__dead_letters";
    for method in [Method::GET, Method::DELETE] {
        let refused = harness.call(method, absent, "").await;
        refused.is_problem(404, "TABLE_NOT_FOUND");
    }

    harness
        .call(Method::DELETE, "/v1/tables/orders", "")
        .await
        .answered();
    harness.get(path).await.is_problem(404, "TABLE_NOT_FOUND");
    assert_eq!(harness.log.topics(), Vec::<String>::new());
    assert_eq!(harness.store.list("default").await.unwrap().len(), 0);
}

#[tokio::test]
async fn the_longest_name_has_room_for_its_dead_letters() {
    let name = "x".repeat(63);
    let mut table = orders();
    table["name"] = json!(name);
    let harness = with(table).await;
    let path = format!("/v1/tables/{name}__dead_letters");
    assert_eq!(harness.get(&path).await.answered()["rows"], 0);
}

#[tokio::test]
async fn tables_of_older_programs_get_their_dead_letters() {
    let harness = with_orders().await;
    let tables = &harness.gateway.tables;
    // As older programs left them: topics, Delta log and entry, and no dead-letter table.
    let make = async |name: &str| {
        let mut table = orders();
        table["name"] = json!(name);
        harness.create(table).await.answered();
        let id = TableId::new(TenantId::default(), TableName::new(name).unwrap());
        let entry = tables.current(&id).await.unwrap().entry.as_ref().clone();
        let catalog = Catalog::open(
            &harness.store,
            harness.runtime.clock.clone(),
            harness.runtime.ids.clone(),
        );
        let catalog = catalog.await.unwrap();
        let DropTable::Dropped(held) = catalog.drop_table(&id).await.unwrap() else {
            panic!("{name} was just made")
        };
        // Everything but the entry stays.
        assert!(catalog.purged(&held).await.unwrap());
        let old = TableEntry {
            dead_letters_topic_id: None,
            restores: 0,
            ..entry
        };
        catalog.add_table(old).await.unwrap();
    };
    make("asked").await;
    make("started").await;
    let rows = async |name: &str| {
        let reply = harness.get(&format!("/v1/tables/{name}")).await;
        (reply.status.as_u16(), reply.body["rows"].clone())
    };
    assert_eq!(rows("asked__dead_letters").await, (200, json!(0)));
    let all = async || {
        let listed = harness.get("/v1/tables?all=true").await.answered();
        let tables = listed["tables"].as_array().unwrap().iter();
        tables
            .map(|table| table["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut wanted = vec![
        "asked",
        "asked__dead_letters",
        "orders",
        "orders__dead_letters",
        "started",
    ];
    assert_eq!(all().await, wanted);
    wanted.push("started__dead_letters");
    for _ in 0..2 {
        let shutdown = harness.runtime.shutdown.clone();
        crate::tables::dead_letters::give_all(tables.clone(), shutdown).await;
        assert_eq!(all().await, wanted);
    }
    assert_eq!(rows("started__dead_letters").await, (200, json!(0)));
}

#[tokio::test]
async fn a_letter_that_is_good_now_is_in_the_table_and_says_so() {
    let harness = with_orders().await;
    let good = json!({
        "source_bucket": 1, "source_offset": 17, "key": base64([0xff]),
        "value": base64(r#"{"id":1}"#), "schema_version": "4",
        "code": "TYPE_MISMATCH", "reason": "was wrong", "field": "id", "row": 0,
        "source_timestamp": "1970-01-01T00:00:01Z", "dead_at": "1970-01-01T00:00:02.5Z",
    });
    let bad = letter(18, r#"{"id":"x"}"#);
    let answer = harness.replay(json!([bad, good])).await.answered();
    assert_eq!(answer["replayed"], 1);
    let (refused, replayed) = (&answer["letters"][0], &answer["letters"][1]);
    assert_eq!(
        (&refused["source_bucket"], &refused["source_offset"]),
        (&json!(1), &json!(18))
    );
    assert_eq!(
        (&refused["code"], &refused["field"], &refused["row"]),
        (&json!("WRONG_TYPE"), &json!("id"), &json!(0))
    );
    assert!(
        refused["reason"]
            .as_str()
            .is_some_and(|why| !why.is_empty())
    );
    assert_eq!(
        *replayed,
        json!({"source_bucket": 1, "source_offset": 17, "replayed_to": "1/0", "marked": true})
    );

    let messages = harness.log.messages(ORDERS);
    assert_eq!(
        messages.iter().map(Vec::len).collect::<Vec<_>>(),
        [0, 1, 0],
        "where it came from"
    );
    let record = &messages[1][0];
    assert_eq!(record.key.as_deref(), Some(&[0xff][..]));
    assert_eq!(record.value.as_deref(), Some(&br#"{"id":1}"#[..]));
    let wanted = BTreeMap::from([(REPLAY, "1/17"), (headers::SCHEMA, "4")]);
    assert_eq!(headers_of(record), wanted);
    assert_eq!(
        record.timestamp_ms,
        Some(LOG_MS),
        "retention counts from now"
    );

    let letters = rows(&harness);
    assert_eq!(letters.num_rows(), 1);
    assert_eq!(
        harness.log.messages(LETTERS)[0][0].key.as_deref(),
        Some(&b"1/17"[..])
    );
    let is = |column: &str, text: &str| {
        assert_eq!(texts(&letters, column), [Some(text.to_owned())], "{column}");
    };
    is("code", "TYPE_MISMATCH");
    is("reason", "was wrong");
    is("field", "id");
    is("schema_version", "4");
    is("replayed_to", "1/0");
    assert_eq!(times_ms(&letters, "replayed_at"), [1_000_000]);
    assert_eq!(times_ms(&letters, "source_timestamp"), [1000]);
    assert_eq!(times_ms(&letters, "dead_at"), [2500]);
    let value = letters.column_by_name("value").unwrap();
    assert_eq!(value.as_binary::<i32>().value(0), br#"{"id":1}"#);
    let key = letters.column_by_name("key").unwrap();
    assert_eq!(key.as_binary::<i32>().value(0), [0xff]);
}

#[tokio::test]
async fn letters_of_an_upsert_table_go_to_the_buckets_of_their_keys() {
    let harness = with(upserts()).await;
    let schema = TableSchema::from_iceberg_value(&upserts()["schema"]).unwrap();
    let packed = |ids: &[i64]| {
        let mut decoder = JsonDecoder::new(&schema, JsonLimits::default()).unwrap();
        for id in ids {
            decoder
                .push_record(format!("{{\"id\":{id}}}").as_bytes())
                .unwrap();
        }
        base64(packed::encode(&decoder.finish().unwrap()).unwrap())
    };
    let owner = |id: i64| bucket_of(id.to_string().as_bytes(), 3);
    let owned = |bucket: u32| (0..).filter(move |id| owner(*id) == Bucket(bucket));
    let (zero, two): (Vec<i64>, Vec<i64>) =
        (owned(0).take(2).collect(), owned(2).take(2).collect());
    let arrow = |ids: &[i64]| json!({"source_bucket": 1, "source_offset": 9, "value": packed(ids), "encoding": "arrow"});
    let letters = json!([
        letter(0, &format!("{{\"id\":{}}}", zero[0])),
        letter(1, &format!("{{\"id\":{}}}", two[0])),
        {"source_bucket": 1, "source_offset": 2, "value": null, "key": base64(two[1].to_string())},
        arrow(&zero),
        arrow(&two),
        arrow(&[zero[0], two[0]]),
        {"source_bucket": -1, "source_offset": 3, "value": null},
        {"source_bucket": 1, "source_offset": 4, "value": null, "op": "flush"},
        {"source_bucket": 1, "source_offset": 5, "value": null, "op": "what"},
        {"source_bucket": 7, "source_offset": 6, "value": base64("\0avro")},
    ]);
    let answer = harness.replay(letters).await.answered();
    let ends: Vec<_> = answer["letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|end| {
            let part = |name: &str| end[name].as_str().map(str::to_owned);
            part("replayed_to").or_else(|| part("code")).unwrap()
        })
        .collect();
    assert_eq!(
        ends,
        [
            "0/0",
            "2/0",
            "2/1",
            "0/1",
            "2/2",
            "WRONG_BUCKET",
            "MISSING_KEY",
            "NOT_A_RECORD",
            "UNSUPPORTED",
            "UNSUPPORTED"
        ]
    );
    let messages = harness.log.messages(ORDERS);
    let tombstone = &messages[2][1];
    assert_eq!(
        (tombstone.value.as_ref(), tombstone.key.is_some()),
        (None, true)
    );
    let encoded = headers_of(&messages[0][1]);
    assert_eq!(encoded[headers::ENCODING], "arrow");
    assert_eq!(rows(&harness).num_rows(), 5);
}

#[tokio::test]
async fn a_log_that_fails_half_way_is_told_letter_by_letter() {
    let harness = with_orders().await;
    let good = |offset| letter(offset, r#"{"id":1}"#);
    // Two records, then nothing any more: neither the third nor any mark.
    harness.log.acknowledge_only(2);
    let answer = harness
        .replay(json!([good(0), good(1), good(2)]))
        .await
        .answered();
    assert_eq!(answer["replayed"], 2);
    for place in [0, 1] {
        let end = &answer["letters"][place];
        assert_eq!(end["replayed_to"], format!("1/{place}"));
        assert_eq!(end["marked"], false);
    }
    assert_eq!(answer["letters"][2]["code"], "LOG_UNAVAILABLE");
    assert_eq!(harness.log.messages(LETTERS)[0].len(), 0);

    harness.log.set_down(true);
    let answer = harness.replay(json!([good(3)])).await.answered();
    assert_eq!(answer["replayed"], 0);
    assert_eq!(answer["letters"][0]["code"], "LOG_UNAVAILABLE");
}

#[tokio::test]
async fn a_replay_to_a_topic_that_keeps_records_out_says_so_as_a_write_does() {
    let harness = with_orders().await;
    harness.log.refuse_messages(RefusedFor::Timestamp);
    let good = letter(0, r#"{"id":1}"#);
    let answer = harness.replay(json!([good])).await.answered();
    assert_eq!(answer["replayed"], 0);
    let end = &answer["letters"][0];
    assert_eq!(end["code"], "TOPIC_REFUSES");
    let reason = end["reason"].as_str().unwrap();
    assert!(
        reason.contains("message.timestamp.after.max.ms"),
        "{reason}"
    );
}

#[tokio::test]
async fn requests_to_replay_that_can_t_be_read_are_refused_whole() {
    let harness = with_orders().await;
    let many: Vec<_> = (0..1001).map(|offset| letter(offset, "{}")).collect();
    let bad = [
        (
            json!([{"source_bucket": 1, "source_offset": 0}]),
            400,
            "INVALID_REQUEST",
        ),
        (
            json!([{"source_offset": 0, "value": null}]),
            400,
            "INVALID_REQUEST",
        ),
        (
            json!([{"source_bucket": 1, "source_offset": 0, "value": null, "nope": 1}]),
            400,
            "INVALID_REQUEST",
        ),
        (
            json!([{"source_bucket": -2, "source_offset": 0, "value": null}]),
            400,
            "INVALID_REQUEST",
        ),
        (
            json!([{"source_bucket": 0, "source_offset": -1, "value": null}]),
            400,
            "INVALID_REQUEST",
        ),
        (
            json!([{"source_bucket": 0, "source_offset": 0, "value": "?"}]),
            400,
            "INVALID_REQUEST",
        ),
        (
            json!([{"source_bucket": 0, "source_offset": 0, "value": null, "dead_at": "now"}]),
            400,
            "INVALID_REQUEST",
        ),
        (json!(many), 413, "TOO_MANY_LETTERS"),
    ];
    for (letters, status, code) in bad {
        let with_good = match letters {
            Value::Array(mut letters) => {
                letters.insert(0, letter(9, r#"{"id":1}"#));
                json!(letters)
            }
            other => other,
        };
        harness.replay(with_good).await.is_problem(status, code);
    }
    let cut = harness.call(Method::POST, REPLAY_PATH, "{").await;
    cut.is_problem(400, "MALFORMED_JSON");
    let huge = vec![b' '; (32 << 20) + 1];
    let huge = harness.call(Method::POST, REPLAY_PATH, huge).await;
    huge.is_problem(413, "BODY_TOO_LARGE");
    let absent = "/v1/tables/absent/dead-letters/replay";
    let absent = harness
        .call(Method::POST, absent, r#"{"letters":[]}"#)
        .await;
    absent.is_problem(404, "TABLE_NOT_FOUND");
    assert_eq!(harness.log.message_count(), 0);
}
