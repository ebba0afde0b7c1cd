//! A table's topic is deleted and made again, cut back, given partitions: no record is acknowledged
//! that the table will not have.

use tidelake_core::{Bucket, TableId, TableName, TenantId, TopicId, Watermark};
use tidelake_manifest::{CommitOutcome, DeltaTable, MarkMove, Transaction};

use super::*;

const TOPIC: &str = "tidelake.default.orders";

fn delta(harness: &Harness) -> DeltaTable {
    let runtime = &harness.runtime;
    let store = harness.store.scoped("default/orders");
    DeltaTable::new(store, runtime.clock.clone(), runtime.ids.clone())
}

async fn topic_id(harness: &Harness) -> TopicId {
    let id = TableId::new(TenantId::default(), TableName::new("orders").unwrap());
    harness
        .gateway
        .tables
        .current(&id)
        .await
        .unwrap()
        .entry
        .topic_id
}

/// Commits a watermark of every bucket, as a flush does.
async fn flush(harness: &Harness, to: i64) {
    let topic_id = topic_id(harness).await;
    let delta = delta(harness);
    let base = delta.snapshot().await.unwrap();
    let marks = (0..3).map(|bucket| MarkMove {
        topic_id,
        bucket: Bucket(bucket),
        from: base
            .watermark(&topic_id, Bucket(bucket))
            .unwrap_or_default(),
        to: Watermark(to),
    });
    let flush = Transaction::flush(Vec::new(), marks.collect());
    let outcome = delta.commit(&base, flush).await.unwrap();
    assert!(
        matches!(outcome, CommitOutcome::Committed { .. }),
        "{outcome:?}"
    );
}

/// Three records one by one, which reach all three buckets.
async fn post_three(harness: &Harness) {
    for id in 0..3 {
        harness
            .post(JSON, format!("{{\"id\":{id}}}"))
            .await
            .answered();
    }
}

/// The refusal names what was found and the commands that resolve it.
fn is_refused<'a>(reply: &'a Reply, code: &str, words: &str) -> &'a Value {
    let problem = reply.is_problem(409, code);
    let (detail, hint) = (&problem["detail"], &problem["hint"]);
    assert!(detail.as_str().unwrap().contains(words), "{problem}");
    assert!(
        hint.as_str()
            .unwrap()
            .contains("`tidelake table drop orders`"),
        "{problem}"
    );
    problem
}

#[tokio::test]
async fn nothing_is_written_to_a_topic_that_was_made_again() {
    let harness = with_orders().await;
    post_three(&harness).await;
    harness.log.remake_topic(TOPIC);
    // As late as a look may count.
    moment::advance(Duration::from_secs(3));
    let reply = harness.post(JSON, r#"{"id":9}"#).await;
    let problem = is_refused(&reply, "TOPIC_REPLACED", "was deleted and made again");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .ends_with("nothing was written"),
        "{problem}"
    );
    assert!(
        problem["hint"]
            .as_str()
            .unwrap()
            .contains("`tidelake table adopt-topic orders`"),
        "{problem}"
    );
    assert_eq!(harness.log.message_count(), 0);
    // Nor by any other way in.
    let flush = harness
        .call(Method::POST, "/v1/tables/orders/flush", Body::empty())
        .await;
    is_refused(&flush, "TOPIC_REPLACED", "was deleted and made again");
    assert_eq!(harness.log.message_count(), 0);
}

