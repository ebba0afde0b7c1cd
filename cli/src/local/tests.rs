//! Starting and stopping, and what an ephemeral process leaves behind.

use std::path::Path;
use std::time::Duration;

use clap::Parser;
use reqwest::Client as Http;
use serde_json::{Value, json};

use super::*;

#[test]
fn one_stopped_table_or_damaged_partition_does_not_keep_all_others_from_being_served() {
    let runtime = Runtime::new();
    let (log, flusher) = (
        runtime.health.component("log"),
        runtime.health.component("flusher"),
    );
    assert!(holds_up(&runtime.health.report()));
    log.ready();
    assert!(
        holds_up(&runtime.health.report()),
        "the flusher has not begun"
    );
    flusher.not_ready("tidelake.default.t stopped, topic_replaced: …");
    runtime
        .health
        .component(broker::COMPONENT)
        .not_ready("partition 0 is offline");
    assert!(!holds_up(&runtime.health.report()));
    log.not_ready("no broker answers");
    assert!(holds_up(&runtime.health.report()));
}

#[test]
fn who_is_replaced_by_a_copy_of_itself_says_so() {
    let fenced = ServiceError::new(ErrorKind::Fenced, "the log consumer ended");
    let failure = ended("flusher", &fenced);
    let message = "another process with the same instance id took this one's place: \
                   flusher failed: the log consumer ended";
    assert_eq!(failure.message, message);
    assert!(failure.hint.unwrap().contains("a copy of this folder"));
    let other = ServiceError::new(ErrorKind::Corrupt, "broken");
    assert_eq!(ended("flusher", &other).message, "flusher failed: broken");
}

#[derive(Parser, Debug)]
struct Line {
    #[command(flatten)]
    local: LocalArgs,
}

fn parsed(args: &[&str]) -> Result<LocalArgs, String> {
    let line = std::iter::once("local").chain(args.iter().copied());
    Line::try_parse_from(line)
        .map(|line| line.local)
        .map_err(|error| error.to_string())
}

#[test]
fn an_ephemeral_process_takes_no_place_to_keep_things_in() {
    for other in [
        &["--dir", "x"][..],
        &["--store", "memory:///"],
        &["--kafka-port", "0"],
        &["--kafka-bootstrap", "h:1"],
    ] {
        let args = [&["--ephemeral"][..], other].concat();
        let refused = parsed(&args).unwrap_err();
        assert!(refused.contains("cannot be used with"), "{refused}");
    }
    // Nor by a file of settings or the environment.
    for setting in [
        json!({ "dir": "x" }),
        json!({ "store": "file:///x" }),
        json!({ "kafka": { "bootstrap": "h:1" } }),
    ] {
        let mut settings = json!({ "ephemeral": true });
        for (key, value) in setting.as_object().unwrap() {
            settings[key] = value.clone();
        }
        let load = tidelake_service::settings::load(None, std::iter::empty(), settings);
        let loaded: LocalSettings = load.unwrap();
        let failure = loaded.check().unwrap_err();
        assert!(failure.message.contains("ephemeral"), "{}", failure.message);
    }
    let settings = parsed(&["--ephemeral"]).unwrap().load().unwrap();
    settings.check().unwrap();
}

/// Everything in memory, on free ports.
async fn ephemeral() -> (Local, Runtime) {
    ephemeral_with(|_| {}).await
}

async fn ephemeral_with(change: impl FnOnce(&mut LocalSettings)) -> (Local, Runtime) {
    let mut settings = LocalSettings {
        ephemeral: true,
        gateway_port: 0,
        query_port: 0,
        ..LocalSettings::default()
    };
    change(&mut settings);
    let runtime = Runtime::new();
    let local = Local::start(settings, &runtime).await.unwrap();
    (local, runtime)
}

