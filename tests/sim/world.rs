//! One simulation, from its seed to the verdict.
//!
//! ```text
//!   producers ──► log in memory ──► flushers, each a process of its own ──► disk in memory
//!                     ▲                     ▲                                  ▲      │
//!                     └──────────── troubles, by the seed ─────────────────────┘      ▼
//!                     └────────── model of what must be there ──────────────────► auditor
//! ```
//! For as long as it was told, processes die, stop and come back, are taken for dead, and requests
//! get lost. Then the troubles end, and the pipeline must catch up within a bounded time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use object_store::memory::InMemory;
use tidelake_catalog::Catalog;
use tidelake_core::Bucket;
use tidelake_core::clock::SystemClock;
use tidelake_flusher::Settings;
use tidelake_log::memory::MemoryLog;
use tidelake_log::{KafkaSettings, TopicBucket};

use crate::audit::Auditor;
use crate::compactors::{self, COMPACTORS};
use crate::life::Life;
use crate::log::SimLog;
use crate::machine::{now_ms, pass};
use crate::model::{History, Intents, Kind, buckets};
use crate::process::{Flusher, Ground};
use crate::reader::{self, Answered};
use crate::sim::{Sight, Sim, Weather, lock};
use crate::store::SimStore;
use crate::tables::{Maker, PREFIX, Table};
use crate::troubles::Troubles;
use crate::workload::{Ends, Producers};

/// Flushers that may run at a time.
pub(crate) const SLOTS: usize = 3;
/// Within this time after the last trouble everything must be committed.
const RECOVERY_MS_MAX: u64 = 60_000;

/// As long as what a query node was told of a topic may count.
const ADDED_KNOWN_MS: u64 = 1_000;

/// What came of a simulation.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub hash: u64,
    pub events: u64,
    pub virtual_ms: u64,
    pub versions: u64,
    pub answers: u64,
    pub sights: BTreeMap<Sight, u64>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            hash,
            events,
            virtual_ms,
            versions,
            answers,
            sights,
        } = self;
        write!(
            f,
            "{versions} versions and {answers} answers are right after {virtual_ms} ms and {events} \
             events ({hash:016x}), met {sights:?}"
        )
    }
}

/// A place in which one flusher runs after the other.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub running: Option<Flusher>,
    pub runs: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub ground: Ground,
    pub tables: Vec<Table>,
    pub intents: Arc<Mutex<Intents>>,
    pub history: Arc<Mutex<History>>,
    pub acknowledged: Arc<Mutex<Ends>>,
    /// What query nodes answered, and nobody has looked at.
    pub answers: Arc<Mutex<Vec<Answered>>>,
    pub slots: Arc<Mutex<Vec<Slot>>>,
    /// Buckets that may stand still for good: an operator would have to decide.
    pub stopped: Arc<Mutex<BTreeSet<TopicBucket>>>,
    /// Topics that are no longer those that tables were filled from.
    pub remade: Arc<Mutex<BTreeSet<Arc<str>>>>,
    /// When buckets were added.
    pub added: Arc<Mutex<BTreeMap<TopicBucket, u64>>>,
    /// The last version of each table that was looked at.
    pub versions: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    /// How far tables were when they were last looked at.
    pub marks: Arc<Mutex<BTreeMap<TopicBucket, i64>>>,
    settings: Settings,
    named: bool,
    pub folder: Arc<tempfile::TempDir>,
}

