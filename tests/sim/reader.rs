//! Query nodes as processes: what they answer is kept for the auditor.
//!
//! A node reads through the routes of the query API, so an answer comes from a table's version, its
//! files and its tail, and names the version and the positions that it saw.

use std::collections::BTreeMap;

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

use crate::life::Life;
use crate::log::SimLog;
use crate::machine::pass;
use crate::model::Row;
use crate::sim::{Sight, lock};
use crate::store::SimStore;
use crate::tables::{PREFIX, Table};
use crate::world::World;

const SNAPSHOTS_BYTES_MAX: u64 = 4 << 20;
const INDEX_BYTES_IN_MEMORY: usize = 1 << 10;
/// Who waits longer asks another node.
const PATIENCE_MS: u64 = 30_000;

/// What a node said of a table.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub table: &'static str,
    pub version: u64,
    pub positions: BTreeMap<u32, i64>,
    /// What writers had been told before the question, of the newest rows.
    pub acknowledged: BTreeMap<u32, i64>,
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
                    let (table, newest) = sim.draw(|dice| {
                        let table = dice.pick(&world.tables).cloned();
                        (table.expect("there are some"), dice.hits(800))
                    });
                    let asking = ask(&world, &node, &table, newest);
                    let outcome = tokio::select! {
                        biased;
                        outcome = asking => outcome,
                        () = pass(PATIENCE_MS) => Err(anyhow::anyhow!("no answer")),
                    };
                    match outcome {
                        Ok(answer) => lock(&world.answers).push(answer),
                        Err(error) => {
                            sim.note(format_args!("{life} is of no use: {error:#}"));
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

async fn ask(world: &World, node: &Router, table: &Table, newest: bool) -> Result<Answered> {
    let acknowledged = match newest {
        true => world.acknowledged_of(table),
        false => BTreeMap::new(),
    };
    let consistency = if newest { "latest" } else { "committed" };
    let sql = format!("SELECT id, value FROM {}", table.name);
    let body = json!({"sql": sql, "consistency": consistency});
    let request = Request::post("/v1/sql")
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))?;
    let response = node.clone().oneshot(request).await?;
    let status = response.status();
    let bytes = to_bytes(response.into_body(), usize::MAX).await?;
    let said: Value = serde_json::from_slice(&bytes)?;
    if !status.is_success() {
        bail!("{status}: {said}");
    }
    let rows = said["rows"].as_array().context("no rows")?.iter();
    let rows = rows.map(|row| {
        let column = |at: usize| row[at].as_i64().context("no whole number");
        Ok((column(0)?, column(1)?))
    });
    let mut rows = rows.collect::<Result<Vec<Row>>>()?;
    rows.sort_unstable();
    let positions = said["positions"][table.name].as_object();
    let positions = positions
        .context("no positions")?
        .iter()
        .map(|(bucket, to)| {
            let to = to.as_i64().context("no position")?;
            Ok((bucket.parse()?, to))
        });
    world.ground.sim.sees(match newest {
        true => Sight::LatestRead,
        false => Sight::CommittedRead,
    });
    Ok(Answered {
        table: table.name,
        version: said["version"][table.name].as_u64().context("no version")?,
        positions: positions.collect::<Result<_>>()?,
        acknowledged,
        rows,
    })
}
