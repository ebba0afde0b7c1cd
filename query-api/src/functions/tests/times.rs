//! Years 1 to 9999 in every function and comparison, and whole numbers that do not fit.

use serde_json::{Value, json};

use crate::settings::QuerySettings;
use crate::testing::{TestTable, World};

const TIMES: &str = r#"{"type": "struct", "fields": [
    {"name": "id", "type": "long", "required": true},
    {"name": "n", "type": "timestamp", "required": false},
    {"name": "z", "type": "timestamptz", "required": false},
    {"name": "d", "type": "date", "required": false}]}"#;

/// The end of time, long ago (both committed), and some day (in the tail).
async fn world() -> (World, TestTable) {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("t", TIMES, 1).await;
    let row = |id: i64, day: &str, time: &str| {
        let (n, z) = (format!("{day}T{time}"), format!("{day}T{time}Z"));
        json!({"id": id, "n": n, "z": z, "d": day})
    };
    table.push(
        0,
        &[
            row(1, "9999-12-31", "23:59:59"),
            row(2, "1650-01-01", "00:00:00"),
            row(3, "2026-07-01", "12:34:56.123456"),
        ],
    );
    table.flush(0, 2).await;
    (world, table)
}

#[tokio::test]
async fn comparisons_take_every_year() {
    let (world, _table) = world().await;
    for (condition, rows) in [
        ("n < now()", 2),
        ("z < current_timestamp", 2),
        ("n >= '9999-12-31'", 1),
        ("z >= '9999-12-31'", 1),
        ("n = $1", 1),
        ("n >= TIMESTAMP '9999-12-31'", 1),
        ("n IN ('9999-12-31 23:59:59')", 1),
        ("n BETWEEN '0001-01-01' AND '9999-12-31'", 2),
        ("n > d", 2),
        ("d < now()", 2),
        ("n = z", 3),
        ("n > now() - INTERVAL '10000 years'", 3),
        ("coalesce(n, now()) = n", 3),
        ("greatest(n, '2026-01-01') > n", 1),
        ("CASE WHEN id = 1 THEN n ELSE now() END IS NULL", 0),
        ("date_trunc('month', d) <= d", 3),
        ("n IN (SELECT n FROM t UNION ALL SELECT now())", 3),
    ] {
        let sql = format!("SELECT count(*) FROM t WHERE {condition}");
        let body = json!({"sql": sql, "params": ["9999-12-31 23:59:59"]});
        assert_eq!(world.rows_of(body).await, json!([[rows]]), "{condition}");
    }
}

#[tokio::test]
async fn functions_take_and_make_every_year() {
    let (world, _table) = world().await;
    for (expr, answers) in [
        (
            "date_trunc('day', z)",
            [
                "9999-12-31T00:00:00Z",
                "1650-01-01T00:00:00Z",
                "2026-07-01T00:00:00Z",
            ],
        ),
        (
            "date_trunc('week', n)",
            [
                "9999-12-27T00:00:00",
                "1649-12-27T00:00:00",
                "2026-06-29T00:00:00",
            ],
        ),
        (
            "date_trunc('quarter', z)",
            [
                "9999-10-01T00:00:00Z",
                "1650-01-01T00:00:00Z",
                "2026-07-01T00:00:00Z",
            ],
        ),
        (
            "n AT TIME ZONE 'Europe/Berlin'",
            [
                "9999-12-31T22:59:59Z",
                "1649-12-31T23:06:32Z",
                "2026-07-01T10:34:56.123456Z",
            ],
        ),
        (
            "date_bin(INTERVAL '15 minutes', n)",
            [
                "9999-12-31T23:45:00",
                "1650-01-01T00:00:00",
                "2026-07-01T12:30:00",
            ],
        ),
        (
            "date_bin(INTERVAL '1 day', n, '2020-01-01 06:00:00')",
            [
                "9999-12-31T06:00:00",
                "1649-12-31T06:00:00",
                "2026-07-01T06:00:00",
            ],
        ),
        (
            "date_bin(INTERVAL '1 month', z, TIMESTAMPTZ '2020-01-15T00:00:00Z')",
            [
                "9999-12-15T00:00:00Z",
                "1649-12-15T00:00:00Z",
                "2026-06-15T00:00:00Z",
            ],
        ),
        (
            "to_char(z, '%Y-%m-%d %H')",
            ["9999-12-31 23", "1650-01-01 00", "2026-07-01 12"],
        ),
    ] {
        let sql = format!("SELECT {expr} FROM t ORDER BY id");
        let wanted: Vec<_> = answers.iter().map(|answer| json!([answer])).collect();
        assert_eq!(world.rows(&sql).await, Value::from(wanted), "{expr}");
    }
}

