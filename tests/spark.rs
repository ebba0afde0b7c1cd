//! Apache Spark reads what we wrote, changes it, and we go on from there. Slow: see
//! `scripts/test-spark`.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidelake_tests::{Client, Installation};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::upsert_load::schema;

const SCRIPT: &str = include_str!("spark.py");
const SETTINGS: [(&str, &str); 2] = [
    // Versions come from the flushes that the test asks for.
    ("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "600000"),
    ("TIDELAKE__FLUSHER__DISCOVERY_MS", "200"),
];

/// Every key and its value.
type Rows = BTreeMap<u64, u64>;

/// A Spark session in a process of its own.
struct Spark {
    _process: Child,
    ask: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Spark {
    fn start() -> Result<Self> {
        let home = std::env::var("TIDELAKE_SPARK").context("run scripts/test-spark")?;
        let mut process = Command::new(format!("{home}/venv/bin/python"))
            .args(["-c", SCRIPT, &format!("{home}/jars")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let ask = process.stdin.take().context("no standard input")?;
        let said = process.stdout.take().context("no standard output")?;
        Ok(Self {
            _process: process,
            ask,
            said: BufReader::new(said).lines(),
        })
    }

    /// What a statement gives, one JSON object a row.
    async fn run(&mut self, folder: &str, version: Option<u64>, sql: &str) -> Result<Vec<Value>> {
        let asked = json!({"folder": folder, "version": version, "sql": sql});
        self.ask.write_all(format!("{asked}\n").as_bytes()).await?;
        self.ask.flush().await?;
        loop {
            let line = self.said.next_line().await?.context("spark has ended")?;
            // Other lines are of Spark's own.
            let Ok(Value::Object(mut answer)) = serde_json::from_str(&line) else {
                continue;
            };
            if let Some(error) = answer.remove("error") {
                anyhow::bail!("spark, {sql}: {error}");
            }
            let rows = answer.remove("rows").context("no rows")?;
            return Ok(rows.as_array().context("no rows")?.clone());
        }
    }
}

/// What Spark does to a table.
struct Step {
    sql: &'static str,
    /// What that makes of the rows.
    effect: fn(&mut Rows),
    /// What the column `v` is called afterwards.
    value: &'static str,
}

const fn files(sql: &'static str) -> Step {
    rows(sql, |_| {})
}

const fn rows(sql: &'static str, effect: fn(&mut Rows)) -> Step {
    let value = "v";
    Step { sql, effect, value }
}

const fn renamed(sql: &'static str) -> Step {
    Step {
        value: "w",
        ..files(sql)
    }
}

const STEPS: [Step; 13] = [
    files("OPTIMIZE {t}"),
    files("OPTIMIZE {t} ZORDER BY (v)"),
    rows("DELETE FROM {t} WHERE id % 10 = 3", |rows| {
        rows.retain(|id, _| id % 10 != 3);
    }),
    rows("UPDATE {t} SET v = v + 100000 WHERE id % 10 = 4", |rows| {
        let some = rows.iter_mut().filter(|(id, _)| **id % 10 == 4);
        some.for_each(|(_, v)| *v += 100_000);
    }),
    rows(
        "MERGE INTO {t} t USING (SELECT id, 7L AS v FROM range(0, 9000, 100)) s ON t.id = s.id \
         WHEN MATCHED THEN UPDATE SET t.v = s.v \
         WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v)",
        |rows| rows.extend((0..9000).step_by(100).map(|id| (id, 7))),
    ),
    rows(
        "INSERT INTO {t} (id, v, note) SELECT id, 9L, 'spark' FROM range(20000, 20050)",
        |rows| rows.extend((20_000..20_050).map(|id| (id, 9))),
    ),
    files("ALTER TABLE {t} ADD COLUMNS (extra STRING)"),
    files("VACUUM {t} RETAIN 0 HOURS"),
    files("ALTER TABLE {t} SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name')"),
    renamed("ALTER TABLE {t} RENAME COLUMN v TO w"),
    renamed("ALTER TABLE {t} DROP COLUMN note"),
    renamed("ALTER TABLE {t} ALTER COLUMN w FIRST"),
    renamed("REORG TABLE {t} APPLY (PURGE)"),
];

/// A table, and what it must hold.
struct Subject {
    name: &'static str,
    folder: String,
    rows: Rows,
    value: &'static str,
    round: u64,
}

impl Subject {
    /// New keys; in the upsert table also new values of old ones, and deletes.
    async fn write(&mut self, client: &Client) -> Result<u64> {
        self.round += 1;
        let round = self.round;
        let base = 10_000 + round * 50;
        let mut changed: Rows = (base..base + 50).map(|id| (id, round)).collect();
        if self.name == "upsert" {
            let theirs = 20_000..20_050;
            let known = theirs.filter(|id| self.rows.contains_key(id));
            let old = (0..600).step_by(7).chain(known.step_by(3));
            changed.extend(old.map(|id| (id, 1000 + round)));
            let gone: Vec<u64> = (0..10).map(|n| 600 + (round * 10 + n) % 300).collect();
            let lines = gone.iter().map(|id| format!("{{\"id\":{id}}}\n"));
            client
                .delete(self.name, &lines.collect::<String>())
                .await?
                .ok()?;
            self.rows.retain(|id, _| !gone.contains(id));
        }
        let value = self.value;
        let line = |(id, v): (&u64, &u64)| format!("{{\"id\":{id},\"{value}\":{v}}}\n");
        let lines: String = changed.iter().map(line).collect();
        client.ndjson(self.name, &lines).await?.ok()?;
        self.rows.append(&mut changed);
        client.flushed(self.name).await
    }

    /// Spark and our own SQL read these rows.
    async fn agree(&self, client: &Client, spark: &mut Spark, version: u64) -> Result<()> {
        let (name, value) = (self.name, self.value);
        let sql = |table: &str| format!("SELECT id, {value} FROM {table} ORDER BY id");
        let expected: Vec<(u64, u64)> = self.rows.iter().map(|(id, v)| (*id, *v)).collect();
        let ours = client.pairs_at(&sql(name), version).await?;
        ensure!(ours == expected, "{name} at {version}: ours differs");
        let theirs = spark.run(&self.folder, Some(version), &sql("{t}")).await?;
        let pair = |row: &Value| Some((row["id"].as_u64()?, row[value].as_u64()?));
        let theirs: Option<Vec<_>> = theirs.iter().map(pair).collect();
        let theirs = theirs.context("no number")?;
        let differs = theirs.iter().zip(&expected).find(|(a, b)| a != b);
        ensure!(
            theirs == expected,
            "{name} at {version}: spark reads {} rows, not {}: {differs:?}",
            theirs.len(),
            expected.len()
        );
        Ok(())
    }
}

async fn subject(local: &Installation, name: &'static str) -> Result<Subject> {
    let client = &local.client;
    let mut schema = schema();
    if name == "upsert" {
        client.create_upsert(name, &schema, 2).await?;
    } else {
        let schema_object = schema.as_object_mut().context("no object")?;
        schema_object.remove("identifier-field-ids");
        client.create_table(name, &schema, 2).await?;
    }
    let mut rows = Rows::new();
    for round in 0..4 {
        // An append table takes each key once.
        let keys: Rows = match name {
            "upsert" => (0..800)
                .map(|id| ((id * 7 + round * 13) % 1000, round))
                .collect(),
            _ => (0..800).map(|id| (round * 800 + id, round)).collect(),
        };
        let line = |(id, v): (&u64, &u64)| format!("{{\"id\":{id},\"v\":{v}}}\n");
        let lines: String = keys.iter().map(line).collect();
        client.ndjson(name, &lines).await?.ok()?;
        client.flush(name).await?;
        rows.extend(keys);
    }
    Ok(Subject {
        name,
        folder: local.table_folder(name)?.display().to_string(),
        rows,
        value: "v",
        round: 0,
    })
}

async fn sound(client: &Client, table: &str) -> Result<()> {
    let url = format!("{}/v1/tables/{table}/check?repair=false", client.query);
    let report = client.send(client.http.post(url)).await?.ok()?;
    ensure!(report["sound"] == true, "{table}: {report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: run scripts/test-spark"]
async fn spark_reads_our_tables_and_we_go_on_from_what_it_does_to_them() {
    let mut local = Installation::start_with(&[], &SETTINGS).await.unwrap();
    let mut spark = Spark::start().unwrap();
    let mut wrong = Vec::new();
    for name in ["upsert", "append"] {
        let mut subject = subject(&local, name).await.unwrap();
        for (number, step) in STEPS.iter().enumerate() {
            if let Err(error) = through(&mut local, &mut spark, &mut subject, step, number).await {
                wrong.push(format!("{name}, {}: {error:#}", step.sql));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A step of Spark's, three flushes of ours, and now and then a restart between.
async fn through(
    local: &mut Installation,
    spark: &mut Spark,
    subject: &mut Subject,
    step: &Step,
    number: usize,
) -> Result<()> {
    spark.run(&subject.folder, None, step.sql).await?;
    (step.effect)(&mut subject.rows);
    subject.value = step.value;
    for flush in 0..3 {
        if flush == 1 && number % 4 == 1 {
            local.process.kill()?;
            local.restart().await?;
        }
        let version = subject.write(&local.client).await?;
        if flush != 1 {
            subject.agree(&local.client, spark, version).await?;
        }
    }
    sound(&local.client, subject.name).await
}
