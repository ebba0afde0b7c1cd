//! How long nobody commits where a flusher ends and another begins. `takeover`: one that owns buckets
//! of many keys is killed, and another has the same instance id and nothing on its disk. `restart`:
//! flushers without a name of their own are killed, stopped, and replaced.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::report::{now, report, round};
use crate::system::{Options, System, pause, program};
use crate::upsert::{ARROW, Dice, body, fill, rows};

const WAIT_MAX: Duration = Duration::from_secs(120);

struct Flusher {
    child: Child,
    _index: Arc<TempDir>,
}

impl Flusher {
    /// A flusher with this folder for its key indexes, and a name of its own or that of the folder.
    fn start(room: &Room, index: &Arc<TempDir>, name: Option<&str>) -> Result<Self> {
        let mut command = Command::new(program("flusher")?);
        command
            .args(["--kafka-bootstrap", &room.system.kafka])
            .args(["--store", &room.store])
            .args(["--listen", "127.0.0.1:0"])
            .env("TIDELAKE__FLUSH_AGE_MS", "1000")
            .env("TIDELAKE__INDEX_DIR", index.path());
        if let Some(name) = name {
            command.env("TIDELAKE__INSTANCE_ID", name);
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            _index: Arc::clone(index),
        })
    }

    /// As an orchestrator stops it.
    fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status()?;
        ensure!(sent.success(), "the flusher took no signal");
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A table, and everything but a flusher that would find it.
struct Room {
    system: Arc<System>,
    broker: &'static str,
    store: String,
    live: u64,
    dice: Dice,
}

impl Room {
    /// On the embedded broker, or on this Kafka.
    async fn new(live: u64, kafka: Option<&str>) -> Result<Self> {
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
        let store = system.folder.path().join("data/store");
        system.create_upsert("clicks", 4).await?;
        Ok(Self {
            broker: match kafka {
                Some(_) => "apache kafka",
                None => "embedded",
            },
            store: format!("file://{}", store.display()),
            system,
            live,
            dice: Dice::new(9),
        })
    }

    async fn write(&mut self, records: usize) -> Result<()> {
        let ids = (0..records).map(|_| self.dice.below(self.live) as i64);
        let body = body(&rows(ids.collect(), 1)?)?;
        let path = "/v1/tables/clicks/records";
        self.system.post(path, body, ARROW).await?;
        Ok(())
    }

    async fn version(&self) -> Result<u64> {
        let table = self.system.describe("clicks").await?;
        table["version"].as_u64().context("no version")
    }

    /// Seconds from `begun` to a version after this one.
    async fn committed(&self, version: u64, begun: Instant) -> Result<f64> {
        while self.version().await? == version {
            if begun.elapsed() > WAIT_MAX {
                bail!("no commit within {WAIT_MAX:?}");
            }
            pause(Duration::from_millis(20)).await;
        }
        Ok(round(begun.elapsed().as_secs_f64(), 3))
    }
}

impl Room {
    fn report(&self, name: &str, seconds: Value, target: u64) {
        report(
            name,
            json!({
                "broker": self.broker, "live_keys": self.live, "buckets": 4,
                "seconds_to_first_commit": seconds, "of_these_flush_age_seconds": 1,
                "target_seconds": target,
            }),
        );
    }
}

fn folder() -> Result<Arc<TempDir>> {
    Ok(Arc::new(tempfile::tempdir()?))
}

/// A flusher that owns buckets of many keys is killed, and its disk is lost.
pub(crate) async fn run(live: u64, kafka: Option<&str>) -> Result<()> {
    let mut room = Room::new(live, kafka).await?;
    let first = Flusher::start(&room, &folder()?, Some("bench"))?;
    fill(&room.system, "clicks", live).await?;
    let version = room.version().await?;
    drop(first);
    room.write(100_000).await?;
    let begun = now();
    let _second = Flusher::start(&room, &folder()?, Some("bench"))?;
    let seconds = room.committed(version, begun).await?;
    room.report("takeover", json!(seconds), 5);
    Ok(())
}

/// Flushers that nobody gave a name end and begin: a crash, a restart, a deployment that starts the
/// next one before it stops the last.
pub(crate) async fn restart(live: u64, kafka: Option<&str>) -> Result<()> {
    let mut room = Room::new(live, kafka).await?;
    let disk = folder()?;
    let first = Flusher::start(&room, &disk, None)?;
    fill(&room.system, "clicks", live).await?;
    let mut told = serde_json::Map::new();

    drop(first);
    let (version, begun) = (room.version().await?, now());
    room.write(1000).await?;
    let second = Flusher::start(&room, &disk, None)?;
    let seconds = room.committed(version, begun).await?;
    told.insert("after_kill_9".into(), json!(seconds));

    second.stop()?;
    let (version, begun) = (room.version().await?, now());
    room.write(1000).await?;
    let third = Flusher::start(&room, &disk, None)?;
    let seconds = room.committed(version, begun).await?;
    told.insert("after_sigterm".into(), json!(seconds));

    let _fourth = Flusher::start(&room, &folder()?, None)?;
    // Until it has its part of the buckets.
    pause(Duration::from_secs(5)).await;
    third.stop()?;
    let (version, begun) = (room.version().await?, now());
    room.write(1000).await?;
    room.committed(version, begun).await?;
    // The other half of the buckets may be committed apart.
    room.system.flush("clicks").await?;
    let seconds = round(begun.elapsed().as_secs_f64(), 3);
    told.insert("all_buckets_after_handing_over".into(), json!(seconds));
    room.report("restart", told.into(), 3);
    Ok(())
}
