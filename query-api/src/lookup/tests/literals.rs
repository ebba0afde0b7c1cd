//! `WHERE key = literal` by the index, where no row can have the literal; files of other engines.

use datafusion::arrow::array::StringArray;

use super::*;

const KEYED: &str = r#"{"type": "struct", "identifier-field-ids": [1], "fields": [
    {"id": 1, "name": "id", "type": "KEY", "required": true},
    {"id": 2, "name": "v", "type": "long", "required": false}]}"#;
const UUID: &str = "550e8400-e29b-41d4-a716-446655440000";

/// A table of two buckets with a key of this type, and a row of this key.
async fn keyed(ty: &str, key: Value) -> (World, TestTable) {
    let world = World::new(QuerySettings::default()).await;
    let table = world.table("t", &KEYED.replace("KEY", ty), 2).await;
    let text = key.as_str().map_or(key.to_string(), str::to_owned);
    let bucket = bucket_of(text.as_bytes(), 2).0;
    table.push(bucket, &[json!({"id": key, "v": 1})]);
    (world, table)
}

async fn counts(world: &World, cases: &[(String, i64)]) {
    for (filter, count) in cases {
        let sql = format!("SELECT count(*) FROM t WHERE {filter}");
        assert_eq!(world.rows(&sql).await, json!([[count]]), "{filter}");
    }
}

#[tokio::test]
async fn a_literal_that_no_key_can_be_finds_no_row() {
    let (world, _table) = keyed("uuid", json!(UUID)).await;
    counts(
        &world,
        &[
            ("id = 'unknown'".into(), 0),
            ("id = ''".into(), 0),
            (format!("id IN ('{UUID}', '')"), 1),
            (format!("id = '{UUID}' OR id = 'x'"), 1),
            ("id LIKE 'unknown'".into(), 0),
            (format!("id = '{UUID}'"), 1),
            ("id <> 'unknown'".into(), 1),
        ],
    )
    .await;
    let (world, _table) = keyed("string", json!("a")).await;
    let long = "x".repeat(20_000);
    counts(
        &world,
        &[
            (format!("id = '{long}'"), 0),
            (format!("id IN ('a', '{long}')"), 1),
            ("id = 'a'".into(), 1),
        ],
    )
    .await;
    let (world, _table) = keyed("fixed[2]", json!("AAE=")).await;
    let one = ("id IN (X'0001', X'00')".into(), 1);
    counts(&world, &[("id = X'00'".into(), 0), one]).await;
}

#[tokio::test]
async fn a_uuid_is_found_in_any_case() {
    let (world, _table) = keyed("uuid", json!(UUID)).await;
    let capitals = UUID.to_uppercase();
    let (status, _) = world.get(&format!("/v1/tables/t/rows/{capitals}")).await;
    assert_eq!(status, 200);
    counts(
        &world,
        &[
            (format!("id = '{capitals}'"), 1),
            (format!("'{capitals}' = id"), 1),
            (format!("id = CAST('{capitals}' AS uuid)"), 1),
            (format!("id IN ('{capitals}', 'x')"), 1),
            (format!("id <> '{capitals}'"), 0),
            (format!("id NOT IN ('{capitals}')"), 0),
            (format!("id BETWEEN '{capitals}' AND '{capitals}'"), 1),
            (format!("v = 1 AND id >= '{capitals}'"), 1),
            (
                format!("EXISTS (SELECT 1 FROM t b WHERE b.id = t.id AND t.id = '{capitals}')"),
                1,
            ),
        ],
    )
    .await;
    let body = json!({"sql": "SELECT v FROM t WHERE id = $1", "params": [capitals]});
    assert_eq!(world.rows_of(body).await, json!([[1]]));
}

