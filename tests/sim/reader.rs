//! Query nodes as processes: what they answer is kept for the auditor.
//!
//! A node reads through the routes of the query API, so an answer comes from a table's version, its
//! files and its tail, and names the version and the positions that it saw.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::{Value, json};
use tidelake_catalog::Catalog;
use tidelake_manifest::SnapshotCache;
use tidelake_query_api::{Engine, Parts, QueryMetrics, QuerySettings, TailLog, router};
use tidelake_table::index::IndexHome;
use tower::ServiceExt;

use crate::dice::Dice;
use crate::life::Life;
use crate::log::SimLog;
use crate::machine::pass;
use crate::model::{Kind, Row};
use crate::sim::{Sight, lock};
use crate::store::SimStore;
use crate::tables::{PREFIX, Table};
use crate::world::World;

const SNAPSHOTS_BYTES_MAX: u64 = 4 << 20;
const INDEX_BYTES_IN_MEMORY: usize = 1 << 10;
/// Who waits longer asks another node.
const PATIENCE_MS: u64 = 30_000;
const POSITIONS: &str = "x-tidelake-positions";
/// Keys that are looked for; most are there now and then.
const KEYS: Range<i64> = 0..80;

/// What a node said of a table.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub table: &'static str,
    pub version: u64,
    pub positions: BTreeMap<u32, i64>,
    /// What writers had been told before the question, of the newest rows.
    pub acknowledged: BTreeMap<u32, i64>,
    /// Those that were asked for; none where it was all.
    pub keys: Option<Range<i64>>,
    pub rows: Vec<Row>,
}

/// Asks one node after the other, until it is stopped.
pub(crate) async fn run(world: World) {
    let sim = &world.ground.sim;
    for number in 1.. {
        let life = Life::new(format!("reader.{number}"));
        sim.note(format_args!("{life} begins"));
        let questions = sim.draw(|dice| dice.of(1..40));
        match node(&world, &life).await {
            Ok(node) => {
                for _ in 0..questions {
                    pass(sim.draw(|dice| dice.of(20..1_500))).await;
                    let (table, question) = sim.draw(|dice| {
                        let table = dice.pick(&world.tables).expect("there are some");
                        let last = lock(&world.versions).get(table.name).copied();
                        let last = last.unwrap_or(0);
                        (table.clone(), Question::about(dice, table, last))
                    });
                    let asking = ask(&world, &node, &table, question);
                    let outcome = tokio::select! {
                        biased;
                        outcome = asking => outcome,
                        () = pass(PATIENCE_MS) => Err(anyhow::anyhow!("no answer")),
                    };
                    match outcome {
                        Ok(answer) => lock(&world.answers).push(answer),
                        Err(error) => {
                            sim.note(format_args!("{life} can't say {question:?}: {error:#}"));
                        }
                    }
                }
            }
            Err(error) => sim.note(format_args!("{life} does not begin: {error:#}")),
        }
        life.end(sim);
        pass(500).await;
    }
}

async fn node(world: &World, life: &std::sync::Arc<Life>) -> Result<Router> {
    let ground = &world.ground;
    let runtime = ground.runtime(life);
    let store = SimStore::open(&ground.disk, life, &ground.sim);
    let (clock, ids) = (runtime.clock.clone(), runtime.ids.clone());
    let catalog = Catalog::open(&store, clock.clone(), ids.clone()).await?;
    let log = SimLog::new(&ground.log, life, &ground.sim);
    let folder = world.folder.path().join(&life.name);
    let settings = QuerySettings {
        target_partitions: 2,
        ..QuerySettings::default()
    };
    let engine = Engine::new(Parts {
        settings,
        store,
        catalog,
        tail: TailLog::new(&log, PREFIX),
        snapshots: SnapshotCache::new(SNAPSHOTS_BYTES_MAX),
        indexes: Some(IndexHome::open(&folder, INDEX_BYTES_IN_MEMORY)?),
        pace: Default::default(),
        clock,
        ids,
        metrics: QueryMetrics::new(&runtime.metrics),
    })?;
    Ok(router(engine, &runtime))
}

