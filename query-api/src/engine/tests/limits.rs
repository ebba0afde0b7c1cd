//! Problems, bounds, and ends before the end.

use super::*;

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
        // The planner takes the inner column for the outer one of the same name.
        (
            "SELECT id FROM orders WHERE id = ANY(SELECT id FROM orders WHERE id = 1)",
            400,
            "SQL_NOT_SUPPORTED",
        ),
        (
            "SELECT regexp_replace(note, '(', 'b') FROM orders",
            400,
            "QUERY_FAILED",
        ),
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
async fn a_query_within_another_is_not_grouped_below_a_cast() {
    let (world, _table) = world().await;
    let sql = |inner: &str| {
        format!("SELECT x.id, (SELECT count(*) FROM {inner}) AS n FROM orders x ORDER BY x.id")
    };
    // Halves that one id in two shares.
    for within in [
        sql("orders y WHERE (y.id / 2.0)::int = (x.id / 2.0)::int"),
        sql("orders y WHERE y.id::boolean = x.id::boolean"),
        "SELECT id FROM orders x WHERE id IN (SELECT max(y.id) FROM orders y WHERE \
         y.id::boolean = x.id::boolean)"
            .to_owned(),
    ] {
        let found = world.code(json!({"sql": within})).await;
        assert_eq!(found, (400, "SQL_NOT_SUPPORTED".into()), "{within}");
    }
    let named = sql("(SELECT id::boolean AS some FROM orders) y WHERE y.some = x.id::boolean");
    let rows = world.rows_of(json!({ "sql": named })).await;
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 15);
    assert_eq!((&rows[0], &rows[1]), (&json!([0, 1]), &json!([1, 14])));
    let plain = sql("orders y WHERE y.id = x.id");
    let rows = world.rows_of(json!({ "sql": plain })).await;
    assert!(rows.as_array().unwrap().iter().all(|row| row[1] == 1));
}

#[tokio::test]
async fn http_1_0_gets_no_format_that_looks_whole_when_it_is_cut() {
    let (world, _table) = world().await;
    for (accept, status) in [
        ("text/csv", 400),
        ("application/vnd.apache.arrow.stream", 400),
        ("application/x-ndjson", 200),
        ("application/json", 200),
    ] {
        let request = HttpRequest::post("/v1/sql")
            .version(axum::http::Version::HTTP_10)
            .header("accept", accept)
            .body(Body::from(r#"{"sql": "SELECT 1"}"#))
            .unwrap();
        let (parts, _) = world.http(request).await;
        assert_eq!(parts.status.as_u16(), status, "{accept}");
    }
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
async fn what_a_scan_holds_of_a_file_counts() {
    let settings = QuerySettings {
        memory_bytes_max: 300_000,
        ..QuerySettings::default()
    };
    let world = World::new(settings).await;
    let schema = r#"{"type": "struct", "fields": [
        {"name": "id", "type": "long", "required": true},
        {"name": "doc", "type": "string", "required": false}]}"#;
    let mut table = world.table("t", schema, 1).await;
    // Digits that hardly compress: some 25 KB a row.
    let mut state = 1_u64;
    let mut digits = || {
        let words = (0..3_200).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            format!("{:016x}", state)
        });
        words.collect::<String>()
    };
    let rows: Vec<_> = (0..64)
        .map(|id| json!({"id": id, "doc": digits()}))
        .collect();
    table.push(0, &rows);
    table.flush(0, 64).await;
    let committed = |sql: &str| json!({"sql": sql, "consistency": "committed"});
    let large = committed("SELECT max(length(doc)) FROM t WHERE id >= 0");
    assert_eq!(
        world.code(large).await,
        (503, "QUERY_MEMORY_EXCEEDED".into())
    );
    let small = committed("SELECT sum(id) FROM t WHERE id >= 0");
    assert_eq!(world.rows_of(small).await, json!([[2016]]));
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
    let router = crate::http::router(world.engine.clone(), &world.runtime);
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

#[tokio::test]
async fn a_streamed_answer_says_at_its_end_whether_it_was_cut() {
    use http_body::Body as _;
    let world = World::new(QuerySettings::default()).await;
    for (accept, max_rows) in [
        ("text/csv", 50_000),
        ("application/x-ndjson", 50_000),
        ("application/vnd.apache.arrow.stream", 50_000),
        ("application/x-ndjson", 200_000),
    ] {
        let sql = "SELECT value, repeat('x', 200) AS t FROM generate_series(1, 100000)";
        let request = HttpRequest::post("/v1/sql")
            .header("accept", accept)
            .body(Body::from(
                json!({"sql": sql, "max_rows": max_rows}).to_string(),
            ))
            .unwrap();
        let mut body = world.response(request).await.into_body();
        let (mut bytes, mut trailers) = (Vec::new(), None);
        while let Some(frame) =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await
        {
            match frame.unwrap().into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        let trailers = trailers.expect("a long answer has trailers");
        let is_cut = max_rows < 100_000;
        let rows = max_rows.min(100_000).to_string();
        assert_eq!(trailers["x-rows"], rows.as_str(), "{accept}");
        let cut = if is_cut { "true" } else { "false" };
        assert_eq!(trailers["x-truncated"], cut, "{accept}");
        if accept == "application/x-ndjson" {
            let text = String::from_utf8(bytes).unwrap();
            let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            let told = last["truncated"]["rows"].as_u64();
            assert_eq!(told, is_cut.then_some(50_000));
        }
    }
    // Less than some MiB are waited for.
    for accept in ["text/csv", "application/vnd.apache.arrow.stream"] {
        let sql = "SELECT value, 'some text' AS t FROM generate_series(1, 100000)";
        let request = HttpRequest::post("/v1/sql")
            .header("accept", accept)
            .body(Body::from(
                json!({"sql": sql, "max_rows": 50_000}).to_string(),
            ))
            .unwrap();
        let (parts, _) = world.http(request).await;
        assert_eq!(parts.headers["x-truncated"], "true", "{accept}");
        assert_eq!(parts.headers["x-rows"], "50000", "{accept}");
    }
}

#[tokio::test]
async fn a_check_that_is_asked_for_wrongly_is_a_problem() {
    let (world, _table) = world().await;
    let request = HttpRequest::post("/v1/tables/orders/check?repair=maybe")
        .body(Body::empty())
        .unwrap();
    let (parts, body) = world.http(request).await;
    assert_eq!(parts.status, 400, "{}", String::from_utf8_lossy(&body));
    assert_eq!(parts.headers["content-type"], "application/problem+json");
}
