//! Records of direct producers in a bucket that is not their key's: each comes to its own bucket once,
//! and never in the way of a newer one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use tidelake_core::partition::bucket_of;
use tidelake_core::{Offset, TopicId};
use tidelake_intake::{Origin, OriginKey};
use tidelake_testkit::{EmbeddedBroker, Readers, WAIT_MAX, wait_until};
use tidelake_tests::{Client, Direct, Fleet, Installation};

use crate::upsert_load::schema;

const BUCKETS: u32 = 3;
const ROWS: &str = "SELECT id, v FROM t ORDER BY id";
const MISROUTED: &str = "tidelake_flusher_misrouted_total{table=\"t\",tenant=\"default\"}";
const HELD: &str = "tidelake_flusher_buffer_bytes";

fn record(id: u64, v: u64) -> Option<String> {
    Some(format!("{{\"id\":{id},\"v\":{v}}}"))
}

async fn committed(client: &Client, expected: &BTreeMap<u64, u64>) -> Result<()> {
    let expected: Vec<_> = expected.iter().map(|(id, v)| (*id, *v)).collect();
    wait_until("the rows to be committed", WAIT_MAX, async || {
        let rows = client.pairs(ROWS, "committed").await.ok()?;
        (rows == expected).then_some(())
    })
    .await?;
    let rows = client.pairs(ROWS, "latest").await?;
    ensure!(rows == expected, "latest has other rows than committed");
    Ok(())
}

