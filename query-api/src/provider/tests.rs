//! The provider against a naive model: the same SQL over all live rows in memory.

use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, filter_record_batch};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidelake_core::TableVersion;
use tidelake_intake::decode::{MessageDecoder, WireMessage};
use tidelake_schema::{TableSchema, delta};
use tidelake_storage::Operation;

use crate::formats::{OddFloats, json as json_rows, output_batch, output_schema};
use crate::settings::QuerySettings;
use crate::table::shape::Shape;
use crate::testing::{TestTable, World};

const EVERYTHING: &str = r#"{"type": "struct", "fields": [
    {"name": "id", "type": "long", "required": true},
    {"name": "small", "type": "int", "required": false},
    {"name": "flag", "type": "boolean", "required": false},
    {"name": "ratio", "type": "double", "required": false},
    {"name": "amount", "type": "decimal(12, 2)", "required": false},
    {"name": "day", "type": "date", "required": false},
    {"name": "at", "type": "time", "required": false},
    {"name": "local", "type": "timestamp", "required": false},
    {"name": "moment", "type": "timestamptz", "required": false},
    {"name": "fine", "type": "timestamp_ns", "required": false},
    {"name": "finer", "type": "timestamptz_ns", "required": false},
    {"name": "text", "type": "string", "required": false},
    {"name": "key", "type": "uuid", "required": false},
    {"name": "code", "type": "fixed[2]", "required": false},
    {"name": "blob", "type": "binary", "required": false},
    {"name": "pt", "type": {"type": "struct", "fields": [
        {"name": "x", "type": "int", "required": false},
        {"name": "t", "type": "time", "required": false}]}, "required": false},
    {"name": "tags", "type": {"type": "list", "element": "string", "element-required": false}, "required": false},
    {"name": "times", "type": {"type": "list", "element": "timestamp_ns", "element-required": false}, "required": false},
    {"name": "props", "type": {"type": "map", "key": "string", "value": "long", "value-required": false}, "required": false}]}"#;

/// Row `id`: every column is a function of it, rising with it for a while, null now and then.
fn row(id: i64) -> Value {
    let (minute, second) = ((id / 60) % 60, id % 60);
    let clock = format!("10:{minute:02}:{second:02}.{:06}", id * 7 % 1_000_000);
    let mut row = json!({
        "id": id,
        "small": id % 17,
        "flag": id % 2 == 0,
        "ratio": id as f64 / 8.0,
        "amount": format!("{}.{:02}", id * 3, id % 100),
        "day": format!("2026-{:02}-{:02}", 1 + id / 28 % 12, 1 + id % 28),
        "at": clock,
        "local": format!("2026-11-21T{clock}"),
        "moment": format!("2026-11-21T{clock}Z"),
        "fine": format!("2026-11-21T{clock}123"),
        "finer": format!("2026-11-21T{clock}456Z"),
        "text": format!("text {id:05} that is longer than a bound may be, so that it is cut"),
        "key": format!("{id:08x}-0000-4000-8000-00000000000{:x}", id % 16),
        "code": "AAE=",
        "blob": "3q2+7w==",
        "pt": {"x": id, "t": clock},
        "tags": [format!("t{}", id % 5), null],
        "times": [format!("2026-11-21T{clock}")],
        "props": {"a": id},
    });
    let names: Vec<String> = row.as_object().unwrap().keys().cloned().collect();
    for (place, name) in names.iter().enumerate() {
        if name != "id" && (id + place as i64) % 11 == 0 {
            row[name.as_str()] = Value::Null;
        }
    }
    row
}

fn decode(schema: &TableSchema, rows: &[Value]) -> RecordBatch {
    let mut decoder = MessageDecoder::append(schema).unwrap();
    for (offset, row) in rows.iter().enumerate() {
        let text = row.to_string();
        let value = Some(text.as_bytes());
        let message = WireMessage {
            offset: offset as i64,
            timestamp_ms: 0,
            key: None,
            value,
            encoding: None,
            op: None,
            dead_letter: None,
        };
        decoder
            .push(&message)
            .unwrap_or_else(|error| panic!("{error}: {text}"));
    }
    let parts = decoder.finish().unwrap().rows;
    concat_batches(
        &parts[0].batch.schema(),
        parts.iter().map(|part| &part.batch),
    )
    .unwrap()
}

