//! Another log behind a table's name is noticed, and more partitions are read or refused.

use serde_json::json;

use super::topic::TOPIC_AGE_MAX;
use crate::moment;
use crate::settings::QuerySettings;
use crate::testing::{TestTable, Wire, World};

const APPEND: &str = r#"{"type": "struct", "fields": [
    {"name": "id", "type": "long", "required": true}]}"#;
const UPSERT: &str = r#"{"type": "struct", "fields": [
    {"id": 1, "name": "id", "type": "long", "required": true}],
    "identifier-field-ids": [1]}"#;

async fn world(schema: &str) -> (World, TestTable) {
    // Tests change the topic faster than anybody would: every look is at the newest snapshot.
    let settings = QuerySettings {
        snapshot_age_ms_max: 0,
        ..QuerySettings::default()
    };
    let world = World::new(settings).await;
    let table = world.table("t", schema, 1).await;
    (world, table)
}

fn push(table: &TestTable, bucket: u32, ids: std::ops::Range<i64>) {
    for id in ids {
        let record = Wire::json(&json!({ "id": id }).to_string());
        table.log.push(&table.entry.topic, bucket, record);
    }
}

const COUNT: &str = "SELECT count(*) FROM t";

/// `latest` is refused with the code and says what to do; what is committed is read on.
async fn is_refused(world: &World, code: &str, words: &str, committed: i64) {
    let (parts, problem) = world.sql(json!({ "sql": COUNT })).await;
    assert_eq!(parts.status, 409, "{problem}");
    assert_eq!(problem["code"], code, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("table default.t"), "{detail}");
    assert!(detail.contains(words), "{detail}");
    for command in ["`tidelake table drop t`", "`tidelake table create t …`"] {
        assert!(detail.contains(command), "{detail}");
    }
    let body = json!({ "sql": COUNT, "consistency": "committed" });
    assert_eq!(world.rows_of(body).await, json!([[committed]]));
}

#[tokio::test]
async fn rows_of_a_topic_that_was_made_again_are_not_the_tables() {
    let (world, mut table) = world(APPEND).await;
    push(&table, 0, 0..100);
    table.flush(0, 100).await;
    table.log.remake_topic(&table.entry.topic);
    push(&table, 0, 1000..1250);
    is_refused(&world, "TOPIC_REPLACED", "was deleted and made again", 100).await;
}

#[tokio::test]
async fn a_followed_topic_that_was_made_again_is_noticed_at_once_where_it_is_shorter() {
    let (world, mut table) = world(APPEND).await;
    push(&table, 0, 0..100);
    table.flush(0, 50).await;
    assert_eq!(world.rows(COUNT).await, json!([[100]]));
    table.log.remake_topic(&table.entry.topic);
    push(&table, 0, 1000..1090);
    is_refused(&world, "TOPIC_REPLACED", "its id is", 50).await;
    table.log.remove_topic(&table.entry.topic).await;
    is_refused(&world, "TOPIC_REPLACED", "is not there", 50).await;
}

/// It asked while the topic was the table's, and what it waited for came from another.
#[tokio::test]
async fn a_query_that_waits_while_its_topic_is_made_again_shows_none_of_the_new_rows() {
    let (world, mut table) = world(APPEND).await;
    push(&table, 0, 0..100);
    table.flush(0, 50).await;
    table.log.hold(true);
    let asked = table.log.asked();
    let query = world.sql(json!({ "sql": COUNT }));
    let meanwhile = async {
        let step = TOPIC_AGE_MAX / 100;
        for _ in 0..1_000 {
            moment::reach(moment::now() + step).await;
            if table.log.asked() > asked {
                break;
            }
        }
        assert!(table.log.asked() > asked, "the query asks for ends");
        // It has them.
        moment::reach(moment::now() + TOPIC_AGE_MAX / 2).await;
        table.log.remake_topic(&table.entry.topic);
        push(&table, 0, 1000..1200);
        moment::reach(moment::now() + TOPIC_AGE_MAX).await;
        table.log.hold(false);
    };
    let ((parts, problem), ()) = tokio::join!(query, meanwhile);
    assert_eq!(parts.status, 409, "{problem}");
    assert_eq!(problem["code"], "TOPIC_REPLACED", "{problem}");
}

#[tokio::test]
async fn a_log_that_was_cut_back_refuses_what_is_newest() {
    let (world, mut table) = world(APPEND).await;
    push(&table, 0, 0..100);
    table.flush(0, 100).await;
    table.log.cut_back(&table.entry.topic, 0, 60);
    is_refused(&world, "LOG_CUT_BACK", "the log ends at 60", 100).await;
}

#[tokio::test]
async fn an_append_table_shows_records_of_partitions_that_were_added() {
    let (world, mut table) = world(APPEND).await;
    push(&table, 0, 0..3);
    assert_eq!(world.rows(COUNT).await, json!([[3]]));
    table.log.add_partition(&table.entry.topic);
    push(&table, 1, 10..14);
    // What is known of a topic that is followed may be a second old.
    crate::testing::until(async || world.rows(COUNT).await == json!([[7]])).await;
    table.flush(1, 2).await;
    push(&table, 1, 14..15);
    assert_eq!(world.rows(COUNT).await, json!([[8]]));
}

#[tokio::test]
async fn added_partitions_are_read_by_the_first_query() {
    let (world, table) = world(APPEND).await;
    table.log.add_partition(&table.entry.topic);
    push(&table, 0, 0..3);
    push(&table, 1, 10..14);
    let (parts, answer) = world.sql(json!({ "sql": COUNT })).await;
    assert_eq!(parts.status, 200, "{answer}");
    assert_eq!(answer["rows"], json!([[7]]));
}

#[tokio::test]
async fn an_upsert_table_refuses_once_an_added_partition_holds_records() {
    let (world, table) = world(UPSERT).await;
    push(&table, 0, 0..3);
    table.log.add_partition(&table.entry.topic);
    assert_eq!(world.rows(COUNT).await, json!([[3]]));
    push(&table, 1, 3..5);
    let words = "was given more partitions (2) than the table has buckets (1)";
    crate::testing::until(async || world.sql(json!({ "sql": COUNT })).await.0.status != 200).await;
    is_refused(&world, "TOPIC_PARTITIONS_CHANGED", words, 0).await;
}

#[tokio::test]
async fn a_lookup_of_what_is_newest_is_refused_and_one_of_what_is_committed_is_not() {
    let (world, mut table) = world(UPSERT).await;
    push(&table, 0, 0..3);
    table.flush_upserts(&[(0, 3)]).await;
    table.log.remake_topic(&table.entry.topic);
    push(&table, 0, 5..9);
    let (status, problem) = world.get("/v1/tables/t/rows/1?consistency=latest").await;
    assert_eq!((status, &problem["code"]), (409, &json!("TOPIC_REPLACED")));
    let (status, row) = world.get("/v1/tables/t/rows/1?consistency=committed").await;
    assert_eq!(status, 200, "{row}");
}
