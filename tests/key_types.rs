//! Primary keys of every type, and of several columns: written by HTTP and straight to the log, found
//! by their text, and the same rows for every reader.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidelake_testkit::{WAIT_MAX, wait_until};
use tidelake_tests::{Client, Direct, Installation};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::others::{self, State};

const BUCKETS: u32 = 2;
/// Tables, each with one query: fewer than a tenant may run.
const AT_A_TIME: usize = 6;

/// A table: the types of its key, and keys, each in the form that we print.
struct Case {
    name: &'static str,
    types: Vec<&'static str>,
    keys: Vec<Vec<Value>>,
}

fn single(name: &'static str, ty: &'static str, keys: Value) -> Case {
    let keys = keys.as_array().cloned().unwrap_or_default();
    Case {
        name,
        types: vec![ty],
        keys: keys.into_iter().map(|key| vec![key]).collect(),
    }
}

fn several(name: &'static str, types: &[&'static str], keys: Value) -> Case {
    let keys = keys.as_array().cloned().unwrap_or_default();
    Case {
        name,
        types: types.to_vec(),
        keys: keys
            .into_iter()
            .map(|key| key.as_array().cloned().unwrap_or_default())
            .collect(),
    }
}

fn cases() -> Vec<Case> {
    let groups = [numbers(), times(), texts_and_bytes(), several_columns()];
    groups.into_iter().flatten().collect()
}

fn numbers() -> Vec<Case> {
    vec![
        single("of_boolean", "boolean", json!([true, false])),
        single("of_int", "int", json!([0, -1, 1, 7, i32::MIN, i32::MAX])),
        single(
            "of_long",
            "long",
            json!([0, -1, 1, 9_007_199_254_740_993_i64, i64::MIN, i64::MAX]),
        ),
        single(
            "of_decimal",
            "decimal(12,3)",
            json!([
                "0.000",
                "-0.001",
                "0.001",
                "123456789.125",
                "-999999999.999"
            ]),
        ),
        single(
            "of_large",
            "decimal(38,0)",
            json!(["0", "-1", "99999999999999999999999999999999999999"]),
        ),
    ]
}

fn times() -> Vec<Case> {
    vec![
        single(
            "of_date",
            "date",
            json!([
                "1969-12-31",
                "1970-01-01",
                "2026-11-21",
                "0001-01-01",
                "9999-12-31"
            ]),
        ),
        single(
            "of_time",
            "time",
            json!([
                "00:00:00",
                "00:00:00.000001",
                "12:34:56.789",
                "23:59:59.999999"
            ]),
        ),
        single(
            "of_timestamp",
            "timestamp",
            json!([
                "1969-12-31T23:59:59.999999",
                "1970-01-01T00:00:00",
                "2026-11-21T12:34:56.250"
            ]),
        ),
        single(
            "of_timestamptz",
            "timestamptz",
            json!([
                "1969-12-31T23:59:59.999999Z",
                "1970-01-01T00:00:00Z",
                "2026-11-21T12:34:56.250Z"
            ]),
        ),
        single(
            "of_timestamp_ns",
            "timestamp_ns",
            json!([
                "1969-12-31T23:59:59.999999999",
                "1970-01-01T00:00:00",
                "2026-11-21T12:34:56.123456789",
                "2026-11-21T12:34:56.123456788"
            ]),
        ),
    ]
}

fn texts_and_bytes() -> Vec<Case> {
    vec![
        single("of_string", "string", texts()),
        single(
            "of_uuid",
            "uuid",
            json!([
                "00000000-0000-0000-0000-000000000000",
                "123e4567-e89b-12d3-a456-426614174000",
                "ffffffff-ffff-ffff-ffff-ffffffffffff"
            ]),
        ),
        single(
            "of_binary",
            "binary",
            json!([
                "",
                "AA==",
                "AAA=",
                "//79",
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
            ]),
        ),
        single(
            "of_fixed",
            "fixed[4]",
            json!(["AAAAAA==", "AAECAw==", "/////w==", "AAECBA=="]),
        ),
    ]
}

