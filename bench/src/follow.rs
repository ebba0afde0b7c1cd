//! `follow`: what a query node of its own takes to follow a stream of upserts.
//!
//! Gateway, broker and flusher are one process, the query node is another one. It is asked for one
//! row at a time, `latest`: each answer waits until the node has read and applied all that was in
//! the log when it was asked.

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::freshness::{CLIENTS, TABLE, write};
use crate::reads::percentiles;
use crate::report::{Stopwatch, now, round};
use crate::system::{System, address, pause, program, ready};
use crate::upsert::{Dice, every_second, fill};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);
/// Upserts a second, where none are asked for.
const RATES: [u64; 3] = [50_000, 100_000, 200_000];

/// A query node; killed when dropped.
struct Node {
    child: Child,
    url: String,
}

impl Node {
    fn start(system: &System) -> Result<Self> {
        let folder = system.folder.path();
        let mut command = Command::new(program("query-api")?);
        command
            .args(["--listen", "127.0.0.1:0"])
            .args(["--kafka-bootstrap", &system.kafka])
            .arg("--store")
            .arg(format!("file://{}", folder.join("data/store").display()));
        let (child, line) = ready(command, &folder.join("query-log"))?;
        let url = address(&line, "query")?;
        Ok(Self { child, url })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub(crate) async fn run(live: u64, rate: Option<u64>, seconds: u64) -> Result<()> {
    let rates = rate.map_or(RATES.to_vec(), |rate| vec![rate]);
    for rate in rates {
        measure(live, rate, seconds).await?;
    }
    Ok(())
}

async fn measure(live: u64, rate: u64, seconds: u64) -> Result<()> {
    let system = Arc::new(System::start(&every_second())?);
    system.create_upsert(TABLE, 4).await?;
    fill(&system, TABLE, live).await?;
    let node = Node::start(&system)?;
    // The first question loads the key index.
    ask(&system, &node, 0).await?;
    let pids = [("tidelake", system.pid()), ("query", node.child.id())];
    let watch = Stopwatch::start(&pids);
    let end = now() + Duration::from_secs(seconds);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writing: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (system, acknowledged) = (Arc::clone(&system), Arc::clone(&acknowledged));
            let of = (client, live);
            tokio::spawn(write(system, of, rate / CLIENTS, end, acknowledged))
        })
        .collect();
    let (mut dice, mut times, mut refused) = (Dice::new(11), Vec::new(), 0_u64);
    while now() < end {
        let begun = now();
        match ask(&system, &node, dice.below(live)).await? {
            true => times.push(begun.elapsed()),
            false => refused += 1,
        }
        pause(PAUSE).await;
    }
    for client in writing {
        client.await??;
    }
    // It has all of them when this is answered.
    ensure!(
        ask(&system, &node, 0).await?,
        "the node does not come to the end"
    );
    let records = acknowledged.load(Ordering::SeqCst);
    let of_million = watch.cpu_seconds("query") * 1e6 / records as f64;
    let more = json!({
        "live_keys": live, "rate_wanted": rate, "ms": percentiles(times), "refused": refused,
        "query_cpu_seconds_per_million": round(of_million, 3),
    });
    watch.report("follow", records, None, more);
    Ok(())
}

/// False where the node is too far behind.
async fn ask(system: &System, node: &Node, key: u64) -> Result<bool> {
    let url = format!("{}/v1/tables/{TABLE}/rows/{key}", node.url);
    let answer = system.http.get(url).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(
        status.is_success() || status.as_u16() == 503,
        "{status}: {text}"
    );
    Ok(status.is_success())
}