/// Files of 60, 60 and 30 rows, 20 rows in the tail, and rows deleted from the first two files.
struct Case {
    world: World,
    table: TestTable,
    live: RecordBatch,
}

async fn case(pushdown_filters: bool, deleted: &[(&str, &[u64])]) -> Case {
    let settings = QuerySettings {
        pushdown_filters,
        ..QuerySettings::default()
    };
    case_with(settings, deleted).await
}

/// Row groups of 16 rows, pages of 4.
async fn case_with(settings: QuerySettings, deleted: &[(&str, &[u64])]) -> Case {
    let world = World::new(settings).await;
    let mut table = world.table("things", EVERYTHING, 2).await;
    let rows: Vec<Value> = (0..170).map(row).collect();
    table.push(0, &rows[..120]);
    table.push(1, &rows[120..]);
    table.flush(0, 60).await;
    table.flush(0, 120).await;
    table.flush(1, 30).await;
    let mut alive = vec![true; rows.len()];
    for (path, positions) in deleted {
        table.delete(path, positions).await;
        let first = if *path == "part-00001.parquet" { 0 } else { 60 };
        positions
            .iter()
            .for_each(|position| alive[first + *position as usize] = false);
    }
    let all = decode(&table.schema, &rows);
    let live = filter_record_batch(&all, &BooleanArray::from(alive)).unwrap();
    Case { world, table, live }
}