fn several_columns() -> Vec<Case> {
    vec![
        several(
            "of_texts",
            &["string", "string"],
            json!([
                ["a", "b"],
                ["ab", ""],
                ["", "ab"],
                ["a\u{0}", "b"],
                ["a", "\u{0}b"],
                ["\"", ","],
                ["", ""]
            ]),
        ),
        several(
            "of_mixed",
            &["string", "long", "date"],
            json!([
                ["eu", 1, "2026-11-21"],
                ["eu", -1, "2026-11-21"],
                ["us", 1, "2026-11-21"],
                ["eu", 1, "2026-11-22"],
                ["Grüße \"x\"", 0, "1970-01-01"]
            ]),
        ),
        several(
            "of_numbers",
            &["int", "boolean"],
            json!([[1, true], [1, false], [-1, true], [0, false]]),
        ),
        several(
            "of_wide",
            &["uuid", "timestamptz", "decimal(20,2)"],
            json!([
                [
                    "123e4567-e89b-12d3-a456-426614174000",
                    "2026-11-21T12:34:56Z",
                    "1.00"
                ],
                [
                    "123e4567-e89b-12d3-a456-426614174000",
                    "2026-11-21T12:34:56Z",
                    "-1.00"
                ],
                [
                    "123e4567-e89b-12d3-a456-426614174001",
                    "2026-11-21T12:34:56Z",
                    "1.00"
                ]
            ]),
        ),
    ]
}

fn texts() -> Value {
    let prefix = "the same long beginning, over and over again: ".repeat(8);
    json!([
        "",
        " ",
        "a",
        "A",
        "ab",
        "\"",
        "\\",
        "'quoted'",
        "a/b?c=d&e#f%20",
        "Grüße",
        "世界",
        "🦀",
        "\u{0}",
        "\u{1}\n\t",
        "null",
        "42",
        "[1]",
        "{\"id\":1}",
        "é",
        "e\u{301}",
        format!("{prefix}1"),
        format!("{prefix}2"),
        format!("{prefix}11"),
        prefix,
    ])
}

/// A table while it is tested: what each key, by its place, holds.
struct Table {
    case: Case,
    client: Client,
    direct: Direct,
    model: BTreeMap<usize, u64>,
}

impl Table {
    fn object(&self, place: usize) -> Value {
        let key = self.case.keys[place].iter().enumerate();
        let fields = key.map(|(n, value)| (format!("k{n}"), value.clone()));
        Value::Object(fields.collect())
    }

    fn record(&self, place: usize, v: u64) -> Value {
        let mut record = self.object(place);
        record["n"] = json!(place);
        record["v"] = json!(v);
        record
    }

    /// The text of DESIGN section 4.
    fn text(&self, place: usize) -> String {
        match self.case.keys[place].as_slice() {
            [Value::String(text)] => text.clone(),
            [value] => value.to_string(),
            values => json!(values).to_string(),
        }
    }

    async fn put(&mut self, places: &[usize], v: u64) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let lines: String = places
            .iter()
            .map(|place| format!("{}\n", self.record(*place, v)))
            .collect();
        self.client.ndjson(self.case.name, &lines).await?.ok()?;
        self.model.extend(places.iter().map(|place| (*place, v)));
        Ok(())
    }

    async fn delete(&mut self, places: &[usize]) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let lines: String = places
            .iter()
            .map(|place| format!("{}\n", self.object(*place)))
            .collect();
        self.client.delete(self.case.name, &lines).await?.ok()?;
        self.model.retain(|place, _| !places.contains(place));
        Ok(())
    }

    /// Straight to the log; a tombstone where there is no value.
    async fn direct(&mut self, places: &[usize], v: Option<u64>) -> Result<()> {
        let mut messages = Vec::new();
        for place in places {
            let text = self.text(*place);
            let value = v.map(|v| self.record(*place, v).to_string());
            messages.push(self.direct.record(self.direct.home(&text), &text, value));
        }
        self.direct.send(messages).await?;
        for place in places {
            match v {
                Some(v) => self.model.insert(*place, v),
                None => self.model.remove(place),
            };
        }
        Ok(())
    }

    fn rows(&self) -> Vec<(u64, u64)> {
        let rows = self.model.iter();
        rows.map(|(place, v)| (*place as u64, *v)).collect()
    }

    async fn check(&self, consistency: &str) -> Result<()> {
        let sql = format!("SELECT n, v FROM {} ORDER BY n", self.case.name);
        let rows = self.client.pairs(&sql, consistency).await?;
        ensure!(
            rows == self.rows(),
            "{consistency}: {rows:?} for {:?}",
            self.rows()
        );
        for place in 0..self.case.keys.len() {
            self.look_up(place, consistency).await?;
        }
        let objects: Vec<Value> = (0..self.case.keys.len()).map(|n| self.object(n)).collect();
        let request = json!({"keys": objects, "consistency": consistency});
        let answer = self.client.lookup(self.case.name, &request).await?.ok()?;
        let rows = answer["rows"].as_array().context("no rows")?;
        for (place, row) in rows.iter().enumerate() {
            self.is_expected(place, row)?;
        }
        Ok(())
    }

    /// One key by its text.
    async fn look_up(&self, place: usize, consistency: &str) -> Result<()> {
        let text = self.text(place);
        if text.is_empty() {
            // No path is its.
            return Ok(());
        }
        let mut path = String::new();
        for byte in text.bytes() {
            write!(path, "%{byte:02X}")?;
        }
        let table = self.case.name;
        let url = format!(
            "{}/v1/tables/{table}/rows/{path}?consistency={consistency}",
            self.client.query
        );
        let answer = self.client.send(self.client.http.get(url)).await?;
        if answer.status == 404 && answer.code() == "ROW_NOT_FOUND" {
            return self.is_expected(place, &Value::Null);
        }
        self.is_expected(place, &answer.ok()?)
    }

    fn is_expected(&self, place: usize, row: &Value) -> Result<()> {
        let expected = match self.model.get(&place) {
            Some(v) => self.record(place, *v),
            None => Value::Null,
        };
        ensure!(*row == expected, "key {:?}: {row}", self.text(place));
        Ok(())
    }

    /// The version that holds everything now, and its rows.
    async fn flush(&self) -> Result<(u64, Vec<(u64, u64)>)> {
        let version = self.client.flushed(self.case.name).await?;
        Ok((version, self.rows()))
    }
}

