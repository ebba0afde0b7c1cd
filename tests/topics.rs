//! A topic that was deleted and made again is another log: whoever meets it says so by name, and
//! what was committed from the first stays.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidelake_core::Bucket;
use tidelake_log::{Admin, KafkaSettings, Message, Producer, ProducerSettings, TopicSpec};
use tidelake_testkit::{EmbeddedBroker, WAIT_MAX, wait_until};
use tidelake_tests::{Client, Fleet};

use crate::{lines, numbered};

const TOPIC: &str = "tidelake.default.t";
const REPLACED: &str = "TOPIC_REPLACED";

const FLUSHER: [(&str, &str); 3] = [
    ("TIDELAKE__FLUSH_AGE_MS", "200"),
    ("TIDELAKE__DISCOVERY_MS", "200"),
    ("TIDELAKE__INSTANCE_ID", "one"),
];

/// Deletes the topic, makes it again and writes to it.
async fn replace_topic(kafka: &KafkaSettings) -> Result<()> {
    let admin = Admin::new(kafka)?;
    admin.delete_topic(TOPIC).await?;
    let spec = TopicSpec {
        name: TOPIC.into(),
        buckets: 1,
        retention_ms: None,
        config: BTreeMap::new(),
    };
    wait_until("the topic to be made again", WAIT_MAX, async || {
        admin.create_topic(&spec).await.ok()
    })
    .await?;
    let producer = Producer::new(kafka, ProducerSettings::default())?;
    for id in 0..250 {
        let value = format!("{{\"id\":{}}}", 1000 + id);
        producer.send(Message::new(TOPIC, Bucket(0), value)).await?;
    }
    Ok(())
}

/// Nobody counts the new topic's records by the old one's watermark.
async fn is_refused_by_name(fleet: &Fleet) -> Result<()> {
    let client = fleet.client()?;
    let flusher = fleet.flusher.ready("flusher")?;
    wait_until("the flusher to stop the table", WAIT_MAX, async || {
        let stopped = client.stopped(flusher, "t").await.ok()?;
        (stopped == ["topic_replaced"]).then_some(())
    })
    .await?;
    wait_until("readiness to name the table", WAIT_MAX, async || {
        let text = client.text(&format!("{flusher}/readyz?verbose")).await;
        let text = text.ok()?;
        (text.contains("default.t") && text.contains("tidelake table drop t")).then_some(())
    })
    .await?;
    // The query node may have looked at the topic a moment ago.
    refused("latest", || async {
        let latest = json!({"consistency": "latest", "timeout_ms": 60_000});
        client.sql_with("SELECT id FROM t", latest).await
    })
    .await?;
    refused("write", || async {
        client.ndjson("t", &lines(2000..2001)).await
    })
    .await?;
    let committed = client.ids("SELECT id FROM t ORDER BY id", "committed");
    let committed = committed.await?;
    ensure!(
        committed.iter().copied().eq(0..100),
        "committed: {} rows",
        committed.len()
    );
    Ok(())
}

async fn refused<F: Future<Output = Result<tidelake_tests::Answer>>>(
    what: &str,
    ask: impl Fn() -> F,
) -> Result<()> {
    let mut last = None;
    let met = wait_until(what, WAIT_MAX, async || {
        let answer = ask().await.ok()?;
        let named = answer.status == 409 && answer.code() == REPLACED;
        last = Some(answer);
        named.then_some(())
    })
    .await;
    met.with_context(|| format!("{what}: {last:?}"))
}

async fn others_go_on(client: &Client, first: u64) -> Result<()> {
    let ids = first..first + 10;
    client.ndjson("other", &lines(ids.clone())).await?.ok()?;
    client.flush("other").await?;
    let sql = format!("SELECT id FROM other WHERE id >= {first} ORDER BY id");
    let found = client.ids(&sql, "committed").await?;
    ensure!(found.iter().copied().eq(ids), "other: {found:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_again_is_refused_by_name_everywhere() {
    let broker = EmbeddedBroker::start().await.unwrap();
    let kafka = broker.settings();
    let mut fleet = Fleet::start(&broker.bootstrap(), &FLUSHER).await.unwrap();
    let client = fleet.client().unwrap();
    client.create_table("t", &numbered(), 1).await.unwrap();
    client.create_table("other", &numbered(), 1).await.unwrap();
    let written = client.ndjson("t", &lines(0..100)).await.unwrap();
    written.ok().unwrap();
    client.flush("t").await.unwrap();
    replace_topic(&kafka).await.unwrap();
    is_refused_by_name(&fleet).await.unwrap();
    others_go_on(&client, 0).await.unwrap();
    // Who begins only now, too.
    fleet.flusher.kill().unwrap();
    fleet.flusher = fleet.services.start("flusher", &FLUSHER).await.unwrap();
    fleet.query.kill().unwrap();
    fleet.query = fleet.services.start("query-api", &[]).await.unwrap();
    is_refused_by_name(&fleet).await.unwrap();
    others_go_on(&fleet.client().unwrap(), 10).await.unwrap();
    fleet.stop().await.unwrap();
}
