//! Versions of upsert tables against a model: an ordered map for each version.
//!
//! Histories are written as a flusher and a compactor would: a file for each bucket, vectors over
//! superseded rows (inline and in files of several), files without live rows removed, rewrites that
//! move rows. What queries show of every version, of the difference between any two and of every key
//! must be what the maps say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request as HttpRequest;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidelake_core::{Bucket, Watermark, ids};
use tidelake_intake::decode::{MessageDecoder, WireMessage};
use tidelake_manifest::action::TAG_BUCKET;
use tidelake_manifest::vector::{DeletedRows, VectorFile};
use tidelake_manifest::{Add, Remove, Transaction, vector};
use tidelake_table::index::{Entries, Keys, encode_sidecar};
use tidelake_table::{Chunk, FileLayout, FileSettings, Positions, Sealed, TAG_INDEX, encode};

use crate::settings::QuerySettings;
use crate::table::keys::TableKeys;
use crate::testing::{TestTable, World};

mod case;

use case::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn every_version_difference_and_key_is_as_the_model_says(
        steps in prop::collection::vec(any_step(), 1..9),
        pairs in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 4),
        keys in prop::collection::vec(any_key(), 4),
        named in any::<prop::sample::Index>(),
        indexed in 0..4_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut case = Case::new().await;
            case.indexed = indexed;
            for step in &steps {
                case.step(step).await;
            }
            let count = case.versions.len();
            let named = named.index(count);
            case.world.rows(&format!(
                "CREATE SNAPSHOT kept FOR TABLE orders AS OF VERSION {named}"
            )).await;
            for version in 0..count {
                case.check_version(version).await;
                case.check_points(version).await;
            }
            for (a, b) in pairs {
                let (a, b) = (a.index(count), b.index(count));
                case.check_changes(a.min(b), a.max(b)).await;
            }
            for key in &keys {
                case.check_key(key).await;
            }
            // A later flush changes nothing of what the name stands for.
            case.step(&Step::Flush(vec![upsert("eu", 0, "later"), delete("us", 0)])).await;
            let by_name = case.rows("SELECT * FROM orders VERSION AS OF 'kept'").await;
            let by_number = format!("SELECT * FROM orders VERSION AS OF {named}");
            assert_eq!(by_name, case.rows(&by_number).await);
            case.check_version(named).await;
            case.check_points(named).await;
            case.check_changes(named, count).await;
        });
    }
}

/// Versions: 1 and 2 write, 3 compacts, 4 updates one row to the same value and deletes another.
async fn small() -> Case {
    let mut case = Case::new().await;
    let all = (0..6).map(|id| upsert("eu", id, "a")).collect();
    case.step(&Step::Flush(all)).await;
    case.step(&Step::Flush(vec![upsert("eu", 1, "b")])).await;
    let names: Vec<_> = case.files.keys().cloned().collect();
    let before = case.files.clone();
    let mut rows = Vec::new();
    for name in names {
        let stored = case.files.remove(&name).unwrap();
        let live = stored.rows.into_iter().enumerate();
        rows.extend(
            live.filter(|(at, _)| !stored.dead.contains(&(*at as u64)))
                .map(|(_, r)| r),
        );
    }
    case.write(rows).await;
    let model = case.model().clone();
    case.commit(before, model, false).await;
    let changes = vec![upsert("eu", 2, "a"), delete("eu", 3)];
    case.step(&Step::Flush(changes)).await;
    case
}

#[tokio::test]
async fn compaction_is_no_change_and_the_same_value_again_is() {
    let case = small().await;
    let moved = case
        .rows("SELECT * FROM table_changes('orders', 2, 3)")
        .await;
    assert_eq!(moved, Vec::<String>::new());
    let changes = "SELECT id, _change_type FROM table_changes('orders', 3) ORDER BY id, 2 DESC";
    let wanted = json!([
        [2, "update_preimage"],
        [2, "update_postimage"],
        [3, "delete"]
    ]);
    assert_eq!(case.world.rows(changes).await, wanted);
    let none = case
        .rows("SELECT * FROM table_changes('orders', 4, 4)")
        .await;
    assert_eq!(none, Vec::<String>::new());
    let counted = "SELECT count(*) FROM table_changes('orders', 0, 4)";
    assert_eq!(case.world.rows(counted).await, json!([[5]]));
}

