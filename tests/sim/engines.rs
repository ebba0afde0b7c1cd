//! Another engine that writes to our tables: appends, deletes, optimizes, restores, alters, vacuums.
//!
//! It knows Delta and nothing of Tidelake: it replays the log's commits, writes data files without
//! hidden columns, sidecars or tags, and commits with put-if-absent; where somebody was faster it
//! gives up, or tries again where it only adds. What a commit is meant to do stands in its
//! `commitInfo` for the auditor.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tidelake_core::clock::{Clock, SystemClock};
use tidelake_manifest::VectorDescriptor;
use tidelake_manifest::vector::{DeletedRows, Place, decode, decode_in_file, inline, locate};

use crate::machine::pass;
use crate::model::{Kind, Row};
use crate::sim::{Sight, Sim};
use crate::tables::Table;

/// Files that were removed longer ago are deleted by a vacuum.
const RETENTION_MS: i64 = 15_000;
/// Files of one optimize.
const FILES_MAX: usize = 4;
/// Tries of a commit that only adds.
const TRIES_MAX: u32 = 5;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Append,
    /// By a deletion vector where the table has them, by rewriting otherwise.
    Delete,
    /// Rewrites a file without rows that it deletes.
    DeleteByRewriting,
    Optimize,
    Restore,
    SetProperty,
    AddColumn,
    Vacuum,
}

pub(crate) const OPERATIONS: [Operation; 8] = [
    Operation::Append,
    Operation::Delete,
    Operation::DeleteByRewriting,
    Operation::Optimize,
    Operation::Restore,
    Operation::SetProperty,
    Operation::AddColumn,
    Operation::Vacuum,
];

/// A version of a table as its log tells it.
#[derive(Debug, Clone, Default)]
struct State {
    /// The next commit.
    next: u64,
    metadata: Value,
    /// Live files by path.
    files: BTreeMap<String, Value>,
    /// When files were taken out.
    removed_ms: BTreeMap<String, i64>,
}

/// A row with the file and the place that it has there.
struct Placed {
    at: u64,
    row: Row,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub disk: Arc<InMemory>,
    pub sim: Arc<Sim>,
}

impl Engine {
    /// Does one thing to a table, or gives it up.
    pub(crate) async fn does(&self, what: Operation, table: &Table) -> Result<()> {
        let name = table.name;
        self.sim.note(format_args!("engine: {what:?} {name}"));
        let mut tries = 0;
        loop {
            let states = self.replay(table).await?;
            let state = states.last().context("a table has a version")?.clone();
            self.waits().await;
            let actions = match what {
                Operation::Append => self.append(table).await?,
                Operation::Delete if table.kind == Kind::Upsert => {
                    self.delete_by_vector(table, &state).await?
                }
                Operation::Delete | Operation::DeleteByRewriting => {
                    self.delete_by_rewriting(table, &state).await?
                }
                Operation::Optimize => self.optimize(table, &state).await?,
                Operation::Restore => self.restore(table, &states).await?,
                Operation::SetProperty => set_property(&state),
                Operation::AddColumn => add_column(&state)?,
                Operation::Vacuum => return self.vacuum(table, &state).await,
            };
            let Some(actions) = actions else {
                return Ok(());
            };
            self.waits().await;
            if self.commit(table, state.next, &actions).await? {
                let version = state.next;
                self.sim
                    .note(format_args!("engine: {what:?} {name} is version {version}"));
                self.sim.sees(Sight::OtherEngine);
                return Ok(());
            }
            tries += 1;
            if what != Operation::Append || tries == TRIES_MAX {
                self.sim.note(format_args!("engine: {what:?} gives up"));
                return Ok(());
            }
        }
    }

    async fn waits(&self) {
        pass(self.sim.draw(|dice| dice.of(0..120))).await;
    }

    fn path(&self, table: &Table, name: &str) -> Path {
        Path::from(format!("{}/{name}", table.entry.location()))
    }

    /// All versions.
    async fn replay(&self, table: &Table) -> Result<Vec<State>> {
        let (mut states, mut state) = (Vec::new(), State::default());
        loop {
            let path = self.path(table, &format!("_delta_log/{:020}.json", state.next));
            let found = match self.disk.get(&path).await {
                Ok(found) => found,
                Err(_) => return Ok(states),
            };
            let at_ms = found.meta.last_modified.timestamp_millis();
            for line in std::str::from_utf8(&found.bytes().await?)?.lines() {
                state.take(serde_json::from_str(line)?, at_ms);
            }
            state.next += 1;
            states.push(state.clone());
        }
    }

