//! Versions, their names and differences, by the commands that users type.

use serde_json::{Value, json};
use tidelake_testkit::Program;
use tidelake_tests::Installation;

/// Runs `tidelake` against the installation: how it ended, and what it printed.
async fn tidelake(local: &Installation, arguments: &[&str]) -> (Option<i32>, String) {
    let urls = [
        "--url",
        &local.client.gateway,
        "--query-url",
        &local.client.query,
    ];
    let program = Program::new("tidelake").args(arguments.iter().copied());
    let run = program.args(["-o", "json"]).args(urls).run();
    let (status, printed) = run.await.expect("the program is built and ends");
    (status.code(), printed)
}

async fn answer(local: &Installation, arguments: &[&str]) -> Value {
    let (code, printed) = tidelake(local, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {printed}");
    // What stands before or behind the answer is said to people, on the other stream.
    let begin = printed.find(['[', '{']).unwrap_or(0);
    let mut values = serde_json::Deserializer::from_str(&printed[begin..]).into_iter();
    let value = values.next().and_then(Result::ok);
    value.unwrap_or_else(|| panic!("{arguments:?}: {printed}"))
}

async fn exit_code(local: &Installation, arguments: &[&str]) -> Option<i32> {
    tidelake(local, arguments).await.0
}

fn column(rows: &Value, name: &str) -> Vec<Value> {
    let rows = rows.as_array().into_iter().flatten();
    rows.map(|row| row[name].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_table_was_is_told_by_version_name_and_key() {
    let local = Installation::start().await.unwrap();
    let client = &local.client;
    let create = [
        "table",
        "create",
        "t",
        "--column",
        "id:long",
        "--column",
        "note:string",
        "--key",
        "id",
    ];
    assert_eq!(answer(&local, &create).await["mode"], "upsert");
    let write = async |lines: &str| {
        client.ndjson("t", lines).await.unwrap().ok().unwrap();
        client.flush("t").await.unwrap();
    };
    write("{\"id\":1,\"note\":\"a\"}\n{\"id\":2,\"note\":\"a\"}\n").await;
    let made = answer(&local, &["table", "snapshot", "create", "t", "before"]).await;
    assert_eq!(made["name"], "before");
    let before = made["version"].as_u64().unwrap();
    write("{\"id\":1,\"note\":\"b\"}\n{\"id\":3,\"note\":\"c\"}\n").await;

    // A marker that arrives behind a commit moves the table on by one more version, without rows.
    let history = answer(&local, &["table", "history", "t"]).await;
    let latest = history[0]["version"].as_u64().unwrap();
    assert_eq!(
        column(&history, "version"),
        (0..=latest).rev().collect::<Vec<_>>()
    );
    let deleted = column(&history, "rows_deleted");
    let deleted: u64 = deleted.iter().filter_map(Value::as_u64).sum();
    assert_eq!(deleted, 1, "{history}");
    let limited = answer(&local, &["table", "history", "t", "--limit", "2"]).await;
    assert_eq!(
        limited.as_array().map(Vec::as_slice),
        history.as_array().map(|all| &all[..2])
    );

    let latest = latest.to_string();
    let diff = answer(
        &local,
        &["table", "diff", "t", "--from", "before", "--to", &latest],
    )
    .await;
    let mut kinds: Vec<_> = column(&diff, "_change_type").into_iter().collect();
    kinds.sort_by_key(ToString::to_string);
    assert_eq!(kinds, ["insert", "update_postimage", "update_preimage"]);
    let key = answer(&local, &["table", "key-history", "t", "1"]).await;
    assert_eq!(column(&key, "note"), ["b", "a"]);
    let sql = "SELECT note FROM t VERSION AS OF 'before' WHERE id = 1";
    assert_eq!(
        answer(&local, &["query", sql]).await,
        json!([{"note": "a"}])
    );

    let other = (before - 1).to_string();
    let again = [
        "table",
        "snapshot",
        "create",
        "t",
        "before",
        "--version",
        &other,
    ];
    assert_eq!(exit_code(&local, &again).await, Some(4));
    let listed = answer(&local, &["table", "snapshot", "list", "t"]).await;
    assert_eq!(column(&listed, "name"), ["before"]);
    let drop = ["table", "snapshot", "drop", "t", "before"];
    assert_eq!(exit_code(&local, &drop).await, Some(0));
    assert_eq!(exit_code(&local, &drop).await, Some(3));
    let gone = ["table", "diff", "t", "--from", "before"];
    assert_eq!(exit_code(&local, &gone).await, Some(3));
    assert_eq!(exit_code(&local, &["table", "diff", "t"]).await, Some(2));
}
