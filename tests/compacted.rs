//! What another engine compacts, or we do, answers as before: NaN, infinities, nulls within nulls,
//! times at the ends of the calendar, deleted and superseded rows, with newer rows behind it in the
//! log.
//!
//! delta-rs writes its files with its own bounds, which leave NaN out, and its own pages.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{Float32Array, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::ipc::writer::StreamWriter;
use arrow::json::ReaderBuilder;
use serde_json::{Value, json};
use tidelake_testkit::{Readers, WAIT_MAX, wait_until};
use tidelake_tests::Installation;

use crate::engines::SCRIPT;

/// How delta-rs rewrites the files.
const WAYS: [&str; 2] = ["compact", "z_order"];
const ROWS: usize = 120;
const ARROW: &str = "application/vnd.apache.arrow.stream";

/// What is asked of a table before and after.
const QUESTIONS: &[&str] = &[
    "SELECT id, v, x, y, s, t, u, d, st, st['a'], st['in']['w'], l FROM @ ORDER BY id",
    "SELECT count(*), count(v), count(x), count(st), count(st['a']), count(st['in']['w']), \
     count(l), count(t) FROM @",
    "SELECT min(v), max(v), min(s), max(s), min(t), max(t), min(u), max(u), min(d), max(d), \
     max(x), max(y), min(st['a']), sum(v), sum(d) FROM @",
    "SELECT id FROM @ WHERE x > 10 ORDER BY id",
    "SELECT id FROM @ WHERE x <> 3 ORDER BY id",
    "SELECT id FROM @ WHERE NOT (x <= 10) ORDER BY id",
    "SELECT id FROM @ WHERE x = 'NaN'::double OR y = 'NaN'::float ORDER BY id",
    "SELECT id FROM @ WHERE x < -1e300 OR y > 1e30 ORDER BY id",
    "SELECT id FROM @ WHERE x IS DISTINCT FROM 0 ORDER BY id",
    "SELECT id FROM @ WHERE x = 0 OR y = -0.0 ORDER BY id",
    "SELECT id FROM @ WHERE st['a'] = 0 OR st['in']['w'] = '' ORDER BY id",
    "SELECT id FROM @ WHERE st['a'] IS NULL ORDER BY id",
    "SELECT id FROM @ WHERE st IS NULL AND st['in']['w'] IS NULL ORDER BY id",
    "SELECT id FROM @ WHERE t >= '9999-12-31' OR t < '1000-01-01' ORDER BY id",
    "SELECT id FROM @ WHERE u = '9999-12-31T23:59:59.999999Z' ORDER BY id",
    "SELECT id FROM @ WHERE d = 99999999.99 OR d < 0 ORDER BY id",
    "SELECT id FROM @ WHERE s = '' OR s > 'b' ORDER BY id",
    "SELECT id FROM @ WHERE s IS NULL AND v IS NOT NULL ORDER BY id",
    "SELECT v % 3, count(*), min(x), max(s) FROM @ GROUP BY v % 3 ORDER BY 1",
    "SELECT id, x FROM @ ORDER BY x DESC NULLS LAST, id LIMIT 20",
    "SELECT id FROM @ WHERE id = 7",
    "SELECT id, v FROM @ WHERE id IN (1, 50, 119, 4000) ORDER BY id",
    "SELECT id, cardinality(l), l[1] FROM @ WHERE cardinality(l) > 0 ORDER BY id",
];

fn schema(is_keyed: bool) -> Value {
    let field = |id: u32, name: &str, of: Value| json!({"id": id, "name": name, "type": of, "required": name == "id"});
    let inner = json!({"type": "struct", "fields": [
        {"id": 21, "name": "w", "type": "string", "required": true}]});
    let nested = json!({"type": "struct", "fields": [
        {"id": 22, "name": "a", "type": "long", "required": true},
        {"id": 23, "name": "in", "type": inner, "required": false}]});
    let list = json!({"type": "list", "element-id": 24, "element": "long",
        "element-required": false});
    let mut schema = json!({"type": "struct", "schema-id": 0, "fields": [
        field(1, "id", json!("long")),
        field(2, "v", json!("long")),
        field(3, "x", json!("double")),
        field(4, "y", json!("float")),
        field(5, "s", json!("string")),
        field(6, "t", json!("timestamp")),
        field(7, "u", json!("timestamptz")),
        field(8, "d", json!("decimal(10,2)")),
        field(9, "st", nested),
        field(10, "l", list),
    ]});
    if is_keyed {
        schema["identifier-field-ids"] = json!([1]);
    }
    schema
}

