//! Lookups, ranges and scans of an upsert table against a model: an ordered map.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request as HttpRequest;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::buffer::BooleanBuffer;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidelake_codec::packed;
use tidelake_core::partition::bucket_of;
use tidelake_manifest::action::{Action, CommitInfo, write_commit};

use crate::settings::QuerySettings;
use crate::testing::{TestTable, Wire, World};

mod batches;
mod case;
mod damaged;
mod idle;
mod literals;
mod past;
mod statements;

use case::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// However messages, commits, announcements and questions follow one another.
    #[test]
    fn every_way_to_the_rows_agrees_with_the_model(
        steps in prop::collection::vec(step(), 1..25),
        age in prop_oneof![Just(0u64), Just(1_000_000)],
        pushdown in any::<bool>(),
    ) {
        let settings = QuerySettings {
            snapshot_age_ms_max: age,
            pushdown_filters: pushdown,
            ..QuerySettings::default()
        };
        run(&steps, settings);
    }
}

#[tokio::test]
async fn a_key_that_moves_from_file_to_file_to_memory_is_found_where_it_is() {
    let mut case = Case::new(QuerySettings::default()).await;
    let key = ("eu".to_owned(), 1);
    for version in 0..6 {
        case.put(&key, &format!("v{version}"));
        case.check().await;
        if version % 2 == 0 {
            let shares = [1.0, 1.0];
            let announced = version % 4 == 0;
            case.step(&Step::Flush { shares, announced }).await;
            case.check().await;
        }
    }
}

#[tokio::test]
async fn a_tail_of_many_small_bites_is_exact_and_of_few_pieces() {
    let mut case = Case::new(QuerySettings::default()).await;
    for round in 0..120i64 {
        let key = ("eu".to_owned(), round % 3);
        // Each bucket's last message is the newest of its keys, a delete now and then.
        let note = (round % 5 != 4).then(|| Some(format!("v{round}")));
        case.step(&Step::Records(vec![(key, note)])).await;
        if round % 40 == 39 {
            let (shares, announced) = ([0.7, 0.3], true);
            case.step(&Step::Flush { shares, announced }).await;
        }
        let count = json!({"sql": "SELECT count(*) FROM orders"});
        let wanted = case.model([i64::MAX; 2]).len();
        assert_eq!(case.world.rows_of(count).await, json!([[wanted]]));
        if round % 10 == 0 {
            case.check().await;
        }
    }
    case.check().await;
    let entry = Arc::new(case.table.entry.clone());
    let followed = case.world.engine.tails().followed(&entry).unwrap();
    let tails = &followed.view().unwrap().buckets;
    let pieces = tails.values().map(|tail| tail.pieces.len()).max().unwrap();
    assert!((1..20).contains(&pieces), "{pieces} pieces of a bucket");
}

#[tokio::test]
async fn keys_of_one_column_are_plain_values() {
    let world = World::new(QuerySettings::default()).await;
    let table = world.table("users", USERS, 3).await;
    for name in ["ann", "a/b c", "42", "é\"x"] {
        let bucket = bucket_of(name.as_bytes(), 3).0;
        let message = Wire::json(&json!({"name": name, "age": name.len()}).to_string());
        world.log.push(&table.entry.topic, bucket, message);
    }
    for (path, name) in [
        ("ann", "ann"),
        ("a%2Fb%20c", "a/b c"),
        ("42", "42"),
        ("%C3%A9%22x", "é\"x"),
    ] {
        let (status, body) = world.get(&format!("/v1/tables/users/rows/{path}")).await;
        assert_eq!(
            (status, body),
            (200, json!({"name": name, "age": name.len()}))
        );
    }
    let keys = json!({"keys": ["ann", {"name": "42"}, "nobody", "ann"]});
    let (_, body) = world.post("/v1/tables/users/lookup", &keys).await;
    assert_eq!(
        body["rows"],
        json!([{"name": "ann", "age": 3}, {"name": "42", "age": 2}, null, {"name": "ann", "age": 3}])
    );
    assert_eq!(body["version"], json!({"users": 0}));
}

