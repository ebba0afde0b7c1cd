//! Reads every version of a table with a reader that is not ours, and compares it with the model.
//!
//! Watermarks are taken from the commits' bytes, rows from delta_kernel: of the code under test
//! nothing is asked. Invariants that are checked, beside the rows of each version: no watermark
//! goes back or beyond what the log ever held, commits are without a gap, and the bank's sum.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use delta_kernel::Snapshot;
use delta_kernel::engine::arrow_data::EngineDataArrowExt;
use delta_kernel_default_engine::DefaultEngineBuilder;
use futures::FutureExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

use crate::model::{History, Intents, Model};
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
#[derive(Debug)]
pub(crate) struct Auditor {
    disk: Arc<InMemory>,
    tables: BTreeMap<&'static str, Audited>,
    /// Versions that were read.
    pub versions: u64,
}

impl Auditor {
    pub(crate) fn new(disk: &Arc<InMemory>) -> Self {
        Self {
            disk: disk.clone(),
            tables: BTreeMap::new(),
            versions: 0,
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
            let found =
                rows(&self.disk, &table.entry.location(), version).with_context(|| of(version))?;
            let audited = self.tables.entry(table.name).or_default();
            let wanted = audited.model.rows(table.kind);
            same(&found, &wanted)
                .with_context(|| format!("watermarks {:?}", audited.model.marks))
                .with_context(|| of(version))?;
            if table.name == "bank" {
                balanced(table, &found).with_context(|| of(version))?;
            }
            audited.next += 1;
            self.versions += 1;
        }
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

    fn advance(
        &mut self,
        table: &Table,
        actions: &[Value],
        history: &History,
        intents: &Intents,
    ) -> Result<()> {
        let audited = self.tables.entry(table.name).or_default();
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

fn same(found: &[(i64, i64)], wanted: &[(i64, i64)]) -> Result<()> {
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

fn balanced(table: &Table, rows: &[(i64, i64)]) -> Result<()> {
    let sum: i64 = rows.iter().map(|(_, balance)| balance).sum();
    let wanted = accounts(table.buckets).len() as i64 * MONEY;
    ensure!(
        rows.is_empty() || sum == wanted,
        "the accounts have {sum} together instead of {wanted}"
    );
    Ok(())
}

/// All rows of a version, in their order, through delta_kernel.
fn rows(disk: &Arc<InMemory>, location: &str, version: u64) -> Result<Vec<(i64, i64)>> {
    let store: Arc<dyn ObjectStore> = disk.clone();
    let engine = Arc::new(DefaultEngineBuilder::new(store).build());
    let url = format!("{URL}{location}/");
    let snapshot = Snapshot::builder_for(url.as_str()).at_version(version);
    let scan = snapshot.build(engine.as_ref())?.scan_builder().build()?;
    let mut rows = Vec::new();
    for data in scan.execute(engine)? {
        let batch = data.try_into_record_batch()?;
        let column = |name| {
            let column = batch.column_by_name(name).context("no such column")?;
            anyhow::Ok(column.as_primitive::<Int64Type>().clone())
        };
        let (ids, values) = (column("id")?, column("value")?);
        for (id, value) in ids.iter().zip(&values) {
            rows.push((id.context("no id")?, value.context("no value")?));
        }
    }
    rows.sort_unstable();
    Ok(rows)
}
