//! Every condition is told by every door, and the documentation tells every condition.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::settings::QuerySettings;
use crate::testing::World;

/// Where the documentation's table begins and ends.
const BEGIN: &str = "<!-- conditions: begin -->\n";
const END: &str = "<!-- conditions: end -->";

fn documented() -> String {
    let rows = Condition::ALL.iter().map(|condition| {
        let Entry {
            status,
            code,
            grpc,
            sqlstate,
            title,
        } = condition.entry();
        let again = condition.retry_after_s();
        let again = again.map_or_else(String::new, |seconds| format!("{seconds} s"));
        format!("| `{code}` | {status} | {grpc:?} | `{sqlstate}` | {again} | {title} |\n")
    });
    let head = "| code | HTTP | gRPC | SQLSTATE | again after | what it tells |\n\
                | --- | --- | --- | --- | --- | --- |\n";
    format!("{head}{}", rows.collect::<String>())
}

#[test]
fn the_documentation_has_the_table() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (_, rest) = text.split_once(BEGIN).expect("a place for the table");
    let (table, _) = rest.split_once(END).expect("an end of the table");
    let wanted = documented();
    assert!(table == wanted, "docs/errors.md should have:\n{wanted}");
}

#[test]
fn every_condition_has_words_for_every_door() {
    let mut told = BTreeSet::new();
    for condition in Condition::ALL {
        let entry = condition.entry();
        let shown = format!("{condition:?}");
        assert!(codes::meaning(entry.code).is_some(), "{shown}");
        assert!((400..=599).contains(&entry.status), "{shown}");
        let state = entry.sqlstate.as_bytes();
        let is_state = state.len() == 5
            && state
                .iter()
                .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        assert!(is_state, "{shown}");
        // Whoever knows the code and the SQLSTATE knows what HTTP said.
        let is_new = told.insert((entry.code, entry.sqlstate, entry.status));
        assert!(is_new, "{shown} is told as another");
        // What may be asked again is not the request's fault.
        let is_transient = condition.retry_after_s().is_some();
        assert!(
            !is_transient || entry.grpc != Grpc::InvalidArgument,
            "{shown}"
        );
    }
    for (grpc, number) in [
        (Grpc::Cancelled, 1),
        (Grpc::FailedPrecondition, 9),
        (Grpc::DataLoss, 15),
    ] {
        assert_eq!(grpc as i32, number);
    }
}

#[test]
fn a_condition_of_the_kind_alone_is_told_as_every_service_tells_it() {
    for condition in Condition::ALL {
        if let Some(kind) = condition.bare_kind() {
            let problem = tidelake_service::Problem::from_kind(kind, "x");
            let entry = condition.entry();
            assert_eq!(
                (problem.status, problem.code),
                (entry.status, entry.code),
                "{kind:?}"
            );
        }
    }
}

/// Of each statement: SQLSTATE, and the text that stands at the place that is told.
const STATEMENTS: &[(&str, &str, Option<&str>)] = &[
    ("SELEC 1", "42601", Some("SELEC 1")),
    ("SELECT 1 +", "42601", Some("")),
    ("SELECT *\n  FROM orders WHERE (id = 1", "42601", Some("")),
    ("SELECT 'ü', 'never", "42601", Some("'never")),
    (
        "SELECT 'ü',\n  nothing FROM orders",
        "42703",
        Some("nothing FROM orders"),
    ),
    (
        "SELECT o.nothing FROM orders o",
        "42703",
        Some("o.nothing FROM orders o"),
    ),
    (
        "SELECT id FROM orders WHERE nothing = 1",
        "42703",
        Some("nothing = 1"),
    ),
    (
        "SELECT id FROM orders o JOIN orders p ON o.id = p.id",
        "42702",
        Some("id FROM orders o JOIN orders p ON o.id = p.id"),
    ),
    (
        "SELECT nosuchfunction(1)",
        "42883",
        Some("nosuchfunction(1)"),
    ),
    (
        "SELECT nosuch(id) OVER () FROM orders",
        "42883",
        Some("nosuch(id) OVER () FROM orders"),
    ),
    ("SELECT 1 FROM nowhere", "42P01", Some("nowhere")),
    (
        "SELECT 1 FROM orders, nowhere VERSION AS OF 1",
        "42P01",
        Some("nowhere VERSION AS OF 1"),
    ),
    (
        "EXPLAIN SELECT 1\nFROM \"nowhere\"",
        "42P01",
        Some("\"nowhere\""),
    ),
    (
        "SELECT 1 FROM table_files('nowhere')",
        "42P01",
        Some("table_files('nowhere')"),
    ),
    ("DELETE FROM orders", "42501", None),
    ("SELECT id FROM orders WHERE id LIKE true", "42804", None),
    (
        "SELECT abs(id) FILTER (WHERE id > 1) FROM orders",
        "42809",
        Some("abs(id) FILTER (WHERE id > 1) FROM orders"),
    ),
    ("DESCRIBE nowhere", "42P01", None),
    ("SELECT id / 0 FROM orders", "22012", None),
    ("SELECT CAST(note AS int) FROM orders", "22P02", None),
    ("SELECT id + 9223372036854775807 FROM orders", "22003", None),
];

async fn world() -> World {
    let world = World::new(QuerySettings::default()).await;
    let schema = r#"{"type": "struct", "fields": [
        {"id": 1, "name": "id", "type": "long", "required": true},
        {"id": 2, "name": "note", "type": "string", "required": false}]}"#;
    let table = world.table("orders", schema, 1).await;
    table.push(0, &[json!({"id": 1, "note": "x"})]);
    world
}

#[tokio::test]
async fn statements_say_what_is_wrong_and_where() {
    let world = world().await;
    let mut wrong = Vec::new();
    for (sql, sqlstate, rest) in STATEMENTS {
        let (_, problem) = world.sql(json!({ "sql": sql })).await;
        let place = &problem["position"];
        let from = place["offset"].as_u64().map(|offset| {
            let (before, from) = sql.split_at(bytes_of(sql, offset));
            assert_eq!(place["line"], before.matches('\n').count() + 1, "{sql}");
            from
        });
        if problem["sqlstate"] != *sqlstate || from != *rest {
            wrong.push(format!("{sql}: {from:?} {problem}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where a character begins.
fn bytes_of(text: &str, characters: u64) -> usize {
    let mut places = text.char_indices().map(|(place, _)| place);
    places.nth(characters as usize).unwrap_or(text.len())
}
