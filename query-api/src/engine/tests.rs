//! Whole queries over HTTP: what is answered, and what is not.

use axum::body::Body;
use axum::http::Request as HttpRequest;
use serde_json::{Value, json};
use tidelake_core::{Token, Watermark};

use super::*;
use crate::testing::{TestTable, Wire, World};

mod described;
mod exact;
mod execution;
mod limits;
mod planned;
mod prepared;

const ORDERS: &str = r#"{"type": "struct", "fields": [
    {"name": "id", "type": "long", "required": true},
    {"name": "userId", "type": "int", "required": false},
    {"name": "note", "type": "string", "required": false}]}"#;

fn orders(ids: std::ops::Range<i64>) -> Vec<Value> {
    ids.map(|id| json!({"id": id, "userId": id % 3, "note": format!("n{id}")}))
        .collect()
}

/// Ten rows committed (bucket 0: 0..6, bucket 1: 6..10), five in the tail.
async fn world() -> (World, TestTable) {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("orders", ORDERS, 2).await;
    table.push(0, &orders(0..6));
    table.push(1, &orders(6..10));
    table.flush(0, 6).await;
    table.flush(1, 4).await;
    table.push(0, &orders(10..12));
    table.push(1, &orders(12..15));
    (world, table)
}

#[tokio::test]
async fn latest_sees_the_tail_and_committed_does_not() {
    let (world, _table) = world().await;
    let (parts, body) = world
        .sql(json!({"sql": "SELECT count(*) AS n FROM orders"}))
        .await;
    assert_eq!(parts.status, 200, "{body}");
    assert_eq!(body["rows"], json!([[15]]));
    assert_eq!(body["columns"], json!([{"name": "n", "type": "long"}]));
    assert_eq!(body["version"], json!({"orders": 2}));
    assert_eq!(body["positions"], json!({"orders": {"0": 8, "1": 7}}));
    assert_eq!(parts.headers["x-table-version"], "2");
    assert_eq!(parts.headers["x-rows"], "1");
    assert_eq!(
        parts.headers["x-tidelake-positions"],
        r#"{"orders":{"0":8,"1":7}}"#
    );
    assert!(parts.headers.contains_key("x-query-id"));
    assert!(!parts.headers.contains_key("x-truncated"));

    let committed = json!({"sql": "SELECT count(*) FROM orders", "consistency": "committed"});
    let (_, body) = world.sql(committed).await;
    assert_eq!(body["rows"], json!([[10]]));
    assert_eq!(body["positions"], json!({"orders": {"0": 6, "1": 4}}));
}

#[tokio::test]
async fn committed_does_without_the_log() {
    let (world, _table) = world().await;
    world.log.set_down(true);
    let committed = json!({"sql": "SELECT max(id) FROM orders", "consistency": "committed"});
    assert_eq!(world.rows_of(committed).await, json!([[9]]));
    let (status, code) = world.code(json!({"sql": "SELECT 1 FROM orders"})).await;
    assert_eq!((status, code.as_str()), (503, "LOG_UNAVAILABLE"));
}

#[tokio::test]
async fn past_versions_show_their_rows_and_no_tail() {
    let (world, _table) = world().await;
    let count = "SELECT count(*) FROM orders";
    for (version, rows) in [(0, 0), (1, 6), (2, 10)] {
        let body = json!({"sql": count, "as_of_version": version});
        assert_eq!(
            world.rows_of(body).await,
            json!([[rows]]),
            "version {version}"
        );
        let sql = format!("{count} VERSION AS OF {version}");
        assert_eq!(world.rows(&sql).await, json!([[rows]]), "version {version}");
    }
    let both = "SELECT (SELECT count(*) FROM orders VERSION AS OF 1) a, count(*) b FROM orders";
    assert_eq!(world.rows(both).await, json!([[6, 15]]));
    let inner = json!({"sql": "SELECT (SELECT max(id) FROM orders VERSION AS OF 1) a, max(id) b FROM orders",
        "as_of_version": 2});
    assert_eq!(world.rows_of(inner).await, json!([[5, 9]]));
    let gone = json!({"sql": count, "as_of_version": 3});
    assert_eq!(world.code(gone).await, (404, "VERSION_NOT_FOUND".into()));
    let before = json!({"sql": count, "as_of_timestamp": "1999-01-01"});
    assert_eq!(world.code(before).await, (404, "VERSION_NOT_FOUND".into()));
}

