//! P2, what becomes of it: every bad record of a direct producer is one row of the dead-letter
//! table, and goes back where it belongs once it is good.

use std::process::ExitStatus;

use serde_json::{Value, json};
use tidelake_core::{Bucket, Offset};
use tidelake_log::{Admin, KafkaSettings, Message, Producer, ProducerSettings, headers};
use tidelake_testkit::{Program, WAIT_MAX, wait_until};
use tidelake_tests::Installation;

use crate::numbered;

const TOPIC: &str = "tidelake.default.t";
const DEAD_LETTERS: &str = "tidelake.default.t.dlq";

fn kafka(local: &Installation) -> KafkaSettings {
    KafkaSettings {
        bootstrap: local.kafka.clone(),
        ..KafkaSettings::default()
    }
}

fn producer(local: &Installation) -> Producer {
    Producer::new(&kafka(local), ProducerSettings::default()).expect("settings are good")
}

async fn end_of(local: &Installation, topic: &str) -> Option<Offset> {
    let admin = Admin::new(&kafka(local)).ok()?;
    let ends = admin.end_offsets(topic, &[Bucket(0)]).await.ok()?;
    ends.first().map(|(_, end)| *end)
}

/// Waits until a query gives these rows.
async fn rows_become(local: &Installation, sql: &str, consistency: &str, wanted: &[Value]) {
    let mut last = Vec::new();
    let found = wait_until("rows", WAIT_MAX, async || {
        last = local.client.sql(sql, consistency).await.ok()?;
        (last == wanted).then_some(())
    })
    .await;
    assert!(
        found.is_ok(),
        "{consistency} {sql}: {last:?}, not {wanted:?}"
    );
}