    async fn commit(&self, table: &Table, version: u64, actions: &[Value]) -> Result<bool> {
        let path = self.path(table, &format!("_delta_log/{version:020}.json"));
        let lines: Vec<_> = actions.iter().map(Value::to_string).collect();
        let bytes = Bytes::from(lines.join("\n") + "\n");
        let put = self
            .disk
            .put_opts(&path, bytes.into(), PutMode::Create.into());
        match put.await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The rows of a file that live.
    async fn rows(&self, table: &Table, add: &Value) -> Result<Vec<Placed>> {
        let path = add["path"].as_str().context("an add without a path")?;
        let bytes = self
            .disk
            .get(&self.path(table, path))
            .await?
            .bytes()
            .await?;
        let dead = self.dead(table, add).await?;
        let (mut rows, mut at) = (Vec::new(), 0);
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
            let batch = batch?;
            let column = |name| {
                let column = batch.column_by_name(name).context("no such column")?;
                anyhow::Ok(column.as_primitive::<Int64Type>().clone())
            };
            let (ids, values) = (column("id")?, column("value")?);
            for (id, value) in ids.iter().zip(&values) {
                let row = (id.context("no id")?, value.context("no value")?);
                if !dead.contains(at) {
                    rows.push(Placed { at, row });
                }
                at += 1;
            }
        }
        Ok(rows)
    }

    async fn dead(&self, table: &Table, add: &Value) -> Result<DeletedRows> {
        let Some(vector) = add.get("deletionVector").filter(|vector| !vector.is_null()) else {
            return Ok(DeletedRows::default());
        };
        let vector: VectorDescriptor = serde_json::from_value(vector.clone())?;
        Ok(match locate(&vector)? {
            Place::Inline(data) => decode(&data)?,
            Place::File { name, range } => {
                let path = self.path(table, &name);
                decode_in_file(&self.disk.get_range(&path, range).await?)?
            }
        })
    }

