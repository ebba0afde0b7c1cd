//! Typed parameters, and statements that are described before they are executed.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use serde_json::{Value, json};
use tidelake_core::TenantId;

use crate::engine::{Answer, Prepared, StatementKind};
use crate::error::QueryError;
use crate::problem::Condition;
use crate::request::{Consistency, Request};
use crate::settings::QuerySettings;
use crate::sql::TimeZone;
use crate::testing::{TestTable, World};

const TABLE: &str = r#"{"type": "struct", "identifier-field-ids": [1], "fields": [
    {"id": 1, "name": "k", "type": "KEY", "required": true},
    {"id": 2, "name": "v", "type": "int", "required": false},
    {"id": 3, "name": "f", "type": "double", "required": false},
    {"id": 4, "name": "b", "type": "binary", "required": false}]}"#;
const MICROS: i64 = 1_767_225_600_000_000;

async fn table(ty: &str, keys: [Value; 2]) -> (World, TestTable) {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("t", &TABLE.replace("KEY", ty), 1).await;
    let [filed, fresh] = keys;
    table.push(0, &[json!({"k": filed, "v": 0, "f": 0.5, "b": "AQI="})]);
    table.flush_upserts(&[(0, 1)]).await;
    table.push(0, &[json!({"k": fresh, "v": 1, "f": 1.5, "b": "Aw=="})]);
    (world, table)
}

async fn rows(mut answer: Answer) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    while let Some(batch) = answer.rows.next().await.unwrap() {
        assert_eq!(batch.schema(), answer.schema);
        batches.push(batch);
    }
    batches
}

fn shown(batches: &[RecordBatch]) -> Vec<String> {
    let cells = batches.iter().flat_map(|batch| {
        (0..batch.num_rows()).map(|row| {
            let cell = ScalarValue::try_from_array(batch.column(0), row).unwrap();
            cell.to_string()
        })
    });
    cells.collect()
}

