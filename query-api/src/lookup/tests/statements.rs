//! Statements that name whole keys: the lookup's way beside the planner's.

use tidelake_core::TenantId;

use super::*;
use crate::request::Request;

const TABLE: &str = r#"{"type": "struct", "identifier-field-ids": [1], "fields": [
    {"id": 1, "name": "k", "type": "KEY", "required": true},
    {"id": 2, "name": "userId", "type": "int", "required": false},
    {"id": 3, "name": "note", "type": "string", "required": false},
    {"id": 4, "name": "at", "type": "timestamptz", "required": false},
    {"id": 5, "name": "tag", "type": "uuid", "required": false}]}"#;
const TAG: &str = "550e8400-e29b-41d4-a716-446655440000";

/// A table with the first keys in files, some of these once more and the others in the tail.
async fn table(ty: &str, keys: &[Value]) -> (World, TestTable) {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("t", &TABLE.replace("KEY", ty), 1).await;
    let row = |round: usize| {
        move |(place, key): (usize, &Value)| {
            json!({"k": key, "userId": place, "note": format!("n{round}"), "tag": TAG,
                "at": "2026-01-02T03:04:05Z"})
        }
    };
    let (filed, fresh) = keys.split_at(keys.len() / 2);
    let rows: Vec<Value> = filed.iter().enumerate().map(row(0)).collect();
    table.push(0, &rows);
    table.flush_upserts(&[(0, rows.len() as i64)]).await;
    let again = filed.iter().step_by(2).chain(fresh);
    table.push(0, &again.enumerate().map(row(1)).collect::<Vec<_>>());
    (world, table)
}

/// An answer without what differs from one to the next; rows in no order.
async fn answer(world: &World, sql: &str, more: &Value) -> Value {
    let mut body = json!({ "sql": sql });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    let (parts, mut body) = world.sql(body).await;
    if parts.status != 200 {
        return json!([parts.status.as_u16(), body["code"]]);
    }
    // A snapshot may be looked for anew between one question and the next.
    for other in ["elapsed_ms", "version"] {
        body.as_object_mut().unwrap().remove(other);
    }
    if let Some(rows) = body["rows"].as_array_mut() {
        rows.sort_by_key(ToString::to_string);
    }
    body
}

async fn explained(world: &World, sql: &str, more: &Value) -> String {
    let plan = answer(world, &format!("EXPLAIN {sql}"), more).await;
    plan.to_string()
}

/// Both ways agree. True where the lookup's was taken.
async fn both(world: &World, filter: &str, more: &Value) -> bool {
    let planned = |sql: &str| format!("{sql} AND 1 < 2");
    // Of each condition all columns, and some in turn.
    let some = ["note, \"userId\" AS u, k", "t.k", "USERID, tag"];
    for columns in ["*", some[filter.len() % some.len()]] {
        let sql = format!("SELECT {columns} FROM t WHERE {filter}");
        // A condition that is none leaves the statement to the planner.
        assert_eq!(
            answer(world, &sql, more).await,
            answer(world, &planned(&sql), more).await,
            "{sql} {more}"
        );
    }
    let sql = format!("SELECT * FROM t WHERE {filter}");
    let plan = explained(world, &planned(&sql), more).await;
    assert!(!plan.contains("KeyLookup"), "{plan}");
    explained(world, &sql, more).await.contains("KeyLookup")
}