#[tokio::test]
async fn a_record_of_the_moment_in_which_a_topic_is_made_again_is_not_acknowledged() {
    let harness = with_orders().await;
    post_three(&harness).await;
    harness.log.remake_topic(TOPIC);
    let reply = harness.post(JSON, r#"{"id":9}"#).await;
    let problem = is_refused(&reply, "TOPIC_REPLACED", "was deleted and made again");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("the records of this request are in the topic as it is now"),
        "{detail}"
    );
    // From then on the topic is known to be another.
    let reply = harness.post(JSON, r#"{"id":9}"#).await;
    is_refused(&reply, "TOPIC_REPLACED", "nothing was written");
    assert_eq!(harness.log.message_count(), 1);
}

#[tokio::test]
async fn a_gateway_that_never_wrote_knows_by_the_watermarks() {
    let harness = with_orders().await;
    post_three(&harness).await;
    flush(&harness, 1).await;
    let another = harness.another().await;
    another.get("/v1/tables/orders/status?token=").await;
    another.post(JSON, r#"{"id":3}"#).await.answered();
    harness.log.remake_topic(TOPIC);
    for _ in 0..2 {
        let reply = another.post(JSON, r#"{"id":4}"#).await;
        is_refused(&reply, "TOPIC_REPLACED", "was deleted and made again");
    }
}

#[tokio::test]
async fn a_log_that_was_cut_back_below_the_watermark_takes_nothing() {
    let harness = with_orders().await;
    for _ in 0..3 {
        post_three(&harness).await;
    }
    flush(&harness, 3).await;
    harness.log.cut_back(TOPIC, 1);
    moment::advance(Duration::from_secs(3));
    let another = harness.another().await;
    for gateway in [&harness, &another] {
        let reply = gateway.post(JSON, r#"{"id":9}"#).await;
        is_refused(&reply, "LOG_CUT_BACK", "before the table's watermark 3");
    }
    assert_eq!(harness.log.message_count(), 3);
}

#[tokio::test]
async fn a_log_that_lost_what_no_commit_covers_goes_on() {
    let harness = with_orders().await;
    for _ in 0..3 {
        post_three(&harness).await;
    }
    flush(&harness, 1).await;
    harness.log.cut_back(TOPIC, 2);
    post_three(&harness).await;
    post_three(&harness).await;
}

#[tokio::test]
async fn added_partitions_stop_an_upsert_table_once_they_hold_records() {
    let harness = Harness::new().await;
    let mut upsert = orders();
    upsert["mode"] = "upsert".into();
    upsert["schema"]["identifier-field-ids"] = json!([1]);
    harness.create(upsert).await.answered();
    harness.log.add_bucket(TOPIC);
    moment::advance(Duration::from_secs(3));
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    let stray = tidelake_log::Message::new(TOPIC, Bucket(3), "{\"id\":2}");
    harness
        .gateway
        .log
        .enqueue(stray)
        .await
        .unwrap()
        .await
        .unwrap();
    moment::advance(Duration::from_secs(3));
    let reply = harness.post(JSON, r#"{"id":1}"#).await;
    let words = "was given more partitions (4) than the table has buckets (3)";
    is_refused(&reply, "TOPIC_PARTITIONS_CHANGED", words);
}

#[tokio::test]
async fn an_append_table_is_written_to_whatever_partitions_are_added() {
    let harness = with_orders().await;
    harness.log.add_bucket(TOPIC);
    let more = tidelake_log::Message::new(TOPIC, Bucket(3), "{\"id\":2}");
    harness
        .gateway
        .log
        .enqueue(more)
        .await
        .unwrap()
        .await
        .unwrap();
    moment::advance(Duration::from_secs(3));
    harness.post(JSON, r#"{"id":1}"#).await.answered();
}

#[tokio::test]
async fn the_log_is_not_asked_what_a_topic_is_for_each_write() {
    let harness = with_orders().await;
    let before = harness.log.described();
    for _ in 0..100 {
        harness.post(JSON, r#"{"id":1}"#).await.answered();
        moment::advance(Duration::from_millis(10));
    }
    let looks = harness.log.described() - before;
    assert!((1..=2).contains(&looks), "{looks} looks in a second");
}

#[tokio::test]
async fn a_log_that_says_nothing_of_a_topic_changes_no_answer() {
    let harness = with_orders().await;
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    harness.log.set_down(true);
    for _ in 0..3 {
        let reply = harness.post(JSON, r#"{"id":1}"#).await;
        reply.is_problem(503, "LOG_UNAVAILABLE");
        moment::advance(Duration::from_secs(3));
    }
    harness.log.set_down(false);
    harness.post(JSON, r#"{"id":1}"#).await.answered();
}

#[tokio::test]
async fn a_purge_leaves_topics_that_are_not_the_table_s() {
    for topic in [TOPIC, "tidelake.default.orders.dlq"] {
        let harness = with_orders().await;
        harness.log.remake_topic(topic);
        let path = "/v1/tables/orders?purge=true";
        harness
            .call(Method::DELETE, path, Body::empty())
            .await
            .answered();
        assert_eq!(harness.log.topics(), [topic]);
    }
}

#[tokio::test]
async fn a_new_table_takes_over_no_dead_letters_of_others() {
    let harness = with_orders().await;
    let dead_letters = "tidelake.default.orders.dlq";
    harness.log.remake_topic(dead_letters);
    let path = "/v1/tables/orders?purge=true";
    harness
        .call(Method::DELETE, path, Body::empty())
        .await
        .answered();
    let foreign = tidelake_log::Message::new(dead_letters, Bucket(0), "x");
    harness
        .gateway
        .log
        .enqueue(foreign)
        .await
        .unwrap()
        .await
        .unwrap();
    harness
        .create(orders())
        .await
        .is_problem(409, "TOPIC_EXISTS");
}