#[tokio::test]
async fn a_point_in_time_names_a_version() {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("orders", ORDERS, 1).await;
    table.push(0, &orders(0..3));
    world.clock.advance(std::time::Duration::from_secs(10));
    table.flush(0, 2).await;
    world.clock.advance(std::time::Duration::from_secs(10));
    table.flush(0, 3).await;
    for (at, rows) in [
        ("08:00:05", 0),
        ("08:00:10", 2),
        ("08:00:19", 2),
        ("08:00:20", 3),
        ("09:00:00", 3),
    ] {
        let at = format!("2027-01-15T{at}Z");
        let sql = format!("SELECT count(*) FROM orders TIMESTAMP AS OF '{at}'");
        assert_eq!(world.rows(&sql).await, json!([[rows]]), "{at}");
        let body = json!({"sql": "SELECT count(*) FROM orders", "as_of_timestamp": at});
        assert_eq!(world.rows_of(body).await, json!([[rows]]), "{at}");
    }
}

#[tokio::test]
async fn tables_of_others_and_misspelt_ones_are_not_there() {
    let (world, _table) = world().await;
    world.table_of("acme", "secrets", ORDERS, 1).await;
    let problem = world.sql(json!({"sql": "SELECT * FROM order"})).await.1;
    assert_eq!(problem["code"], "TABLE_NOT_FOUND");
    assert_eq!(problem["hint"], "did you mean orders?");
    for sql in [
        "SELECT * FROM secrets",
        "SELECT * FROM acme.secrets",
        "SELECT * FROM tidelake.acme.secrets",
        "SELECT * FROM other.default.orders",
        "SELECT * FROM \"Orders\"",
        "SELECT * FROM table_files('acme.secrets')",
        "DESCRIBE secrets",
        "SHOW COLUMNS FROM acme.secrets",
    ] {
        let (parts, problem) = world.sql(json!({"sql": sql})).await;
        assert_eq!(parts.status, 404, "{sql}: {problem}");
        assert_eq!(problem["code"], "TABLE_NOT_FOUND", "{sql}");
        assert_ne!(problem["hint"], "did you mean secrets?", "{sql}");
    }
    let request = HttpRequest::post("/v1/sql")
        .header("x-tidelake-tenant", "acme")
        .body(Body::from(r#"{"sql":"SHOW TABLES"}"#))
        .unwrap();
    let (_, bytes) = world.http(request).await;
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        body["rows"],
        json!([["tidelake", "acme", "secrets", "BASE TABLE"]])
    );
    assert_eq!(
        world.rows("SHOW TABLES").await,
        json!([["tidelake", "default", "orders", "BASE TABLE"]])
    );
}

#[tokio::test]
async fn tables_can_be_described() {
    let (world, _table) = world().await;
    let columns = json!([
        ["id", "long", "NO", null],
        ["userId", "int", "YES", null],
        ["note", "string", "YES", null]
    ]);
    assert_eq!(world.rows("DESCRIBE orders").await, columns);
    assert_eq!(
        world.rows("SHOW COLUMNS FROM default.orders").await,
        columns
    );
    assert_eq!(
        world.rows("SHOW COLUMNS FROM orders LIKE 'user%'").await,
        json!([["userId", "int", "YES", null]])
    );
    assert_eq!(
        world
            .rows("SELECT table_name, column_name, ordinal_position FROM information_schema.columns ORDER BY 3")
            .await,
        json!([["orders", "id", 1], ["orders", "userId", 2], ["orders", "note", 3]])
    );
    assert_eq!(
        world.rows("SELECT * FROM information_schema.views").await,
        json!([])
    );
    for hidden in ["df_settings", "routines", "parameters"] {
        let sql = format!("SELECT * FROM information_schema.{hidden}");
        let (status, code) = world.code(json!({ "sql": sql })).await;
        assert_eq!(
            (status, code.as_str()),
            (400, "SQL_NOT_SUPPORTED"),
            "{hidden}"
        );
    }
}

#[tokio::test]
async fn history_and_files_are_tables() {
    let (world, mut table) = world().await;
    table.delete("part-00001.parquet", &[1, 2]).await;
    assert_eq!(
        world
            .rows(
                "SELECT version, operation, rows_added, rows_deleted, watermarks \
                 FROM table_history('orders') ORDER BY 1"
            )
            .await,
        json!([
            [0, "CREATE TABLE", 0, 0, "{}"],
            [1, "FLUSH", 6, 0, "{\"0\":6}"],
            [2, "FLUSH", 4, 0, "{\"1\":4}"],
            [3, "DELETE", 0, 2, "{}"]
        ])
    );
    let files = "SELECT path, rows, deleted_rows FROM table_files('orders') ORDER BY path";
    assert_eq!(
        world.rows(files).await,
        json!([["part-00001.parquet", 4, 2], ["part-00002.parquet", 4, 0]])
    );
    let past = json!({"sql": files, "as_of_version": 1});
    assert_eq!(
        world.rows_of(past).await,
        json!([["part-00001.parquet", 6, 0]])
    );
    assert_eq!(
        world.rows("SELECT count(*) FROM orders").await,
        json!([[13]])
    );
}

#[tokio::test]
async fn tokens_are_waited_for() {
    let (world, mut table) = world().await;
    let token = Token::new([(Bucket(0), Watermark(8)), (Bucket(1), Watermark(7))]).to_string();
    let ask = |consistency: &str, token: &Value, timeout: u64| {
        json!({"sql": "SELECT count(*) FROM orders", "consistency": consistency,
            "token": token, "timeout_ms": timeout})
    };
    let token = json!(token);
    assert_eq!(
        world.rows_of(ask("latest", &token, 5_000)).await,
        json!([[15]])
    );

    let (parts, problem) = world.sql(ask("committed", &token, 30)).await;
    assert_eq!(
        (parts.status.as_u16(), &problem["code"]),
        (503, &json!("TOKEN_NOT_COVERED"))
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("bucket 0 up to offset 8, reached is 6"),
        "{detail}"
    );

    let later = async {
        table.flush(0, 8).await;
        table.flush(1, 7).await;
    };
    let (rows, ()) = tokio::join!(world.rows_of(ask("committed", &token, 20_000)), later);
    assert_eq!(rows, json!([[15]]));

    let ahead = json!(Token::new([(Bucket(1), Watermark(9))]).to_string());
    let (status, code) = world.code(ask("latest", &ahead, 30)).await;
    assert_eq!((status, code.as_str()), (503, "TOKEN_NOT_COVERED"));
    let alien = json!(Token::new([(Bucket(9), Watermark(1))]).to_string());
    assert_eq!(
        world.code(ask("latest", &alien, 1000)).await,
        (400, "INVALID_TOKEN".into())
    );
    assert_eq!(
        world.code(ask("latest", &json!("garbage"), 1000)).await,
        (400, "INVALID_TOKEN".into())
    );
    assert_eq!(
        world
            .rows_of(ask("latest", &json!({"orders": token}), 1000))
            .await,
        json!([[15]])
    );
    let other = json!({"others": token});
    assert_eq!(
        world.code(ask("latest", &other, 1000)).await,
        (400, "INVALID_TOKEN".into())
    );
}

#[tokio::test]
async fn lost_rows_are_an_error_not_a_gap() {
    let (world, table) = world().await;
    world.log.cut(&table.entry.topic, 1, 6);
    let (parts, problem) = world
        .sql(json!({"sql": "SELECT count(*) FROM orders"}))
        .await;
    assert_eq!(
        (parts.status.as_u16(), &problem["code"]),
        (500, &json!("LOG_GAP"))
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("bucket 1") && detail.contains("offset 6"),
        "{detail}"
    );
    let committed = json!({"sql": "SELECT count(*) FROM orders", "consistency": "committed"});
    assert_eq!(world.rows_of(committed).await, json!([[10]]));
}

#[tokio::test]
async fn a_table_created_again_starts_empty() {
    let (world, table) = world().await;
    assert_eq!(
        world.rows("SELECT count(*) FROM orders").await,
        json!([[15]])
    );
    let dropped = world.catalog.drop_table(&table.entry.id).await.unwrap();
    let (status, code) = world.code(json!({"sql": "SELECT 1 FROM orders"})).await;
    assert_eq!((status, code.as_str()), (404, "TABLE_NOT_FOUND"));
    let tidelake_catalog::DropTable::Dropped(held) = dropped else {
        panic!("{dropped:?}")
    };
    for object in world.store.list(&table.entry.location()).await.unwrap() {
        world.store.delete(object.location.as_ref()).await.unwrap();
    }
    world.log.remove_topic(&table.entry.topic).await;
    world.catalog.purged(&held).await.unwrap();
    let again = world.table("orders", ORDERS, 1).await;
    again.push(0, &orders(0..1));
    assert_eq!(
        world.rows("SELECT count(*) FROM orders").await,
        json!([[1]])
    );
}

#[tokio::test]
async fn names_are_found_whatever_their_case() {
    let (world, _table) = world().await;
    let sql = "SELECT userid, max(ID) FROM ORDERS GROUP BY USERID ORDER BY userId";
    assert_eq!(world.rows(sql).await, json!([[0, 12], [1, 13], [2, 14]]));
}

#[tokio::test]
async fn parameters_stand_for_values() {
    let (world, _table) = world().await;
    let ask = |sql: &str, params: Value| json!({"sql": sql, "params": params});
    let rows = world
        .rows_of(ask(
            "SELECT id FROM orders WHERE id > $1 AND note <> $2 ORDER BY 1",
            json!([11, "n13"]),
        ))
        .await;
    assert_eq!(rows, json!([[12], [14]]));
    let rows = world
        .rows_of(ask("SELECT $1 IS NULL, $2, $3", json!([null, true, 1.5])))
        .await;
    assert_eq!(rows, json!([[true, true, 1.5]]));
    let rows = world
        .rows_of(ask("SELECT id FROM orders ORDER BY 1 LIMIT $1", json!([1])))
        .await;
    assert_eq!(rows, json!([[0]]));
    let rows = world
        .rows_of(ask(
            "SELECT count(*) FROM orders VERSION AS OF 1 WHERE id < $1",
            json!([3]),
        ))
        .await;
    assert_eq!(rows, json!([[3]]));
    let (status, code) = world.code(ask("SELECT $2", json!([1]))).await;
    assert_eq!((status, code.as_str()), (400, "INVALID_REQUEST"));
}

#[tokio::test]
async fn a_damaged_table_does_not_hide_the_columns_of_others() {
    let (world, _table) = world().await;
    let broken = world.table("broken", ORDERS, 1).await;
    let commit = "_delta_log/00000000000000000001.json";
    let store = broken.delta.store();
    store.put(commit, "{not json\n".into()).await.unwrap();
    let sql = "SELECT table_name, count(*) FROM information_schema.columns GROUP BY 1";
    assert_eq!(world.rows(sql).await, json!([["orders", 3]]));
    let names =
        world.rows("SELECT count(*) FROM information_schema.tables WHERE table_name = 'broken'");
    assert_eq!(names.await, json!([[1]]));
    let (status, _) = world.code(json!({"sql": "SELECT * FROM broken"})).await;
    assert_eq!(status, 500);
}

#[tokio::test]
async fn names_are_found_where_they_stand() {
    let world = World::new(QuerySettings::default()).await;
    let schema = |columns: &[&str]| {
        let fields = columns
            .iter()
            .map(|name| json!({"name": name, "type": "long", "required": *name == columns[0]}));
        json!({"type": "struct", "fields": fields.collect::<Vec<_>>()}).to_string()
    };
    for (table, columns) in [
        ("a", ["userId", "x"]),
        ("b", ["userId", "y"]),
        ("c", ["userid", "Z"]),
        ("user", ["User", "Name"]),
    ] {
        let mut made = world.table(table, &schema(&columns), 1).await;
        made.push(0, &[json!({columns[0]: 1, columns[1]: 2})]);
        made.flush(0, 1).await;
    }
    for (sql, answer) in [
        (
            "SELECT userId, x, y FROM a JOIN b USING (userId)",
            json!([[1, 2, 2]]),
        ),
        ("SELECT * EXCLUDE (USERID) FROM a", json!([[2]])),
        (
            "SELECT * REPLACE (userid + 1 AS userId) FROM a",
            json!([[2, 2]]),
        ),
        ("SELECT user.name, user FROM user", json!([[2, 1]])),
        ("SELECT u.name, u.USER FROM user u", json!([[2, 1]])),
        (
            "SELECT a.userId FROM a JOIN c ON a.userId = c.userid",
            json!([[1]]),
        ),
        (
            "SELECT default.a.x FROM default.a VERSION AS OF 1",
            json!([[2]]),
        ),
        (
            "SELECT userid FROM c WHERE z IN (SELECT x FROM a WHERE USERID = c.userid)",
            json!([[1]]),
        ),
        (
            "SELECT max(USERID) AS m FROM a GROUP BY UserId HAVING max(userid) = 1 ORDER BY m",
            json!([[1]]),
        ),
        (
            "SELECT USERID, count(*) FROM a GROUP BY ROLLUP (userid) ORDER BY userId",
            json!([[1, 1], [null, 1]]),
        ),
        (
            "SELECT x, count(*) FROM a GROUP BY x WITH ROLLUP ORDER BY x",
            json!([[2, 1], [null, 1]]),
        ),
        (
            "SELECT * FROM a |> WHERE userid = 1 |> SELECT USERID",
            json!([[1]]),
        ),
        (
            "WITH w AS (SELECT userId FROM a) SELECT USERID FROM w ORDER BY userid",
            json!([[1]]),
        ),
    ] {
        assert_eq!(world.rows(sql).await, answer, "{sql}");
    }
}

/// A debug build's planner takes some 40 KB for each query within another.
const PLANNING_STACK_BYTES: usize = 32 << 20;

#[test]
fn what_is_accepted_is_planned_without_a_crash() {
    let plan = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(plans_of_large_statements());
    };
    let thread = std::thread::Builder::new().stack_size(PLANNING_STACK_BYTES);
    thread.spawn(plan).unwrap().join().unwrap();
}