async fn agree(ty: &str, keys: &[Value], literals: &[&str], params: &[Value]) -> Vec<String> {
    let (world, mut table) = table(ty, keys).await;
    let mut planned = Vec::new();
    for flushed in [false, true] {
        if flushed {
            let end = (keys.len() / 2).div_ceil(2) + keys.len();
            table.flush_upserts(&[(0, end as i64)]).await;
        }
        for committed in [false, true] {
            let consistency = if committed { "committed" } else { "latest" };
            let more = json!({ "consistency": consistency });
            for (place, literal) in literals.iter().enumerate() {
                let other = literals[(place * 7 + 3) % literals.len()];
                let filters = [
                    format!("k = {literal}"),
                    format!("{literal} = t.k"),
                    format!("(k IN ({literal}, {other}))"),
                ];
                for filter in &filters {
                    if !both(&world, filter, &more).await && !committed {
                        planned.push(filter.clone());
                    }
                }
            }
            for param in params {
                let more = json!({"consistency": consistency, "params": [param]});
                if !both(&world, "k = $1", &more).await && !committed {
                    planned.push(param.to_string());
                }
            }
        }
    }
    planned.sort();
    planned.dedup();
    planned.retain(|filter| !filter.contains('(') && !filter.contains("= t.k"));
    planned
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_numbers_are_found_as_the_planner_finds_them() {
    let literals = [
        "1",
        "0002",
        "-3",
        "1.0",
        "2.5",
        "1e0",
        "'1'",
        "'x'",
        "NULL",
        "4000000000",
        "-4000000000",
        "9223372036854775808",
        "99",
        "TRUE",
        "1.00000000001",
    ];
    let params = [
        json!(1),
        json!("1"),
        json!(1.0),
        json!(null),
        json!(5_000_000_000_u64),
    ];
    let keys = [json!(1), json!(2), json!(-3), json!(4), json!(0)];
    let by_plan = [
        "\"1\"",
        "1.0",
        "k = '1'",
        "k = 'x'",
        "k = 1.0",
        "k = 1.00000000001",
        "k = 1e0",
        "k = 2.5",
        "k = 9223372036854775808",
        "k = NULL",
        "k = TRUE",
        "null",
    ];
    for ty in ["int", "long"] {
        let planned = agree(ty, &keys, &literals, &params).await;
        assert_eq!(planned, by_plan, "{ty}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_found_as_the_planner_finds_them() {
    let literals = [
        "'a'", "'A'", "''", "'it''s'", "'1'", "1", "NULL", "'a '", "TRUE", "'é'",
    ];
    let params = [json!("a"), json!(1), json!(""), json!(true)];
    let keys = ["a", "1", "it's", "é", "", "true"].map(|key| json!(key));
    let planned = agree("string", &keys, &literals, &params).await;
    assert_eq!(planned, ["1", "k = 1", "k = NULL", "k = TRUE", "true"]);

    let upper = TAG.to_uppercase();
    let quoted = [format!("'{TAG}'"), format!("'{upper}'")];
    let literals = [quoted[0].as_str(), &quoted[1], "'x'", "''", "5"];
    let params = [json!(TAG), json!(upper), json!("none")];
    let keys = [json!(TAG), json!("650e8400-e29b-41d4-a716-446655440000")];
    let planned = agree("uuid", &keys, &literals, &params).await;
    assert_eq!(planned, ["k = 5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dates_and_decimals_are_found_as_the_planner_finds_them() {
    let literals = [
        "'2026-01-01'",
        "'1650-03-04'",
        "'9999-12-31'",
        "'2026-1-1'",
        "'2026-01-01T00:00:00'",
        "DATE '2026-01-01'",
        "'2026-02-30'",
        "'x'",
        "TIMESTAMP '2026-01-01 00:00:00'",
    ];
    let keys = ["2026-01-01", "1650-03-04", "9999-12-31", "2026-02-01"].map(|key| json!(key));
    let params = [json!("2026-01-01"), json!("yesterday")];
    let planned = agree("date", &keys, &literals, &params).await;
    assert!(
        !planned.contains(&"k = '1650-03-04'".to_owned()),
        "{planned:?}"
    );
    assert!(
        planned.contains(&"k = '2026-1-1'".to_owned()),
        "{planned:?}"
    );

    let literals = [
        "8.61",
        "8.610",
        "8.611",
        "-0.5",
        "3",
        "3.0",
        "-0",
        "0.0",
        "12345678",
        "1e1",
        "'8.61'",
        "1234567.89",
        "99999999999999999999",
    ];
    let keys = ["8.61", "-0.50", "3.00", "0.00", "1234567.89", "10.00"].map(|key| json!(key));
    let params = [json!(3), json!(8.61), json!("8.61"), json!(-12_345_678)];
    let planned = agree("decimal(9, 2)", &keys, &literals, &params).await;
    assert!(!planned.contains(&"k = 8.61".to_owned()), "{planned:?}");
    assert!(planned.contains(&"k = '8.61'".to_owned()), "{planned:?}");

    let planned = agree(
        "boolean",
        &[json!(true), json!(false)],
        &["TRUE", "false", "1"],
        &[],
    );
    assert_eq!(planned.await, ["k = 1"]);
    let times = ["'2026-01-01T00:00:00Z'", "'2026-01-01'", "'x'"];
    let keys = [json!("2026-01-01T00:00:00Z"), json!("2026-01-02T00:00:00Z")];
    assert_eq!(agree("timestamptz", &keys, &times, &[]).await.len(), 3);
}

/// Answers are the same to the last field of their schema, and name the same positions.
#[tokio::test]
async fn a_row_by_key_is_an_answer_like_any_other() {
    let keys: Vec<Value> = (0..6).map(|key| json!(key)).collect();
    let (world, _table) = table("long", &keys).await;
    let tenant = TenantId::default();
    let ask = async |sql: &str| {
        let request = Request::new(sql, world.engine.settings());
        let id = world.engine.fresh_id();
        let mut answer = world.engine.query(&tenant, id, &request).await.unwrap();
        let batch = answer.rows.next().await.unwrap().unwrap();
        assert!(answer.rows.next().await.unwrap().is_none());
        (answer.schema, answer.seen, batch)
    };
    for key in [0, 5] {
        let sql = format!("SELECT *, note AS \"Again\" FROM t WHERE k = {key}");
        let (by_key, planned) = (ask(&sql).await, ask(&format!("{sql} AND 1 < 2")).await);
        assert_eq!(by_key, planned, "{sql}");
    }
    assert!(world.engine.queries(&tenant).is_empty());

    let more = json!({});
    let limited = "SELECT k FROM t WHERE k IN (1, 2, 3) LIMIT 2";
    assert_eq!(
        answer(&world, limited, &more).await["rows"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let none = answer(&world, "SELECT k FROM t WHERE k = 1 LIMIT 0", &more).await;
    assert_eq!(none["rows"], json!([]));
    let cut = answer(
        &world,
        "SELECT k FROM t WHERE k IN (1, 2)",
        &json!({"max_rows": 1}),
    )
    .await;
    assert_eq!(
        (
            cut["truncated"].clone(),
            cut["rows"].as_array().unwrap().len()
        ),
        (json!(true), 1)
    );
    let twice = answer(&world, "SELECT k FROM t WHERE k IN (1, 1, 1)", &more).await;
    assert_eq!(twice["rows"], json!([[1]]));
    let again = answer(&world, "SELECT k, k FROM t WHERE k = 1", &more).await;
    assert_eq!(again["rows"], json!([[1, 1]]));
    assert_eq!(again["columns"][1]["name"], "k_2");
    // What is wrong is told as ever.
    for (sql, code) in [
        ("SELECT nothing FROM t WHERE k = 1", 400),
        ("SELECT k FROM t WHERE k = $1", 400),
        ("SELECT k FROM u WHERE k = 1", 404),
    ] {
        let refused = answer(&world, sql, &more).await;
        assert_eq!(refused[0], code, "{sql}: {refused}");
    }
}

/// Of a table that is followed and whose footers are known: the row's pages, in one request, and
/// nothing once these are known too.
#[tokio::test]
async fn a_row_by_key_takes_one_request() {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("t", &TABLE.replace("KEY", "long"), 1).await;
    let row = |key: i64| json!({"k": key, "userId": 1, "note": "n", "tag": TAG});
    table.push(0, &(0..40).map(row).collect::<Vec<_>>());
    table.flush_upserts(&[(0, 40)]).await;
    let find = async |key: i64| {
        let before = world.store.requests();
        let sql = format!("SELECT k, note FROM t WHERE k = {key}");
        assert_eq!(world.rows(&sql).await, json!([[key, "n"]]));
        world.store.requests().since(&before)
    };
    // The index is loaded, the footer read.
    find(1).await;
    let (other_page, same_page) = (find(39).await, find(38).await);
    assert_eq!(other_page.total(), 1, "{:?}", other_page.by_name());
    assert_eq!(same_page.total(), 0, "{:?}", same_page.by_name());
}

#[tokio::test]
async fn a_key_of_several_columns_needs_all_of_them() {
    let mut case = Case::new(QuerySettings::default()).await;
    for id in 0..4 {
        case.put(&("eu".to_owned(), id), "a");
    }
    let shares = [1.0, 1.0];
    case.step(&Step::Flush {
        shares,
        announced: true,
    })
    .await;
    case.put(&("eu".to_owned(), 1), "b");
    let rows = async |filter: &str| {
        let sql = format!("SELECT id, note FROM orders WHERE {filter}");
        let plan = explained(&case.world, &sql, &json!({})).await;
        let rows = answer(&case.world, &sql, &json!({})).await["rows"].clone();
        (plan.contains("KeyLookup"), rows)
    };
    let one = (true, json!([[1, "b"]]));
    assert_eq!(rows("region = 'eu' AND id = 1").await, one);
    assert_eq!(rows("(id = 1) AND ('eu' = orders.region)").await, one);
    let two = (true, json!([[1, "b"], [2, "a"]]));
    assert_eq!(
        rows("region IN ('eu', 'us') AND id IN (1, 2, 9)").await,
        two
    );
    assert_eq!(rows("region = 'us' AND id = 1").await, (true, json!([])));
    assert_eq!(
        rows("region = 'eu' AND id = 5000000000000").await,
        (true, json!([]))
    );
    // Planned: a part of the key, twice the same column, more than the key.
    assert_eq!(rows("id = 1").await, (false, json!([[1, "b"]])));
    assert_eq!(
        rows("region = 'eu' AND id = 1 AND id = 2").await,
        (false, json!([]))
    );
    assert_eq!(
        rows("region = 'eu' AND id = 1 AND note = 'a'").await,
        (false, json!([]))
    );
}

/// Another process drops the table and makes one of its name: a token of that is for none but the
/// new one, however old the catalog may be.
#[tokio::test]
async fn a_statement_with_a_token_is_answered_by_the_new_table_of_a_name() {
    let world = World::new(QuerySettings {
        catalog_age_ms_max: 3_600_000,
        ..QuerySettings::default()
    })
    .await;
    let old = world.table("users", USERS, 1).await;
    old.push(0, &[json!({"name": "ann", "age": 1})]);
    let sql = "SELECT age FROM users WHERE name = 'ann'";
    assert_eq!(world.rows(sql).await, json!([[1]]));

    let catalog = tidelake_catalog::Catalog::open(
        &world.store,
        world.clock.clone(),
        tidelake_core::ids::random(),
    );
    let catalog = catalog.await.unwrap();
    let dropped = catalog.drop_table(&old.entry.id).await.unwrap();
    let tidelake_catalog::DropTable::Dropped(held) = dropped else {
        panic!("{dropped:?}")
    };
    for object in world.store.list(&old.entry.location()).await.unwrap() {
        world.store.delete(object.location.as_ref()).await.unwrap();
    }
    world.log.remove_topic(&old.entry.topic).await;
    catalog.purged(&held).await.unwrap();
    let elsewhere = World {
        store: world.store.clone(),
        catalog,
        log: world.log.clone(),
        engine: world.engine.clone(),
        clock: world.clock.clone(),
        runtime: tidelake_service::Runtime::new(),
    };
    let new = elsewhere.table("users", USERS, 1).await;
    new.push(0, &[json!({"name": "ann", "age": 2})]);
    let token =
        tidelake_core::Token::new([(tidelake_core::Bucket(0), tidelake_core::Watermark(1))]);
    let body = json!({"sql": sql, "token": token.to_string()});
    assert_eq!(world.rows_of(body).await, json!([[2]]));
}

#[tokio::test]
async fn a_key_that_is_named_often_has_its_row_once() {
    let keys: Vec<Value> = (0..8).map(|key| json!(key)).collect();
    let (world, _table) = table("long", &keys).await;
    // Rows are read in parts of 64 and more.
    let list = vec!["1"; 70].join(", ");
    for consistency in ["latest", "committed"] {
        let sql = format!("SELECT k FROM t WHERE k IN ({list}, 2)");
        let body = json!({"sql": sql, "consistency": consistency});
        let mut found = world.rows_of(body).await;
        let rows = found.as_array_mut().unwrap();
        rows.sort_by_key(ToString::to_string);
        assert_eq!(found, json!([[1], [2]]), "{consistency}");
    }
    let params: Vec<i64> = (0..70).map(|place| place % 5).collect();
    let places: Vec<String> = (1..=70).map(|place| format!("${place}")).collect();
    let sql = format!("SELECT k FROM t WHERE k IN ({})", places.join(", "));
    let found = world.rows_of(json!({"sql": sql, "params": params})).await;
    assert_eq!(found.as_array().unwrap().len(), 5);
}