/// An older version and the newest, each with its rows.
async fn history(client: Client, kafka: String, case: Case) -> Result<[(u64, Vec<(u64, u64)>); 2]> {
    let mut fields: Vec<Value> = Vec::new();
    for (n, ty) in case.types.iter().enumerate() {
        fields.push(json!({"id": n + 1, "name": format!("k{n}"), "required": true, "type": ty}));
    }
    for name in ["n", "v"] {
        let id = fields.len() + 1;
        fields.push(json!({"id": id, "name": name, "required": false, "type": "long"}));
    }
    let identifiers: Vec<usize> = (1..=case.types.len()).collect();
    let schema = json!({"type": "struct", "schema-id": 0, "identifier-field-ids": identifiers, "fields": fields});
    client.create_upsert(case.name, &schema, BUCKETS).await?;
    let all: Vec<usize> = (0..case.keys.len()).collect();
    let mut table = Table {
        direct: Direct::new(&kafka, case.name, BUCKETS)?,
        case,
        client,
        model: BTreeMap::new(),
    };
    let third = |n: usize| -> Vec<usize> { all.iter().copied().filter(|at| at % 3 == n).collect() };

    table.put(&all, 1).await?;
    table.put(&third(2), 2).await?;
    table.check("latest").await?;
    table.flush().await?;
    table.check("committed").await?;

    table.direct(&third(0), None).await?;
    table.direct(&third(1), Some(3)).await?;
    table.delete(&third(2)).await?;
    table.check("latest").await?;
    let older = table.flush().await?;
    table.check("committed").await?;

    table.direct(&third(2), Some(4)).await?;
    table.direct(&third(1), None).await?;
    table.put(&third(0), 5).await?;
    // Gone and back in one flush.
    table.delete(&third(0)).await?;
    table.direct(&third(0), Some(6)).await?;
    table.check("latest").await?;
    let newest = table.flush().await?;
    table.check("committed").await?;
    ensure!(
        table.direct.dead_letters().await? == 0,
        "there are dead letters"
    );
    Ok([older, newest])
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_type_are_written_found_deleted_and_written_again() {
    let settings = [
        ("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "60000"),
        ("TIDELAKE__FLUSHER__DISCOVERY_MS", "200"),
    ];
    let local = Installation::start_with(&[], &settings).await.unwrap();
    let mut tables = JoinSet::new();
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    for case in cases() {
        let (client, kafka) = (local.client.clone(), local.kafka.clone());
        let places = places.clone();
        tables.spawn(async move {
            let _place = places.acquire_owned().await?;
            let name = case.name;
            let found = history(client, kafka, case).await;
            found.map(|found| (name, found)).context(name)
        });
    }
    let mut states = Vec::new();
    while let Some(done) = tables.join_next().await {
        let (name, found) = done.unwrap().unwrap();
        let folder = local.table_folder(name).unwrap();
        states.extend(found.map(|(version, rows)| State {
            folder: folder.clone(),
            version,
            rows,
        }));
    }
    others::agree(&states, ["n", "v"]).await.unwrap();
}

/// What producers may write for a value that we print in another way.
const FORMS: [(&str, &str, &[&str]); 6] = [
    (
        "uuid",
        "123e4567-e89b-12d3-a456-426614174000",
        &["123E4567-E89B-12D3-A456-426614174000"],
    ),
    ("decimal(12,3)", "12.500", &["12.5", "12.50", "12.5000"]),
    ("time", "12:30:00", &["12:30:00.0", "12:30:00.000000"]),
    (
        "timestamptz",
        "2026-11-21T10:34:56.250Z",
        &[
            "2026-11-21T12:34:56.25+02:00",
            "2026-11-21T10:34:56.250000Z",
            "2026-11-21 10:34:56.25z",
        ],
    ),
    (
        "timestamp",
        "2026-11-21T12:00:00",
        &["2026-11-21T12:00:00.000", "2026-11-21 12:00:00"],
    ),
    (
        "timestamp_ns",
        "2026-11-21T12:00:00.500",
        &["2026-11-21T12:00:00.500000000", "2026-11-21T12:00:00.5"],
    ),
];

/// Such a text has another bucket than the key, mostly: the record is misrouted then, the row
/// the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_written_in_another_way_is_the_same_key() {
    let settings = [("TIDELAKE__FLUSHER__DISCOVERY_MS", "200")];
    let local = Installation::start_with(&[], &settings).await.unwrap();
    for (number, (ty, canonical, forms)) in FORMS.into_iter().enumerate() {
        let said = format!("{ty} {canonical}");
        let found = another_way(&local, &format!("t{number}"), ty, canonical, forms).await;
        found.context(said).unwrap();
    }
}

async fn another_way(
    local: &Installation,
    name: &str,
    ty: &str,
    canonical: &str,
    forms: &[&str],
) -> Result<()> {
    let client = &local.client;
    let schema = json!({"type": "struct", "schema-id": 0, "identifier-field-ids": [1], "fields": [
        {"id": 1, "name": "k", "required": true, "type": ty},
        {"id": 2, "name": "v", "required": false, "type": "long"},
    ]});
    client.create_upsert(name, &schema, 8).await?;
    let direct = Direct::new(&local.kafka, name, 8)?;
    let sql = format!("SELECT 1, v FROM {name}");
    let rows = async |consistency| client.pairs(&sql, consistency).await;
    let record = |form: &str, v: usize| json!({"k": form, "v": v}).to_string();
    client.ndjson(name, &record(canonical, 0)).await?.ok()?;
    for (number, form) in forms.iter().enumerate() {
        let update = direct.record(direct.home(form), form, Some(record(form, number + 1)));
        direct.send([update]).await?;
        shows(client, name, &rows, &[(1, number as u64 + 1)]).await?;
        let keys = json!({"keys": [form, {"k": form}]});
        let found = client.lookup(name, &keys).await?.ok()?;
        for row in found["rows"].as_array().into_iter().flatten() {
            ensure!(
                row["k"] == canonical && row["v"] == number + 1,
                "{form}: {row}"
            );
        }
        direct
            .send([direct.record(direct.home(form), form, None)])
            .await?;
        shows(client, name, &rows, &[]).await?;
        client.ndjson(name, &record(form, 0)).await?.ok()?;
        client
            .delete(name, &json!({"k": canonical}).to_string())
            .await?
            .ok()?;
        ensure!(rows("latest").await?.is_empty(), "{form} was not deleted");
        client.ndjson(name, &record(form, 0)).await?.ok()?;
    }
    ensure!(direct.dead_letters().await? == 0, "there are dead letters");
    Ok(())
}

/// Once the flusher has brought a misrouted record to its bucket.
async fn shows(
    client: &Client,
    table: &str,
    rows: &impl AsyncFn(&'static str) -> Result<Vec<(u64, u64)>>,
    expected: &[(u64, u64)],
) -> Result<()> {
    client.flush(table).await?;
    wait_until("the record to come home", WAIT_MAX, async || {
        (rows("latest").await.ok()? == expected).then_some(())
    })
    .await?;
    client.flush(table).await?;
    let committed = rows("committed").await?;
    ensure!(committed == expected, "committed: {committed:?}");
    Ok(())
}
