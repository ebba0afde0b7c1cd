//! P7: a batch that unpacks to far more than it is stops its own table at most, by name, and costs
//! nobody else anything.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tidelake_testkit::{Kafka, Program, WAIT_MAX, wait_until};
use tidelake_tests::{Client, Fleet, Installation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{lines, numbered};

/// Above what a batch may unpack to, little enough to be packed in a test.
const UNPACKED: usize = 300 << 20;
const TOPIC: &str = "tidelake.default.t";
/// The flusher must not take in what it refuses.
const MEMORY_MIB_MAX: u64 = 800;

/// A number as records have it: zigzag, seven bits in a byte.
fn varint(number: i64) -> Vec<u8> {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        let crc = crc ^ u32::from(*byte);
        (0..8).fold(crc, |crc, _| (crc >> 1) ^ (0x82F6_3B78 * (crc & 1)))
    })
}

/// A batch of one record whose value is all zeros: right in every length, and a thousandth of what
/// it unpacks to (Kafka's format, version 2).
fn bomb() -> Result<Vec<u8>> {
    // Attributes, time and offset within the batch, no key; then value and no headers.
    let mut head = vec![0, 0, 0, 1];
    head.extend(varint(i64::try_from(UNPACKED)?));
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(&varint(i64::try_from(head.len() + UNPACKED + 1)?))?;
    packer.write_all(&head)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..UNPACKED / zeros.len() {
        packer.write_all(&zeros)?;
    }
    packer.write_all(&[0])?;
    let mut sealed = Vec::new();
    sealed.extend(1_i16.to_be_bytes()); // gzip
    sealed.extend(0_i32.to_be_bytes());
    sealed.extend([1_700_000_000_000_i64.to_be_bytes(); 2].concat());
    sealed.extend((-1_i64).to_be_bytes());
    sealed.extend((-1_i16).to_be_bytes());
    sealed.extend((-1_i32).to_be_bytes());
    sealed.extend(1_i32.to_be_bytes());
    sealed.extend(packer.finish()?);
    let mut batch = vec![0; 8];
    batch.extend(i32::try_from(9 + sealed.len())?.to_be_bytes());
    batch.extend((-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend(crc32c(&sealed).to_be_bytes());
    batch.extend(sealed);
    Ok(batch)
}

/// Produces a batch as it is into partition 0: the broker's error code, 0 where it took it.
async fn produce(bootstrap: &str, batch: &[u8]) -> Result<i16> {
    let text = |text: &str| -> Result<Vec<u8>> {
        let length = i16::try_from(text.len())?.to_be_bytes();
        Ok([&length[..], text.as_bytes()].concat())
    };
    let mut request = Vec::new();
    request.extend([0_i16.to_be_bytes(), 7_i16.to_be_bytes()].concat());
    request.extend(1_i32.to_be_bytes());
    request.extend(text("raw")?);
    request.extend((-1_i16).to_be_bytes()); // no transaction
    request.extend((-1_i16).to_be_bytes()); // acknowledged by all
    request.extend(60_000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(text(TOPIC)?);
    request.extend([1_i32.to_be_bytes(), 0_i32.to_be_bytes()].concat());
    request.extend(i32::try_from(batch.len())?.to_be_bytes());
    request.extend(batch);
    let mut stream = TcpStream::connect(bootstrap).await?;
    stream.write_i32(i32::try_from(request.len())?).await?;
    stream.write_all(&request).await?;
    let answer = async {
        let length = usize::try_from(stream.read_i32().await?)?;
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(WAIT_MAX, answer).await??;
    // Correlation, one topic by its name, one partition by its number.
    let at = 4 + 4 + 2 + TOPIC.len() + 4 + 4;
    let code = answer.get(at..at + 2).context("a short answer")?;
    Ok(i16::from_be_bytes(code.try_into()?))
}

/// Ten more rows arrive in a table, numbered from `first`.
async fn goes_on(client: &Client, table: &str, first: u64) -> Result<()> {
    let ids = first..first + 10;
    client.ndjson(table, &lines(ids.clone())).await?.ok()?;
    client.flush(table).await?;
    let sql = format!("SELECT id FROM {table} WHERE id >= {first} ORDER BY id");
    for consistency in ["committed", "latest"] {
        let found = client.ids(&sql, consistency).await?;
        ensure!(
            found.iter().copied().eq(ids.clone()),
            "{table}, {consistency}: {found:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_log_takes_no_batch_that_unpacks_without_end() {
    let local = Installation::start().await.unwrap();
    let client = &local.client;
    for table in ["t", "other"] {
        client.create_table(table, &numbered(), 1).await.unwrap();
        goes_on(client, table, 0).await.unwrap();
    }
    let code = produce(&local.kafka, &bomb().unwrap()).await.unwrap();
    assert_ne!(code, 0, "it was refused by a code");
    for table in ["t", "other"] {
        goes_on(client, table, 10).await.unwrap();
        let stopped = client.stopped(&client.gateway, table).await.unwrap();
        assert!(stopped.is_empty(), "{table}: {stopped:?}");
    }
}

const FLUSHER: [(&str, &str); 3] = [
    ("TIDELAKE__FLUSH_AGE_MS", "200"),
    ("TIDELAKE__DISCOVERY_MS", "200"),
    ("TIDELAKE__INSTANCE_ID", "one"),
];

/// The table stands, and everybody who asks is told why.
async fn is_told(fleet: &Fleet) -> Result<()> {
    let client = fleet.client()?;
    let flusher = fleet.flusher.ready("flusher")?;
    wait_until("the table to be named as stopped", WAIT_MAX, async || {
        let stopped = client.stopped(flusher, "t").await.ok()?;
        (stopped == ["log_damaged"]).then_some(())
    })
    .await?;
    wait_until("readiness to name it", WAIT_MAX, async || {
        let text = client.text(&format!("{flusher}/readyz?verbose")).await;
        text.ok()?.contains("default.t").then_some(())
    })
    .await?;
    let status = Program::new("tidelake")
        .args(["status", "-o", "json", "--url", &client.gateway])
        .args(["--query-url", &client.query, "--flusher-url", flusher]);
    let (ended, said) = status.run().await?;
    ensure!(
        !ended.success() && said.contains("default.t") && said.contains("log_damaged"),
        "status: {ended} {said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_unpacks_without_end_stops_its_own_table_by_name() {
    let Some(kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let bootstrap = kafka.bootstrap();
    let mut fleet = Fleet::start(&bootstrap, &FLUSHER).await.unwrap();
    let client = fleet.client().unwrap();
    for table in ["t", "other"] {
        client.create_table(table, &numbered(), 1).await.unwrap();
        goes_on(&client, table, 0).await.unwrap();
    }
    let code = produce(&bootstrap, &bomb().unwrap()).await.unwrap();
    assert_eq!(code, 0, "Apache Kafka does not look into batches");
    is_told(&fleet).await.unwrap();
    goes_on(&client, "other", 10).await.unwrap();
    // What was committed before it is there; what is behind it is said to be out of reach.
    let committed = client.ids("SELECT id FROM t ORDER BY id", "committed");
    assert_eq!(committed.await.unwrap(), (0..10).collect::<Vec<_>>());
    let more = json!({"consistency": "latest", "timeout_ms": 60_000});
    let latest = client.sql_with("SELECT id FROM t", more).await.unwrap();
    assert!(
        (400..600).contains(&latest.status) && !latest.code().is_empty(),
        "{latest:?}"
    );
    // A restart changes nothing of it.
    fleet.flusher.kill().unwrap();
    fleet.flusher = fleet.services.start("flusher", &FLUSHER).await.unwrap();
    is_told(&fleet).await.unwrap();
    goes_on(&client, "other", 20).await.unwrap();
    let peak = peak_mib(fleet.flusher.id());
    assert!(peak < Some(MEMORY_MIB_MAX), "{peak:?} MiB");
    fleet.stop().await.unwrap();
}

/// The most memory that a process had; none where the system does not tell.
fn peak_mib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}
