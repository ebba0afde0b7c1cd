//! Reads every version of a table with a reader that is not ours, and compares it with the model.
//!
//! Watermarks are taken from the commits' bytes, rows from delta_kernel: of the code under test
//! nothing is asked. Invariants that are checked, beside the rows of each version: no watermark
//! goes back or beyond what the log ever held, commits are without a gap, and the bank's sum.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use delta_kernel::Snapshot;
use delta_kernel::engine::arrow_data::EngineDataArrowExt;
use delta_kernel_default_engine::executor::tokio::TokioBackgroundExecutor;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder};
use futures::FutureExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use serde_json::Value;

use crate::model::{History, Intents, Kind, Model, Row};
use crate::reader::Answered;
use crate::store::URL;
use crate::tables::Table;
use crate::workload::{MONEY, accounts};

/// How far a table was looked at.
#[derive(Debug, Default)]
struct Audited {
    next: u64,
    model: Model,
}

/// See the module.
pub(crate) struct Auditor {
    disk: Arc<InMemory>,
    engine: Arc<DefaultEngine<TokioBackgroundExecutor>>,
    tables: BTreeMap<&'static str, Audited>,
    /// Versions that were read.
    pub versions: u64,
    /// Answers of query nodes that were checked.
    pub answers: u64,
}

impl Auditor {
    pub(crate) fn new(disk: &Arc<InMemory>) -> Self {
        Self {
            disk: disk.clone(),
            engine: Arc::new(DefaultEngineBuilder::new(disk.clone()).build()),
            tables: BTreeMap::new(),
            versions: 0,
            answers: 0,
        }
    }

    /// Looks at the versions that are new.
    pub(crate) fn look(
        &mut self,
        table: &Table,
        history: &History,
        intents: &Intents,
    ) -> Result<()> {
        let of = |version| format!("table {} version {version}", table.name);
        loop {
            let version = self.tables.entry(table.name).or_default().next;
            let Some(actions) = self.commit(table, version)? else {
                return Ok(());
            };
            self.advance(table, &actions, history, intents)
                .with_context(|| of(version))?;
            self.nothing_is_stranded(table, history, intents)
                .with_context(|| of(version))?;
            let found = self
                .rows(&table.entry.location(), Some(version), ["id", "value"])
                .with_context(|| of(version))?;
            let audited = self.tables.entry(table.name).or_default();
            let wanted = audited.model.rows(table.kind);
            same(&found, &wanted)
                .with_context(|| format!("watermarks {:?}", audited.model.marks))
                .with_context(|| of(version))?;
            if table.name == "bank" {
                balanced(table, &found).with_context(|| of(version))?;
            }
            audited.model.is_version(version);
            audited.next += 1;
            self.versions += 1;
        }
    }

    /// Records of another bucket are in the log there before the watermark passes them here.
    fn nothing_is_stranded(
        &self,
        table: &Table,
        history: &History,
        intents: &Intents,
    ) -> Result<()> {
        let topic = history.topic(&table.entry.topic_id);
        let audited = self.tables.get(table.name);
        let (Kind::Upsert, Some(topic), Some(audited)) = (table.kind, topic, audited) else {
            return Ok(());
        };
        match audited.model.stranded(table.buckets, (topic, intents)) {
            None => Ok(()),
            Some((bucket, offset)) => {
                bail!("the misrouted record {bucket}/{offset} was passed and never sent on")
            }
        }
    }

    /// Whether what a query node answered is what the table and its tail held at the version and
    /// the positions that it named.
    pub(crate) fn check(
        &self,
        (table, answer): (&Table, &Answered),
        history: &History,
        intents: &Intents,
    ) -> Result<()> {
        let Answered {
            version, positions, ..
        } = answer;
        let audited = self.tables.get(table.name);
        let past = audited.and_then(|audited| audited.model.at(*version));
        let topic = history.topic(&table.entry.topic_id);
        let (Some(past), Some(topic)) = (past, topic) else {
            bail!("a query saw version {version}, which is not there");
        };
        let mut model = past.clone();
        for (bucket, to) in positions {
            let from = model.marks.get(bucket).copied().unwrap_or(0);
            ensure!(
                *to >= from,
                "bucket {bucket} was read to {to}, behind its watermark {from}"
            );
            model.advance((table.kind, table.buckets), (topic, intents), *bucket, *to);
        }
        for (bucket, end) in &answer.acknowledged {
            let seen = positions.get(bucket).copied().unwrap_or(0);
            ensure!(
                seen >= *end,
                "bucket {bucket} was read to {seen}, and {end} was acknowledged before"
            );
        }
        let mut wanted = model.rows(table.kind);
        if let Some(keys) = &answer.keys {
            wanted.retain(|(key, _)| keys.contains(key));
        }
        same(&answer.rows, &wanted)
    }