/// Every row that was ever written, hidden columns included.
const PHYSICAL: &str = "
import duckdb, sys
duckdb.sql(\"SET enable_progress_bar = false\")
rows = duckdb.sql(f\"SELECT id, __bucket, __offset, __row FROM read_parquet('{sys.argv[1]}/**/*.parquet')\")
for row in rows.fetchall():
    print(*row)
";

#[tokio::test(flavor = "multi_thread")]
async fn a_misrouted_record_lands_once_in_its_own_bucket() {
    let settings = [("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "100")];
    let local = Installation::start_with(&[], &settings).await.unwrap();
    let client = &local.client;
    client.create_upsert("t", &schema(), BUCKETS).await.unwrap();
    let direct = Direct::new(&local.kafka, "t", BUCKETS).unwrap();
    let misrouted = |id: u64, value: Option<String>| {
        let key = id.to_string();
        direct.record(direct.elsewhere(&key, id), &key, value)
    };
    let mut model: BTreeMap<u64, u64> = (0..300).map(|id| (id, id)).collect();
    let inserts = model.iter().map(|(id, v)| misrouted(*id, record(*id, *v)));
    direct.send(inserts).await.unwrap();
    committed(client, &model).await.unwrap();

    let mut changes = Vec::new();
    let mut count = 300;
    for id in 0..300 {
        let key = id.to_string();
        match id % 4 {
            0 => {
                changes.push(misrouted(id, None));
                model.remove(&id);
            }
            1 => {
                changes.push(misrouted(id, record(id, id + 1000)));
                model.insert(id, id + 1000);
            }
            // Where it belongs, and another's misrouted record beside it.
            2 => {
                changes.push(direct.record(direct.home(&key), &key, record(id, id + 2000)));
                changes.push(misrouted(id + 1000, record(id + 1000, 7)));
                model.extend([(id, id + 2000), (id + 1000, 7)]);
            }
            _ => continue,
        }
        count += 1;
    }
    direct.send(changes).await.unwrap();
    committed(client, &model).await.unwrap();
    let counted = client.metric(&client.gateway, MISROUTED).await.unwrap();
    assert_eq!(counted, f64::from(count));
    assert_eq!(direct.dead_letters().await.unwrap(), 0);

    let Some(readers) = Readers::new().unwrap() else {
        return;
    };
    let folder = local.table_folder("t").unwrap().display().to_string();
    let rows = readers.python(PHYSICAL, &[&folder]).await.unwrap();
    let mut positions = BTreeSet::new();
    for row in rows.lines() {
        let mut columns = row.split(' ');
        let id = columns.next().unwrap();
        let position: Vec<u32> = columns.map(|column| column.parse().unwrap()).collect();
        assert_eq!(position[0], bucket_of(id.as_bytes(), BUCKETS).0, "{row}");
        assert!(positions.insert(position), "{row} is there twice");
    }
    assert_eq!(positions.len(), 300 + 3 * 75);
}

/// What the flusher does not count as a row is none for fresh reads either, whether the log or the
/// table knows that the record was taken before.
#[tokio::test(flavor = "multi_thread")]
async fn a_misrouted_record_that_is_published_again_brings_nothing_back() {
    let settings = [("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "60000")];
    let local = Installation::start_with(&[], &settings).await.unwrap();
    let client = &local.client;
    client.create_upsert("t", &schema(), BUCKETS).await.unwrap();
    let direct = Direct::new(&local.kafka, "t", BUCKETS).unwrap();
    let signs = origin_key(&local).await.unwrap();
    let source = direct.elsewhere("1", 0);
    let again = |offset: i64, v: u64| {
        let origin = Origin {
            bucket: source,
            offset: Offset(offset),
            floor: Offset(offset),
        };
        let header = signs.header(origin, direct.home("1"));
        let value = record(1, v).unwrap_or_default();
        direct.from_elsewhere(std::str::from_utf8(&header).unwrap(), "1", &value)
    };
    let own = |v| direct.record(direct.home("1"), "1", record(1, v));
    let latest = async || client.pairs(ROWS, "latest").await.unwrap();

    direct.send([again(5, 50)]).await.unwrap();
    assert_eq!(latest().await, [(1, 50)]);
    direct.send([own(60), again(5, 50)]).await.unwrap();
    assert_eq!(latest().await, [(1, 60)], "taken in the tail");
    direct.send([again(4, 40)]).await.unwrap();
    assert_eq!(latest().await, [(1, 60)], "older than what was taken");
    client.flush("t").await.unwrap();
    assert_eq!(client.pairs(ROWS, "committed").await.unwrap(), [(1, 60)]);
    direct.send([again(5, 50)]).await.unwrap();
    assert_eq!(latest().await, [(1, 60)], "taken in the table");
    direct.send([again(6, 70)]).await.unwrap();
    assert_eq!(latest().await, [(1, 70)], "news");
    client.flush("t").await.unwrap();
    assert_eq!(client.pairs(ROWS, "committed").await.unwrap(), [(1, 70)]);
    assert_eq!(direct.dead_letters().await.unwrap(), 0);
}

/// What signs the origins of a table's flusher, which no producer knows.
async fn origin_key(local: &Installation) -> Result<OriginKey> {
    let described = local.client.get("/v1/tables/t").await?.ok()?;
    let topic = described["topic_id"].as_str().context("no topic id")?;
    let log = local.table_folder("t")?.join("_delta_log");
    let first = std::fs::read_to_string(log.join("00000000000000000000.json"))?;
    let metadata = first.lines().find_map(|line| {
        let action: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(action["metaData"]["id"].as_str()?.to_owned())
    });
    let id = metadata.context("no metadata")?;
    Ok(OriginKey::new(
        &id,
        TopicId::parse(topic).context("not a topic id")?,
    ))
}

/// A mirrored, restored or forged header: the record counts as if it had none, and what is misrouted
/// later still arrives.
#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_not_ours_takes_nothing_away() {
    let settings = [("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "60000")];
    let local = Installation::start_with(&[], &settings).await.unwrap();
    let client = &local.client;
    client.create_upsert("t", &schema(), BUCKETS).await.unwrap();
    let direct = Direct::new(&local.kafka, "t", BUCKETS).unwrap();
    let mut forged: Vec<String> = ["", "x", "0", "0/-1", "0/1/2", "\u{e9}/1", "3/0"]
        .map(str::to_owned)
        .to_vec();
    let far = i64::MAX;
    forged.extend((0..BUCKETS).map(|bucket| format!("{bucket}/{far}")));
    let value = record(1, 13).unwrap_or_default();
    let messages = forged.iter();
    let messages = messages.map(|origin| direct.from_elsewhere(origin, "1", &value));
    direct.send(messages.collect::<Vec<_>>()).await.unwrap();
    assert_eq!(client.pairs(ROWS, "latest").await.unwrap(), [(1, 13)]);
    let mut model = BTreeMap::from([(1, 13)]);
    let misrouted = (2..22).map(|id: u64| {
        let key = id.to_string();
        direct.record(direct.elsewhere(&key, id), &key, record(id, id))
    });
    direct.send(misrouted.collect::<Vec<_>>()).await.unwrap();
    model.extend((2..22).map(|id| (id, id)));
    client.flush("t").await.unwrap();
    client.flush("t").await.unwrap();
    committed(client, &model).await.unwrap();
    assert_eq!(direct.dead_letters().await.unwrap(), 0);
}

/// A flusher that sleeps with misrouted records in memory publishes them when it wakes up, long after
/// its heir did, and after newer records.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_that_publishes_misrouted_records_late_brings_nothing_back() {
    let broker = EmbeddedBroker::start().await.unwrap();
    let bootstrap = broker.bootstrap();
    let settings = |flush_age| {
        [
            ("TIDELAKE__FLUSH_AGE_MS", flush_age),
            ("TIDELAKE__DISCOVERY_MS", "200"),
            ("TIDELAKE__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "2000"),
            ("TIDELAKE__KAFKA__PROPERTIES__HEARTBEAT_INTERVAL_MS", "300"),
        ]
    };
    let fleet = Fleet::start(&bootstrap, &settings("10000")).await.unwrap();
    let client = fleet.client().unwrap();
    client.create_upsert("t", &schema(), BUCKETS).await.unwrap();
    let direct = Direct::new(&bootstrap, "t", BUCKETS).unwrap();
    let misrouted = (0..50).map(|id: u64| {
        let key = id.to_string();
        direct.record(direct.elsewhere(&key, id), &key, record(id, 1))
    });
    direct.send(misrouted).await.unwrap();
    let zombie = fleet.flusher.ready("flusher").unwrap();
    let what = "the zombie to hold misrouted records";
    wait_until(what, WAIT_MAX, async || {
        // More where it lost its buckets and got them back: a busy machine misses heartbeats.
        let taken = client.metric(zombie, MISROUTED).await.ok()?;
        let held = client.metric(zombie, HELD).await.ok()?;
        (taken >= 50.0 && held > 0.0).then_some(())
    })
    .await
    .unwrap();
    fleet.flusher.pause().unwrap();
    let quick = settings("100");
    let _heir = fleet.services.start("flusher", &quick).await.unwrap();
    let older: BTreeMap<_, _> = (0..50).map(|id| (id, 1)).collect();
    committed(&client, &older).await.unwrap();
    let newer = (0..50).map(|id: u64| {
        let key = id.to_string();
        direct.record(direct.home(&key), &key, record(id, 2))
    });
    direct.send(newer).await.unwrap();
    let newer: BTreeMap<_, _> = (0..50).map(|id| (id, 2)).collect();
    committed(&client, &newer).await.unwrap();

    let before = direct.messages().await.unwrap();
    fleet.flusher.resume().unwrap();
    wait_until(
        "the zombie to publish or to give up",
        WAIT_MAX,
        async || {
            // It may hear that its buckets are gone before it is about to flush.
            let gave_up = client.metric(zombie, HELD).await.ok()? == 0.0;
            (gave_up || direct.messages().await.ok()? >= before + 50).then_some(())
        },
    )
    .await
    .unwrap();
    let expected: Vec<_> = newer.into_iter().collect();
    assert_eq!(client.pairs(ROWS, "latest").await.unwrap(), expected);
    client.flush("t").await.unwrap();
    for consistency in ["latest", "committed"] {
        assert_eq!(client.pairs(ROWS, consistency).await.unwrap(), expected);
    }
    assert_eq!(direct.dead_letters().await.unwrap(), 0);
}

const KEYS: u64 = 240;
const ROUNDS: u64 = 4;

fn flusher(instance: &str) -> [(&str, &str); 3] {
    [
        ("TIDELAKE__FLUSH_AGE_MS", "40"),
        ("TIDELAKE__DISCOVERY_MS", "200"),
        ("TIDELAKE__INSTANCE_ID", instance),
    ]
}

/// Each key: a misrouted record; once that is seen as committed, a newer one straight to its bucket.
/// From then on the first must not be seen, however often a crash makes it be published again.
struct Succession<'a> {
    direct: &'a Direct,
    client: &'a Client,
    waiting: BTreeSet<u64>,
    settled: BTreeMap<u64, u64>,
}

impl Succession<'_> {
    async fn step(&mut self) -> Result<()> {
        let seen = self.client.pairs(ROWS, "committed").await?;
        let arrived: Vec<_> = seen
            .into_iter()
            .filter(|(id, _)| self.waiting.contains(id))
            .collect();
        let newer = arrived.iter().map(|(id, v)| {
            let key = id.to_string();
            let home = self.direct.home(&key);
            self.direct.record(home, &key, record(*id, v + 1))
        });
        self.direct.send(newer).await?;
        for (id, v) in arrived {
            self.waiting.remove(&id);
            self.settled.insert(id, v + 1);
        }
        self.check("latest").await
    }

    async fn check(&self, consistency: &str) -> Result<()> {
        let found = self.client.pairs(ROWS, consistency).await?;
        let found_keys = found.len();
        let found: BTreeMap<_, _> = found.into_iter().collect();
        ensure!(
            found.len() == found_keys,
            "{consistency}: a key is there twice"
        );
        for (id, v) in &self.settled {
            let now = found.get(id);
            ensure!(
                now == Some(v),
                "{consistency}: key {id} is {now:?}, not {v} as acknowledged"
            );
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_amid_misrouted_records_brings_no_older_record_back() {
    let broker = EmbeddedBroker::start().await.unwrap();
    let bootstrap = broker.bootstrap();
    let mut fleet = Fleet::start(&bootstrap, &flusher("one")).await.unwrap();
    let mut second = fleet
        .services
        .start("flusher", &flusher("two"))
        .await
        .unwrap();
    let client = fleet.client().unwrap();
    client.create_upsert("t", &schema(), BUCKETS).await.unwrap();
    let direct = Direct::new(&bootstrap, "t", BUCKETS).unwrap();
    let mut keys = Succession {
        direct: &direct,
        client: &client,
        waiting: BTreeSet::new(),
        settled: BTreeMap::new(),
    };
    for round in 0..ROUNDS {
        let ids = round * KEYS..(round + 1) * KEYS;
        keys.waiting.extend(ids.clone());
        let flood = async {
            for id in ids {
                let key = id.to_string();
                let value = record(id, id * 10);
                let message = direct.record(direct.elsewhere(&key, id), &key, value);
                direct.send([message]).await?;
            }
            anyhow::Ok(())
        };
        let killed = if round % 2 == 0 {
            &mut fleet.flusher
        } else {
            &mut second
        };
        let instance = if round % 2 == 0 { "one" } else { "two" };
        let services = &fleet.services;
        let watch = async {
            // A different moment of the flood each time.
            let left = usize::try_from(KEYS - 1 - round * KEYS / ROUNDS)?;
            while keys.waiting.len() > left {
                keys.step().await?;
            }
            killed.kill()?;
            let settings = flusher(instance);
            let started = services.start("flusher", &settings);
            let steps = async {
                while !keys.waiting.is_empty() {
                    keys.step().await?;
                }
                anyhow::Ok(())
            };
            let all = async { tokio::try_join!(started, steps) };
            let (process, ()) = tokio::time::timeout(WAIT_MAX, all)
                .await
                .context("misrouted records do not come through")??;
            *killed = process;
            anyhow::Ok(())
        };
        tokio::try_join!(flood, watch).unwrap();
    }
    client.flush("t").await.unwrap();
    keys.check("latest").await.unwrap();
    keys.check("committed").await.unwrap();
    assert_eq!(direct.dead_letters().await.unwrap(), 0);
    second.stop().await.unwrap();
    fleet.stop().await.unwrap();
}