async fn answer(request: reqwest::RequestBuilder) -> Value {
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{status} {text}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// Files and folders below a folder that this process could have made.
fn entries(folder: &Path) -> Vec<String> {
    let found = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = found
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_process_answers_like_any_other_and_leaves_nothing() {
    let (here, before) = (Path::new("."), entries(Path::new(".")));
    let http = Http::new();
    for round in 0..2 {
        let (local, _runtime) = ephemeral().await;
        let line = local.places.ready_line();
        assert!(!line.contains("kafka"), "{line}");
        let gateway = format!("http://{}", local.places.gateway);
        let query = format!("http://{}", local.places.query);
        let sql = async |sql: &str| {
            let body = json!({ "sql": sql });
            answer(http.post(format!("{query}/v1/sql")).json(&body)).await["rows"].take()
        };
        let listed = answer(http.get(format!("{gateway}/v1/tables"))).await;
        assert_eq!(listed["tables"], json!([]), "round {round} starts empty");

        for (name, mode, key) in [("a", "append", json!([])), ("u", "upsert", json!([1]))] {
            let schema = json!({ "type": "struct", "identifier-field-ids": key, "fields": [
                { "id": 1, "name": "id", "type": "long", "required": true },
                { "id": 2, "name": "note", "type": "string", "required": false }] });
            let table = json!({ "name": name, "mode": mode, "buckets": 2, "schema": schema });
            answer(http.post(format!("{gateway}/v1/tables")).json(&table)).await;
            let rows: Vec<_> = (0..200)
                .map(|i| json!({ "id": i % 100, "note": format!("{i}") }))
                .collect();
            let records = format!("{gateway}/v1/tables/{name}/records");
            answer(http.post(&records).json(&rows)).await;
        }
        let count = "SELECT count(*), count(DISTINCT id) FROM";
        assert_eq!(sql(&format!("{count} a")).await, json!([[200, 100]]));
        assert_eq!(sql(&format!("{count} u")).await, json!([[100, 100]]));
        for name in ["a", "u"] {
            let flush = format!("{gateway}/v1/tables/{name}/flush?timeout_ms=30000");
            answer(http.post(flush)).await;
        }
        // Behind the flush an upsert still finds the row that it takes the place of.
        let again = json!([{ "id": 7, "note": "newest" }]);
        answer(
            http.post(format!("{gateway}/v1/tables/u/records"))
                .json(&again),
        )
        .await;
        assert_eq!(sql(&format!("{count} u")).await, json!([[100, 100]]));
        let found = sql("SELECT note FROM u WHERE id = 7").await;
        assert_eq!(found, json!([["newest"]]));
        let flush = format!("{gateway}/v1/tables/u/flush?timeout_ms=30000");
        answer(http.post(flush)).await;
        assert_eq!(sql(&format!("{count} u")).await, json!([[100, 100]]));
        let metrics = http.get(format!("{gateway}/metrics")).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let held = "tidelake_snapshot_cache_held{service=\"local\",unit=\"tables\"}";
        assert!(metrics.contains(held), "one cache for all services");
        let stopped = tokio::time::timeout(Duration::from_secs(60), local.stop()).await;
        stopped.expect("it stops in time").unwrap();
    }
    assert_eq!(entries(here), before, "no file, no folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_and_readers_of_one_process_know_of_each_other() {
    let (local, _runtime) = ephemeral_with(|settings| {
        // Nothing is committed, so that the tail fills the room that it has.
        settings.flusher.flush_age_ms = 600_000;
        settings.query.query.tail_cache_bytes_max = 512 << 10;
    })
    .await;
    let http = Http::new();
    let gateway = format!("http://{}/v1/tables", local.places.gateway);
    let schema = json!({ "type": "struct", "fields": [
        { "id": 1, "name": "id", "type": "long", "required": true },
        { "id": 2, "name": "note", "type": "string", "required": false }] });
    let table = json!({ "name": "a", "mode": "append", "buckets": 1, "schema": schema });
    answer(http.post(&gateway).json(&table)).await;
    let rows: Vec<_> = (0..100)
        .map(|id| json!({ "id": id, "note": "some words that take room" }))
        .collect();
    let is_paced = async || {
        let written = answer(http.post(format!("{gateway}/a/records")).json(&rows)).await;
        let query = format!("http://{}/v1/sql", local.places.query);
        let count = json!({ "sql": "SELECT count(*) FROM a" });
        answer(http.post(query).json(&count)).await;
        let token = written["token"].as_str().unwrap();
        let status = answer(http.get(format!("{gateway}/a/status?token={token}"))).await;
        status["paced"].as_bool().unwrap()
    };
    assert!(!is_paced().await);
    let mut rounds = 1;
    while !is_paced().await {
        rounds += 1;
        assert!(rounds < 100, "nobody waits for the reader");
    }
    let stopped = tokio::time::timeout(Duration::from_secs(60), local.stop()).await;
    stopped.expect("it stops in time").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_query_service_begins_with_the_keys_that_the_flusher_has() {
    let (local, _runtime) = ephemeral().await;
    let http = Http::new();
    let gateway = format!("http://{}", local.places.gateway);
    let schema = json!({ "type": "struct", "identifier-field-ids": [1], "fields": [
        { "id": 1, "name": "id", "type": "long", "required": true }] });
    let table = json!({ "name": "u", "mode": "upsert", "buckets": 2, "schema": schema });
    answer(http.post(format!("{gateway}/v1/tables")).json(&table)).await;
    for round in 0..3 {
        let rows: Vec<_> = (0..100).map(|id| json!({ "id": id + round })).collect();
        answer(
            http.post(format!("{gateway}/v1/tables/u/records"))
                .json(&rows),
        )
        .await;
        let flush = format!("{gateway}/v1/tables/u/flush?timeout_ms=30000");
        answer(http.post(flush)).await;
    }
    let row = format!("http://{}/v1/tables/u/rows/7", local.places.query);
    assert_eq!(answer(http.get(row)).await["id"], 7);
    let metrics = http.get(format!("{gateway}/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let read = "tidelake_query_tail_key_files_total ";
    let read = metrics.lines().find_map(|line| line.strip_prefix(read));
    assert_eq!(read, Some("0"), "nothing is read that the process knows");
    let stopped = tokio::time::timeout(Duration::from_secs(60), local.stop()).await;
    stopped.expect("it stops in time").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_that_was_answered_is_seen_by_the_next_query_by_key() {
    let (local, _runtime) = ephemeral_with(|settings| {
        // However old the catalog may be that a query takes.
        settings.query.query.catalog_age_ms_max = 3_600_000;
    })
    .await;
    let http = Http::new();
    let gateway = format!("http://{}/v1/tables", local.places.gateway);
    let query = format!("http://{}/v1", local.places.query);
    let schema = json!({ "type": "struct", "identifier-field-ids": [1], "fields": [
        { "id": 1, "name": "id", "type": "long", "required": true },
        { "id": 2, "name": "note", "type": "string", "required": false }] });
    let table = json!({ "name": "u", "mode": "upsert", "buckets": 1, "schema": schema });
    let by_sql = async || {
        let body = json!({ "sql": "SELECT note FROM u WHERE id = 7" });
        let asked = http.post(format!("{query}/sql")).json(&body);
        asked.send().await.unwrap().status().as_u16()
    };
    let by_route = async || {
        let asked = http.get(format!("{query}/tables/u/rows/7"));
        asked.send().await.unwrap().status().as_u16()
    };
    for round in ["first", "second"] {
        answer(http.post(&gateway).json(&table)).await;
        assert_eq!(by_route().await, 404, "the {round} one begins empty");
        let row = json!([{ "id": 7, "note": round }]);
        answer(http.post(format!("{gateway}/u/records")).json(&row)).await;
        assert_eq!((by_sql().await, by_route().await), (200, 200));
        answer(http.delete(format!("{gateway}/u?purge=true"))).await;
        assert_eq!((by_sql().await, by_route().await), (404, 404));
    }
    let stopped = tokio::time::timeout(Duration::from_secs(60), local.stop()).await;
    stopped.expect("it stops in time").unwrap();
}
