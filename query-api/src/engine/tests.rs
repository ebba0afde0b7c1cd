//! Whole queries over HTTP: what is answered, and what is not.

use axum::body::Body;
use axum::http::Request as HttpRequest;
use serde_json::{Value, json};
use tidelake_core::{Token, Watermark};

use super::*;
use crate::testing::{TestTable, Wire, World};

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
            (400, "SQL_NOT_ALLOWED"),
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
async fn problems_say_what_is_wrong() {
    let (world, _table) = world().await;
    for (sql, status, code) in [
        ("SELEC 1", 400, "SQL_SYNTAX"),
        ("", 400, "SQL_SYNTAX"),
        ("SELECT nothing FROM orders", 400, "SQL_INVALID"),
        ("SELECT nosuchfunction(1)", 400, "SQL_INVALID"),
        ("SELECT 1 / 0 FROM orders", 400, "QUERY_FAILED"),
        ("SELECT CAST(note AS int) FROM orders", 400, "QUERY_FAILED"),
        ("DROP TABLE orders", 400, "SQL_NOT_ALLOWED"),
        ("SELECT * FROM '/etc/passwd'", 400, "SQL_NOT_ALLOWED"),
        ("SET x = 1", 400, "SQL_NOT_ALLOWED"),
    ] {
        let (found, problem) = world.sql(json!({"sql": sql})).await;
        assert_eq!(
            (found.status.as_u16(), problem["code"].as_str().unwrap()),
            (status, code),
            "{sql}: {problem}"
        );
        assert_eq!(found.headers["content-type"], "application/problem+json");
        assert!(found.headers.contains_key("x-query-id"), "{sql}");
    }
    let (_, problem) = world
        .sql(json!({"sql": "SELECT nothing FROM orders"}))
        .await;
    assert_eq!(
        problem["detail"],
        "No field named nothing. Valid fields are orders.id, orders.\"userId\", orders.note."
    );
    let (_, problem) = world.sql(json!({"sql": "SELECT 1", "maxrows": 1})).await;
    assert_eq!(
        (&problem["code"], &problem["field"]),
        (&json!("UNKNOWN_FIELD"), &json!("maxrows"))
    );
}

#[tokio::test]
async fn rows_beyond_the_wish_are_cut_and_said_so() {
    let (world, _table) = world().await;
    let body = json!({"sql": "SELECT id FROM orders ORDER BY id", "max_rows": 2});
    let (parts, value) = world.sql(body).await;
    assert_eq!(value["rows"], json!([[0], [1]]));
    assert_eq!(value["truncated"], json!(true));
    assert_eq!(parts.headers["x-truncated"], "true");
    assert_eq!(parts.headers["x-rows"], "2");
    let body = json!({"sql": "SELECT id FROM orders", "max_rows": 15});
    let (parts, value) = world.sql(body).await;
    assert_eq!(
        (value["rows"].as_array().unwrap().len(), &value["truncated"]),
        (15, &json!(false))
    );
    assert!(!parts.headers.contains_key("x-truncated"));
    let (parts, value) = world
        .sql(json!({"sql": "SELECT id FROM orders", "max_rows": 0}))
        .await;
    assert_eq!(
        (&value["rows"], &value["truncated"]),
        (&json!([]), &json!(true))
    );
    assert_eq!(parts.headers["x-rows"], "0");
}

#[tokio::test]
async fn limits_end_queries_with_a_reason() {
    let settings = QuerySettings {
        json_bytes_max: 2_000,
        memory_bytes_max: 1_000_000,
        spill_bytes_max: 0,
        ..QuerySettings::default()
    };
    let world = World::new(settings).await;
    let large = json!({"sql": "SELECT * FROM generate_series(1, 10000)"});
    assert_eq!(world.code(large).await, (413, "RESULT_TOO_LARGE".into()));
    let hungry = json!({"sql": "SELECT count(*) FROM (SELECT value % 1000003 v, count(*) FROM \
        generate_series(1, 2000000) GROUP BY 1)"});
    assert_eq!(
        world.code(hungry).await,
        (503, "QUERY_MEMORY_EXCEEDED".into())
    );
    let slow = json!({"sql": "SELECT count(*) FROM generate_series(1, 100000000000)",
        "timeout_ms": 50});
    assert_eq!(world.code(slow).await, (504, "QUERY_TIMEOUT".into()));
}