async fn expected(live: &RecordBatch, sql: &str) -> Value {
    let context = SessionContext::new();
    let table = MemTable::try_new(live.schema(), vec![vec![live.clone()]]).unwrap();
    context.register_table("things", Arc::new(table)).unwrap();
    // Our session counts times in microseconds: so must the model's literals.
    let sql = &sql
        .replace("CAST('10:00:0", "arrow_cast('10:00:0")
        .replace("' AS time)", "', 'Time64(µs)')");
    let frame = context
        .sql(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let schema = output_schema(frame.schema().as_arrow());
    let mut out = vec![b'['];
    for batch in frame
        .collect()
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
    {
        if batch.num_rows() > 0 {
            if out.len() > 1 {
                out.push(b',');
            }
            let plain = output_batch(&batch, &schema).unwrap();
            json_rows::write_arrays(&plain, OddFloats::Null, &mut out).unwrap();
        }
    }
    out.push(b']');
    serde_json::from_slice(&out).unwrap()
}

fn sorted(rows: Value) -> Vec<String> {
    let mut rows: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    rows.sort();
    rows
}

async fn check(case: &Case, sql: &str) {
    let found = case.world.rows(sql).await;
    let wanted = expected(&case.live, sql).await;
    if sql.contains("ORDER BY") {
        assert_eq!(found, wanted, "{sql}");
    } else {
        assert_eq!(sorted(found), sorted(wanted), "{sql}");
    }
}

const SPARSE: &[u64] = &[0, 1, 17, 59];
const DENSE: &[u64] = &[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 30, 32, 40,
    48,
];

const QUERIES: &[&str] = &[
    "SELECT count(*) FROM things",
    "SELECT count(*), count(small), min(id), max(id), sum(id) FROM things",
    "SELECT min(small), max(small), min(day), max(day), min(at), max(at) FROM things",
    "SELECT min(amount), max(amount), min(ratio), max(ratio), min(text), max(text) FROM things",
    "SELECT min(fine), max(finer), min(local), max(moment), min(key), max(key) FROM things",
    "SELECT * FROM things",
    "SELECT * FROM things WHERE id = 61",
    "SELECT id FROM things WHERE id BETWEEN 14 AND 19 OR id > 165",
    "SELECT id FROM things WHERE id IN (0, 1, 16, 17, 18, 59, 60, 119, 120, 149, 150, 169)",
    "SELECT id FROM things WHERE small = 3 AND id < 100",
    "SELECT id FROM things WHERE small IS NULL",
    "SELECT id FROM things WHERE small IS NOT NULL AND NOT flag",
    "SELECT id FROM things WHERE flag AND ratio >= 7.5 AND ratio < 8",
    "SELECT id FROM things WHERE amount = 183.61",
    "SELECT id FROM things WHERE amount > CAST('450.00' AS decimal(12,2))",
    "SELECT id, amount + 1 FROM things WHERE amount < 12",
    "SELECT id FROM things WHERE day = '2026-03-07'",
    "SELECT id FROM things WHERE day > DATE '2026-06-20'",
    "SELECT id, at FROM things WHERE at < CAST('10:00:05' AS time)",
    "SELECT id FROM things WHERE at = '10:01:01.000427'",
    "SELECT id FROM things WHERE at >= '10:02:30' AND at <= '10:02:31'",
    "SELECT id FROM things WHERE local > '2026-11-21T10:02:00'",
    "SELECT id FROM things WHERE moment BETWEEN '2026-11-21T10:00:58Z' AND '2026-11-21T10:01:03Z'",
    "SELECT id FROM things WHERE moment = '2026-11-21T10:01:02.000434Z'",
    "SELECT id, fine FROM things WHERE fine > '2026-11-21T10:02:40'",
    "SELECT id FROM things WHERE fine > TIMESTAMP '2026-11-21T10:02:40' AND local > TIMESTAMP '2026-11-21 10:02:45'",
    "SELECT id FROM things WHERE moment < TIMESTAMP '2026-11-21T10:00:04Z' AND fine <= CAST('2026-11-21T10:00:03.000021123' AS timestamp(9))",
    "SELECT id FROM things WHERE fine = '2026-11-21T10:01:03.000441123'",
    "SELECT id, finer FROM things WHERE finer < '2026-11-21T10:00:04Z'",
    "SELECT id FROM things WHERE text LIKE 'text 0006%'",
    "SELECT id FROM things WHERE text > 'text 00160'",
    "SELECT id FROM things WHERE text = 'text 00063 that is longer than a bound may be, so that it is cut'",
    "SELECT id FROM things WHERE key = '0000003f-0000-4000-8000-00000000000f'",
    "SELECT id FROM things WHERE key > '000000a0-0000-4000-8000-000000000000'",
    "SELECT id, blob FROM things WHERE blob = X'DEADBEEF' AND id < 5",
    "SELECT id, code FROM things WHERE code IS NULL",
    "SELECT id, pt, pt['x'] FROM things WHERE pt['x'] > 160",
    "SELECT id, pt['t'] FROM things WHERE pt['t'] < CAST('10:00:03' AS time)",
    "SELECT id, tags, times, props FROM things WHERE id > 160",
    "SELECT tags[1] t, count(*) FROM things GROUP BY 1",
    "SELECT small, count(*), avg(ratio) FROM things GROUP BY small",
    "SELECT id FROM things ORDER BY id LIMIT 7",
    "SELECT id FROM things ORDER BY id DESC LIMIT 30",
    "SELECT id, fine FROM things ORDER BY fine DESC NULLS LAST, id LIMIT 5",
    "SELECT id, at FROM things ORDER BY at NULLS LAST, id LIMIT 5",
    "SELECT id, amount FROM things WHERE small > 3 ORDER BY amount DESC NULLS LAST, id LIMIT 9",
    "SELECT id, text FROM things ORDER BY text DESC NULLS LAST, id LIMIT 3",
    "SELECT id FROM things WHERE id > 20 ORDER BY id LIMIT 5 OFFSET 33",
    "SELECT id, moment FROM things WHERE moment IS NOT NULL ORDER BY moment LIMIT 4",
    "SELECT count(*) FROM (SELECT id FROM things LIMIT 25)",
    "SELECT count(*) FROM (SELECT id FROM things WHERE id >= 0 LIMIT 45)",
    "SELECT count(*) FROM (SELECT id FROM things WHERE id >= 16 LIMIT 165)",
    "SELECT a.id, b.id FROM things a JOIN things b ON a.id = b.id + 60 WHERE b.small = 2",
    "SELECT id FROM things WHERE id IN (SELECT max(id) FROM things GROUP BY small)",
    "SELECT id, row_number() OVER (ORDER BY id DESC) FROM things ORDER BY id LIMIT 3",
    "SELECT DISTINCT flag FROM things",
    "SELECT id FROM things WHERE false",
];

async fn matrix(pushdown_filters: bool, deleted: &[(&str, &[u64])]) {
    let case = case(pushdown_filters, deleted).await;
    for sql in QUERIES {
        check(&case, sql).await;
    }
}

#[tokio::test]
async fn answers_are_those_of_the_model() {
    matrix(false, &[]).await;
}

#[tokio::test]
async fn answers_are_those_of_the_model_with_pushdown() {
    matrix(true, &[]).await;
}

#[tokio::test]
async fn answers_are_those_of_the_model_with_deleted_rows() {
    matrix(
        false,
        &[
            ("part-00001.parquet", SPARSE),
            ("part-00002.parquet", DENSE),
        ],
    )
    .await;
}

#[tokio::test]
async fn answers_are_those_of_the_model_with_deleted_rows_and_pushdown() {
    matrix(
        true,
        &[
            ("part-00001.parquet", SPARSE),
            ("part-00002.parquet", DENSE),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_file_whose_rows_are_all_deleted_is_empty() {
    let all: Vec<u64> = (0..60).collect();
    let case = case(true, &[("part-00001.parquet", &all)]).await;
    for sql in QUERIES {
        check(&case, sql).await;
    }
}

#[tokio::test]
async fn versions_from_before_a_delete_keep_their_rows() {
    let mut case = case(false, &[]).await;
    let before = case.table.snapshot.version();
    case.table.delete("part-00001.parquet", &[3, 4, 5]).await;
    let count = |version: TableVersion| {
        format!("SELECT count(*), min(id) FROM things VERSION AS OF {version} WHERE id > 2")
    };
    assert_eq!(case.world.rows(&count(before)).await, json!([[147, 3]]));
    assert_eq!(
        case.world.rows(&count(before.next())).await,
        json!([[144, 6]])
    );
}

#[tokio::test]
async fn vectors_of_one_commit_are_one_request_however_many_files_they_are_of() {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("things", EVERYTHING, 1).await;
    let rows: Vec<Value> = (0..40).map(row).collect();
    table.push(0, &rows);
    for end in 1..=20 {
        table.flush(0, 2 * end).await;
    }
    let paths: Vec<String> = (1..=20).map(|n| format!("part-{n:05}.parquet")).collect();
    let deleted: Vec<(&str, &[u64])> = paths.iter().map(|path| (path.as_str(), &[1][..])).collect();
    let version = table.delete_of_files(&deleted).await;
    table.delete_of_files(&[(&paths[3], &[0, 1])]).await;

    let cost = async |sql: &str| {
        let before = world.store.requests();
        let body = json!({"sql": sql, "consistency": "committed"});
        let rows = world.rows_of(body).await;
        (
            world.store.requests().since(&before).of(Operation::Get),
            rows,
        )
    };
    // Of the later version one file's vector is another; those of the others are known then.
    for (of, counts) in [
        (format!("things VERSION AS OF {version}"), 20),
        ("things".to_owned(), 19),
    ] {
        let nothing = format!("SELECT id FROM {of} WHERE false");
        cost(&nothing).await;
        let (idle, _) = cost(&nothing).await;
        let count = format!("SELECT count(*) FROM {of}");
        let (read, rows) = cost(&count).await;
        assert_eq!(rows, json!([[counts]]), "{of}");
        assert_eq!(read - idle, 0, "how many rows are deleted is in the log");
        let plan = format!("EXPLAIN SELECT id FROM {of}");
        assert_eq!(cost(&plan).await.0 - idle, 1, "{of}");
        assert_eq!(
            cost(&plan).await.0 - idle,
            0,
            "what was read of {of} is kept"
        );
    }
}

#[tokio::test]
async fn files_are_pruned_by_every_kind_of_bound() {
    let case = case(false, &[]).await;
    let pruned = || case.world.engine.metrics().files_pruned.get();
    // Each filter is true in the last of three files only.
    for filter in [
        "id > 125",
        "ratio > 15.5",
        "amount > 375.00",
        "at > '10:02:05'",
        "local > '2026-11-21T10:02:05'",
        "moment > '2026-11-21T10:02:05Z'",
        "fine > '2026-11-21T10:02:05'",
        "finer > '2026-11-21T10:02:05Z'",
        "text > 'text 00125'",
        "key > '0000007d-0000-4000-8000-ffffffffffff'",
    ] {
        let before = pruned();
        let sql = format!("SELECT count(*) FROM things WHERE {filter}");
        let body = json!({"sql": sql, "consistency": "committed"});
        case.world.rows_of(body).await;
        assert_eq!(pruned() - before, 2, "{filter}");
    }
}

#[tokio::test]
async fn footers_are_read_once() {
    let case = case(false, &[("part-00001.parquet", SPARSE)]).await;
    let sql = "SELECT sum(id) FROM things WHERE small > 1";
    case.world.rows(sql).await;
    let misses = case.world.engine.metrics().metadata_misses.get();
    case.world.rows(sql).await;
    assert_eq!(case.world.engine.metrics().metadata_misses.get(), misses);
}

#[tokio::test]
async fn a_field_of_a_struct_is_read_alone() {
    let world = World::new(QuerySettings::default()).await;
    let schema = r#"{"type": "struct", "fields": [
        {"name": "st", "type": {"type": "struct", "fields": [
            {"name": "a", "type": "long", "required": true},
            {"name": "b", "type": "long", "required": false},
            {"name": "v", "type": "string", "required": true},
            {"name": "in", "type": {"type": "struct", "fields": [
                {"name": "w", "type": "long", "required": true}]}, "required": false}]},
            "required": false}]}"#;
    let mut table = world.table("t", schema, 1).await;
    let row = |n: u64| {
        let text: String = (0..200u64)
            .map(|at| char::from(b'a' + ((n * 7_919 + at * at * 31 + n * at) % 26) as u8))
            .collect();
        json!({"st": {"a": n, "b": n, "v": text, "in": {"w": n}}})
    };
    let rows: Vec<Value> = (0..160).map(row).collect();
    table.push(0, &rows);
    table.flush(0, 160).await;
    let scanned = async |what: &str| {
        let sql = format!("EXPLAIN ANALYZE SELECT {what} FROM t");
        let plan = world.rows(&sql).await.to_string();
        let (_, rest) = plan.split_once("bytes_scanned=").unwrap();
        rest.split([',', ']']).next().unwrap().to_owned()
    };
    // Each is a column of the same numbers.
    let one = scanned("sum(st['a'])").await;
    assert_eq!(scanned("sum(st['b'])").await, one);
    assert_eq!(scanned("sum(st['in']['w'])").await, one);
    assert_ne!(scanned("max(st['v'])").await, one);
    assert_ne!(scanned("count(st), max(st['v'])").await, one);
}

#[test]
fn a_renamed_column_keeps_its_name_in_the_files_where_column_mapping_is_on() {
    let schema = TableSchema::from_iceberg_json(
        r#"{"type": "struct", "fields": [{"id": 1, "name": "new", "type": "long", "required": false}]}"#,
    )
    .unwrap();
    let names = std::collections::BTreeMap::from([(1, "old".to_owned())]);
    let mut metadata = tidelake_manifest::Metadata {
        schema_string: delta::mapped_schema_string(&schema, &names),
        ..Default::default()
    };
    let schema = Arc::new(schema);
    let unmapped = Shape::new(Arc::clone(&schema), &metadata).unwrap();
    assert_eq!(unmapped.scan.field(0).name(), "new");
    let mode = ("delta.columnMapping.mode".into(), "name".into());
    metadata.configuration.extend([mode]);
    let shape = Shape::new(schema, &metadata).unwrap();
    assert!(shape.renamed);
    assert_eq!(shape.schema.field(0).name(), "new");
    assert_eq!(shape.scan.field(0).name(), "old");
}

#[tokio::test]
async fn columns_that_another_engine_renamed_are_found() {
    let mut case = case(true, &[("part-00001.parquet", SPARSE)]).await;
    // Another engine switches column mapping on first.
    let snapshot = &case.table.snapshot;
    let (protocol, mut metadata) = tidelake_manifest::with_column_mapping(
        snapshot.protocol(),
        snapshot.metadata(),
        snapshot.schema(),
    );
    let text = metadata
        .schema_string
        .replace(r#""name":"small""#, r#""name":"tiny""#);
    assert_ne!(text, metadata.schema_string);
    metadata.schema_string = text;
    case.table
        .commit(tidelake_manifest::Transaction {
            operation: "RENAME COLUMN".into(),
            protocol: Some(protocol),
            metadata: Some(metadata),
            ..Default::default()
        })
        .await;
    let body = |sql: &str| json!({"sql": sql, "consistency": "committed"});
    let found = case
        .world
        .rows_of(body(
            "SELECT tiny, count(*) FROM things WHERE tiny > 14 GROUP BY 1 ORDER BY 1",
        ))
        .await;
    let live = case.live.slice(0, 146);
    let wanted = expected(
        &live,
        "SELECT small, count(*) FROM things WHERE small > 14 GROUP BY 1 ORDER BY 1",
    )
    .await;
    assert_eq!(found, wanted);
    let top = case
        .world
        .rows_of(body(
            "SELECT id, tiny FROM things ORDER BY tiny DESC NULLS LAST, id LIMIT 3",
        ))
        .await;
    let wanted = expected(
        &live,
        "SELECT id, small FROM things ORDER BY small DESC NULLS LAST, id LIMIT 3",
    )
    .await;
    assert_eq!(top, wanted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_deleted_rows_and_any_range_agree_with_the_model(
        first in prop::collection::btree_set(0u64..60, 0..60),
        second in prop::collection::btree_set(0u64..60, 0..60),
        from in -5i64..180,
        length in 0i64..180,
        limit in 1usize..40,
        descending: bool,
        pushdown_filters: bool,
        target_partitions in 1usize..6,
        batch_rows in prop_oneof![1usize..20, Just(8192)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (first, second): (Vec<_>, Vec<_>) =
                (first.into_iter().collect(), second.into_iter().collect());
            let mut deleted: Vec<(&str, &[u64])> = Vec::new();
            if !first.is_empty() {
                deleted.push(("part-00001.parquet", &first));
            }
            if !second.is_empty() {
                deleted.push(("part-00002.parquet", &second));
            }
            let settings = QuerySettings {
                pushdown_filters,
                target_partitions,
                batch_rows,
                ..QuerySettings::default()
            };
            let case = case_with(settings, &deleted).await;
            let filter = format!("id BETWEEN {from} AND {}", from + length);
            let order = if descending { "DESC" } else { "ASC" };
            for sql in [
                format!("SELECT count(*), sum(small) FROM things WHERE {filter}"),
                format!("SELECT id, at FROM things WHERE {filter} ORDER BY id {order} LIMIT {limit}"),
                format!("SELECT id FROM things WHERE {filter} AND small > 8 ORDER BY fine {order}, id LIMIT {limit}"),
                format!("SELECT count(*) FROM (SELECT id FROM things WHERE {filter} LIMIT {limit})"),
            ] {
                check(&case, &sql).await;
            }
        });
    }
}
