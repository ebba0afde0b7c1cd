//! Kafka clients that share no code with ours or with librdkafka: kafkajs and aiokafka produce,
//! consume in a group, list offsets, commit and administer on the embedded broker.

use anyhow::{Context, Result, ensure};
use tidelake_testkit::{EmbeddedBroker, Readers, WAIT_MAX, external};
use tokio::process::Command;

const KAFKAJS: &str = include_str!("kafka_clients.js");
const AIOKAFKA: &str = include_str!("kafka_clients.py");

#[tokio::test(flavor = "multi_thread")]
async fn kafkajs_lives_on_the_embedded_broker() {
    if !external::wanted("kafkajs") {
        return;
    }
    kafkajs().await.unwrap();
}

async fn kafkajs() -> Result<()> {
    let broker = EmbeddedBroker::start().await?;
    let modules = external::cached("kafkajs/node_modules")?;
    let run = Command::new("node")
        .args(["-", &broker.bootstrap()])
        .env("NODE_PATH", modules)
        .stdin(script(KAFKAJS)?)
        .kill_on_drop(true)
        .output();
    let done = tokio::time::timeout(2 * WAIT_MAX, run)
        .await
        .context("kafkajs does not end")?
        .context("node does not start")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "kafkajs: {said}");
    Ok(())
}

/// A file to be read from its start.
fn script(text: &str) -> Result<std::process::Stdio> {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile()?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn aiokafka_lives_on_the_embedded_broker() {
    let Some(python) = Readers::new().unwrap() else {
        return;
    };
    let broker = EmbeddedBroker::start().await.unwrap();
    let bootstrap = broker.bootstrap();
    let arguments = [bootstrap.as_str()];
    let run = python.python(AIOKAFKA, &arguments);
    let said = tokio::time::timeout(3 * WAIT_MAX, run).await.unwrap();
    assert_eq!(said.unwrap().trim(), "ok");
}
