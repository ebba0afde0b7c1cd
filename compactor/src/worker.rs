//! The loop: looks at tables with new versions, one rewrite of each in turn.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tidelake_catalog::{Catalog, TableEntry};
use tidelake_core::{Bucket, TableId, TableVersion};
use tidelake_manifest::action::TAG_LEVEL;
use tidelake_manifest::{
    CachedTable, DeltaTable, Freshness, ManifestError, Snapshot, SnapshotCache,
};
use tidelake_service::{Runtime, chain};
use tidelake_storage::Store;
use tidelake_table::{Rewrite, RewriteOutcome, TableError};

use crate::metrics::CompactorMetrics;
use crate::plan::{Plan, plan};
use crate::settings::Settings;
use crate::time::{Stopwatch, pass};

/// Rows of an output at most: the keys of all of them are in memory until it ends.
const OUTPUT_ROWS_MAX: u64 = 2 << 20;
/// A bucket whose rewrite failed waits so long, and twice as long each time.
const RETRY_FIRST: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// The property that switches compaction off for a table, and its value.
const PROPERTY: (&str, &str) = ("tidelake.compaction", "off");

/// Since the worker began.
type Moment = Duration;

/// Where tables are found.
#[derive(Debug)]
pub(crate) struct Sources {
    pub store: Store,
    pub snapshots: SnapshotCache,
    pub catalog: Catalog,
    /// Nobody else of the process tells of new versions.
    pub is_alone: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Worker {
    settings: Settings,
    runtime: Runtime,
    sources: Sources,
    metrics: Arc<CompactorMetrics>,
    begun: Stopwatch,
    tables: HashMap<TableId, Watched>,
}

/// What is known of a table between looks.
#[derive(Debug)]
struct Watched {
    entry: Arc<TableEntry>,
    cached: CachedTable,
    /// Nothing is to be done for this version.
    done: Option<TableVersion>,
    /// When it is looked at although nobody tells of a new version.
    look_at: Moment,
    look_after: Duration,
    set_aside: HashMap<Option<Bucket>, SetAside>,
}

/// A bucket whose rewrite failed.
#[derive(Debug)]
struct SetAside {
    until: Moment,
    pause: Duration,
}

impl Worker {
    pub(crate) fn new(
        settings: Settings,
        runtime: Runtime,
        sources: Sources,
        metrics: Arc<CompactorMetrics>,
    ) -> Self {
        Self {
            settings,
            runtime,
            sources,
            metrics,
            begun: Stopwatch::start(),
            tables: HashMap::new(),
        }
    }

    /// Until the shutdown. A rewrite that is under way then is given up: nothing of it is visible.
    pub(crate) async fn run(mut self) {
        let shutdown = self.runtime.shutdown.clone();
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.go_on() => {}
        }
    }

    async fn go_on(&mut self) {
        loop {
            let worked = self.settings.enabled && self.round().await;
            if !worked {
                pass(self.settings.sweep()).await;
            }
        }
    }

    fn now(&self) -> Moment {
        self.begun.elapsed()
    }

    /// One rewrite at most for each table; true where something was rewritten.
    async fn round(&mut self) -> bool {
        if self.sources.is_alone
            && let Err(error) = self.sources.catalog.refresh().await
        {
            tracing::warn!(error = chain(&error), "no look at the catalog");
            return false;
        }
        let entries = self.sources.catalog.list_all();
        self.forget_all_but(&entries);
        let mut worked = false;
        for entry in entries {
            worked |= self.table(entry).await;
        }
        worked
    }

    fn forget_all_but(&mut self, entries: &[Arc<TableEntry>]) {
        let known: HashSet<&TableId> = entries.iter().map(|entry| &entry.id).collect();
        let metrics = &self.metrics;
        self.tables.retain(|id, _| {
            let keep = known.contains(id);
            if !keep {
                metrics.forget(id);
            }
            keep
        });
    }

    async fn table(&mut self, entry: Arc<TableEntry>) -> bool {
        let id = entry.id.clone();
        let now = self.now();
        let snapshot = match self.newest(entry, now).await {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return false,
            Err(error) => {
                self.metrics.ended(&id, "unreadable");
                tracing::warn!(table = %id, error = chain(&error), "the table can't be looked at");
                return false;
            }
        };
        match self.choose(&id, &snapshot, now) {
            Some(plan) => self.rewrite(&id, &snapshot, plan).await,
            None => false,
        }
    }

    /// A version of the table that was not looked at; none where there is nothing new.
    async fn newest(
        &mut self,
        entry: Arc<TableEntry>,
        now: Moment,
    ) -> Result<Option<Arc<Snapshot>>, ManifestError> {
        let (first, most) = (self.settings.sweep(), self.settings.sweep_max());
        let is_alone = self.sources.is_alone;
        let table = self.watched(entry, now);
        if let Some(known) = table.cached.known()
            && table.done != Some(known.version())
        {
            table.look_after = first;
            return Ok(Some(known));
        }
        if !is_alone || now < table.look_at {
            return Ok(None);
        }
        let (cached, age) = (table.cached.clone(), table.look_after);
        table.look_at = now + age;
        table.look_after = (age * 2).min(most);
        let seen = cached.get(Freshness::NoOlderThan(age / 2)).await?.snapshot;
        let id = &table.entry.id.clone();
        let Some(table) = self.tables.get_mut(id) else {
            return Ok(None);
        };
        let news = table.done != Some(seen.version());
        if news {
            table.look_after = first;
        }
        Ok(news.then_some(seen))
    }

