//! Tables as they are described and listed.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_table_is_described_with_its_log() {
    let (world, table) = world().await;
    let (status, told) = world.get("/v1/tables/orders").await;
    assert_eq!(status, 200, "{told}");
    for (part, wanted) in [
        ("name", json!("orders")),
        ("tenant", json!("default")),
        ("mode", json!("append")),
        ("primary_key", json!([])),
        ("buckets", json!(2)),
        ("topic", json!("tidelake.default.orders")),
        ("version", json!(2)),
        ("rows", json!(10)),
        ("files", json!(2)),
        ("watermarks", json!({"0": 6, "1": 4})),
        ("end_offsets", json!({"0": 8, "1": 7})),
        ("lag_records", json!(5)),
        ("location", json!("default/orders")),
    ] {
        assert_eq!(told[part], wanted, "{part}");
    }
    assert_eq!(told["schema"]["fields"][1]["name"], "userId");
    assert_eq!(world.get("/v1/tables/nothing").await.0, 404);
    world.log.remake_topic(&table.entry.topic);
    let (_, told) = world.get("/v1/tables/orders").await;
    assert_eq!(told["topic_changed"]["code"], "TOPIC_REPLACED");
    assert_eq!(
        (&told["lag_records"], &told["rows"]),
        (&json!(null), &json!(10))
    );
    world.log.set_down(true);
    let (status, told) = world.get("/v1/tables/orders").await;
    assert_eq!((status, &told["end_offsets"]), (200, &json!(null)));
}

#[tokio::test]
async fn tables_are_listed_by_name_and_those_that_can_t_be_read_hide_no_others() {
    let (world, _orders) = world().await;
    let broken = world.table("broken", ORDERS, 1).await;
    world.table("users", ORDERS, 1).await;
    world.table_of("other", "theirs", ORDERS, 1).await;
    let log = "_delta_log/00000000000000000001.json";
    broken
        .delta
        .store()
        .put(log, "no json".into())
        .await
        .unwrap();
    let (status, told) = world.get("/v1/tables").await;
    assert_eq!(status, 200, "{told}");
    let names = |told: &Value| {
        let tables = told["tables"].as_array().unwrap().iter();
        tables
            .map(|table| table["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&told), ["broken", "orders", "users"]);
    assert_eq!(told["tables"][0]["code"], "CORRUPT");
    assert_eq!(told["tables"][1]["rows"], 10);
    let (_, told) = world.get("/v1/tables?limit=1&after=broken").await;
    assert_eq!(
        (names(&told), &told["next_after"]),
        (vec!["orders".into()], &json!("orders"))
    );
    let (status, told) = world.get("/v1/tables?wrong=1").await;
    assert_eq!((status, &told["code"]), (400, &json!("INVALID_REQUEST")));
}