#[tokio::test]
async fn unchanged_files_are_not_read() {
    let mut case = small().await;
    let untouched: Vec<_> = case.files.keys().cloned().collect();
    // A row that no file has: nothing of the older files changes.
    case.step(&Step::Flush(vec![upsert("us", 9, "new")])).await;
    for name in untouched {
        case.table.delta.store().delete(&name).await.unwrap();
    }
    let changes = "SELECT id, note, _change_type FROM table_changes('orders', 4, 5)";
    assert_eq!(
        case.world.rows(changes).await,
        json!([[9, "new", "insert"]])
    );
}

/// The rows that differ take several times the memory that there is.
#[tokio::test]
async fn a_large_difference_is_sorted_on_disk() {
    const ROWS: i64 = 6000;
    let mut case = Case::with(QuerySettings {
        memory_bytes_max: 32 << 20,
        target_partitions: 1,
        batch_rows: 256,
        ..QuerySettings::default()
    })
    .await;
    let note = |id: i64, text: &str| format!("{id:05}{}", text.repeat(5000));
    let all = (0..ROWS)
        .map(|id| upsert("eu", id, &note(id, "a")))
        .collect();
    case.step(&Step::Flush(all)).await;
    let before = std::mem::take(&mut case.files);
    let model: Model = case.model().clone();
    let rewritten = model.into_iter().map(|(key, row)| {
        let row = Row {
            note: Some(note(key.1, "b")),
            offset: row.offset + ROWS,
        };
        (key, row)
    });
    let model: Model = rewritten.collect();
    case.write(model.clone().into_iter().collect()).await;
    case.commit(before, model, true).await;
    let sql = "SELECT _change_type, count(*), sum(length(note)), min(note) < 'b', count(DISTINCT id) \
               FROM table_changes('orders', 1, 2) GROUP BY 1";
    let wanted = json!([
        ["update_postimage", ROWS, ROWS * 5005, true, ROWS],
        ["update_preimage", ROWS, ROWS * 5005, true, ROWS],
    ]);
    assert_eq!(sorted(case.world.rows(sql).await), sorted(wanted));
    let plan = case
        .world
        .rows(&format!("EXPLAIN ANALYZE {sql}"))
        .await
        .to_string();
    let spills: u64 = plan
        .split("spill_count=")
        .skip(1)
        .filter_map(|rest| rest.split([',', ']']).next()?.parse::<u64>().ok())
        .sum();
    assert!(spills > 0, "{plan}");
}

#[tokio::test]
async fn what_can_not_be_compared_is_refused() {
    let case = small().await;
    let world = &case.world;
    for (sql, status, code) in [
        (
            "SELECT * FROM table_changes('orders', 3, 2)",
            400,
            "SQL_INVALID",
        ),
        (
            "SELECT * FROM table_changes('orders', 3, 99)",
            404,
            "VERSION_NOT_FOUND",
        ),
        (
            "SELECT * FROM table_changes('orders', 99)",
            404,
            "VERSION_NOT_FOUND",
        ),
        (
            "SELECT * FROM table_changes('orders', 'nothing')",
            404,
            "SNAPSHOT_NOT_FOUND",
        ),
        (
            "SELECT * FROM table_changes('order', 1)",
            404,
            "TABLE_NOT_FOUND",
        ),
        (
            "SELECT * FROM key_history('orders', 'eu')",
            400,
            "SQL_INVALID",
        ),
        (
            "SELECT * FROM key_history('orders', 'eu', 'x')",
            400,
            "SQL_INVALID",
        ),
        (
            "SELECT * FROM key_history('orders', 1, 1)",
            400,
            "SQL_INVALID",
        ),
        (
            "SELECT * FROM orders VERSION AS OF 'nothing'",
            404,
            "SNAPSHOT_NOT_FOUND",
        ),
    ] {
        assert_eq!(
            world.code(json!({"sql": sql})).await,
            (status, code.into()),
            "{sql}"
        );
    }
}

#[tokio::test]
async fn a_key_s_history_begins_where_the_log_does() {
    let case = small().await;
    let store = case.table.delta.store();
    let second = case
        .table
        .delta
        .snapshot_at(tidelake_core::TableVersion(2))
        .await
        .unwrap();
    case.table.delta.write_checkpoint(&second).await.unwrap();
    for version in 0..2 {
        store
            .delete(&format!("_delta_log/{version:020}.json"))
            .await
            .unwrap();
    }
    let of = |id| {
        format!("SELECT _commit_version, _change_type, note FROM key_history('orders', 'eu', {id})")
    };
    assert_eq!(case.world.rows(&of(1)).await, json!([[2, "existing", "b"]]));
    let by_text = "SELECT note FROM key_history('orders', '[\"eu\",1]')";
    assert_eq!(case.world.rows(by_text).await, json!([["b"]]));
    let gone = json!([[4, "delete", null], [2, "existing", "a"]]);
    assert_eq!(case.world.rows(&of(3)).await, gone);
    assert_eq!(case.world.rows(&of(77)).await, json!([]));
}

