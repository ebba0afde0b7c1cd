//! Other engines at work on our tables: after each of their operations an upsert table and an
//! append table are written, handed from flusher to flusher and restarted, and at every version
//! since, all readers find what a model says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidelake_testkit::{Process, Program, Reader, Readers, Reading, WAIT_MAX, wait_until};
use tidelake_tests::Installation;

use crate::others;
use crate::upsert_load::schema;

pub(crate) const SCRIPT: &str = include_str!("engines.py");
const BUCKETS: u32 = 4;
const SETTINGS: [(&str, &str); 2] = [
    // Versions come from the flushes that the test asks for.
    ("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "600000"),
    ("TIDELAKE__FLUSHER__DISCOVERY_MS", "200"),
];

/// Every key and its value.
type Rows = BTreeMap<u64, u64>;

/// What another engine does.
struct Operation {
    /// A function of the script.
    name: &'static str,
    /// What it makes of the rows; it also gets those of the first version.
    effect: fn(&mut Rows, &Rows),
    /// What the column `v` is called afterwards.
    value: &'static str,
    /// What delta-rs says where it does not do this to an upsert table, or to any.
    refused: [Option<&'static str>; 2],
}

impl Operation {
    const fn files(name: &'static str) -> Self {
        Self {
            name,
            effect: |_, _| {},
            value: "v",
            refused: [None, None],
        }
    }

    const fn rows(name: &'static str, effect: fn(&mut Rows, &Rows)) -> Self {
        Self {
            effect,
            ..Self::files(name)
        }
    }
}

const ROWS: [Operation; 5] = [
    Operation::rows("append", |rows, _| {
        rows.extend((5000..5040).map(|id| (id, 1)))
    }),
    Operation::rows("delete", |rows, _| rows.retain(|id, _| id % 5 != 0)),
    Operation::rows("update", |rows, _| {
        let some = rows.iter_mut().filter(|(id, _)| **id % 5 == 1);
        some.for_each(|(_, v)| *v += 100_000);
    }),
    Operation::rows("merge", |rows, _| {
        rows.extend((10..20).chain(5000..5010).map(|id| (id, 7)));
    }),
    Operation::rows("restore", |rows, first| rows.clone_from(first)),
];

const FILES: [Operation; 6] = [
    Operation::files("compact"),
    Operation::files("z_order"),
    Operation::files("vacuum"),
    Operation::files("vacuum_full"),
    Operation::files("checkpoint"),
    Operation::files("clean_up"),
];

const SCHEMA: [Operation; 5] = [
    Operation::files("add_column"),
    Operation::files("add_by_hand"),
    Operation {
        value: "w",
        ..Operation::files("rename")
    },
    Operation::files("reorder"),
    Operation::files("drop"),
];

/// delta-rs names the variant type in the protocol as soon as it sets a property.
const PROPERTIES: [Operation; 2] = [
    Operation::files("set_property"),
    Operation::files("set_by_hand"),
];

/// A table, and what it must hold.
struct Subject<'a> {
    operation: &'a Operation,
    name: String,
    upsert: bool,
    rows: Rows,
    first: (u64, Rows),
    value: &'static str,
    /// The first version after the operation, and the rows of those that a flush ended with.
    since: u64,
    known: BTreeMap<u64, Rows>,
}

impl Subject<'_> {
    /// New keys; in upsert tables also new values of old ones, and deletes.
    async fn write(&mut self, local: &Installation, round: u64) -> Result<()> {
        let (client, base) = (&local.client, 100 * round);
        let mut changed: Rows = (base..base + 60)
            .map(|id| (id, 1000 * round + id))
            .collect();
        if self.upsert {
            let step = 2 + usize::try_from(round)?;
            // Keys that the other engine brings are not ours before.
            let theirs = if round < 2 { 0..0 } else { 5000..5040 };
            let old = (0..60).chain(theirs).step_by(step);
            changed.extend(old.map(|id| (id, 1_000_000 * round + id)));
        }
        let value = self.value;
        let line = |(id, v): (&u64, &u64)| format!("{{\"id\":{id},\"{value}\":{v}}}\n");
        let lines: String = changed.iter().map(line).collect();
        client.ndjson(&self.name, &lines).await?.ok()?;
        self.rows.append(&mut changed);
        if self.upsert && round > 0 {
            let gone = base - 100..base - 90;
            let lines: String = gone
                .clone()
                .map(|id| format!("{{\"id\":{id}}}\n"))
                .collect();
            client.delete(&self.name, &lines).await?.ok()?;
            self.rows.retain(|id, _| !gone.contains(id));
        }
        Ok(())
    }

    async fn round(&mut self, local: &Installation, round: u64) -> Result<u64> {
        let write = self.write(local, round).await;
        write.with_context(|| format!("writing {}, round {round}", self.name))?;
        let flushed = local.client.flushed(&self.name).await;
        let version = flushed.with_context(|| format!("flushing {}, round {round}", self.name))?;
        self.known.insert(version, self.rows.clone());
        Ok(version)
    }

    fn sql(&self, table: &str) -> String {
        let value = self.value;
        format!(
            "SELECT count(*) AS n, count(DISTINCT id) AS d, sum(id) AS i, sum({value}) AS v \
             FROM {table}"
        )
    }
}