#[tokio::test]
async fn sql_that_names_whole_keys_reads_only_where_they_are() {
    let mut case = Case::new(QuerySettings::default()).await;
    let keys: Vec<Key> = (0..IDS).map(|id| ("eu".to_owned(), id)).collect();
    for round in 0..3 {
        for key in &keys {
            case.put(key, &format!("v{round}"));
        }
        let shares = [1.0, 1.0];
        let announced = false;
        case.step(&Step::Flush { shares, announced }).await;
    }
    case.put(&keys[1], "fresh");
    let plan = async |filter: &str| {
        let sql = format!("EXPLAIN SELECT note FROM orders WHERE {filter}");
        case.world.rows(&sql).await.to_string()
    };
    let one = plan("id = 0 AND region = 'eu'").await;
    assert_eq!(one.matches(".parquet").count(), 1, "{one}");
    let fresh = plan("id = 1 AND region = 'eu'").await;
    assert_eq!(fresh.matches(".parquet").count(), 0, "{fresh}");
    let none = plan("id = 99 AND region = 'eu'").await;
    assert_eq!(none.matches(".parquet").count(), 0, "{none}");
    for plan in [&one, &fresh, &none] {
        assert!(plan.contains("KeyLookup: table=orders"), "{plan}");
    }
    let filtered = plan("id = 99 AND region = 'eu' AND note = 'v0'").await;
    assert!(filtered.contains("EmptyExec"), "{filtered}");
    let scan = plan("id = 1 AND region > 'eu'").await;
    assert!(
        !scan.contains("EmptyExec"),
        "a part of the key is a scan: {scan}"
    );
}

#[tokio::test]
async fn past_versions_are_looked_up_too() {
    let mut case = Case::new(QuerySettings::default()).await;
    let key = ("eu".to_owned(), 1);
    for note in ["a", "b"] {
        case.put(&key, note);
        case.put(&("us".to_owned(), 7), note);
        let shares = [1.0, 1.0];
        let announced = false;
        case.step(&Step::Flush { shares, announced }).await;
    }
    let path = format!("/v1/tables/orders/rows/{}", text(&key).replace('"', "%22"));
    for (version, note) in [(1, "a"), (2, "b")] {
        let (status, body) = case
            .world
            .get(&format!("{path}?as_of_version={version}"))
            .await;
        assert_eq!((status, &body["note"]), (200, &json!(note)), "{body}");
        let range = format!("/v1/tables/orders/rows?limit=1&as_of_version={version}");
        let (status, body) = case.world.get(&range).await;
        assert_eq!((status, &body["rows"][0]["note"]), (200, &json!(note)));
        assert_eq!(body["next"], "[\"us\",7]");
    }
    let (status, _) = case.world.get(&format!("{path}?as_of_version=0")).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn what_is_wrong_with_a_lookup_is_said() {
    let case = Case::new(QuerySettings::default()).await;
    let world = &case.world;
    world.table("plain", crate::lookup::tests::PLAIN, 1).await;
    let cases = [
        ("/v1/tables/orders/rows/[%22eu%22,1]", 404, "ROW_NOT_FOUND"),
        ("/v1/tables/orders/rows/7", 422, "INVALID_KEY"),
        (
            "/v1/tables/orders/rows/[%22eu%22,%22x%22]",
            422,
            "INVALID_KEY",
        ),
        ("/v1/tables/nothing/rows/7", 404, "TABLE_NOT_FOUND"),
        ("/v1/tables/No/rows/7", 404, "TABLE_NOT_FOUND"),
        ("/v1/tables/plain/rows/7", 409, "NO_PRIMARY_KEY"),
        ("/v1/tables/orders/rows?limit=0", 400, "INVALID_REQUEST"),
        ("/v1/tables/orders/rows?limit=10001", 400, "INVALID_REQUEST"),
        ("/v1/tables/orders/rows?form=1", 400, "UNKNOWN_FIELD"),
        (
            "/v1/tables/orders/rows?consistency=maybe",
            400,
            "INVALID_REQUEST",
        ),
        ("/v1/tables/orders/rows?token=x", 400, "INVALID_TOKEN"),
        (
            "/v1/tables/orders/rows?as_of_version=9",
            404,
            "VERSION_NOT_FOUND",
        ),
    ];
    for (path, status, code) in cases {
        let (found, body) = world.get(path).await;
        assert_eq!(
            (found, &body["code"]),
            (status, &json!(code)),
            "{path}: {body}"
        );
    }
    let path = "/v1/tables/orders/lookup";
    let many: Vec<Value> = (0..10_001)
        .map(|id| json!({"region": "eu", "id": id}))
        .collect();
    let cases = [
        (json!({}), 400, "MALFORMED_BODY"),
        (json!({"keys": 7}), 400, "MALFORMED_BODY"),
        (json!({"keys": [], "what": 1}), 400, "UNKNOWN_FIELD"),
        (json!({"keys": many}), 400, "INVALID_REQUEST"),
        (
            json!({"keys": [{"region": "eu", "id": 1}, {"region": "eu"}]}),
            422,
            "INVALID_KEY",
        ),
        (
            json!({"keys": [{"region": "eu", "id": "x"}]}),
            422,
            "INVALID_KEY",
        ),
        (json!({"keys": [null]}), 422, "INVALID_KEY"),
    ];
    for (body, status, code) in cases {
        let (found, answer) = world.post(path, &body).await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{answer}");
    }
    let (_, problem) = world
        .post(
            path,
            &json!({"keys": [{"region": "eu", "id": 1}, {"region": "eu"}]}),
        )
        .await;
    assert_eq!(
        (&problem["row"], &problem["field"]),
        (&json!(1), &json!("id"))
    );
    let (status, empty) = world.post(path, &json!({"keys": []})).await;
    assert_eq!((status, &empty["rows"]), (200, &json!([])));
}

const PLAIN: &str = r#"{"type": "struct", "fields": [
    {"name": "id", "type": "long", "required": true}]}"#;