    fn watched(&mut self, entry: Arc<TableEntry>, now: Moment) -> &mut Watched {
        let known = self.tables.get(&entry.id);
        if known.is_none_or(|known| !known.entry.is_same_table(&entry)) {
            let sources = &self.sources;
            let location = entry.location();
            let cached = sources.snapshots.table(&location, entry.topic_id, || {
                let (clock, ids) = (self.runtime.clock.clone(), self.runtime.ids.clone());
                DeltaTable::new(sources.store.scoped(&location), clock, ids)
            });
            let table = Watched {
                entry: Arc::clone(&entry),
                cached,
                done: None,
                look_at: now,
                look_after: self.settings.sweep(),
                set_aside: HashMap::new(),
            };
            self.tables.insert(entry.id.clone(), table);
        }
        self.tables.get_mut(&entry.id).expect("it was put there")
    }

    /// What to do now, of what is to be done.
    fn choose(&mut self, id: &TableId, snapshot: &Snapshot, now: Moment) -> Option<Plan> {
        let table = self.tables.get_mut(id)?;
        let plans = match is_wanted(snapshot) {
            true => plan(snapshot, &self.settings.rules()),
            false => Vec::new(),
        };
        let waiting = plans.iter().map(|plan| plan.files.len()).sum();
        self.metrics.shows(id, waiting, table.set_aside.len());
        if plans.is_empty() {
            table.done = Some(snapshot.version());
        }
        let is_ready = |plan: &Plan| {
            let aside = table.set_aside.get(&plan.bucket);
            aside.is_none_or(|aside| aside.until <= now)
        };
        plans.into_iter().find(is_ready)
    }

    async fn rewrite(&mut self, id: &TableId, snapshot: &Arc<Snapshot>, plan: Plan) -> bool {
        let Some(table) = self.tables.get(id) else {
            return false;
        };
        let (cached, bucket) = (table.cached.clone(), plan.bucket);
        let level = plan
            .files
            .iter()
            .filter_map(|file| file.tag(TAG_LEVEL)?.parse().ok());
        let level: u32 = level.max().unwrap_or(0);
        let rewrite = Rewrite {
            files: self.settings.files(),
            output_rows_max: OUTPUT_ROWS_MAX,
            output_bytes_max: self.settings.rules().target_bytes,
            level: level.saturating_add(1),
            reason: plan.reason.as_str().to_owned(),
            ids: self.runtime.ids.clone(),
            now_ms: self.runtime.clock.now_ms(),
            inputs: plan.files,
        };
        self.metrics.running.set(1);
        let begun = self.now();
        let outcome = rewrite.run(cached.delta(), snapshot).await;
        self.metrics.running.set(0);
        let took = self.now().saturating_sub(begun);
        self.metrics.seconds.observe(took.as_secs_f64());
        match outcome {
            Ok(RewriteOutcome::Committed(done)) => {
                cached.offer(&done.snapshot);
                self.metrics.committed(id, &done.report);
                tracing::debug!(
                    table = %id, ?bucket, reason = plan.reason.as_str(), report = ?done.report, ?took,
                    "rewritten"
                );
                self.went_well(id, bucket);
                true
            }
            Ok(RewriteOutcome::Dropped(conflict)) => {
                self.metrics.ended(id, "dropped");
                tracing::debug!(table = %id, ?bucket, %conflict, "a rewrite came too late");
                // What is there now is looked at by the next one who tells of it, or in turn.
                if let Some(table) = self.tables.get_mut(id) {
                    table.look_at = Moment::ZERO;
                    table.done = Some(snapshot.version());
                }
                false
            }
            Err(error) => {
                self.failed(id, bucket, &error);
                false
            }
        }
    }

    fn went_well(&mut self, id: &TableId, bucket: Option<Bucket>) {
        if let Some(table) = self.tables.get_mut(id) {
            table.set_aside.remove(&bucket);
        }
    }

    /// Sets a bucket aside: its next try comes later, and keeps nobody waiting.
    fn failed(&mut self, id: &TableId, bucket: Option<Bucket>, error: &TableError) {
        let now = self.now();
        self.metrics.ended(id, "failed");
        let Some(table) = self.tables.get_mut(id) else {
            return;
        };
        let aside = table.set_aside.entry(bucket).or_insert(SetAside {
            until: now,
            pause: RETRY_FIRST,
        });
        aside.until = now + aside.pause;
        tracing::warn!(
            table = %id, ?bucket, error = chain(error), retry_in = ?aside.pause,
            "files were not rewritten; nothing is lost, they stay as they are"
        );
        aside.pause = (aside.pause * 2).min(RETRY_MAX);
    }
}

fn is_wanted(snapshot: &Snapshot) -> bool {
    let (property, off) = PROPERTY;
    !snapshot.is_dropped()
        && snapshot
            .properties()
            .get(property)
            .is_none_or(|value| !value.eq_ignore_ascii_case(off))
}
