//! A table's topic is deleted and made again, cut back, given partitions: no record is acknowledged
//! that the table will not have.

use tidelake_core::{Bucket, TableId, TableName, TenantId, TopicId, Watermark};
use tidelake_log::RefusedFor;
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

/// A client of the log waits half a minute for a topic that nobody knows.
#[tokio::test]
async fn the_first_write_after_a_topic_was_deleted_is_answered_as_the_later_ones() {
    let harness = with_orders().await;
    post_three(&harness).await;
    harness.log.keep_silent();
    let waiting = harness.post(JSON, r#"{"id":9}"#);
    // Half of what a write waits for an acknowledgement.
    let waiting = tokio::time::timeout(Duration::from_secs(30), waiting);
    let (reply, ()) = tokio::join!(waiting, async {
        moment::pass(Duration::from_millis(200)).await;
        let deleted = harness.gateway.log.delete_topic(TOPIC).await;
        deleted.unwrap();
    });
    let reply = reply.expect("an answer at once");
    let problem = is_refused(&reply, "TOPIC_REPLACED", "is not there");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("were not acknowledged"), "{detail}");
    let reply = harness.post(JSON, r#"{"id":9}"#).await;
    is_refused(&reply, "TOPIC_REPLACED", "nothing was written");
}

/// Compacted, for example: sending again helps as little as waiting.
#[tokio::test]
async fn a_topic_whose_settings_keep_records_out_is_named_with_the_cure() {
    let harness = with_orders().await;
    for (because, what, cure) in [
        (RefusedFor::Record, "compacted", "cleanup.policy=delete"),
        (
            RefusedFor::Timestamp,
            "clock",
            "message.timestamp.after.max.ms",
        ),
        (RefusedFor::Policy, "a policy of the log", "which policy"),
    ] {
        harness.log.refuse_messages(because);
        let reply = harness.post(JSON, r#"{"id":1}"#).await;
        let problem = reply.is_problem(409, "TOPIC_REFUSES");
        let told = |part: &str| problem[part].as_str().unwrap().to_owned();
        assert!(told("detail").contains(what), "{problem}");
        assert!(told("hint").contains(cure), "{problem}");
        assert!(told("hint").contains(TOPIC), "{problem}");
        let of_compaction = told("detail") + &told("hint");
        let of_compaction = of_compaction.contains("compact") || of_compaction.contains("cleanup");
        assert_eq!(of_compaction, because == RefusedFor::Record, "{problem}");
    }
}

#[tokio::test]
async fn a_gateway_that_never_wrote_knows_by_the_watermarks() {
    let harness = with_orders().await;
    post_three(&harness).await;
    flush(&harness, 1).await;
    let another = harness.another().await;
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
    make_upsert(&harness).await;
    harness.log.add_bucket(TOPIC);
    moment::advance(Duration::from_secs(3));
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    let misplaced = tidelake_log::Message::new(TOPIC, Bucket(3), "{\"id\":2}");
    harness
        .gateway
        .log
        .enqueue(misplaced)
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
    // What is in the partition that was added is not in the table either.
    let described = harness.get("/v1/tables/orders").await.answered();
    assert_eq!(described["lag_records"], 1);
    assert_eq!(described["end_offsets"]["3"], 1);
    assert_eq!(described["watermarks"]["3"], 0);
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    let described = harness.get("/v1/tables/orders").await.answered();
    assert_eq!(described["lag_records"], 2);
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

async fn adopt(harness: &Harness) -> Reply {
    let path = "/v1/tables/orders/adopt-topic";
    harness.call(Method::POST, path, Body::empty()).await
}

async fn make_upsert(harness: &Harness) {
    let mut upsert = orders();
    upsert["mode"] = "upsert".into();
    upsert["schema"]["identifier-field-ids"] = json!([1]);
    harness.create(upsert).await.answered();
}

#[tokio::test]
async fn a_table_adopts_the_topic_that_is_there_from_its_beginning() {
    let harness = with_orders().await;
    let another = harness.another().await;
    post_three(&harness).await;
    flush(&harness, 1).await;
    let left = topic_id(&harness).await;
    harness.log.remake_topic(TOPIC);
    let foreign = tidelake_log::Message::new(TOPIC, Bucket(0), r#"{"id":7}"#);
    harness
        .gateway
        .log
        .enqueue(foreign)
        .await
        .unwrap()
        .await
        .unwrap();
    let reply = another.post(JSON, r#"{"id":9}"#).await;
    is_refused(&reply, "TOPIC_REPLACED", "was deleted and made again");
    // Described it says so, and claims no lag.
    let described = another.get("/v1/tables/orders").await.answered();
    assert_eq!(described["topic_changed"]["code"], "TOPIC_REPLACED");
    assert_eq!(described["lag_records"], Value::Null);
    let adopted = adopt(&harness).await.answered();
    assert_eq!(adopted["left_topic_id"], left.to_string());
    assert_eq!(adopted["begins"], json!({"0": 0, "1": 0, "2": 0}));
    let described = harness.get("/v1/tables/orders").await.answered();
    assert_eq!(described["topic_id"], adopted["topic_id"]);
    assert_eq!(described["watermarks"], json!({"0": 0, "1": 0, "2": 0}));
    // What was written to it before it was adopted belongs to the table, too.
    assert_eq!(described["lag_records"], 1);
    assert_eq!(described["topic_changed"], Value::Null);
    assert_eq!(described["version"], 2);
    for gateway in [&harness, &another] {
        gateway.post(JSON, r#"{"id":9}"#).await.answered();
    }
    // Asked for again it changes nothing.
    let again = adopt(&another).await.answered();
    assert_eq!(again["left_topic_id"], Value::Null);
    assert_eq!(again["topic_id"], adopted["topic_id"]);
    assert_eq!(delta(&harness).snapshot().await.unwrap().version().0, 2);
    // The old rows' watermarks stay what they were: a flush of them that hangs may come late.
    let snapshot = delta(&harness).snapshot().await.unwrap();
    assert_eq!(snapshot.watermark(&left, Bucket(0)), Some(Watermark(1)));
}

#[tokio::test]
async fn a_list_names_a_table_whose_topic_is_not_there() {
    let harness = with_orders().await;
    post_three(&harness).await;
    let listed = harness.get("/v1/tables").await.answered();
    assert_eq!(listed["tables"][0]["topic_changed"], Value::Null);
    harness.gateway.log.delete_topic(TOPIC).await.unwrap();
    // As late as a look may count.
    moment::advance(Duration::from_secs(3));
    let listed = harness.get("/v1/tables").await.answered();
    let changed = &listed["tables"][0]["topic_changed"];
    assert_eq!(changed["code"], "TOPIC_REPLACED", "{listed}");
    assert_eq!(listed["tables"][0]["lag_records"], Value::Null);
}

#[tokio::test]
async fn a_late_flush_of_the_topic_that_an_upsert_table_left_is_part_of_no_version() {
    let harness = Harness::new().await;
    make_upsert(&harness).await;
    post_three(&harness).await;
    let left = topic_id(&harness).await;
    let delta = delta(&harness);
    let base = delta.snapshot().await.unwrap();
    let late = |from, to| {
        let mark = MarkMove {
            topic_id: left,
            bucket: Bucket(1),
            from: Watermark(from),
            to: Watermark(to),
        };
        Transaction::flush(Vec::new(), vec![mark])
    };
    harness.log.remake_topic(TOPIC);
    adopt(&harness).await.answered();
    for base in [base, delta.snapshot().await.unwrap()] {
        let outcome = delta.commit(&base, late(0, 1)).await.unwrap();
        assert!(
            matches!(
                outcome,
                CommitOutcome::Conflicted(tidelake_manifest::Conflict::WatermarkMoved { .. })
            ),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn an_adoption_that_died_before_the_catalog_was_told_goes_on() {
    let harness = Harness::new().await;
    make_upsert(&harness).await;
    post_three(&harness).await;
    harness.log.remake_topic(TOPIC);
    harness.log.cut_before(TOPIC, 5);
    adopt(&harness).await.answered();
    // It was written down by the table's log alone.
    let told = "_tidelake/catalog/00000000000000000001.json";
    harness.store.delete(told).await.unwrap();
    let harness = harness.another().await;
    let reply = harness.post(JSON, r#"{"id":9}"#).await;
    is_refused(&reply, "TOPIC_REPLACED", "was deleted and made again");
    let adopted = adopt(&harness).await.answered();
    // What retention removed before the topic was adopted is behind the table's beginning.
    assert_eq!(adopted["begins"], json!({"0": 5, "1": 5, "2": 5}));
    let described = harness.get("/v1/tables/orders").await.answered();
    assert_eq!(described["watermarks"], json!({"0": 5, "1": 5, "2": 5}));
}

#[tokio::test]
async fn a_topic_that_is_gone_is_made_and_one_of_other_partitions_is_not_adopted() {
    let harness = Harness::new().await;
    make_upsert(&harness).await;
    let before = topic_id(&harness).await;
    let spec = harness.log.spec(TOPIC);
    harness.log.delete_topic(TOPIC).await.unwrap();
    let wide = tidelake_log::TopicSpec {
        buckets: 4,
        ..spec.clone()
    };
    harness.log.create_topic(&wide).await.unwrap();
    let reply = adopt(&harness).await;
    let problem = reply.is_problem(409, "TOPIC_PARTITIONS_CHANGED");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("has 4 partitions"),
        "{problem}"
    );
    harness.log.delete_topic(TOPIC).await.unwrap();
    let adopted = adopt(&harness).await.answered();
    assert_eq!(harness.log.spec(TOPIC).buckets, 3);
    assert_eq!(harness.log.spec(TOPIC).retention_ms, spec.retention_ms);
    assert_ne!(adopted["topic_id"], before.to_string());
    harness.post(JSON, r#"{"id":1}"#).await.answered();
}

#[tokio::test]
async fn the_topic_of_dead_letters_is_adopted_with_its_table_s() {
    let harness = with_orders().await;
    let dead_letters = "/v1/tables/orders__dead_letters";
    let before = harness.get(dead_letters).await.answered();
    harness.log.remake_topic("tidelake.default.orders.dlq");
    adopt(&harness).await.answered();
    let after = harness.get(dead_letters).await.answered();
    assert_ne!(after["topic_id"], before["topic_id"]);
    let path = format!("{dead_letters}/adopt-topic");
    let reply = harness.call(Method::POST, &path, Body::empty()).await;
    reply.is_problem(422, "DEAD_LETTER_TABLE");
    let reply = harness
        .call(
            Method::POST,
            "/v1/tables/nothing/adopt-topic",
            Body::empty(),
        )
        .await;
    reply.is_problem(404, "TABLE_NOT_FOUND");
}