async fn plans_of_large_statements() {
    let (world, _table) = world().await;
    let nested = |open: &str, close: &str, times: usize| {
        format!(
            "SELECT {}id{} FROM orders",
            open.repeat(times),
            close.repeat(times)
        )
    };
    let chain = |part: &str, by: &str, times: usize| vec![part; times].join(by);
    let or: Vec<_> = (0..2_000)
        .map(|id| format!("(id = {id} AND userId >= 0)"))
        .collect();
    let ids: Vec<_> = (0..2_000).map(|id| format!("id = {id}")).collect();
    let list: Vec<_> = (0..10_000).map(|id| id.to_string()).collect();
    let mut with = "WITH c0 AS (SELECT id FROM orders)".to_owned();
    for level in 1..100 {
        with += &format!(
            ", c{level} AS (SELECT id FROM c{} WHERE id >= 0)",
            level - 1
        );
    }
    let mut nested_with = "SELECT id FROM orders".to_owned();
    for _ in 0..38 {
        nested_with = format!("WITH c AS ({nested_with}) SELECT id FROM c");
    }
    let mut derived = "SELECT id FROM orders".to_owned();
    for level in 0..38 {
        derived = format!("SELECT id FROM ({derived}) d{level}");
    }
    for (sql, rows) in [
        (
            format!("SELECT count(*) FROM orders WHERE {}", ids.join(" OR ")),
            15,
        ),
        (
            format!("SELECT count(*) FROM orders WHERE {}", or.join(" OR ")),
            15,
        ),
        (
            format!(
                "SELECT count(*) FROM orders WHERE id IN ({})",
                list.join(",")
            ),
            15,
        ),
        (
            format!("SELECT count(*) FROM ({})", nested("(", ")", 80)),
            15,
        ),
        (
            format!("SELECT count(*) FROM ({})", nested("abs(", ")", 80)),
            15,
        ),
        (
            format!(
                "SELECT count(*) FROM orders WHERE {} > 0",
                chain("id", " + ", 200)
            ),
            14,
        ),
        (
            format!(
                "SELECT count(*) FROM orders WHERE note || {} <> ''",
                chain("note", " || ", 200)
            ),
            15,
        ),
        (
            format!(
                "SELECT count(*) FROM ({})",
                chain("SELECT 1 FROM orders", " UNION ALL ", 100)
            ),
            1500,
        ),
        (format!("{with} SELECT count(*) FROM c99"), 15),
        (format!("SELECT count(*) FROM ({derived})"), 15),
        (format!("SELECT count(*) FROM ({nested_with})"), 15),
    ] {
        let body = json!({"sql": sql, "timeout_ms": 60000});
        assert_eq!(world.rows_of(body).await, json!([[rows]]), "{sql:.90}");
    }
}