    /// Writes a data file; its add action.
    async fn write(&self, table: &Table, rows: &[Row], data_change: bool) -> Result<Value> {
        let (number, counted) = self.sim.draw(|dice| (dice.number(), dice.hits(500)));
        let name = format!("part-{number:016x}.parquet");
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("value", DataType::Int64, true),
        ]));
        let columns = vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))) as _,
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))) as _,
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns)?;
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, schema, None)?;
        writer.write(&batch)?;
        writer.close()?;
        let size = bytes.len();
        self.disk
            .put(&self.path(table, &name), bytes.into())
            .await?;
        let mut add = json!({"path": name, "partitionValues": {}, "size": size,
            "modificationTime": SystemClock.now_ms(), "dataChange": data_change});
        if counted {
            let stats = json!({"numRecords": rows.len()});
            add["stats"] = Value::String(stats.to_string());
        }
        Ok(add)
    }

    /// Rows of keys that nobody else writes.
    async fn append(&self, table: &Table) -> Result<Option<Vec<Value>>> {
        let (first, count) = self
            .sim
            .draw(|dice| (dice.of(1 << 20..1 << 40), dice.of(1..20)));
        let rows: Vec<Row> = (0..count).map(|n| ((first + n) as i64, n as i64)).collect();
        let add = self.write(table, &rows, true).await?;
        let info = told("WRITE", json!({"add": rows}));
        Ok(Some(vec![info, json!({"add": add})]))
    }

    fn any_file(&self, state: &State) -> Option<Value> {
        let files: Vec<_> = state.files.values().cloned().collect();
        self.sim.draw(|dice| dice.pick(&files).cloned())
    }

    async fn delete_by_vector(&self, table: &Table, state: &State) -> Result<Option<Vec<Value>>> {
        let Some(add) = self.any_file(state).filter(|add| add["stats"].is_string()) else {
            return Ok(None);
        };
        let rows = self.rows(table, &add).await?;
        let gone = self.some_of(&rows);
        let mut dead = self.dead(table, &add).await?;
        for row in &gone {
            dead.insert(row.at);
        }
        if gone.is_empty() {
            return Ok(None);
        }
        let mut newer = add.clone();
        newer["deletionVector"] = serde_json::to_value(inline(&dead))?;
        newer["dataChange"] = json!(true);
        let gone: Vec<_> = gone.iter().map(|row| row.row).collect();
        let info = told("DELETE", json!({"delete": gone}));
        let actions = vec![info, removed(&add, true), json!({"add": newer})];
        Ok(Some(actions))
    }

    async fn delete_by_rewriting(
        &self,
        table: &Table,
        state: &State,
    ) -> Result<Option<Vec<Value>>> {
        let Some(add) = self.any_file(state) else {
            return Ok(None);
        };
        let rows = self.rows(table, &add).await?;
        let chosen: Vec<_> = self.some_of(&rows).iter().map(|row| row.row).collect();
        let rows = rows.into_iter().map(|row| row.row);
        let (gone, kept): (Vec<_>, Vec<_>) = rows.partition(|row| chosen.contains(row));
        if gone.is_empty() {
            return Ok(None);
        }
        let info = told("DELETE", json!({"delete": gone}));
        let mut actions = vec![info, removed(&add, true)];
        if !kept.is_empty() {
            actions.push(json!({"add": self.write(table, &kept, true).await?}));
        }
        Ok(Some(actions))
    }

    fn some_of<'a>(&self, rows: &'a [Placed]) -> Vec<&'a Placed> {
        let chosen = rows.iter();
        chosen
            .filter(|_| self.sim.draw(|dice| dice.hits(200)))
            .collect()
    }

    async fn optimize(&self, table: &Table, state: &State) -> Result<Option<Vec<Value>>> {
        let files = state.files.values();
        let files = files.filter(|_| self.sim.draw(|dice| dice.hits(500)));
        let files: Vec<_> = files.take(FILES_MAX).collect();
        let mut rows = Vec::new();
        for add in &files {
            let found = self.rows(table, add).await?;
            rows.extend(found.into_iter().map(|row| row.row));
        }
        if files.is_empty() {
            return Ok(None);
        }
        let mut actions = vec![told("OPTIMIZE", json!({}))];
        actions.extend(files.into_iter().map(|add| removed(add, false)));
        if !rows.is_empty() {
            actions.push(json!({"add": self.write(table, &rows, false).await?}));
        }
        Ok(Some(actions))
    }

    /// Back to the files of an older version, where they are all there still.
    async fn restore(&self, table: &Table, states: &[State]) -> Result<Option<Vec<Value>>> {
        let Some((now, before)) = states.split_last() else {
            return Ok(None);
        };
        let recent = &before[before.len().saturating_sub(10)..];
        let Some(to) = self.sim.draw(|dice| dice.pick(recent).cloned()) else {
            return Ok(None);
        };
        for path in to.files.keys() {
            if self.disk.head(&self.path(table, path)).await.is_err() {
                return Ok(None);
            }
        }
        let mut actions = vec![told("RESTORE", json!({"restore": to.next - 1}))];
        for (path, add) in &now.files {
            if !is_in(&to, path, add) {
                actions.push(removed(add, true));
            }
        }
        for (path, add) in &to.files {
            if !is_in(now, path, add) {
                let mut add = add.clone();
                add["dataChange"] = json!(true);
                actions.push(json!({"add": add}));
            }
        }
        Ok((actions.len() > 1).then_some(actions))
    }

    /// Deletes files that have long been taken out.
    async fn vacuum(&self, table: &Table, state: &State) -> Result<()> {
        for (path, removed_ms) in &state.removed_ms {
            if removed_ms + RETENTION_MS < SystemClock.now_ms() && !state.files.contains_key(path) {
                match self.disk.delete(&self.path(table, path)).await {
                    Ok(()) => self.sim.sees(Sight::Vacuumed),
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

impl State {
    fn take(&mut self, action: Value, at_ms: i64) {
        let path = |of: &Value| of["path"].as_str().unwrap_or_default().to_owned();
        if let Some(add) = action.get("add") {
            self.removed_ms.remove(&path(add));
            self.files.insert(path(add), add.clone());
        } else if let Some(remove) = action.get("remove") {
            // The same file may be added with another vector in the same commit.
            let known = self.files.get(&path(remove));
            if known.is_some_and(|add| add.get("deletionVector") == remove.get("deletionVector")) {
                self.files.remove(&path(remove));
                self.removed_ms.insert(path(remove), at_ms);
            }
        } else if action.get("metaData").is_some() {
            self.metadata = action;
        }
    }
}

/// Whether a version has the file, with the vector that it has in `add`.
fn is_in(state: &State, path: &str, add: &Value) -> bool {
    let known = state.files.get(path);
    known.is_some_and(|known| known.get("deletionVector") == add.get("deletionVector"))
}

fn told(operation: &str, effect: Value) -> Value {
    json!({"commitInfo": {"timestamp": SystemClock.now_ms(), "operation": operation,
        "operationParameters": {}, "engineInfo": "another", "effect": effect}})
}

fn removed(add: &Value, data_change: bool) -> Value {
    let mut remove = json!({"path": add["path"], "deletionTimestamp": SystemClock.now_ms(),
        "dataChange": data_change, "extendedFileMetadata": true, "partitionValues": {},
        "size": add["size"]});
    if let Some(vector) = add.get("deletionVector") {
        remove["deletionVector"] = vector.clone();
    }
    json!({"remove": remove})
}

fn set_property(state: &State) -> Option<Vec<Value>> {
    let mut metadata = state.metadata.clone();
    metadata["metaData"]["configuration"]["another.engine"] = json!(state.next.to_string());
    Some(vec![told("SET TBLPROPERTIES", json!({})), metadata])
}

/// A column that none of our records has.
fn add_column(state: &State) -> Result<Option<Vec<Value>>> {
    let mut metadata = state.metadata.clone();
    let text = metadata["metaData"]["schemaString"].as_str();
    let mut schema: Value = serde_json::from_str(text.context("a schema")?)?;
    let fields = schema["fields"].as_array_mut().context("fields")?;
    if fields.iter().any(|field| field["name"] == "note") {
        return Ok(None);
    }
    let column = json!({"name": "note", "type": "string", "nullable": true, "metadata": {}});
    fields.push(column);
    metadata["metaData"]["schemaString"] = Value::String(schema.to_string());
    Ok(Some(vec![told("ADD COLUMNS", json!({})), metadata]))
}