#[tokio::test]
async fn values_become_times_of_every_year() {
    let world = World::new(QuerySettings::default()).await;
    for (expr, answer) in [
        ("to_timestamp('9999-12-31')", json!("9999-12-31T00:00:00Z")),
        ("to_timestamp(253402300799)", json!("9999-12-31T23:59:59Z")),
        (
            "to_timestamp(253402300799.0)",
            json!("9999-12-31T23:59:59Z"),
        ),
        (
            "to_timestamp(-62135596800.0)",
            json!("0001-01-01T00:00:00Z"),
        ),
        (
            "to_timestamp(1795264496.789123)",
            json!("2026-11-21T12:34:56.789123Z"),
        ),
        (
            "to_timestamp_seconds('0001-01-01')",
            json!("0001-01-01T00:00:00Z"),
        ),
        ("to_unixtime('9999-12-31')", json!(253_402_214_400_i64)),
        ("arrow_typeof(now())", json!("Timestamp(µs, \"UTC\")")),
        (
            "arrow_typeof(TIMESTAMP(9) '2026-01-01')",
            json!("Timestamp(ns)"),
        ),
        (
            "TIMESTAMP(9) '2026-01-01 00:00:00.123456789'",
            json!("2026-01-01T00:00:00.123456789"),
        ),
        (
            "date_bin(INTERVAL '1 month', TIMESTAMP '2026-01-31 01:00:00', TIMESTAMP '2025-03-31 02:00:00')",
            json!("2025-12-31T02:00:00"),
        ),
        (
            "generate_series(TIMESTAMP '2026-01-01', TIMESTAMP '2026-01-02', INTERVAL '1 day')",
            json!(["2026-01-01T00:00:00", "2026-01-02T00:00:00"]),
        ),
    ] {
        assert_eq!(
            world.rows(&format!("SELECT {expr}")).await,
            json!([[answer]]),
            "{expr}"
        );
    }
}

#[tokio::test]
async fn series_of_timestamps_count_microseconds() {
    let (world, _table) = world().await;
    let series =
        "generate_series(TIMESTAMP '2026-01-01', TIMESTAMP '2026-01-02', INTERVAL '1 day')";
    let sql =
        format!("SELECT s.value, arrow_typeof(s.value) FROM {series} s WHERE value > '2026-01-01'");
    let wanted = json!([["2026-01-02T00:00:00", "Timestamp(µs)"]]);
    assert_eq!(world.rows(&sql).await, wanted);
    let sql = format!("SELECT count(*) FROM {series} s JOIN t ON t.n > s.value");
    assert_eq!(world.rows(&sql).await, json!([[4]]));
    for sql in [
        "SELECT generate_series(n, n, INTERVAL '1 day') FROM t",
        "SELECT * FROM range(TIMESTAMP '9998-01-01', TIMESTAMP '9998-01-02', INTERVAL '1 day')",
    ] {
        let (parts, body) = world.sql(json!({ "sql": sql })).await;
        assert_eq!(parts.status, 400, "{sql}");
        let told = body["detail"].as_str().unwrap_or_default().to_owned();
        assert!(told.contains("from year 1678"), "{told}");
    }
}

#[tokio::test]
async fn whole_numbers_that_do_not_fit_are_errors() {
    let (world, _table) = world().await;
    for sql in [
        "SELECT 9223372036854775807 + 1",
        "SELECT -9223372036854775807 - 2",
        "SELECT CAST(9223372036854775807 AS bigint) * 2",
        "SELECT id + 9223372036854775807 FROM t",
        "SELECT id * 9223372036854775807 FROM t",
        "SELECT -(id - 9223372036854775807 - 2) FROM t WHERE id = 1",
        "SELECT count(*) FROM t WHERE id + 9223372036854775807 > 0",
        "SELECT CAST(id + 2147483647 AS int) FROM t",
    ] {
        let (status, code) = world.code(json!({ "sql": sql })).await;
        assert_eq!((status, code.as_str()), (400, "QUERY_FAILED"), "{sql}");
    }
    let (_, body) = world
        .sql(json!({"sql": "SELECT id + 1, sum(id * 2), -id FROM t GROUP BY id + 1, -id ORDER BY id + 1"}))
        .await;
    assert_eq!(body["rows"], json!([[2, 2, -1], [3, 4, -2], [4, 6, -3]]));
    assert_eq!(body["columns"][0]["name"], "t.id + Int64(1)");
    let sql = "SELECT id + 1 AS x FROM t WHERE id + 1 > 2 AND id - 1 IN (SELECT id FROM t) ORDER BY x LIMIT 1 + 1";
    assert_eq!(world.rows(sql).await, json!([[3], [4]]));
}