    /// What is wrong with a table's dead letters: each message that can't be read has one at
    /// most, those before the watermark have one, and nothing else has.
    pub(crate) fn letters(
        &self,
        table: &Table,
        history: &History,
        intents: &Intents,
    ) -> Result<Option<String>> {
        let topic = history.topic(&table.entry.topic_id);
        let (Some(topic), Some(audited)) = (topic, self.tables.get(table.name)) else {
            return Ok(None);
        };
        let wanted = audited.model.letters(topic, intents);
        let location = tidelake_catalog::location(&table.entry.id.dead_letters());
        let found = self.rows(&location, None, ["source_bucket", "source_offset"])?;
        let twice: Vec<_> = found.windows(2).filter(|two| two[0] == two[1]).collect();
        let phantom: Vec<_> = found.iter().filter(|at| !wanted.contains_key(at)).collect();
        ensure!(
            twice.is_empty() && phantom.is_empty(),
            "dead letters of {}: twice: {twice:?}; of no such message: {phantom:?}",
            table.name
        );
        let passed = wanted.iter().filter(|(_, passed)| **passed);
        let mut lacking = passed.filter(|(at, _)| !found.contains(at));
        let lacks = lacking.next();
        Ok(lacks.map(|(at, _)| format!("{} has no dead letter of {at:?}", table.name)))
    }

    /// The last version that was looked at.
    pub(crate) fn last(&self, table: &Table) -> u64 {
        let audited = self.tables.get(table.name);
        audited.map_or(0, |audited| audited.next.saturating_sub(1))
    }

    /// How far the table has got, as of the last version that was looked at.
    pub(crate) fn marks(&self, table: &Table) -> BTreeMap<u32, i64> {
        let audited = self.tables.get(table.name);
        audited.map_or_else(BTreeMap::new, |audited| audited.model.marks.clone())
    }

    fn commit(&self, table: &Table, version: u64) -> Result<Option<Vec<Value>>> {
        let location = table.entry.location();
        let path = Path::from(format!("{location}/_delta_log/{version:020}.json"));
        let read = async { self.disk.get(&path).await?.bytes().await };
        let bytes = match read.now_or_never().context("memory does not wait")? {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let lines = std::str::from_utf8(&bytes)?.lines();
        let actions = lines.map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Some(actions.with_context(|| format!("read {path}"))?))
    }

    /// Two columns of whole numbers of a version, in their order, through delta_kernel.
    fn rows(&self, location: &str, version: Option<u64>, names: [&str; 2]) -> Result<Vec<Row>> {
        let url = format!("{URL}{location}/");
        let mut snapshot = Snapshot::builder_for(url.as_str());
        if let Some(version) = version {
            snapshot = snapshot.at_version(version);
        }
        let snapshot = snapshot.build(self.engine.as_ref())?;
        let scan = snapshot.scan_builder().build()?;
        let mut rows = Vec::new();
        for data in scan.execute(self.engine.clone())? {
            let batch = data.try_into_record_batch()?;
            let column = |name| {
                let column = batch.column_by_name(name).context("no such column")?;
                let column = cast(column, &DataType::Int64)?;
                anyhow::Ok(column.as_primitive::<Int64Type>().clone())
            };
            let (first, second) = (column(names[0])?, column(names[1])?);
            for (first, second) in first.iter().zip(&second) {
                rows.push((first.context("no value")?, second.context("no value")?));
            }
        }
        rows.sort_unstable();
        Ok(rows)
    }

    fn advance(
        &mut self,
        table: &Table,
        actions: &[Value],
        history: &History,
        intents: &Intents,
    ) -> Result<()> {
        let audited = self.tables.entry(table.name).or_default();
        let effects = actions
            .iter()
            .filter_map(|of| of.get("commitInfo")?.get("effect"));
        for effect in effects {
            let done = audited.model.does(table.kind, effect);
            done.with_context(|| format!("the model can't follow another engine: {effect}"))?;
        }
        let topic_id = table.entry.topic_id;
        let topic = history.topic(&topic_id).context("no such topic")?;
        let prefix = format!("tidelake/{topic_id}/");
        for txn in actions.iter().filter_map(|action| action.get("txn")) {
            let app = txn["appId"].as_str().context("a txn without an appId")?;
            let to = txn["version"].as_i64().context("a txn without a version")?;
            let Some(bucket) = app.strip_prefix(&prefix) else {
                bail!("a txn of another topic: {app}");
            };
            // Those with a slash are origins of records that were sent on.
            let Ok(bucket) = bucket.parse() else {
                continue;
            };
            let from = audited.model.marks.get(&bucket).copied().unwrap_or(0);
            ensure!(to >= from, "bucket {bucket} goes back from {from} to {to}");
            let kind = (table.kind, table.buckets);
            audited.model.advance(kind, (topic, intents), bucket, to);
        }
        Ok(())
    }
}

fn same(found: &[Row], wanted: &[Row]) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let missing: Vec<_> = wanted.iter().filter(|row| !found.contains(row)).collect();
    let extra: Vec<_> = found.iter().filter(|row| !wanted.contains(row)).collect();
    bail!(
        "{} rows instead of {}; missing: {missing:?}; not expected: {extra:?}",
        found.len(),
        wanted.len()
    )
}

fn balanced(table: &Table, rows: &[Row]) -> Result<()> {
    let sum: i64 = rows.iter().map(|(_, balance)| balance).sum();
    let wanted = accounts(table.buckets).len() as i64 * MONEY;
    ensure!(
        rows.is_empty() || sum == wanted,
        "the accounts have {sum} together instead of {wanted}"
    );
    Ok(())
}
