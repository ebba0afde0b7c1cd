//! Statements in a zone of their own.

use serde_json::{Value, json};

use crate::settings::QuerySettings;
use crate::testing::{TestTable, World};

const TIMES: &str = r#"{"type": "struct", "fields": [
    {"name": "id", "type": "long", "required": true},
    {"name": "z", "type": "timestamptz", "required": false},
    {"name": "n", "type": "timestamp", "required": false}]}"#;

/// Rows 1 and 2 in a file, 3 in the tail.
async fn world() -> (World, TestTable) {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("t", TIMES, 1).await;
    table.push(
        0,
        &[
            json!({"id": 1, "z": "2026-07-01T22:30:00Z", "n": "2026-07-02T00:30:00"}),
            json!({"id": 2, "z": "9999-12-31T12:00:00Z", "n": "9999-12-31T12:00:00"}),
            json!({"id": 3, "z": "2026-01-31T23:30:00Z", "n": "2026-01-31T23:30:00"}),
        ],
    );
    table.flush(0, 2).await;
    (world, table)
}

async fn rows(world: &World, sql: &str, zone: Option<&str>) -> Value {
    world.rows_of(json!({"sql": sql, "time_zone": zone})).await
}

const BERLIN: Option<&str> = Some("Europe/Berlin");

/// Expressions, and what they are of each row in UTC and in Berlin.
const EXPRESSIONS: [(&str, [&str; 3], [&str; 3]); 9] = [
    (
        "date_trunc('day', z)",
        [
            "2026-07-01T00:00:00Z",
            "9999-12-31T00:00:00Z",
            "2026-01-31T00:00:00Z",
        ],
        [
            "2026-07-01T22:00:00Z",
            "9999-12-30T23:00:00Z",
            "2026-01-31T23:00:00Z",
        ],
    ),
    (
        "date_trunc('month', z)",
        [
            "2026-07-01T00:00:00Z",
            "9999-12-01T00:00:00Z",
            "2026-01-01T00:00:00Z",
        ],
        [
            "2026-06-30T22:00:00Z",
            "9999-11-30T23:00:00Z",
            "2026-01-31T23:00:00Z",
        ],
    ),
    (
        "CAST(z AS date)",
        ["2026-07-01", "9999-12-31", "2026-01-31"],
        ["2026-07-02", "9999-12-31", "2026-02-01"],
    ),
    (
        "CAST(z AS timestamp)",
        [
            "2026-07-01T22:30:00",
            "9999-12-31T12:00:00",
            "2026-01-31T23:30:00",
        ],
        [
            "2026-07-02T00:30:00",
            "9999-12-31T13:00:00",
            "2026-02-01T00:30:00",
        ],
    ),
    (
        "CAST(n AS timestamptz)",
        [
            "2026-07-02T00:30:00Z",
            "9999-12-31T12:00:00Z",
            "2026-01-31T23:30:00Z",
        ],
        [
            "2026-07-01T22:30:00Z",
            "9999-12-31T11:00:00Z",
            "2026-01-31T22:30:00Z",
        ],
    ),
    (
        "to_char(z, '%d %H:%M')",
        ["01 22:30", "31 12:00", "31 23:30"],
        ["02 00:30", "31 13:00", "01 00:30"],
    ),
    (
        "CAST(extract(hour FROM z) AS text)",
        ["22", "12", "23"],
        ["0", "13", "0"],
    ),
    (
        "CAST(z AS text)",
        [
            "2026-07-01T22:30:00Z",
            "9999-12-31T12:00:00Z",
            "2026-01-31T23:30:00Z",
        ],
        [
            "2026-07-02T00:30:00+02:00",
            "9999-12-31T13:00:00+01:00",
            "2026-02-01T00:30:00+01:00",
        ],
    ),
    (
        "z",
        [
            "2026-07-01T22:30:00Z",
            "9999-12-31T12:00:00Z",
            "2026-01-31T23:30:00Z",
        ],
        [
            "2026-07-01T22:30:00Z",
            "9999-12-31T12:00:00Z",
            "2026-01-31T23:30:00Z",
        ],
    ),
];

#[tokio::test]
async fn expressions_go_by_the_clocks_of_the_zone() {
    let (world, _table) = world().await;
    for (expr, in_utc, in_berlin) in EXPRESSIONS {
        let sql = format!("SELECT {expr} FROM t ORDER BY id");
        let shown =
            |answers: [&str; 3]| Value::from(answers.map(|answer| json!([answer])).to_vec());
        assert_eq!(rows(&world, &sql, None).await, shown(in_utc), "{expr}");
        assert_eq!(
            rows(&world, &sql, Some("UTC")).await,
            shown(in_utc),
            "{expr}"
        );
        assert_eq!(rows(&world, &sql, BERLIN).await, shown(in_berlin), "{expr}");
    }
}