#[tokio::test]
async fn a_tail_beyond_the_limit_is_refused_and_not_kept() {
    let settings = QuerySettings {
        tail_bytes_max: 4_000,
        ..QuerySettings::default()
    };
    let world = World::new(settings).await;
    let table = world.table("orders", ORDERS, 1).await;
    table.push(0, &orders(0..5000));
    let ask = json!({"sql": "SELECT count(*) FROM orders"});
    assert_eq!(world.code(ask).await, (503, "TAIL_TOO_LARGE".into()));
    let committed = json!({"sql": "SELECT count(*) FROM orders", "consistency": "committed"});
    assert_eq!(world.rows_of(committed).await, json!([[0]]));
}

#[tokio::test]
async fn a_query_can_be_cancelled_by_its_id() {
    let (world, _table) = world().await;
    let slow = "SELECT count(*) FROM generate_series(1, 100000000000)";
    let request = HttpRequest::post("/v1/sql")
        .header("x-query-id", "slow-1")
        .body(Body::from(json!({ "sql": slow }).to_string()))
        .unwrap();
    let cancel = async {
        let tenant = TenantId::default();
        let listed = async {
            while world.engine.queries(&tenant).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), listed)
            .await
            .unwrap();
        let request = HttpRequest::delete("/v1/queries/slow-1")
            .body(Body::empty())
            .unwrap();
        assert_eq!(world.http(request).await.0.status, 204);
    };
    let ((parts, body), ()) = tokio::join!(world.http(request), cancel);
    assert_eq!(parts.status, 409, "{}", String::from_utf8_lossy(&body));
    assert_eq!(parts.headers["x-query-id"], "slow-1");
    let gone = HttpRequest::delete("/v1/queries/slow-1")
        .body(Body::empty())
        .unwrap();
    assert_eq!(world.http(gone).await.0.status, 404);
}

#[tokio::test]
async fn dropping_an_answer_ends_its_query() {
    let (world, _table) = world().await;
    let tenant = TenantId::default();
    let request = Request::new("SELECT * FROM orders", world.engine.settings());
    let answer = world
        .engine
        .query(&tenant, world.engine.fresh_id(), &request)
        .await
        .unwrap();
    assert_eq!(world.engine.queries(&tenant).len(), 1);
    drop(answer);
    assert_eq!(world.engine.queries(&tenant).len(), 0);
    let ended = world
        .engine
        .metrics()
        .queries
        .with_label_values(&["disconnected"])
        .get();
    assert_eq!(ended, 1);
}