#[tokio::test]
async fn a_token_is_waited_for_and_then_told() {
    let mut case = Case::new(QuerySettings::default()).await;
    let key = ("eu".to_owned(), 1);
    case.put(&key, "a");
    let bucket = tidelake_core::Bucket(home(&key));
    let token = |end| tidelake_core::Token::new([(bucket, tidelake_core::Watermark(end))]);
    let path = format!("/v1/tables/orders/rows/{}", text(&key).replace('"', "%22"));
    let (status, body) = case.world.get(&format!("{path}?token={}", token(1))).await;
    assert_eq!((status, &body["note"]), (200, &json!("a")));
    let late = format!("{path}?token={}&timeout_ms=50", token(2));
    let (status, body) = case.world.get(&late).await;
    assert_eq!((status, &body["code"]), (503, &json!("TOKEN_NOT_COVERED")));
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("bucket {bucket}")), "{detail}");
    let committed = format!(
        "{path}?token={}&timeout_ms=50&consistency=committed",
        token(1)
    );
    let (status, _) = case.world.get(&committed).await;
    assert_eq!(status, 503);
    // The log can't have what such a token asks for: nobody waits for it.
    for consistency in ["latest", "committed"] {
        let never = token(1 << 40);
        let never = format!("{path}?token={never}&consistency={consistency}&timeout_ms=600000");
        let (status, body) = case.world.get(&never).await;
        assert_eq!((status, &body["code"]), (400, &json!("INVALID_TOKEN")));
    }
}

#[tokio::test]
async fn who_waits_for_a_token_takes_nobodys_turn() {
    let settings = QuerySettings {
        lookups_max: 1,
        lookups_per_tenant_max: 3,
        ..QuerySettings::default()
    };
    let mut case = Case::new(settings).await;
    let key = ("eu".to_owned(), 1);
    case.put(&key, "a");
    let bucket = tidelake_core::Bucket(home(&key));
    let token = tidelake_core::Token::new([(bucket, tidelake_core::Watermark(2))]);
    let path = format!("/v1/tables/orders/rows/{}", text(&key).replace('"', "%22"));
    let late = format!("{path}?token={token}&timeout_ms=600000");
    let mut waiting = [
        Box::pin(case.world.get(&late)),
        Box::pin(case.world.get(&late)),
    ];
    for waiting in &mut waiting {
        let begun = tokio::time::timeout(std::time::Duration::from_millis(20), waiting).await;
        assert!(begun.is_err(), "it waits");
    }
    let (status, body) = case.world.get(&path).await;
    assert_eq!((status, &body["note"]), (200, &json!("a")));
    let third = Box::pin(case.world.get(&late));
    let mut third = third;
    let begun = tokio::time::timeout(std::time::Duration::from_millis(20), &mut third).await;
    assert!(begun.is_err(), "it waits");
    let (status, body) = case.world.get(&path).await;
    assert_eq!((status, &body["code"]), (429, &json!("TOO_MANY_QUERIES")));
    drop((waiting, third));
    assert_eq!(case.world.get(&path).await.0, 200);
}