/// Count, distinct keys, sums of keys and of values.
fn figures(rows: &[(u64, u64)]) -> [String; 4] {
    let keys: BTreeSet<u64> = rows.iter().map(|(id, _)| *id).collect();
    let sum = |column: fn(&(u64, u64)) -> u64| rows.iter().map(column).sum::<u64>();
    [
        rows.len().to_string(),
        keys.len().to_string(),
        sum(|row| row.0).to_string(),
        sum(|row| row.1).to_string(),
    ]
}

/// Numbers as text, with quotes around them or not, as readers give sums.
fn texts<'a>(values: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let text = |value: &Value| value.to_string().trim_matches('"').to_owned();
    values.into_iter().map(text).collect()
}

async fn subjects<'a>(
    local: &Installation,
    operations: &'a [Operation],
) -> Result<Vec<Subject<'a>>> {
    let mut subjects = Vec::new();
    for operation in operations {
        for upsert in [true, false] {
            let kind = if upsert { "upsert" } else { "append" };
            let name = format!("{}_{kind}", operation.name);
            if upsert {
                local
                    .client
                    .create_upsert(&name, &schema(), BUCKETS)
                    .await?;
            } else {
                let mut schema = schema();
                schema
                    .as_object_mut()
                    .and_then(|schema| schema.remove("identifier-field-ids"));
                local.client.create_table(&name, &schema, BUCKETS).await?;
            }
            let mut subject = Subject {
                operation,
                name,
                upsert,
                rows: Rows::new(),
                first: (0, Rows::new()),
                value: "v",
                since: 0,
                known: BTreeMap::new(),
            };
            let version = subject.round(local, 0).await?;
            subject.first = (version, subject.rows.clone());
            subject.since = subject.round(local, 1).await? + 1;
            subject.known.clear();
            subjects.push(subject);
        }
    }
    Ok(subjects)
}