#[tokio::test]
async fn requests_come_in_several_shapes() {
    let (world, _table) = world().await;
    let get = HttpRequest::get(
        "/v1/sql?sql=SELECT%20max(id)%20FROM%20orders%20WHERE%20id%20%3C%20%241&params=[5]",
    )
    .body(Body::empty())
    .unwrap();
    let (parts, bytes) = world.http(get).await;
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((parts.status.as_u16(), &body["rows"]), (200, &json!([[4]])));
    let bare = HttpRequest::post("/v1/sql")
        .header("content-type", "application/sql")
        .body(Body::from("SELECT 1 AS one"))
        .unwrap();
    assert_eq!(world.http(bare).await.0.status, 200);
    for (name, value, status) in [
        ("content-type", "application/xml", 415),
        ("accept", "image/png", 406),
        ("x-query-id", "not valid", 400),
        ("x-tidelake-tenant", "Not-Valid", 400),
    ] {
        let request = HttpRequest::post("/v1/sql")
            .header(name, value)
            .body(Body::from(r#"{"sql":"SELECT 1"}"#))
            .unwrap();
        assert_eq!(
            world.http(request).await.0.status,
            status,
            "{name}: {value}"
        );
    }
    let long = HttpRequest::post("/v1/sql")
        .body(Body::from(" ".repeat(3_000_000)))
        .unwrap();
    assert_eq!(world.http(long).await.0.status, 413);
    let wrong = HttpRequest::put("/v1/sql").body(Body::empty()).unwrap();
    assert_eq!(world.http(wrong).await.0.status, 405);
    let nowhere = HttpRequest::get("/v2/sql").body(Body::empty()).unwrap();
    assert_eq!(world.http(nowhere).await.0.status, 404);
}

#[tokio::test]
async fn an_error_after_the_first_byte_cuts_the_answer_and_ndjson_says_why() {
    let (world, _table) = world().await;
    let sql = "SELECT 1 / (CASE WHEN value < 90000 THEN 1 ELSE 0 END) AS x FROM generate_series(1, 100000)";
    let request = HttpRequest::post("/v1/sql")
        .header("accept", "application/x-ndjson")
        .body(Body::from(json!({ "sql": sql }).to_string()))
        .unwrap();
    use tower::ServiceExt;
    let router = crate::routes::router(world.engine.clone(), &world.runtime);
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut chunks = response.into_body().into_data_stream();
    let (mut bytes, mut failed) = (Vec::new(), false);
    use futures::StreamExt;
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(_) => {
                failed = true;
                break;
            }
        }
    }
    assert!(failed, "the body must not end as if it were whole");
    let last = bytes
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty())
        .unwrap();
    let last: Value = serde_json::from_slice(last).unwrap();
    assert_eq!(last["error"]["code"], "QUERY_FAILED");
}

#[tokio::test]
async fn bad_records_of_the_tail_are_no_rows() {
    let (world, table) = world().await;
    let topic = &table.entry.topic;
    world.log.push(topic, 0, Wire::json("{\"id\": \"x\"}"));
    world.log.push(topic, 0, Wire::default());
    world.log.push(
        topic,
        0,
        Wire {
            op: Some(b"flush".to_vec()),
            ..Wire::default()
        },
    );
    table.push(0, &orders(100..101));
    let (_, body) = world
        .sql(json!({"sql": "SELECT count(*), max(id) FROM orders"}))
        .await;
    assert_eq!(body["rows"], json!([[16, 100]]));
    assert_eq!(body["positions"], json!({"orders": {"0": 12, "1": 7}}));
}

#[tokio::test]
async fn a_removed_file_is_said_to_be_gone() {
    let (world, table) = world().await;
    table
        .delta
        .store()
        .delete("part-00001.parquet")
        .await
        .unwrap();
    let (parts, problem) = world
        .sql(json!({"sql": "SELECT sum(id) FROM orders"}))
        .await;
    assert_eq!(
        (parts.status.as_u16(), &problem["code"]),
        (410, &json!("FILE_GONE"))
    );
}

#[tokio::test]
async fn plans_can_be_explained() {
    let (world, _table) = world().await;
    let rows = world
        .rows("EXPLAIN SELECT id FROM orders WHERE id = 3")
        .await
        .to_string();
    assert!(rows.contains("DataSourceExec"), "{rows}");
    assert!(rows.contains("part-00001.parquet"), "{rows}");
    assert!(
        !rows.contains("part-00002.parquet"),
        "the second file is pruned: {rows}"
    );
    let rows = world
        .rows("EXPLAIN ANALYZE SELECT id FROM orders")
        .await
        .to_string();
    assert!(rows.contains("output_rows"), "{rows}");
    let counted = json!({"sql": "EXPLAIN SELECT count(*) FROM orders", "consistency": "committed"});
    let rows = world.rows_of(counted).await.to_string();
    assert!(
        !rows.contains("DataSourceExec"),
        "count(*) comes from the manifest: {rows}"
    );
}