#[tokio::test]
async fn a_uuid_that_another_engine_wrote_in_capitals_is_found_by_key() {
    let (world, mut table) = keyed("uuid", json!(UUID)).await;
    let bucket = bucket_of(UUID.as_bytes(), 2).0;
    table.flush_upserts(&[(bucket, 1)]).await;
    let theirs = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11";
    let schema = tidelake_schema::arrow::to_arrow(&table.schema);
    let (ids, v) = (StringArray::from(vec![theirs]), Int64Array::from(vec![7]));
    let batch = RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(v)]).unwrap();
    let add = table.write(&batch).await;
    let commit = write_commit(&[Action::CommitInfo(CommitInfo::default()), Action::Add(add)]);
    let name = "_delta_log/00000000000000000002.json";
    table.delta.store().put(name, commit.into()).await.unwrap();
    for key in [theirs.to_owned(), theirs.to_lowercase()] {
        for consistency in ["latest", "committed"] {
            let path = format!("/v1/tables/t/rows/{key}?consistency={consistency}");
            let (status, row) = world.get(&path).await;
            assert_eq!(status, 200, "{path}: {row}");
            assert_eq!(
                row["row"]["v"].as_i64().or(row["v"].as_i64()),
                Some(7),
                "{row}"
            );
            let sql = format!("SELECT v FROM t WHERE id = '{key}'");
            let body = json!({"sql": sql, "consistency": consistency});
            assert_eq!(
                world.rows_of(body).await,
                json!([[7]]),
                "{sql} {consistency}"
            );
        }
    }
    // Beside it our own are found as before.
    let sql = format!("SELECT v FROM t WHERE id IN ('{UUID}', '{theirs}')");
    let body = json!({"sql": sql, "consistency": "committed"});
    let rows = world.rows_of(body).await;
    let mut found: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row[0].as_i64())
        .collect();
    found.sort_unstable();
    assert_eq!(found, [Some(1), Some(7)]);
    // Pages go on behind a key in capitals, and its history is one.
    let (mut paged, mut from) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/tables/t/rows?limit=1&consistency=committed{from}");
        let (status, body) = world.get(&path).await;
        assert_eq!(status, 200, "{body}");
        let rows = body["rows"].as_array().unwrap().iter();
        paged.extend(rows.map(|row| row["v"].as_i64()));
        match body["next"].as_str() {
            Some(next) => from = format!("&from={next}"),
            None => break,
        }
    }
    assert_eq!(paged, [Some(1), Some(7)]);
    for key in [theirs.to_owned(), theirs.to_lowercase()] {
        let sql = format!("SELECT _change_type, v FROM key_history('t', '{key}')");
        assert_eq!(world.rows(&sql).await, json!([["insert", 7]]), "{sql}");
    }
}

#[tokio::test]
async fn rows_of_another_engine_are_found_by_key_and_stand_once_in_a_range() {
    let (world, mut table) = keyed("long", json!(1)).await;
    let schema = tidelake_schema::arrow::to_arrow(&table.schema);
    let foreign = |ids: std::ops::Range<i64>| {
        let ids: Vec<i64> = ids.collect();
        let (ids, v) = (Int64Array::from(ids.clone()), Int64Array::from(ids));
        RecordBatch::try_new(schema.clone(), vec![Arc::new(ids), Arc::new(v)]).unwrap()
    };
    // By hand: our own commits count the rows of every file.
    for (version, ids, counted) in [(1, 100..110, true), (2, 200..210, false)] {
        let mut add = table.write(&foreign(ids)).await;
        if !counted {
            add.stats = None;
        }
        let commit = write_commit(&[Action::CommitInfo(CommitInfo::default()), Action::Add(add)]);
        let name = format!("_delta_log/{version:020}.json");
        table.delta.store().put(&name, commit.into()).await.unwrap();
    }
    // Superseded by a row that is not flushed yet.
    let bucket = bucket_of(b"100", 2).0;
    table.push(bucket, &[json!({"id": 100, "v": -1})]);
    counts(
        &world,
        &[
            ("id = 203".into(), 1),
            ("id IN (100, 101, 209, 1, 5)".into(), 4),
            ("id = 100 AND v = -1".into(), 1),
            ("id > 0".into(), 21),
        ],
    )
    .await;
    let mut ids = Vec::new();
    let mut from = "0".to_owned();
    loop {
        let path = format!("/v1/tables/t/rows?limit=4&from={from}");
        let (status, body) = world.get(&path).await;
        assert_eq!(status, 200, "{body}");
        let rows = body["rows"].as_array().unwrap();
        ids.extend(rows.iter().map(|row| row["id"].as_i64().unwrap()));
        match body["next"].as_str() {
            Some(next) => from = next.to_owned(),
            None => break,
        }
    }
    let wanted: Vec<i64> = [1].into_iter().chain(100..110).chain(200..210).collect();
    assert_eq!(ids, wanted);
}