/// Lets the other engine work on all tables; what it refuses must be what the list says.
async fn operate(
    local: &Installation,
    readers: &Readers,
    subjects: &mut [Subject<'_>],
) -> Result<()> {
    let mut asked = Vec::new();
    for subject in &*subjects {
        let path = local.table_folder(&subject.name)?.display().to_string();
        asked.push(json!([subject.operation.name, path, subject.first.0]));
    }
    let said = readers
        .python(SCRIPT, &[&Value::Array(asked).to_string()])
        .await?;
    let mut said = said.lines().map(serde_json::from_str::<Option<String>>);
    let mut unexpected = Vec::new();
    for subject in subjects {
        let refused = said.next().context("an operation without an answer")??;
        let expected = subject.operation.refused[usize::from(!subject.upsert)];
        let as_expected = match (&refused, expected) {
            (None, None) => true,
            (Some(refused), Some(expected)) => refused.contains(expected),
            _ => false,
        };
        if !as_expected {
            unexpected.push(format!("{}: {refused:?}, not {expected:?}", subject.name));
        }
        if refused.is_none() {
            (subject.operation.effect)(&mut subject.rows, &subject.first.1);
            subject.value = subject.operation.value;
        }
    }
    ensure!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    Ok(())
}

/// A second flusher: buckets move to it, and back when it goes.
async fn second_flusher(local: &Installation) -> Result<Process> {
    let store = format!("file://{}", local.data().join("store").display());
    let index = local.dir().join("second").display().to_string();
    let flusher = Program::new("tidelake")
        .args(["serve", "flusher", "--listen", "127.0.0.1:0"])
        .args(["--kafka-bootstrap", &local.kafka, "--store", &store])
        .envs([
            ("TIDELAKE__INDEX_DIR".to_owned(), index),
            ("TIDELAKE__FLUSH_AGE_MS".to_owned(), "600000".to_owned()),
            ("TIDELAKE__DISCOVERY_MS".to_owned(), "200".to_owned()),
        ])
        .start()
        .await?;
    let address = flusher.ready("flusher")?.to_owned();
    wait_until("buckets of the second flusher", WAIT_MAX, async || {
        let owned = local
            .client
            .metric(&address, "tidelake_flusher_buckets")
            .await;
        owned.is_ok_and(|owned| owned > 0.0).then_some(())
    })
    .await?;
    Ok(flusher)
}

/// Our SQL and delta_kernel at every version since the operation, the model where it is known; and
/// what all others are asked, with what they have to say.
async fn compare(
    local: &Installation,
    subject: &Subject<'_>,
) -> Result<Vec<(Reading, Vec<String>)>> {
    let name = &subject.name;
    let path = local.table_folder(name)?.display().to_string();
    let newest = *subject.known.keys().next_back().context("no version")?;
    let mapped = ["rename", "drop"].contains(&subject.operation.name);
    let mut asked = Vec::new();
    for version in subject.since..=newest {
        let at = json!({ "as_of_version": version });
        let ours = local.client.sql_with(&subject.sql(name), at).await?.ok()?;
        let ours = texts(ours["rows"][0].as_array().context("no row")?);
        if let Some(rows) = subject.known.get(&version) {
            let rows: Vec<_> = rows.iter().map(|(id, v)| (*id, *v)).collect();
            let model = figures(&rows);
            ensure!(
                ours == model,
                "{name} at {version}: {ours:?}, not {model:?}"
            );
        }
        ensure!(ours[0] == ours[1], "{name} at {version}: doubled {ours:?}");
        let rows = others::kernel_pairs(Path::new(&path), version, ["id", subject.value])?;
        let kernel = figures(&rows);
        ensure!(
            ours == kernel,
            "{name}, delta_kernel at {version}: {kernel:?}, not {ours:?}"
        );
        for reader in Reader::ALL {
            if mapped && !reader.reads_column_mapping() {
                continue;
            }
            let reading = Reading {
                reader,
                path: path.clone(),
                version: Some(version),
                sql: subject.sql("t"),
            };
            asked.push((reading, ours.clone()));
        }
    }
    sound(local, name).await?;
    Ok(asked)
}

/// What differs of what readers say, of all tables at once: starting them costs more than reading.
async fn differences(readers: &Readers, asked: &[(Reading, Vec<String>)]) -> Result<Vec<String>> {
    let readings: Vec<_> = asked.iter().map(|(reading, _)| reading.clone()).collect();
    let mut wrong = Vec::new();
    for ((reading, expected), found) in asked.iter().zip(readers.all(&readings).await?) {
        let found = texts(["n", "d", "i", "v"].map(|name| &found[0][name]));
        if found != *expected {
            let (reader, path, at) = (reading.reader.name(), &reading.path, reading.version);
            wrong.push(format!(
                "{reader}, {path} at {at:?}: {found:?}, not {expected:?}"
            ));
        }
    }
    Ok(wrong)
}

/// What `tidelake doctor` says.
async fn sound(local: &Installation, table: &str) -> Result<()> {
    let url = format!(
        "{}/v1/tables/{table}/check?repair=false",
        local.client.query
    );
    let report = local.client.send(local.client.http.post(url)).await?.ok()?;
    ensure!(report["sound"] == true, "{table}: {report}");
    Ok(())
}

async fn go_through(operations: &[Operation]) -> Result<()> {
    let Some(readers) = Readers::new()? else {
        return Ok(());
    };
    let mut local = Installation::start_with(&[], &SETTINGS).await?;
    let mut subjects = subjects(&local, operations).await?;
    operate(&local, &readers, &mut subjects).await?;
    let mut second = None;
    for round in 2..7 {
        match round {
            4 => second = Some(second_flusher(&local).await?),
            5 => {
                let mut flusher = second.take().context("no second flusher")?;
                flusher.stop().await?;
            }
            6 => {
                local.process.stop().await?;
                local.restart().await?;
            }
            _ => {}
        }
        for subject in &mut subjects {
            subject.round(&local, round).await?;
        }
    }
    let (mut wrong, mut asked) = (Vec::new(), Vec::new());
    for subject in &subjects {
        match compare(&local, subject).await {
            Ok(more) => asked.extend(more),
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    wrong.extend(differences(&readers, &asked).await?);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_other_engines_change_are_what_they_made_them() {
    go_through(&ROWS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_other_engines_rewrite_or_remove_change_no_row() {
    go_through(&FILES).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_other_engines_change_are_followed() {
    go_through(&SCHEMA).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_that_other_engines_set_stop_nothing() {
    go_through(&PROPERTIES).await.unwrap();
}