/// What a node is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// All rows, the newest among them.
    Latest,
    /// All rows that are committed.
    Committed,
    /// All rows of a version of the past.
    Past(u64),
    /// Rows by their keys.
    Keys,
    /// All rows in the order of their keys.
    Range,
}

impl Question {
    fn about(dice: &mut Dice, table: &Table, last: u64) -> Self {
        let has_keys = table.kind == Kind::Upsert;
        match dice.of(0..10) {
            0 => Self::Committed,
            1 => Self::Past(last.saturating_sub(dice.of(0..12))),
            2..5 if has_keys => Self::Keys,
            5..7 if has_keys => Self::Range,
            _ => Self::Latest,
        }
    }

    fn request(self, name: &str) -> Result<Request<Body>> {
        let select = format!("SELECT id, value FROM {name}");
        let post = |path: &str, body: Value| {
            let request = Request::post(path).header("content-type", "application/json");
            request.body(Body::from(body.to_string()))
        };
        Ok(match self {
            Self::Latest => post("/v1/sql", json!({"sql": select}))?,
            Self::Committed => {
                let body = json!({"sql": select, "consistency": "committed"});
                post("/v1/sql", body)?
            }
            Self::Past(version) => {
                post("/v1/sql", json!({"sql": select, "as_of_version": version}))?
            }
            Self::Keys => {
                let keys: Vec<_> = KEYS.collect();
                post(&format!("/v1/tables/{name}/lookup"), json!({"keys": keys}))?
            }
            Self::Range => {
                let path = format!("/v1/tables/{name}/rows?limit=10000");
                Request::get(path).body(Body::empty())?
            }
        })
    }

    /// Whether what was acknowledged before must be in the answer.
    fn is_of_the_newest(self) -> bool {
        matches!(self, Self::Latest | Self::Keys | Self::Range)
    }
}

async fn ask(world: &World, node: &Router, table: &Table, question: Question) -> Result<Answered> {
    let acknowledged = match question.is_of_the_newest() {
        true => world.acknowledged_of(table),
        false => BTreeMap::new(),
    };
    let response = node.clone().oneshot(question.request(table.name)?).await?;
    let status = response.status();
    let positions = response.headers().get(POSITIONS).cloned();
    let bytes = to_bytes(response.into_body(), usize::MAX).await?;
    let said: Value = serde_json::from_slice(&bytes)?;
    if !status.is_success() {
        bail!("{status}: {said}");
    }
    let rows = said["rows"].as_array().context("no rows")?.iter();
    let rows = rows.filter(|row| !row.is_null()).map(|row| {
        let column = |at: usize, name: &str| {
            let cell = row.get(at).unwrap_or(&row[name]);
            cell.as_i64().context("no whole number")
        };
        Ok((column(0, "id")?, column(1, "value")?))
    });
    let mut rows = rows.collect::<Result<Vec<Row>>>()?;
    rows.sort_unstable();
    let positions: Value = serde_json::from_slice(positions.context("no positions")?.as_bytes())?;
    let positions = positions[table.name].as_object();
    let positions = positions
        .context("no positions")?
        .iter()
        .map(|(bucket, to)| {
            let to = to.as_i64().context("no position")?;
            Ok((bucket.parse()?, to))
        });
    world.ground.sim.sees(match question {
        Question::Latest => Sight::LatestRead,
        Question::Committed => Sight::CommittedRead,
        Question::Past(_) => Sight::PastRead,
        Question::Keys | Question::Range => Sight::KeyedRead,
    });
    Ok(Answered {
        table: table.name,
        version: said["version"][table.name].as_u64().context("no version")?,
        positions: positions.collect::<Result<_>>()?,
        acknowledged,
        keys: (question == Question::Keys).then_some(KEYS),
        rows,
    })
}