/// Every kind of value in turns of different lengths, so that each meets all others.
fn row(id: usize, of: usize) -> Value {
    let one = |choices: &[Value]| choices[of % choices.len()].clone();
    let times = [
        "0001-01-01T00:00:00",
        "9999-12-31T23:59:59.999999",
        "1970-01-01T00:00:00.000001",
        "1650-06-01T12:00:00",
        "2026-10-25T02:30:00",
    ];
    let nested = [
        json!({"a": 0, "in": {"w": ""}}),
        json!(null),
        json!({"a": 7, "in": null}),
        json!({"a": of, "in": {"w": "w"}}),
    ];
    let lists = [json!([1, 2]), json!([]), json!(null), json!([null, 4])];
    let decimals = [
        json!("99999999.99"),
        json!("-1.50"),
        json!(null),
        json!("0.00"),
    ];
    let time = times[of % times.len()];
    json!({
        "id": id,
        "v": if of.is_multiple_of(11) { json!(null) } else { json!(of * 31 % 97) },
        "s": one(&[json!(""), json!("a"), json!("ä"), json!(null), json!("c".repeat(50))]),
        "t": if of.is_multiple_of(6) { json!(null) } else { json!(time) },
        "u": format!("{time}Z"),
        "d": one(&decimals),
        "st": one(&nested),
        "l": lists[of / 3 % lists.len()],
    })
}

/// What JSON has no numbers for is among them.
fn float(id: usize) -> Option<f64> {
    let floats = [
        Some(0.0),
        Some(f64::NAN),
        Some(3.0),
        Some(f64::INFINITY),
        Some(-0.0),
        None,
        Some(f64::NEG_INFINITY),
    ];
    floats[id % floats.len()]
}

/// Rows as a body of Arrow, each under an id and with the values of another.
fn body(rows: impl Iterator<Item = (usize, usize)>) -> Result<Vec<u8>> {
    let rows: Vec<(usize, usize)> = rows.collect();
    let zone = Some("UTC".into());
    let inner = Field::new("w", DataType::Utf8, true);
    let nested = [
        Field::new("a", DataType::Int64, true),
        Field::new("in", DataType::Struct(vec![inner].into()), true),
    ];
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("v", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("y", DataType::Float32, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("u", DataType::Timestamp(TimeUnit::Microsecond, zone), true),
        Field::new("d", DataType::Decimal128(10, 2), true),
        Field::new("st", DataType::Struct(nested.into_iter().collect()), true),
        Field::new_list("l", Field::new_list_field(DataType::Int64, true), true),
    ]));
    let mut decoder = ReaderBuilder::new(Arc::clone(&schema)).build_decoder()?;
    let values: Vec<Value> = rows.iter().map(|&(id, of)| row(id, of)).collect();
    decoder.serialize(&values)?;
    let read = decoder.flush()?.context("no rows")?;
    let mut columns = read.columns().to_vec();
    let of = |half: usize| rows.iter().map(move |&(_, of)| float(of / half));
    columns[2] = Arc::new(Float64Array::from_iter(of(1)));
    let narrow = of(2).map(|x| x.map(|x| x as f32));
    columns[3] = Arc::new(Float32Array::from_iter(narrow));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

fn lines(rows: impl Iterator<Item = Value>) -> String {
    rows.map(|row| format!("{row}\n")).collect()
}

/// Files of several flushes, with rows in the log behind them.
async fn fill(local: &Installation, name: &str, is_keyed: bool) -> Result<()> {
    let client = &local.client;
    let path = format!("/v1/tables/{name}/records");
    let send = async |rows: Vec<(usize, usize)>| {
        let sent = client.post(&path, ARROW, body(rows.into_iter())?).await?;
        sent.ok()
    };
    match is_keyed {
        true => client.create_upsert(name, &schema(true), 2).await?,
        false => client.create_table(name, &schema(false), 2).await?,
    };
    if is_keyed {
        // Older values of all keys, and keys that are deleted.
        send((0..ROWS + 20).map(|id| (id, id + 1)).collect()).await?;
        client.flush(name).await?;
        let gone = (ROWS..ROWS + 20).map(|id| json!({"id": id}));
        client.delete(name, &lines(gone)).await?.ok()?;
    }
    for part in 0..3 {
        let some = part * 30..(part + 1) * 30;
        send(some.map(|id| (id, id)).collect()).await?;
        client.flush(name).await?;
    }
    send((90..ROWS).map(|id| (id, id)).collect()).await?;
    Ok(())
}

