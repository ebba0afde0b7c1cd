use tidelake_core::{Bucket, TableId, TableName, TenantId};
use tidelake_log::Message;

use super::*;

#[tokio::test]
async fn a_table_is_made_described_listed_and_dropped() {
    let harness = Harness::new().await;
    let made = harness.create(orders()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let described = harness.get("/v1/tables/orders").await.answered();
    assert_eq!(described, made.body);
    assert_eq!(described["name"], "orders");
    assert_eq!(described["tenant"], "default");
    assert_eq!(described["mode"], "append");
    assert_eq!(described["buckets"], 3);
    assert_eq!(described["topic"], "tidelake.default.orders");
    assert_eq!(described["topic_id"].as_str().map(str::len), Some(22));
    assert_eq!(described["properties"]["retention_ms"], "60000");
    assert_eq!(described["schema"]["fields"], orders()["schema"]["fields"]);
    assert_eq!(described["version"], 0);
    assert_eq!(described["rows"], 0);
    assert_eq!(described["files"], 0);
    assert_eq!(described["bytes"], 0);
    assert_eq!(described["watermarks"], json!({"0": 0, "1": 0, "2": 0}));
    assert_eq!(described["end_offsets"], json!({"0": 0, "1": 0, "2": 0}));
    assert_eq!(described["lag_records"], 0);
    assert_eq!(described["location"], "default/orders");
    assert_eq!(
        harness.get("/v1/tables").await.answered(),
        json!({"tables": [described]})
    );

    let topics = ["tidelake.default.orders", "tidelake.default.orders.dlq"];
    assert_eq!(harness.log.topics(), topics);
    assert_eq!(harness.log.spec(topics[0]).retention_ms, Some(60_000));
    assert_eq!(harness.log.spec(topics[0]).buckets, 3);

    harness
        .call(Method::DELETE, "/v1/tables/orders", Body::empty())
        .await
        .answered();
    harness
        .get("/v1/tables/orders")
        .await
        .is_problem(404, "TABLE_NOT_FOUND");
    assert_eq!(
        harness.get("/v1/tables").await.answered(),
        json!({"tables": []})
    );
    assert_eq!(harness.log.topics(), Vec::<String>::new());
    assert_eq!(harness.store.list("default").await.unwrap().len(), 0);
    let again = harness
        .call(Method::DELETE, "/v1/tables/orders", Body::empty())
        .await;
    again.is_problem(404, "TABLE_NOT_FOUND");
}

#[tokio::test]
async fn a_name_can_be_made_again_after_a_drop_and_is_another_table() {
    let harness = with_orders().await;
    let first = harness.get("/v1/tables/orders").await.answered();
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    harness
        .call(Method::DELETE, "/v1/tables/orders", Body::empty())
        .await
        .answered();
    let second = harness.create(orders()).await.answered();
    assert_ne!(first["topic_id"], second["topic_id"]);
    assert_eq!(second["lag_records"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_gateways_that_make_one_name_exactly_one_does() {
    for same_schema in [true, false].repeat(10) {
        let one = Harness::new().await;
        let two = one.another().await;
        let mut other = orders();
        if !same_schema {
            other["schema"]["fields"][1]["name"] = json!("remark");
        }
        let (first, second) = tokio::join!(one.create(orders()), two.create(other));
        let (won, lost) = if first.status == 201 {
            (first, second)
        } else {
            (second, first)
        };
        assert_eq!(won.status, 201, "{} {}", won.body, lost.body);
        lost.is_problem(409, "TABLE_EXISTS");
        for gateway in [&one, &two] {
            let seen = gateway.get("/v1/tables/orders").await.answered();
            assert_eq!(seen["schema"], won.body["schema"]);
            gateway.post(JSON, r#"{"id":1}"#).await.answered();
        }
    }
}

#[tokio::test]
async fn a_table_that_exists_is_not_made_again() {
    let harness = with_orders().await;
    harness
        .create(orders())
        .await
        .is_problem(409, "TABLE_EXISTS");
}

#[tokio::test]
async fn a_creation_that_died_half_way_can_be_repeated() {
    let harness = Harness::new().await;
    let dead = harness.another().await;
    dead.create(orders()).await.answered();
    // What is left where the catalog's entry was never written.
    for entry in harness.store.list("_tidelake/catalog").await.unwrap() {
        harness.store.delete(entry.location.as_ref()).await.unwrap();
    }
    harness.create(orders()).await.answered();
    harness.post(JSON, r#"{"id":1}"#).await.answered();
}

#[tokio::test]
async fn a_foreign_topic_or_folder_is_not_taken_over() {
    let harness = Harness::new().await;
    let topic = "tidelake.default.orders";
    let spec = |buckets| tidelake_log::TopicSpec {
        name: topic.into(),
        buckets,
        retention_ms: None,
        config: Default::default(),
    };
    harness.log.create_topic(&spec(3)).await.unwrap();
    let message = Message::new(topic, Bucket(1), "{}");
    harness.log.enqueue(message).await.unwrap().await.unwrap();
    let refused = harness.create(orders()).await;
    let problem = refused.is_problem(409, "TOPIC_EXISTS");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("holds messages"),
        "{problem}"
    );
    harness.log.delete_topic(topic).await.unwrap();

    harness.log.create_topic(&spec(2)).await.unwrap();
    let refused = harness.create(orders()).await;
    let problem = refused.is_problem(409, "TOPIC_EXISTS");
    assert!(
        problem["detail"].as_str().unwrap().contains("2 buckets"),
        "{problem}"
    );
    harness.log.delete_topic(topic).await.unwrap();

    let dead = harness.another().await;
    dead.create(orders()).await.answered();
    for entry in harness.store.list("_tidelake/catalog").await.unwrap() {
        harness.store.delete(entry.location.as_ref()).await.unwrap();
    }
    let mut other = orders();
    other["schema"]["fields"][1]["name"] = json!("remark");
    harness
        .create(other)
        .await
        .is_problem(409, "LOCATION_TAKEN");
    assert_eq!(
        harness.get("/v1/tables").await.answered(),
        json!({"tables": []})
    );
}

#[tokio::test]
async fn what_a_dead_purger_left_is_removed_by_the_next_maker() {
    let harness = with_orders().await;
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    let catalog = Catalog::open(
        &harness.store,
        harness.runtime.clock.clone(),
        harness.runtime.ids.clone(),
    )
    .await
    .unwrap();
    let id = TableId::new(TenantId::default(), TableName::new("orders").unwrap());
    catalog.drop_table(&id).await.unwrap();
    harness
        .get("/v1/tables/orders")
        .await
        .is_problem(404, "TABLE_NOT_FOUND");
    assert_eq!(harness.log.topics().len(), 2, "nobody removed them");
    // Another gateway, whose clock says that the purger has been silent for long.
    let clock = Arc::new(ManualClock::at(1_000_000 + 60_000));
    let runtime = Runtime {
        clock,
        ..Runtime::new()
    };
    let later = Harness::over(
        harness.store.clone(),
        harness.log.clone(),
        harness.settings.clone(),
        runtime,
    )
    .await;
    let made = later.create(orders()).await.answered();
    assert_eq!(
        made["end_offsets"],
        json!({"0": 0, "1": 0, "2": 0}),
        "a new topic"
    );
    later.post(JSON, r#"{"id":2}"#).await.answered();
}

#[tokio::test]
async fn dropping_again_goes_on_with_a_removal_that_failed() {
    let harness = with_orders().await;
    harness.log.set_down(true);
    let failed = harness
        .call(Method::DELETE, "/v1/tables/orders", Body::empty())
        .await;
    failed.is_problem(503, "LOG_UNAVAILABLE");
    harness.log.set_down(false);
    harness
        .get("/v1/tables/orders")
        .await
        .is_problem(404, "TABLE_NOT_FOUND");
    let clock = Arc::new(ManualClock::at(1_000_000 + 60_000));
    let runtime = Runtime {
        clock,
        ..Runtime::new()
    };
    let (store, log) = (harness.store.clone(), harness.log.clone());
    let later = Harness::over(store, log, harness.settings.clone(), runtime).await;
    later
        .call(Method::DELETE, "/v1/tables/orders", Body::empty())
        .await
        .answered();
    assert_eq!(later.log.topics(), Vec::<String>::new());
    assert_eq!(later.store.list("default").await.unwrap().len(), 0);
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let harness = with_orders().await;
    let acme = |method: Method, path: &str, body: String| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", JSON)
            .header("x-tidelake-tenant", "acme")
            .body(Body::from(body))
            .unwrap();
        harness.send(request)
    };
    let seen = acme(Method::GET, "/v1/tables/orders", String::new()).await;
    seen.is_problem(404, "TABLE_NOT_FOUND");
    let write = acme(
        Method::POST,
        "/v1/tables/orders/records",
        r#"{"id":1}"#.into(),
    )
    .await;
    write.is_problem(404, "TABLE_NOT_FOUND");
    let list = acme(Method::GET, "/v1/tables", String::new()).await;
    assert_eq!(list.answered(), json!({"tables": []}));
    let made = acme(Method::POST, "/v1/tables", orders().to_string())
        .await
        .answered();
    assert_eq!(made["topic"], "tidelake.acme.orders");
    assert_eq!(made["location"], "acme/orders");
    assert_eq!(
        harness.get("/v1/tables").await.answered()["tables"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_bad_tenant_header_is_named() {
    let harness = Harness::new().await;
    for name in ["", "Acme", "a/b", "../x"] {
        let request = Request::builder()
            .uri("/v1/tables")
            .header("x-tidelake-tenant", name);
        let reply = harness.send(request.body(Body::empty()).unwrap()).await;
        reply.is_problem(400, "INVALID_TENANT");
    }
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a list of bad bodies and what is said of them"
)]
async fn every_wrong_description_is_refused_and_leaves_nothing() {
    let harness = Harness::new().await;
    let with = |pointer: &str, value: Value| {
        let mut body = orders();
        match pointer.rsplit_once('/') {
            Some((parent, key)) => {
                let parent = body.pointer_mut(parent).unwrap();
                match key.parse::<usize>() {
                    Ok(index) if parent.is_array() => parent[index] = value,
                    _ => parent[key] = value,
                }
            }
            None => unreachable!("pointers begin with a slash"),
        }
        body
    };
    let mut no_name = orders();
    no_name.as_object_mut().unwrap().remove("name");
    let mut no_schema = orders();
    no_schema.as_object_mut().unwrap().remove("schema");
    let cases = [
        (no_name, 422, "MISSING_FIELD", "name"),
        (no_schema, 422, "MISSING_FIELD", "schema"),
        (with("/name", json!("Orders")), 422, "INVALID_NAME", "name"),
        (with("/name", json!("a/../b")), 422, "INVALID_NAME", "name"),
        (
            with("/mode", json!("upsert")),
            422,
            "INVALID_SCHEMA",
            "schema.identifier-field-ids",
        ),
        (
            with("/name", json!("orders__dead_letters")),
            422,
            "RESERVED_NAME",
            "name",
        ),
        (with("/mode", json!("replace")), 422, "INVALID_MODE", "mode"),
        (
            with("/ddl", json!("CREATE TABLE x")),
            422,
            "NOT_SUPPORTED",
            "ddl",
        ),
        (
            with("/buckets", json!(0)),
            422,
            "INVALID_BUCKETS",
            "buckets",
        ),
        (
            with("/buckets", json!(1025)),
            422,
            "INVALID_BUCKETS",
            "buckets",
        ),
        (with("/schema", json!("x")), 422, "INVALID_SCHEMA", "schema"),
        (
            with("/schema/fields/0/type", json!("blob")),
            422,
            "INVALID_SCHEMA",
            "schema",
        ),
        (
            with("/schema/fields/0/name", json!("NOTE")),
            422,
            "INVALID_SCHEMA",
            "schema",
        ),
        (
            with("/schema/identifier-field-ids", json!([1])),
            422,
            "INVALID_SCHEMA",
            "schema.identifier-field-ids",
        ),
        (
            with("/properties/retention_ms", json!(0)),
            422,
            "INVALID_PROPERTY",
            "properties.retention_ms",
        ),
        (
            with("/properties/retention_ms", json!("soon")),
            422,
            "INVALID_PROPERTY",
            "properties.retention_ms",
        ),
        (
            with("/properties/a", json!([])),
            422,
            "INVALID_PROPERTY",
            "properties.a",
        ),
        (
            with("/properties/delta.appendOnly", json!("false")),
            422,
            "INVALID_PROPERTY",
            "properties.delta.appendOnly",
        ),
    ];
    for (body, status, code, field) in cases {
        let reply = harness.create(body.clone()).await;
        let problem = reply.is_problem(status, code);
        assert_eq!(problem["field"], field, "{body} {problem}");
    }
    for (body, code) in [
        ("", "EMPTY_BODY"),
        (" \n", "EMPTY_BODY"),
        ("{", "MALFORMED_JSON"),
        ("[]", "INVALID_REQUEST"),
        (r#"{"name":"a","bucket":1}"#, "INVALID_REQUEST"),
        (r#"{"name":1}"#, "INVALID_REQUEST"),
        (r#"{"name":"a","buckets":-1}"#, "INVALID_REQUEST"),
    ] {
        let reply = harness.call(Method::POST, "/v1/tables", body).await;
        reply.is_problem(400, code);
    }
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(3 << 20));
    harness
        .call(Method::POST, "/v1/tables", large)
        .await
        .is_problem(413, "BODY_TOO_LARGE");
    assert_eq!(harness.log.topics(), Vec::<String>::new());
    assert_eq!(harness.store.list("").await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_log_that_is_away_makes_no_table_and_a_described_one_says_so() {
    let harness = with_orders().await;
    harness.log.set_down(true);
    let mut other = orders();
    other["name"] = json!("others");
    harness
        .create(other)
        .await
        .is_problem(503, "LOG_UNAVAILABLE");
    let described = harness.get("/v1/tables/orders").await.answered();
    assert_eq!(described["end_offsets"], Value::Null);
    assert_eq!(described["lag_records"], Value::Null);
    assert_eq!(described["rows"], 0);
}

#[tokio::test]
async fn unknown_routes_methods_and_parameters_are_problems() {
    let harness = with_orders().await;
    harness
        .get("/v2/tables")
        .await
        .is_problem(404, "NO_SUCH_ROUTE");
    let put = harness
        .call(Method::PUT, "/v1/tables/orders", Body::empty())
        .await;
    put.is_problem(405, "METHOD_NOT_ALLOWED");
    harness
        .get("/v1/tables/Bad-Name")
        .await
        .is_problem(404, "TABLE_NOT_FOUND");
    let status = harness.get("/v1/tables/orders/status").await;
    status.is_problem(400, "INVALID_QUERY");
    let misspelt = harness.get("/v1/tables/orders/status?tokens=AQ").await;
    misspelt.is_problem(400, "INVALID_QUERY");
}

#[tokio::test]
async fn requests_keep_their_id_or_get_one() {
    let harness = Harness::new().await;
    let minted = harness.get("/v1/tables").await;
    assert_eq!(minted.headers["x-request-id"].len(), 36);
    for (sent, kept) in [
        ("abc-1", true),
        ("with space", false),
        (&"x".repeat(129), false),
    ] {
        let request = Request::builder()
            .uri("/v1/tables")
            .header("x-request-id", sent);
        let reply = harness.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.headers["x-request-id"] == sent, kept, "{sent}");
    }
}

#[tokio::test]
async fn a_list_comes_in_pages_and_one_bad_table_hides_no_other() {
    let harness = Harness::new().await;
    for name in ["a", "b", "c"] {
        let mut table = orders();
        table["name"] = json!(name);
        harness.create(table).await.answered();
    }
    let log = harness.store.scoped("default/b/_delta_log");
    let damaged = bytes::Bytes::from_static(b"{\"metaData\":3}");
    log.put("00000000000000000001.json", damaged).await.unwrap();
    let harness = harness.another().await;
    let page = harness.get("/v1/tables?limit=2").await.answered();
    assert_eq!(page["tables"][0]["rows"], 0);
    assert_eq!(page["tables"][1]["name"], "b");
    assert_eq!(page["tables"][1]["code"], "TABLE_UNAVAILABLE");
    assert_eq!(page["next_after"], "b");
    let rest = harness.get("/v1/tables?limit=2&after=b").await.answered();
    assert_eq!(rest["tables"][0]["name"], "c");
    assert_eq!(rest["tables"].as_array().unwrap().len(), 1);
    assert_eq!(rest["next_after"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_list_does_not_load_every_table_there_is() {
    let harness = Harness::new().await;
    for i in 0..40 {
        let mut table = orders();
        table["name"] = json!(format!("t{i:02}"));
        harness.create(table).await.answered();
    }
    // A gateway that has just started knows none of them.
    let fresh = harness.another().await;
    let looked_at = |list: &Value| {
        let tables = list["tables"].as_array().unwrap();
        assert_eq!(tables.len(), 40);
        let all = |key: &str| tables.iter().all(|table| !table[key].is_null());
        assert!(all("name") && all("topic_id") && all("schema"), "{list}");
        tables.iter().filter(|table| table["version"] == 0).count()
    };
    let list = fresh.get("/v1/tables").await.answered();
    assert_eq!(looked_at(&list), 32);
    // What was loaded once is only followed, so the next list goes on.
    let list = fresh.get("/v1/tables").await.answered();
    assert_eq!(looked_at(&list), 40);
}