/// Runs `tidelake … -o json` against the installation: how it ended, and its JSON.
async fn tidelake(local: &Installation, args: &[&str]) -> (ExitStatus, Value) {
    let (status, output) = Program::new("tidelake")
        .args(["--url", &local.client.gateway])
        .args(["--query-url", &local.client.query, "-o", "json"])
        .args(args.iter().copied())
        .run()
        .await
        .expect("the program ran");
    // Lines of standard error may stand before, behind and between its own.
    let is_json = |line: &&str| line.trim_start().starts_with(['[', ']', '{', '}', '"']);
    let output: Vec<&str> = output.lines().filter(is_json).collect();
    let output = output.join("\n");
    let mut values = serde_json::Deserializer::from_str(&output).into_iter::<Value>();
    let answer = values.next().and_then(Result::ok).unwrap_or_default();
    (status, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_is_one_row_whatever_it_was() {
    let local = Installation::start().await.unwrap();
    local
        .client
        .create_table("t", &numbered(), 1)
        .await
        .unwrap();
    let producer = producer(&local);
    let bad: [&[u8]; 3] = [b"not json", b"{\"id\":\"x\"}", b"\0\xff"];
    for value in bad {
        let mut message = Message::new(TOPIC, Bucket(0), value.to_vec());
        message.key = Some("k".into());
        producer.send(message).await.unwrap();
        let good = Message::new(TOPIC, Bucket(0), "{\"id\":1}");
        producer.send(good).await.unwrap();
    }
    let tombstone = Message::marker(TOPIC, Bucket(0), Vec::new());
    producer.send(tombstone).await.unwrap();
    // Anybody can write there: it is a row, and nothing stops.
    let foreign = Message::new(DEAD_LETTERS, Bucket(0), "hello");
    producer.send(foreign).await.unwrap();
    local.client.flush("t").await.unwrap();

    let wanted = [
        json!([-1, 0, "NO_SOURCE", "aGVsbG8=", null]),
        json!([0, 0, "NOT_AN_OBJECT", "bm90IGpzb24=", "aw=="]),
        json!([0, 2, "WRONG_TYPE", "eyJpZCI6IngifQ==", "aw=="]),
        json!([0, 4, "UNSUPPORTED", "AP8=", "aw=="]),
        json!([0, 6, "TOMBSTONE", null, null]),
    ];
    let sql = "SELECT source_bucket, source_offset, code, value, key FROM t__dead_letters \
               ORDER BY source_bucket, source_offset";
    for consistency in ["latest", "committed"] {
        rows_become(&local, sql, consistency, &wanted).await;
    }
    let open = "SELECT count(*) FROM t__dead_letters WHERE replayed_at IS NULL \
                AND length(reason) > 0 AND dead_at >= source_timestamp";
    assert_eq!(
        local.client.sql(open, "committed").await.unwrap(),
        [json!([5])]
    );
    let rows = "SELECT count(*) FROM t";
    assert_eq!(
        local.client.sql(rows, "committed").await.unwrap(),
        [json!([3])]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_written_again_after_a_crash_are_the_same_rows() {
    let mut local = Installation::start().await.unwrap();
    local
        .client
        .create_table("t", &numbered(), 1)
        .await
        .unwrap();
    // The flusher has the table open: offset 0 is a flush marker.
    local.client.flush("t").await.unwrap();
    // Commits fail: dead letters are written, and the watermark stays before their records.
    let log = local.table_folder("t").unwrap().join("_delta_log");
    let aside = log.with_file_name("aside");
    std::fs::rename(&log, &aside).unwrap();
    std::fs::write(&log, "").unwrap();
    let producer = producer(&local);
    for _ in 0..20 {
        let bad = Message::new(TOPIC, Bucket(0), "bad");
        producer.send(bad).await.unwrap();
    }
    wait_until("the dead letters", WAIT_MAX, async || {
        (end_of(&local, DEAD_LETTERS).await? >= Offset(20)).then_some(())
    })
    .await
    .unwrap();
    local.process.kill().unwrap();
    std::fs::remove_file(&log).unwrap();
    std::fs::rename(&aside, &log).unwrap();
    local.restart().await.unwrap();
    wait_until("the dead letters again", WAIT_MAX, async || {
        (end_of(&local, DEAD_LETTERS).await? >= Offset(40)).then_some(())
    })
    .await
    .unwrap();
    local.client.flush("t").await.unwrap();
    let sql = "SELECT count(*), count(DISTINCT source_offset), max(source_offset) \
               FROM t__dead_letters";
    for consistency in ["latest", "committed"] {
        rows_become(&local, sql, consistency, &[json!([20, 20, 20])]).await;
    }
    // Every message of the topic is in: nothing more can come.
    let described = wait_until("the last dead letter", WAIT_MAX, async || {
        let path = "/v1/tables/t__dead_letters";
        let table = local.client.get(path).await.ok()?.ok().ok()?;
        (table["lag_records"] == 0).then_some(table)
    })
    .await
    .unwrap();
    assert_eq!(described["rows"], 20, "{described}");
    assert_eq!(
        local.client.sql(sql, "committed").await.unwrap(),
        [json!([20, 20, 20])]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_good_now_is_replayed_and_others_stay() {
    let local = Installation::start().await.unwrap();
    local
        .client
        .create_table("t", &numbered(), 1)
        .await
        .unwrap();
    let producer = producer(&local);
    // Its cause was mended: what it holds fits the table.
    let dead_letter = |offset: &str, value: &str| {
        let mut message = Message::new(DEAD_LETTERS, Bucket(0), value.to_owned());
        message.key = Some(format!("0/{offset}").into());
        let named = [
            (headers::dead_letter::SOURCE_BUCKET, "0"),
            (headers::dead_letter::SOURCE_OFFSET, offset),
            (headers::dead_letter::CODE, "WRONG_TYPE"),
            (headers::dead_letter::REASON, "it was wrong then"),
        ];
        let named = named.map(|(name, text)| (name.into(), text.to_owned().into()));
        message.headers.extend(named);
        message
    };
    for (offset, value) in [("70", "{\"id\":70}"), ("71", "{\"id\":71}"), ("72", "bad")] {
        producer.send(dead_letter(offset, value)).await.unwrap();
    }
    let open = "SELECT source_offset FROM t__dead_letters WHERE replayed_at IS NULL \
                ORDER BY source_offset";
    let wanted = [json!([70]), json!([71]), json!([72])];
    rows_become(&local, open, "latest", &wanted).await;
    let (status, listed) = tidelake(&local, &["dlq", "list", "t", "--limit", "2"]).await;
    assert!(status.success());
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(listed[0]["source"], "0/72", "{listed}");
    assert_eq!(listed[0]["reason"], "it was wrong then", "{listed}");
    let (status, shown) = tidelake(&local, &["dlq", "show", "t", "0/70"]).await;
    assert!(status.success());
    assert_eq!(shown["value"], "eyJpZCI6NzB9", "{shown}");
    for absent in [
        ["dlq", "show", "t", "0/7"],
        ["dlq", "show", "absent", "0/7"],
    ] {
        let (status, _) = tidelake(&local, &absent).await;
        assert_eq!(status.code(), Some(3), "{absent:?}");
    }

    let (status, replayed) = tidelake(&local, &["dlq", "replay", "t", "0/70"]).await;
    assert!(status.success(), "{replayed}");
    assert_eq!(replayed[0]["replayed_to"], "0/0", "{replayed}");
    rows_become(&local, open, "latest", &[json!([71]), json!([72])]).await;
    let (status, again) = tidelake(&local, &["dlq", "replay", "t", "0/70"]).await;
    assert_eq!(status.code(), Some(1), "{again}");
    assert_eq!(again[0]["code"], "REPLAYED", "{again}");

    let (status, replayed) = tidelake(&local, &["dlq", "replay", "t", "--all"]).await;
    assert_eq!(status.code(), Some(1), "one is still bad: {replayed}");
    assert_eq!(replayed[0]["replayed_to"], "0/1", "{replayed}");
    assert_eq!(replayed[1]["source"], "0/72", "{replayed}");
    assert_eq!(replayed[1]["code"], "NOT_AN_OBJECT", "{replayed}");
    local.client.flush("t").await.unwrap();
    for consistency in ["latest", "committed"] {
        let ids = "SELECT id FROM t ORDER BY id";
        rows_become(&local, ids, consistency, &[json!([70]), json!([71])]).await;
        rows_become(&local, open, consistency, &[json!([72])]).await;
        let done = "SELECT replayed_to, code, reason FROM t__dead_letters \
                    WHERE replayed_at IS NOT NULL ORDER BY source_offset";
        let wanted = ["0/0", "0/1"].map(|to| json!([to, "WRONG_TYPE", "it was wrong then"]));
        rows_become(&local, done, consistency, &wanted).await;
    }
    let (status, all) = tidelake(&local, &["dlq", "list", "t", "--all"]).await;
    assert!(status.success());
    assert_eq!(all.as_array().map(Vec::len), Some(3), "{all}");
}