#[tokio::test]
async fn comparisons_and_literals_are_of_the_zone() {
    let (world, _table) = world().await;
    let mut wrong: Vec<String> = Vec::new();
    for (condition, in_utc, in_berlin) in [
        ("z = '2026-07-02 00:30:00'", 0, 1),
        ("z = TIMESTAMPTZ '2026-07-02 00:30:00'", 0, 1),
        ("z = '2026-07-01T22:30:00Z'", 1, 1),
        ("z = TIMESTAMP '2026-07-02 00:30:00'", 0, 1),
        ("z >= DATE '2026-07-02'", 1, 2),
        ("z = n", 2, 1),
        ("z = $1", 0, 1),
        ("z BETWEEN '2026-02-01' AND '2026-02-02'", 0, 1),
        ("z < now() AND z < current_timestamp", 0, 0),
        (
            "EXISTS (SELECT 1 FROM t u WHERE u.z = t.z AND u.id = t.id)",
            3,
            3,
        ),
        ("(SELECT max(u.z) FROM t u WHERE u.id = t.id) >= z", 3, 3),
    ] {
        if condition.contains("now()") {
            // Only that it is understood.
            let sql = format!("SELECT count(*) FROM t WHERE {condition}");
            rows(&world, &sql, BERLIN).await;
            continue;
        }
        let sql = format!("SELECT count(*) FROM t WHERE {condition}");
        for (zone, wanted) in [(None, in_utc), (BERLIN, in_berlin)] {
            let body = json!({"sql": sql, "time_zone": zone, "params": ["2026-07-02 00:30:00"]});
            let (_, answer) = world.sql(body).await;
            if answer["rows"] != json!([[wanted]]) {
                wrong.push(format!("{condition} in {zone:?}: {answer}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A day of now is one of the zone's, wherever the sun stands.
    let sql = "SELECT current_date = CAST(now() AS date), \
               date_trunc('day', now()) = CAST(current_date AS timestamptz)";
    for zone in ["Pacific/Kiritimati", "Pacific/Niue", "+05:45", "UTC"] {
        assert_eq!(
            rows(&world, sql, Some(zone)).await,
            json!([[true, true]]),
            "{zone}"
        );
    }
}

#[tokio::test]
async fn files_are_pruned_in_every_zone() {
    let (world, _table) = world().await;
    let sql = "EXPLAIN SELECT id FROM t WHERE z < '2000-01-01 00:00:00'";
    let body = json!({"sql": sql, "consistency": "committed", "time_zone": BERLIN});
    let plan = world.rows_of(body).await.to_string();
    assert!(!plan.contains(".parquet"), "{plan}");
}

#[tokio::test]
async fn keys_are_found_in_every_zone_and_bad_zones_are_refused() {
    let (world, _table) = world().await;
    for zone in [json!("Mars/Olympus"), json!("CEST"), json!(""), json!(1)] {
        let body = json!({"sql": "SELECT 1", "time_zone": zone});
        assert_eq!(
            world.code(body).await,
            (400, "INVALID_REQUEST".into()),
            "{zone}"
        );
    }
    let (status, body) = world
        .get(
            "/v1/sql?sql=SELECT%20CAST(z%20AS%20date)%20FROM%20t%20WHERE%20id=1&time_zone=%2B02:00",
        )
        .await;
    assert_eq!((status, &body["rows"]), (200, &json!([["2026-07-02"]])));
}

#[tokio::test]
async fn what_would_go_by_the_clocks_of_another_zone_is_refused() {
    let (world, _table) = world().await;
    for sql in [
        "SELECT z AT TIME ZONE 'Asia/Tokyo' FROM t",
        "SELECT z - n FROM t",
        "SELECT count(*) FROM range(TIMESTAMPTZ '2026-01-01 02:30:00Z', \
         TIMESTAMPTZ '2026-12-01 02:30:00Z', INTERVAL '1 day')",
    ] {
        rows(&world, sql, None).await;
        let body = json!({"sql": sql, "time_zone": "Europe/Berlin"});
        let found = world.code(body).await;
        assert_eq!(found, (400, "SQL_NOT_SUPPORTED".into()), "{sql}");
    }
}
