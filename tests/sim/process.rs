//! Flushers as processes: started, killed at any await, stopped, taken for dead.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use object_store::memory::InMemory;
use tidelake_flusher::{Parts, Settings};
use tidelake_log::LogClient;
use tidelake_log::memory::MemoryLog;
use tidelake_manifest::SnapshotCache;
use tidelake_service::Runtime;
use tidelake_table::index::IndexHome;

use crate::life::{Life, OwnClock, OwnIds};
use crate::log::{Membership, SimLog};
use crate::sim::Sim;
use crate::store::SimStore;

/// Key indexes above this size are kept in files, so that there are some.
const INDEX_BYTES_IN_MEMORY: usize = 1 << 10;
const SNAPSHOTS_BYTES_MAX: u64 = 4 << 20;

/// What all processes stand on.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub sim: Arc<Sim>,
    pub disk: Arc<InMemory>,
    pub log: MemoryLog,
}

impl Ground {
    /// The parts of a process that are its own.
    pub(crate) fn runtime(&self, life: &Arc<Life>) -> Runtime {
        Runtime {
            clock: Arc::new(OwnClock(life.clone())),
            ids: Arc::new(OwnIds::new(life, &self.sim)),
            ..Runtime::new()
        }
    }
}

/// One run of a flusher.
#[derive(Debug, Clone)]
pub(crate) struct Flusher {
    pub life: Arc<Life>,
    log: SimLog,
    runtime: Runtime,
}

impl Flusher {
    pub(crate) fn new(ground: &Ground, name: String) -> Self {
        let life = Life::new(name);
        Self {
            log: SimLog::new(&ground.log, &life, &ground.sim),
            runtime: ground.runtime(&life),
            life,
        }
    }

    /// Runs it until it dies, or ends by itself.
    pub(crate) async fn run(&self, ground: &Ground, settings: Settings, folder: &Path) {
        let sim = &ground.sim;
        // The name by which it comes back is kept there: without a folder of its own, programs that
        // run at the same time would have one together.
        let settings = Settings {
            index_dir: folder.display().to_string(),
            ..settings
        };
        let running = async {
            let parts = Parts {
                store: SimStore::open(&ground.disk, &self.life, sim),
                log: Arc::new(self.log.clone()) as Arc<dyn LogClient>,
                snapshots: SnapshotCache::new(SNAPSHOTS_BYTES_MAX),
                indexes: Some(IndexHome::open(folder, INDEX_BYTES_IN_MEMORY)?),
            };
            let runtime = self.runtime.clone();
            tidelake_flusher::run_in_place(settings, runtime, parts).await?;
            anyhow::Ok(())
        };
        let life = &self.life;
        let ended: Result<()> = tokio::select! {
            biased;
            () = life.ended() => Ok(()),
            ended = running => ended,
        };
        match ended {
            Ok(()) => sim.note(format_args!("{life} has ended")),
            Err(error) => sim.note(format_args!("{life} has ended: {error:#}")),
        }
        life.end(sim);
    }

    pub(crate) fn stop(&self) {
        self.runtime.shutdown.trigger();
    }

    pub(crate) fn membership(&self) -> Option<Membership> {
        self.log.membership()
    }
}