/// Its rows have no sequence, so that only the commit can say whether they are others.
#[tokio::test]
async fn rows_that_another_engine_rewrote_are_told_by_its_commit() {
    let mut case = small().await;
    let of = "SELECT _commit_version, note FROM key_history('orders', 'eu', 5)";
    for (data_change, wanted) in [
        (false, json!([[1, "a"]])),
        (true, json!([[6, "a"], [1, "a"]])),
    ] {
        let held = |stored: &&Stored| {
            let place = stored
                .rows
                .iter()
                .position(|(held, _)| *held == key("eu", 5));
            place.is_some_and(|place| !stored.dead.contains(&(place as u64)))
        };
        let stored = case.files.values().find(held).unwrap().clone();
        case.files.remove(&stored.add.path);
        let live = stored.rows.iter().enumerate();
        let live = live.filter(|(place, _)| !stored.dead.contains(&(*place as u64)));
        let live: Vec<_> = live.map(|(_, row)| row.clone()).collect();
        let batch = case.sealed(0, &live).chunks[0].batch.clone();
        let add = Add {
            data_change,
            ..case.table.write(&batch).await
        };
        let remove = stored.add.to_remove(1, data_change);
        let path = add.path.clone();
        let (rows, dead) = (live, BTreeSet::new());
        let stored = Stored {
            add: add.clone(),
            rows,
            dead,
        };
        case.files.insert(path, stored);
        let tx = Transaction {
            operation: "OPTIMIZE".into(),
            adds: vec![add],
            removes: vec![remove],
            ..Transaction::default()
        };
        case.table.commit(tx).await;
        assert_eq!(case.world.rows(of).await, wanted);
    }
    let changes = "SELECT _change_type, note FROM table_changes('orders', 4) WHERE id = 5";
    let updated = json!([["update_preimage", "a"], ["update_postimage", "a"]]);
    assert_eq!(case.world.rows(changes).await, updated);
}

#[tokio::test]
async fn an_append_table_has_inserts_and_deletes_only() {
    let world = World::new(QuerySettings::default()).await;
    let schema = r#"{"type": "struct", "fields": [
        {"name": "id", "type": "long", "required": true}]}"#;
    let mut table = world.table("events", schema, 1).await;
    let rows: Vec<_> = (0..4).map(|id| json!({"id": id})).collect();
    table.push(0, &rows);
    table.flush(0, 2).await;
    table.flush(0, 4).await;
    table.delete("part-00001.parquet", &[1]).await;
    let changes = |from, to| {
        format!(
            "SELECT id, _change_type, _commit_version FROM table_changes('events', {from}, {to}) ORDER BY 1"
        )
    };
    assert_eq!(
        world.rows(&changes(1, 2)).await,
        json!([[2, "insert", 2], [3, "insert", 2]])
    );
    assert_eq!(world.rows(&changes(2, 3)).await, json!([[1, "delete", 3]]));
    let all = json!([[0, "insert", 3], [2, "insert", 3], [3, "insert", 3]]);
    assert_eq!(world.rows(&changes(0, 3)).await, all);
    let case = json!({"sql": "SELECT * FROM key_history('events', 1)"});
    assert_eq!(world.code(case).await, (400, "SQL_INVALID".into()));
}

#[tokio::test]
async fn history_tells_rows_that_came_and_went() {
    let case = small().await;
    let sql = "SELECT version, operation, rows_added, rows_deleted, engine LIKE 'Tidelake/%', watermarks \
               FROM table_history('orders') WHERE version IN (1, 2)";
    let wanted = json!([
        [2, "FLUSH", 1, 1, true, "{}"],
        [1, "FLUSH", 6, 0, true, "{}"]
    ]);
    assert_eq!(case.world.rows(sql).await, wanted);
}

