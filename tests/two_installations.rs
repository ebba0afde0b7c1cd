//! Two installations on one Apache Kafka, both with the names they have by default.

use anyhow::{Result, ensure};
use tidelake_testkit::{Kafka, WAIT_MAX, wait_until};
use tidelake_tests::Installation;

use crate::{lines, numbered};

const ROUNDS: u64 = 3;

async fn write(local: &Installation, table: &str, round: u64) -> Result<()> {
    let ids = round * 100..round * 100 + 100;
    local.client.ndjson(table, &lines(ids)).await?.ok()?;
    Ok(())
}

async fn has_all(local: &Installation, table: &str, rounds: u64) -> Result<()> {
    let sql = format!("SELECT id FROM {table} ORDER BY id");
    let mut last = Vec::new();
    let arrived = wait_until("the rows to be committed", WAIT_MAX, async || {
        last = local.client.ids(&sql, "committed").await.ok()?;
        last.iter().copied().eq(0..rounds * 100).then_some(())
    })
    .await;
    arrived.map_err(|error| error.context(format!("{table} has {} rows", last.len())))?;
    let latest = local.client.ids(&sql, "latest").await?;
    ensure!(latest == last, "{table}: latest has {} rows", latest.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installations_on_one_log_take_nothing_from_each_other() {
    let Some(kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let bootstrap = kafka.bootstrap();
    let arguments = ["--kafka-bootstrap", bootstrap.as_str()];
    let settings = [
        ("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "200"),
        ("TIDELAKE__FLUSHER__DISCOVERY_MS", "200"),
    ];
    let first = Installation::start_with(&arguments, &settings);
    let mut first = first.await.unwrap();
    let second = Installation::start_with(&arguments, &settings);
    let mut second = second.await.unwrap();
    let schema = numbered();
    let created = first.client.create_table("one", &schema, 2);
    created.await.unwrap();
    let created = second.client.create_table("two", &schema, 2);
    created.await.unwrap();
    for round in 0..ROUNDS {
        write(&first, "one", round).await.unwrap();
        write(&second, "two", round).await.unwrap();
        has_all(&first, "one", round + 1).await.unwrap();
        has_all(&second, "two", round + 1).await.unwrap();
        if round == 1 {
            second.process.kill().unwrap();
            second.restart().await.unwrap();
        }
    }
    first.process.stop().await.unwrap();
    second.process.stop().await.unwrap();
}
