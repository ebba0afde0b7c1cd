//! Compactors as processes: two of them over the same tables, neither of which knows of the other.

use std::sync::Arc;

use anyhow::Result;
use tidelake_compactor::{Parts, Settings};
use tidelake_manifest::SnapshotCache;

use crate::life::Life;
use crate::machine::pass;
use crate::process::Ground;
use crate::store::SimStore;

/// Compactors that run at a time.
pub(crate) const COMPACTORS: usize = 2;
/// How their names begin.
pub(crate) const COMPACTOR: &str = "compactor";
const SNAPSHOTS_BYTES_MAX: u64 = 1 << 20;

/// Runs one compactor after the other. Most of them die at some request to the store, or while they
/// wait.
pub(crate) async fn keep(ground: Ground, number: usize) {
    let sim = ground.sim.clone();
    for run in 1_u64.. {
        let life = Life::new(format!("{COMPACTOR}-{number}.{run}"));
        let (settings, dies_at, lives_ms) = sim.draw(|dice| {
            let settings = Settings {
                sweep_ms: dice.of(50..3_000),
                sweep_max_ms: dice.of(1_000..10_000),
                memory_bytes_max: 16 << 20,
                target_file_bytes: dice.of(2..200) << 10,
                files_to_merge: dice.of(2..6) as usize,
                deleted_percent: dice.of(1..60) as u32,
                zstd_level: 1,
                ..Settings::default()
            };
            let dies_at = dice.hits(700).then(|| dice.of(0..400));
            (settings, dies_at, dice.of(1_000..30_000))
        });
        if let Some(requests) = dies_at {
            life.end_after(requests);
        }
        let running = run_one(&ground, &life, settings);
        let ended: Result<()> = tokio::select! {
            biased;
            () = life.ended() => Ok(()),
            () = pass(lives_ms) => Ok(()),
            ended = running => ended,
        };
        if let Err(error) = ended {
            sim.note(format_args!("{life} has ended: {error:#}"));
        }
        life.end(&sim);
        pass(sim.draw(|dice| dice.of(0..4_000))).await;
    }
}

async fn run_one(ground: &Ground, life: &Arc<Life>, settings: Settings) -> Result<()> {
    let parts = Parts {
        store: SimStore::open(&ground.disk, life, &ground.sim),
        snapshots: SnapshotCache::new(SNAPSHOTS_BYTES_MAX),
        catalog: None,
    };
    tidelake_compactor::run_in_place(settings, ground.runtime(life), parts).await?;
    Ok(())
}
