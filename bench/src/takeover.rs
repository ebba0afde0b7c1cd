//! `takeover`: a flusher that owns buckets of many keys is killed; how long until another, with the
//! same instance id and nothing on its disk, has committed.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::report::{now, report, round};
use crate::system::{Options, System, pause, program};
use crate::upsert::{ARROW, Dice, body, fill, rows};

const WAIT_MAX: Duration = Duration::from_secs(120);

struct Flusher {
    child: Child,
    _index: tempfile::TempDir,
}

impl Flusher {
    fn start(kafka: &str, store: &str) -> Result<Self> {
        let index = tempfile::tempdir()?;
        let child = Command::new(program("flusher")?)
            .args([
                "--kafka-bootstrap",
                kafka,
                "--store",
                store,
                "--listen",
                "127.0.0.1:0",
            ])
            .env("TIDELAKE__INSTANCE_ID", "bench")
            .env("TIDELAKE__FLUSH_AGE_MS", "1000")
            .env("TIDELAKE__INDEX_DIR", index.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            _index: index,
        })
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// On the embedded broker, or on this Kafka.
pub(crate) async fn run(live: u64, kafka: Option<&str>) -> Result<()> {
    let broker = if kafka.is_some() {
        "apache kafka"
    } else {
        "embedded"
    };
    // The process that holds broker, gateway and query node has a flusher of another group, which
    // never finds the table: ours is the only one at work.
    let options = Options {
        kafka: kafka.map(str::to_owned),
        environment: vec![
            ("TIDELAKE__FLUSHER__GROUP".into(), "nobody".into()),
            ("TIDELAKE__FLUSHER__DISCOVERY_MS".into(), "3600000".into()),
        ],
    };
    let system = Arc::new(System::start(&options)?);
    let store = format!(
        "file://{}",
        system.folder.path().join("data/store").display()
    );
    let kafka = system.kafka.clone();
    system.create_upsert("clicks", 4).await?;
    let first = Flusher::start(&kafka, &store)?;
    fill(&system, "clicks", live).await?;
    let version = version(&system).await?;
    drop(first);
    let ids = (0..100_000)
        .map(|_| 0)
        .scan(Dice::new(9), |dice, _: u64| Some(dice.below(live) as i64));
    let body = body(&rows(ids.collect(), 1)?)?;
    system
        .post("/v1/tables/clicks/records", body, ARROW)
        .await?;
    let begun = now();
    let _second = Flusher::start(&kafka, &store)?;
    while self::version(&system).await? == version {
        if begun.elapsed() > WAIT_MAX {
            bail!("no commit within {WAIT_MAX:?}");
        }
        pause(Duration::from_millis(20)).await;
    }
    report(
        "takeover",
        json!({
            "broker": broker, "live_keys": live, "buckets": 4, "seconds_to_first_commit": round(begun.elapsed().as_secs_f64(), 3),
            "of_these_flush_age_seconds": 1, "target_seconds": 5,
        }),
    );
    Ok(())
}

async fn version(system: &System) -> Result<u64> {
    system.describe("clicks").await?["version"]
        .as_u64()
        .context("no version")
}