async fn answers(local: &Installation, table: &str) -> Result<Vec<Value>> {
    let mut answers = Vec::new();
    for question in QUESTIONS {
        let sql = question.replace('@', table);
        let url = format!("{}/v1/sql", local.client.query);
        let request = local.client.http.post(url).json(&json!({ "sql": sql }));
        let request = request.header("accept", "application/json; floats=text");
        let answer = local.client.send(request).await?.ok();
        let mut answer = answer.with_context(|| sql.clone())?;
        answers.push(answer["rows"].take());
    }
    Ok(answers)
}

/// Newest committed version that statements see, and files of it.
async fn files(local: &Installation, table: &str) -> Result<usize> {
    let sql = format!("SELECT count(*) FROM table_files('{table}')");
    let counted = local.client.ids(&sql, "committed").await?;
    Ok(counted.first().map_or(0, |files| *files as usize))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_engine_compacts_answers_as_before() {
    let Some(readers) = Readers::new().unwrap() else {
        return;
    };
    // Nothing is flushed but by request.
    let by_request = [("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "600000")];
    let local = Installation::start_with(&[], &by_request).await.unwrap();
    let mut tables = Vec::new();
    for way in WAYS {
        for is_keyed in [false, true] {
            let name = format!("{way}_{is_keyed}");
            fill(&local, &name, is_keyed).await.unwrap();
            let before = answers(&local, &name).await.unwrap();
            let files = files(&local, &name).await.unwrap();
            tables.push((way, name, before, files));
        }
    }
    // The tables of one way answer alike, too.
    let (first, rest) = tables.split_first().unwrap();
    for (_, name, before, _) in rest {
        same(before, &first.2, name).unwrap();
    }
    let asked: Vec<_> = tables
        .iter()
        .map(|(way, name, ..)| {
            let path = local.table_folder(name).unwrap().display().to_string();
            json!([way, path, 0])
        })
        .collect();
    let said = readers
        .python(SCRIPT, &[&Value::Array(asked).to_string()])
        .await
        .unwrap();
    assert!(said.lines().all(|said| said == "null"), "{said}");
    for (_, name, before, had) in &tables {
        wait_until("the files of the other engine", WAIT_MAX, async || {
            let now = files(&local, name).await.ok()?;
            (now < *had).then_some(())
        })
        .await
        .unwrap();
        let after = answers(&local, name).await.unwrap();
        same(&after, before, name).unwrap();
        local.client.flush(name).await.unwrap();
        let flushed = answers(&local, name).await.unwrap();
        same(&flushed, before, name).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_compact_answers_as_before() {
    let by_request = ("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "600000");
    let idle = [by_request, ("TIDELAKE__COMPACTOR__ENABLED", "false")];
    let mut local = Installation::start_with(&[], &idle).await.unwrap();
    let mut tables = Vec::new();
    for is_keyed in [false, true] {
        let name = format!("ours_{is_keyed}");
        fill(&local, &name, is_keyed).await.unwrap();
        let before = answers(&local, &name).await.unwrap();
        let files = files(&local, &name).await.unwrap();
        tables.push((name, before, files));
    }
    let at_work = [
        by_request,
        ("TIDELAKE__COMPACTOR__SWEEP_MS", "100"),
        ("TIDELAKE__COMPACTOR__FILES_TO_MERGE", "2"),
    ];
    local.restart_with(&at_work).await.unwrap();
    for (name, before, had) in &tables {
        wait_until("fewer files", WAIT_MAX, async || {
            let now = files(&local, name).await.ok()?;
            (now < *had).then_some(())
        })
        .await
        .unwrap();
        let after = answers(&local, name).await.unwrap();
        same(&after, before, name).unwrap();
        local.client.flush(name).await.unwrap();
        let flushed = answers(&local, name).await.unwrap();
        same(&flushed, before, name).unwrap();
    }
}

fn same(found: &[Value], expected: &[Value], table: &str) -> Result<()> {
    for ((found, expected), question) in found.iter().zip(expected).zip(QUESTIONS) {
        ensure!(
            found == expected,
            "{table}: {question}: {found}, not {expected}"
        );
    }
    Ok(())
}