#[tokio::test]
async fn large_rows_are_counted_before_they_are_written() {
    let settings = QuerySettings {
        json_bytes_max: 100_000,
        ..QuerySettings::default()
    };
    let world = World::new(settings).await;
    let schema = r#"{"type": "struct", "identifier-field-ids": [1], "fields": [
        {"id": 1, "name": "name", "type": "string", "required": true},
        {"id": 2, "name": "doc", "type": "string", "required": false}]}"#;
    let table = world.table("docs", schema, 1).await;
    let doc = "x".repeat(30_000);
    for name in 0..8 {
        let row = format!("{{\"name\": \"{name}\", \"doc\": \"{doc}\"}}");
        world.log.push(&table.entry.topic, 0, Wire::json(&row));
    }
    let keys = vec!["3"; 10_000];
    let (status, body) = world
        .post("/v1/tables/docs/lookup", &json!({"keys": keys}))
        .await;
    assert_eq!((status, &body["code"]), (413, &json!("RESULT_TOO_LARGE")));
    // A range goes on where it became too large.
    let (mut from, mut found) = (String::new(), Vec::new());
    for _ in 0..8 {
        let path = match from.as_str() {
            "" => "/v1/tables/docs/rows?limit=8".to_owned(),
            from => format!("/v1/tables/docs/rows?limit=8&from={from}"),
        };
        let (status, body) = world.get(&path).await;
        assert_eq!(status, 200);
        let rows = body["rows"].as_array().unwrap();
        found.extend(
            rows.iter()
                .map(|row| row["name"].as_str().unwrap().to_owned()),
        );
        match body["next"].as_str() {
            Some(next) => next.clone_into(&mut from),
            None => break,
        }
    }
    assert_eq!(found, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

async fn pause(millis: u64) {
    let until = crate::moment::now() + std::time::Duration::from_millis(millis);
    crate::moment::reach(until).await;
}

#[tokio::test]
async fn questions_at_the_same_time_share_what_they_need() {
    let mut case = Case::new(QuerySettings::default()).await;
    let key = ("eu".to_owned(), 1);
    case.put(&key, "a");
    let path = format!("/v1/tables/orders/rows/{}", text(&key).replace('"', "%22"));
    let (status, _) = case.world.get(&path).await;
    assert_eq!(status, 200);
    let (requests, asked) = (case.world.store.requests(), case.world.log.asked());
    let questions = (0..50).map(|_| case.world.get(&path));
    for (status, _) in futures::future::join_all(questions).await {
        assert_eq!(status, 200);
    }
    assert_eq!(case.world.store.requests(), requests, "all of it is known");
    let asked = case.world.log.asked() - asked;
    assert!(asked <= 3, "{asked} requests for the log's ends");
}

#[tokio::test]
async fn a_commit_that_is_announced_is_taken_over() {
    let mut case = Case::new(QuerySettings::default()).await;
    let key = ("eu".to_owned(), 1);
    case.put(&key, "a");
    case.check().await;
    let shares = [1.0, 1.0];
    let announced = true;
    case.step(&Step::Flush { shares, announced }).await;
    let wanted = case.table.snapshot.version().0;
    crate::testing::until(async || {
        let (_, body) = case
            .world
            .sql(json!({"sql": "SELECT count(*) FROM orders"}))
            .await;
        body["version"]["orders"] == wanted
    })
    .await;
    assert_eq!(case.world.engine.metrics().tail_cached_bytes.get(), 0);
    case.check().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let case = Case::new(QuerySettings::default()).await;
    let request = HttpRequest::post("/v1/tables/orders/lookup")
        .header("content-type", "application/json")
        .body(Body::from(vec![b' '; 3 << 20]))
        .unwrap();
    let (parts, _) = case.world.http(request).await;
    assert_eq!(parts.status, 413);
}

#[tokio::test]
async fn a_follower_that_does_not_come_along_is_told_with_its_bucket() {
    let settings = QuerySettings {
        tail_read_ms_max: 50,
        ..QuerySettings::default()
    };
    let mut case = Case::new(settings).await;
    let key = ("eu".to_owned(), 1);
    case.put(&key, "a");
    case.world.log.hold(true);
    let path = format!("/v1/tables/orders/rows/{}", text(&key).replace('"', "%22"));
    let (status, body) = case.world.get(&path).await;
    assert_eq!((status, &body["code"]), (503, &json!("TAIL_BEHIND")));
    let detail = body["detail"].as_str().unwrap();
    assert!(
        detail.contains(&format!("bucket {}", home(&key))),
        "{detail}"
    );
    assert!(detail.contains("1 behind"), "{detail}");
    case.world.log.hold(false);
    let (status, _) = case.world.get(&path).await;
    assert_eq!(status, 200);
}

/// Writes, commits and reads at the same time: whoever asks sees at least what was acknowledged
/// before, never less than anybody saw earlier, and each key once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_ever_sees_less_while_commits_and_writes_go_on() {
    const ROUNDS: i64 = 150;
    let mut case = Case::new(QuerySettings::default()).await;
    let keys: Vec<Key> = (0..IDS).map(|id| ("eu".to_owned(), id)).collect();
    let round = |n: i64| -> Vec<(u32, Wire)> {
        let note = Some(format!("{n:06}"));
        let records = keys.iter().map(|key| (home(key), record(key, &note)));
        records
            .map(|(bucket, record)| (bucket, Wire::json(&record.to_string())))
            .collect()
    };
    let (log, topic) = (case.world.log.clone(), case.table.entry.topic.clone());
    for (bucket, message) in round(0) {
        log.push(&topic, bucket, message);
    }
    let written = std::sync::atomic::AtomicI64::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    let write = async {
        for n in 1..=ROUNDS {
            for (bucket, message) in round(n) {
                log.push(&topic, bucket, message);
                tokio::task::yield_now().await;
            }
            written.store(n, order);
        }
    };
    let (id, table) = (case.table.entry.id.clone(), &mut case.table);
    let commit = async {
        while written.load(order) < ROUNDS {
            let ends = (0..BUCKETS).map(|bucket| (bucket, log.end(&topic, bucket)));
            let ends = ends.filter(|(bucket, end)| table.watermark(*bucket) < *end);
            let ends: Vec<(u32, i64)> = ends.collect();
            if ends.is_empty() {
                tokio::task::yield_now().await;
                continue;
            }
            let version = table.flush_upserts(&ends).await;
            log.announce(&id, version);
        }
    };
    let world = &case.world;
    let read = async {
        let mut seen = 0;
        while seen < ROUNDS {
            let before = written.load(order).max(seen);
            let path = "/v1/tables/orders/rows?limit=100";
            let (status, body) = world.get(path).await;
            assert_eq!(status, 200, "{body}");
            let rows = body["rows"].as_array().unwrap();
            assert_eq!(rows.len(), keys.len(), "{body}");
            let notes = rows.iter().map(|row| row["note"].as_str().unwrap());
            let notes: Vec<i64> = notes.map(|note| note.parse().unwrap()).collect();
            let least = *notes.iter().min().unwrap();
            assert!(least >= before, "{least} of {before}");
            seen = least;
            let sql = "SELECT count(*), count(DISTINCT id), min(note) FROM orders";
            let rows = world.rows(sql).await;
            assert_eq!((&rows[0][0], &rows[0][1]), (&json!(IDS), &json!(IDS)));
            let least: i64 = rows[0][2].as_str().unwrap().parse().unwrap();
            assert!(least >= seen, "{least} of {seen}");
            seen = least;
        }
    };
    tokio::join!(write, commit, read);
}