impl World {
    async fn new(sim: Arc<Sim>) -> Result<Self> {
        let ground = Ground {
            log: MemoryLog::new(Arc::new(SystemClock)),
            disk: Arc::new(InMemory::new()),
            sim,
        };
        let life = Life::new("admin".into());
        let store = SimStore::open(&ground.disk, &life, &ground.sim);
        let runtime = ground.runtime(&life);
        let catalog = Catalog::open(&store, runtime.clock.clone(), runtime.ids.clone()).await?;
        let maker = Maker {
            store,
            catalog,
            admin: Arc::new(SimLog::new(&ground.log, &life, &ground.sim)),
            runtime,
        };
        let tables = vec![
            maker.make("events", Kind::Append, 3).await?,
            maker.make("registers", Kind::Upsert, 3).await?,
            maker.make("bank", Kind::Upsert, 2).await?,
        ];
        let (flush_age_ms, discovery_ms, named) = ground
            .sim
            .draw(|dice| (dice.of(100..3_000), dice.of(100..1_500), dice.hits(300)));
        let settings = Settings {
            kafka: KafkaSettings {
                topic_prefix: PREFIX.into(),
                ..KafkaSettings::default()
            },
            flush_age_ms,
            discovery_ms,
            memory_bytes_max: 64 << 20,
            zstd_level: 1,
            ..Settings::default()
        };
        Ok(Self {
            ground,
            tables,
            intents: Arc::default(),
            history: Arc::default(),
            acknowledged: Arc::default(),
            answers: Arc::default(),
            slots: Arc::new(Mutex::new((0..SLOTS).map(|_| Slot::default()).collect())),
            stopped: Arc::default(),
            remade: Arc::default(),
            added: Arc::default(),
            versions: Arc::default(),
            marks: Arc::default(),
            settings,
            named,
            folder: Arc::new(tempfile::tempdir()?),
        })
    }

    /// Runs one flusher after the other in a slot.
    async fn keep(self, slot: usize) {
        let sim = &self.ground.sim;
        loop {
            let (run, flusher) = {
                let mut slots = lock(&self.slots);
                let held = &mut slots[slot];
                held.runs += 1;
                let flusher = Flusher::new(&self.ground, format!("flusher-{slot}.{}", held.runs));
                held.running = Some(flusher.clone());
                (held.runs, flusher)
            };
            let mut settings = self.settings.clone();
            if self.named {
                settings.instance_id = format!("flusher-{slot}");
            }
            // Half of them find the folder of those before them.
            let folder = match sim.draw(|dice| dice.hits(500)) {
                true => format!("{slot}"),
                false => format!("{slot}-{run}"),
            };
            let folder = self.folder.path().join(folder);
            flusher.run(&self.ground, settings, &folder).await;
            lock(&self.slots)[slot].running = None;
            pass(sim.draw(|dice| dice.of(0..4_000))).await;
        }
    }

    /// By bucket: behind the last message of a table whose writer was told that it is there.
    pub(crate) fn acknowledged_of(&self, table: &Table) -> BTreeMap<u32, i64> {
        let all = lock(&self.acknowledged);
        let own = all.iter().filter(|((name, _), _)| *name == table.name);
        // A node knows of a partition that was added a while later.
        let added = lock(&self.added);
        let known = |bucket: u32| {
            let at = TopicBucket {
                topic: table.topic(),
                bucket: Bucket(bucket),
            };
            let added_ms = added.get(&at);
            added_ms.is_none_or(|added_ms| added_ms + ADDED_KNOWN_MS <= now_ms())
        };
        let own = own.filter(|((_, bucket), _)| known(*bucket));
        own.map(|((_, bucket), end)| (*bucket, *end)).collect()
    }

    /// Takes in what the log holds.
    pub(crate) fn absorb(&self) {
        let mut history = lock(&self.history);
        for table in &self.tables {
            if !lock(&self.remade).contains(&*table.entry.topic) {
                history.absorb(&self.ground.log, &table.topic(), table.entry.topic_id);
            }
        }
    }