#[tokio::test]
async fn names_are_made_listed_read_and_dropped_by_statements() {
    let case = small().await;
    let world = &case.world;
    let run = |sql: &'static str| json!({"sql": sql});
    let made = world
        .rows("CREATE SNAPSHOT first FOR TABLE orders AS OF VERSION 1")
        .await;
    assert_eq!((&made[0][0], &made[0][1]), (&json!("first"), &json!(1)));
    let newest = world.rows("CREATE SNAPSHOT newest FOR TABLE orders").await;
    assert_eq!(newest[0][1], 4);
    let at = world
        .rows("SELECT name, version FROM table_snapshots('orders') ORDER BY 1")
        .await;
    assert_eq!(at, json!([["first", 1], ["newest", 4]]));
    let same = "SELECT (SELECT timestamp FROM table_snapshots('orders') WHERE name = 'first') = \
                (SELECT timestamp FROM table_history('orders') WHERE version = 1)";
    assert_eq!(world.rows(same).await, json!([[true]]));
    let counted = json!({"sql": "SELECT count(*) FROM orders", "as_of_version": "first"});
    assert_eq!(world.rows_of(counted).await, json!([[6]]));
    let between = "SELECT count(*) FROM table_changes('orders', 'first', 'newest')";
    assert_eq!(world.rows(between).await, json!([[5]]));

    for (sql, status, code) in [
        (
            "CREATE SNAPSHOT first FOR TABLE orders",
            409,
            "SNAPSHOT_EXISTS",
        ),
        (
            "CREATE SNAPSHOT x FOR TABLE orders AS OF VERSION 9",
            404,
            "VERSION_NOT_FOUND",
        ),
        (
            "CREATE SNAPSHOT x FOR TABLE nothing",
            404,
            "TABLE_NOT_FOUND",
        ),
        (
            "DROP SNAPSHOT x FOR TABLE orders",
            404,
            "SNAPSHOT_NOT_FOUND",
        ),
    ] {
        let (parts, body) = world.sql(run(sql)).await;
        assert_eq!(
            (parts.status.as_u16(), body["code"].as_str()),
            (status, Some(code)),
            "{sql}"
        );
        if code == "SNAPSHOT_EXISTS" {
            assert!(
                body["detail"]
                    .as_str()
                    .unwrap()
                    .ends_with("keeps version 1"),
                "{body}"
            );
        }
    }
    let read_only = "/v1/sql?sql=DROP%20SNAPSHOT%20first%20FOR%20TABLE%20orders";
    let (parts, _) = world
        .http(HttpRequest::get(read_only).body(Body::empty()).unwrap())
        .await;
    assert_eq!(parts.status, 405);
    world.rows("DROP SNAPSHOT first FOR TABLE orders").await;
    let gone = json!({"sql": "SELECT 1 FROM orders", "as_of_version": "first"});
    assert_eq!(world.code(gone).await, (404, "SNAPSHOT_NOT_FOUND".into()));
}

#[tokio::test]
async fn names_are_made_listed_and_dropped_by_routes() {
    let case = small().await;
    let call = async |method: &str, path: &str, body: Value| {
        let request = HttpRequest::builder().method(method).uri(path);
        let request = request.body(Body::from(body.to_string())).unwrap();
        let (parts, bytes) = case.world.http(request).await;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        (parts.status.as_u16(), body)
    };
    let all = "/v1/tables/orders/snapshots";
    let (status, made) = call("POST", all, json!({"name": "a", "version": 2})).await;
    assert_eq!(
        (status, &made["version"], &made["name"]),
        (201, &json!(2), &json!("a"))
    );
    assert_eq!(call("POST", all, json!({"name": "a"})).await.0, 409);
    assert_eq!(
        call("POST", all, json!({"name": "b", "version": "a"}))
            .await
            .1["version"],
        2
    );
    assert_eq!(
        call("POST", all, json!({"name": "c"})).await.1["version"],
        4
    );
    let (status, listed) = call("GET", all, Value::Null).await;
    assert_eq!(
        (status, listed["snapshots"].as_array().unwrap().len()),
        (200, 3)
    );
    assert_eq!(listed["snapshots"][0], made);
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": "A"}), "name"),
        (json!({"name": 1}), "name"),
        (json!({"name": "d", "version": -1}), "version"),
        (
            json!({"name": "d", "version": 1, "timestamp": "2026-01-01"}),
            "timestamp",
        ),
        (json!({"name": "d", "timestamp": "soon"}), "timestamp"),
    ] {
        let (status, problem) = call("POST", all, body.clone()).await;
        assert_eq!(
            (status, problem["field"].as_str()),
            (400, Some(field)),
            "{body}"
        );
    }
    assert_eq!(call("POST", all, json!({"name": "d", "x": 1})).await.0, 400);
    assert_eq!(
        call("DELETE", &format!("{all}/a"), Value::Null).await.0,
        204
    );
    assert_eq!(
        call("DELETE", &format!("{all}/a"), Value::Null).await.0,
        404
    );
    assert_eq!(
        call("GET", "/v1/tables/nothing/snapshots", Value::Null)
            .await
            .0,
        404
    );
    assert_eq!(
        call("GET", "/v1/tables/No%20table/snapshots", Value::Null)
            .await
            .0,
        404
    );
}