#[tokio::test]
async fn lookups_know_the_versions_that_sql_knows() {
    let mut case = Case::new(QuerySettings::default()).await;
    let key = ("eu".to_owned(), 1);
    case.put(&key, "old");
    let shares = [1.0, 1.0];
    let announced = true;
    case.step(&Step::Flush { shares, announced }).await;
    case.world
        .rows("CREATE SNAPSHOT before FOR TABLE orders")
        .await;
    case.put(&key, "new");
    let path = format!("/v1/tables/orders/rows/{}", text(&key).replace('"', "%22"));
    for (asked, note) in [
        ("", "new"),
        ("?as_of_version=before", "old"),
        ("?as_of_timestamp=2099-01-01", "old"),
    ] {
        let (status, body) = case.world.get(&format!("{path}{asked}")).await;
        assert_eq!(
            (status, &body["note"]),
            (200, &json!(note)),
            "{asked}: {body}"
        );
    }
    let both = format!("{path}?as_of_version=before&as_of_timestamp=2099-01-01");
    assert_eq!(case.world.get(&both).await.0, 400);
}

#[tokio::test]
async fn what_a_lookup_asks_twice_or_in_another_format_is_refused() {
    let case = Case::new(QuerySettings::default()).await;
    let (status, body) = case
        .world
        .get("/v1/tables/orders/rows?limit=1&limit=2")
        .await;
    assert_eq!((status, &body["code"]), (400, &json!("INVALID_REQUEST")));
    for (accept, status) in [
        ("text/csv", 406),
        ("application/json", 200),
        ("text/html, */*;q=0.1", 200),
    ] {
        let request = HttpRequest::get("/v1/tables/orders/rows")
            .header("accept", accept)
            .body(Body::empty())
            .unwrap();
        assert_eq!(case.world.http(request).await.0.status, status, "{accept}");
    }
}

#[tokio::test]
async fn many_rows_of_one_message_are_found_in_memory() {
    let mut case = Case::new(QuerySettings {
        json_bytes_max: 1 << 20,
        ..QuerySettings::default()
    })
    .await;
    for number in 0..200 {
        case.put(&("eu".to_owned(), number), &"n".repeat(100));
    }
    let (status, body) = case.world.get("/v1/tables/orders/rows?limit=150").await;
    assert_eq!(status, 200);
    assert_eq!(body["rows"].as_array().unwrap().len(), 150);
}