    pub(crate) fn audit(&self, auditor: &mut Auditor) -> Result<()> {
        self.absorb();
        let (history, intents) = (lock(&self.history), lock(&self.intents));
        for table in &self.tables {
            auditor.look(table, &history, &intents)?;
            lock(&self.versions).insert(table.name, auditor.last(table));
            for (bucket, mark) in auditor.marks(table) {
                let at = TopicBucket {
                    topic: table.topic(),
                    bucket: Bucket(bucket),
                };
                lock(&self.marks).insert(at, mark);
            }
            let mut answers = lock(&self.answers);
            for answer in answers.extract_if(.., |answer| answer.table == table.name) {
                let checked = auditor.check((table, &answer), &history, &intents);
                let (name, version) = (answer.table, answer.version);
                checked.with_context(|| {
                    format!(
                        "a query of {name} at version {version} and {:?}",
                        answer.positions
                    )
                })?;
                auditor.answers += 1;
            }
        }
        Ok(())
    }

    /// What of the log no version covers, by bucket, and what the dead letters lack.
    fn behind(&self, auditor: &Auditor) -> Result<Vec<String>> {
        let mut behind = Vec::new();
        for table in &self.tables {
            let remade = lock(&self.remade).contains(&*table.entry.topic);
            let own = buckets(&self.ground.log, &table.entry.topic).filter(|_| !remade);
            for at in own {
                let end = self.ground.log.end(&at).map_or(0, |end| end.0);
                let mark = lock(&self.marks).get(&at).copied().unwrap_or(0);
                if mark != end && !lock(&self.stopped).contains(&at) {
                    behind.push(format!("{at} is covered to {mark} of {end}"));
                }
            }
            let (history, intents) = (lock(&self.history), lock(&self.intents));
            behind.extend(auditor.letters(table, &history, &intents)?);
        }
        Ok(behind)
    }

    /// Waits until everything that the log holds is committed.
    async fn recover(&self, auditor: &mut Auditor) -> Result<()> {
        let until = now_ms() + RECOVERY_MS_MAX;
        loop {
            self.audit(auditor)?;
            let behind = self.behind(auditor)?;
            if behind.is_empty() {
                return Ok(());
            }
            ensure!(
                now_ms() < until,
                "the troubles ended {RECOVERY_MS_MAX} ms ago, and still {}",
                behind.join(", ")
            );
            pass(500).await;
        }
    }
}

/// Runs the simulation of a seed: `seconds` of troubles, and what follows.
pub(crate) async fn run(sim: Arc<Sim>, seconds: u64) -> Result<Outcome> {
    let world = World::new(sim.clone()).await.context("make the world")?;
    let mut auditor = Auditor::new(&world.ground.disk);
    let producers = Producers {
        log: world.ground.log.clone(),
        sim: sim.clone(),
        intents: world.intents.clone(),
        acknowledged: world.acknowledged.clone(),
    };
    let [events, registers, bank] = [0, 1, 2].map(|at| world.tables[at].clone());
    let writing = [
        tokio::spawn(producers.clone().append_set(events)),
        tokio::spawn(producers.clone().registers(registers)),
        tokio::spawn(producers.bank(bank)),
    ];
    let flushers: Vec<_> = (0..SLOTS)
        .map(|slot| tokio::spawn(world.clone().keep(slot)))
        .collect();
    let compacting: Vec<_> = (0..COMPACTORS)
        .map(|number| tokio::spawn(compactors::keep(world.ground.clone(), number)))
        .collect();
    let reading = tokio::spawn(reader::run(world.clone()));
    let mut troubles = Troubles::new(&world);
    let until = now_ms() + seconds * 1_000;
    while now_ms() < until {
        troubles.next().await;
        world.audit(&mut auditor)?;
    }
    sim.set_weather(Weather::CALM);
    troubles.end();
    // What they began is finished, so that no transfer is half of one.
    pass(5_000).await;
    for task in writing {
        task.abort();
    }
    world.recover(&mut auditor).await?;
    for task in flushers.into_iter().chain(compacting).chain([reading]) {
        task.abort();
    }
    let (hash, events) = sim.traced();
    Ok(Outcome {
        hash,
        events,
        virtual_ms: now_ms(),
        versions: auditor.versions,
        answers: auditor.answers,
        sights: sim.sights(),
    })
}