async fn ask(world: &World, sql: &str, param: &ScalarValue) -> Vec<String> {
    let request = Request {
        params: vec![param.clone()],
        ..Request::new(sql, world.engine.settings())
    };
    let id = world.engine.fresh_id();
    let answer = world.engine.query(&TenantId::default(), id, &request).await;
    shown(&rows(answer.unwrap_or_else(|error| panic!("{sql} {param:?}: {error}"))).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_any_type_find_keys_by_lookup_and_by_plan() {
    let tag = [
        "550e8400-e29b-41d4-a716-446655440000",
        "650e8400-e29b-41d4-a716-446655440000",
    ];
    let utc = || Some("UTC".into());
    let days = ["2026-01-01", "2026-01-02"];
    let cases: Vec<(&str, [Value; 2], [ScalarValue; 2])> = vec![
        (
            "long",
            [json!(1), json!(2)],
            [1i64, 2].map(ScalarValue::from),
        ),
        (
            "int",
            [json!(1), json!(2)],
            [1i32, 2].map(ScalarValue::from),
        ),
        (
            "string",
            ["a", "b"].map(|key| json!(key)),
            ["a", "b"].map(ScalarValue::from),
        ),
        (
            "boolean",
            [true, false].map(|key| json!(key)),
            [true, false].map(ScalarValue::from),
        ),
        (
            "uuid",
            tag.map(|key| json!(key)),
            tag.map(ScalarValue::from),
        ),
        (
            "decimal(9, 2)",
            ["8.61", "-0.50"].map(|key| json!(key)),
            [861, -50].map(|value| ScalarValue::Decimal128(Some(value), 9, 2)),
        ),
        (
            "date",
            days.map(|key| json!(key)),
            [20_454, 20_455].map(|day| ScalarValue::Date32(Some(day))),
        ),
        (
            "timestamptz",
            days.map(|day| json!(format!("{day}T00:00:00Z"))),
            [0, 86_400_000_000]
                .map(|more| ScalarValue::TimestampMicrosecond(Some(MICROS + more), utc())),
        ),
        (
            "timestamp",
            days.map(|day| json!(format!("{day}T00:00:00"))),
            [0, 86_400_000_000]
                .map(|more| ScalarValue::TimestampMicrosecond(Some(MICROS + more), None)),
        ),
        (
            "binary",
            ["AQI=", "Aw=="].map(|key| json!(key)),
            [vec![1u8, 2], vec![3]].map(|bytes| ScalarValue::Binary(Some(bytes))),
        ),
    ];
    for (ty, keys, values) in cases {
        let (world, _table) = table(ty, keys).await;
        for (place, value) in values.iter().enumerate() {
            let found = [place.to_string()];
            let sql = "SELECT v FROM t WHERE k = $1";
            assert_eq!(ask(&world, sql, value).await, found, "{ty} by key");
            let planned = format!("{sql} AND 1 < 2");
            assert_eq!(ask(&world, &planned, value).await, found, "{ty} by plan");
            let listed = "SELECT v FROM t WHERE k IN ($1)";
            assert_eq!(ask(&world, listed, value).await, found, "{ty} in a list");
            let plan = format!("EXPLAIN {sql}");
            let request = Request {
                params: vec![value.clone()],
                ..Request::new(plan, world.engine.settings())
            };
            let id = world.engine.fresh_id();
            let answer = world.engine.query(&TenantId::default(), id, &request).await;
            let batches = rows(answer.unwrap()).await;
            let plan = ScalarValue::try_from_array(batches[0].column(1), 0).unwrap();
            assert!(plan.to_string().contains("KeyLookup"), "{ty}: {plan}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_any_type_filter_columns_and_say_which_version() {
    let (world, _table) = table("long", [json!(1), json!(2)]).await;
    for (filter, value, found) in [
        ("f = $1", ScalarValue::from(1.5), "1"),
        ("b = $1", ScalarValue::Binary(Some(vec![1, 2])), "0"),
        ("k = $1", ScalarValue::Decimal128(Some(200), 9, 2), "1"),
        ("k = $1", ScalarValue::UInt64(Some(1)), "0"),
        ("k = $1", ScalarValue::Int8(Some(2)), "1"),
        ("k = $1", ScalarValue::from("2"), "1"),
    ] {
        let sql = format!("SELECT v FROM t WHERE {filter}");
        assert_eq!(
            ask(&world, &sql, &value).await,
            [found],
            "{filter} {value:?}"
        );
    }
    let none = ask(&world, "SELECT v FROM t WHERE k = $1", &ScalarValue::Null).await;
    assert!(none.is_empty());
    for version in [ScalarValue::from(1i64), ScalarValue::UInt64(Some(1))] {
        let sql = "SELECT count(*) FROM t VERSION AS OF $1";
        assert_eq!(ask(&world, sql, &version).await, ["1"], "{version:?}");
    }
    // Later than every commit, and before the end of time.
    let moment = ScalarValue::TimestampMicrosecond(Some(4_000_000_000_000_000), Some("UTC".into()));
    let sql = "SELECT count(*) FROM t TIMESTAMP AS OF $1";
    assert_eq!(ask(&world, sql, &moment).await, ["1"]);
    for key in [ScalarValue::from(1i64), ScalarValue::from("1")] {
        let sql = "SELECT v FROM key_history('t', $1)";
        assert_eq!(ask(&world, sql, &key).await, ["0"], "{key:?}");
    }
}

async fn prepare(world: &World, sql: &str, params: &[ScalarValue]) -> Result<Prepared, QueryError> {
    let request = Request {
        params: params.to_vec(),
        ..Request::new(sql, world.engine.settings())
    };
    let id = world.engine.fresh_id();
    world
        .engine
        .prepare(&TenantId::default(), id, &request)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_is_described_as_it_is_answered() {
    let (world, _table) = table(
        "timestamptz",
        ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"].map(|key| json!(key)),
    )
    .await;
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let moment = ScalarValue::TimestampMicrosecond(Some(MICROS), Some("UTC".into()));
    let long = || ScalarValue::from(1i64);
    let cases = [
        (
            "SELECT v, k AS at FROM t WHERE k = $1",
            vec![moment],
            vec![Some(micros)],
        ),
        (
            "SELECT * FROM t WHERE v IN ($1, $2)",
            vec![long(), long()],
            vec![Some(DataType::Int32), Some(DataType::Int32)],
        ),
        (
            "SELECT count(*), sum(v), avg(f) FROM t WHERE f < $2 OR v = $1",
            vec![long(), ScalarValue::from(1.0)],
            vec![Some(DataType::Int32), Some(DataType::Float64)],
        ),
        ("SELECT * FROM table_history('t')", vec![], vec![]),
        ("SELECT * FROM table_files('t')", vec![], vec![]),
        ("SELECT * FROM table_snapshots('t')", vec![], vec![]),
        ("SELECT * FROM table_changes('t', 0, 1)", vec![], vec![]),
        (
            "SELECT * FROM key_history('t', '2026-01-01T00:00:00Z')",
            vec![],
            vec![],
        ),
        ("SELECT * FROM information_schema.columns", vec![], vec![]),
        ("DESCRIBE t", vec![], vec![]),
        ("SHOW TABLES", vec![], vec![]),
        ("SELECT v FROM t UNION ALL SELECT 1.5", vec![], vec![]),
        ("EXPLAIN SELECT 1 FROM t", vec![], vec![]),
        ("CREATE SNAPSHOT s FOR TABLE t", vec![], vec![]),
    ];
    for (sql, params, types) in cases {
        let prepared = prepare(&world, sql, &[]).await;
        let prepared = prepared.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(prepared.params, types, "{sql}");
        let kind = match sql.split(' ').next() {
            Some("EXPLAIN") => StatementKind::Explain,
            Some("CREATE") => StatementKind::CreateSnapshot,
            _ => StatementKind::Query,
        };
        assert_eq!(prepared.kind, kind, "{sql}");
        let id = world.engine.fresh_id();
        let tenant = TenantId::default();
        let answer = world.engine.execute(&tenant, id, &prepared, params).await;
        let answer = answer.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let columns = |schema: &datafusion::arrow::datatypes::SchemaRef| {
            let fields = schema.fields().iter();
            fields
                .map(|field| (field.name().clone(), field.data_type().clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(columns(&prepared.schema), columns(&answer.schema), "{sql}");
        rows(answer).await;
    }
    let unknown = prepare(&world, "SELECT v FROM t WHERE nothing = $1", &[]).await;
    assert_eq!(unknown.unwrap_err().condition(), Condition::NoColumn);
    let versioned = "SELECT v FROM t VERSION AS OF $1";
    assert!(prepare(&world, versioned, &[]).await.is_err());
    assert!(prepare(&world, versioned, &[long()]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preparing_takes_no_turn_and_reads_no_tail() {
    let settings = QuerySettings {
        running_max: 1,
        ..QuerySettings::default()
    };
    let world = World::new(settings).await;
    let mut table = world.table("t", &TABLE.replace("KEY", "long"), 1).await;
    table.push(0, &[json!({"k": 1, "v": 0})]);
    table.flush_upserts(&[(0, 1)]).await;
    let sql = "SELECT a.value FROM generate_series(1, 3000000) a, generate_series(1, 3000000) b \
               WHERE a.value + b.value = 7";
    let request = Request::new(sql, world.engine.settings());
    let (tenant, id) = (TenantId::default(), world.engine.fresh_id());
    let busy = world
        .engine
        .query(&tenant, id.clone(), &request)
        .await
        .unwrap();
    let prepared = prepare(&world, "SELECT v FROM t WHERE k = $1", &[]).await;
    assert_eq!(prepared.unwrap().params, [Some(DataType::Int64)]);
    assert!(world.engine.tails().followed(&table.entry).is_none());
    drop(busy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_of_other_schemas_is_not_executed() {
    let (world, table) = table("long", [json!(1), json!(2)]).await;
    let (tenant, settings) = (TenantId::default(), world.engine.settings());
    let request = Request {
        consistency: Consistency::Committed,
        ..Request::new("SELECT * FROM t", settings)
    };
    let prepare = || {
        world
            .engine
            .prepare(&tenant, world.engine.fresh_id(), &request)
    };
    let prepared = prepare().await.unwrap();
    assert_eq!(prepared.fingerprint, prepare().await.unwrap().fingerprint);
    let id = world.engine.fresh_id();
    assert!(
        world
            .engine
            .execute(&tenant, id, &prepared, Vec::new())
            .await
            .is_ok()
    );
    // As another engine does.
    let store = table.delta.store();
    let log = |version: u64| format!("_delta_log/{version:020}.json");
    let first = store.get(&log(0)).await.unwrap();
    let mut lines = std::str::from_utf8(&first).unwrap().lines().map(|line| {
        let action: Value = serde_json::from_str(line).unwrap();
        action
    });
    let mut action = lines.find(|action| action["metaData"].is_object()).unwrap();
    let schema = action["metaData"]["schemaString"].as_str().unwrap();
    let mut schema: Value = serde_json::from_str(schema).unwrap();
    let field = json!({"name": "more", "type": "long", "nullable": true, "metadata": {}});
    schema["fields"].as_array_mut().unwrap().push(field);
    action["metaData"]["schemaString"] = schema.to_string().into();
    let info = json!({"commitInfo": {"operation": "ADD COLUMNS"}});
    let commit = format!("{info}\n{action}\n");
    store.put(&log(2), commit.into()).await.unwrap();
    let id = world.engine.fresh_id();
    let answer = world
        .engine
        .execute(&tenant, id, &prepared, Vec::new())
        .await;
    assert_eq!(answer.unwrap_err().condition(), Condition::SchemaChanged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_columns_and_a_zone_are_described_as_they_are_answered() {
    let keys = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"].map(|key| json!(key));
    let (world, _table) = table("timestamptz", keys).await;
    let request = Request {
        time_zone: Some(TimeZone::parse("Europe/Berlin").unwrap()),
        ..Request::new("SELECT k, v, k FROM t", world.engine.settings())
    };
    let (tenant, id) = (TenantId::default(), world.engine.fresh_id());
    let prepared = world.engine.prepare(&tenant, id, &request).await.unwrap();
    let names: Vec<_> = prepared.schema.fields().iter().map(|f| f.name()).collect();
    assert_eq!(names, ["k", "v", "k_2"]);
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Berlin".into()));
    assert_eq!(prepared.schema.field(0).data_type(), &zoned);
    let id = world.engine.fresh_id();
    let answer = world.engine.execute(&tenant, id, &prepared, Vec::new());
    assert_eq!(answer.await.unwrap().schema, prepared.schema);
}
