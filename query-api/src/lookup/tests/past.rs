//! Rows of versions that nobody follows.

use tidelake_storage::Operation;

use super::*;

/// Versions 1 to 3 write every key of one region; 4 deletes one of them.
async fn written(settings: QuerySettings) -> Case {
    let mut case = Case::new(settings).await;
    for round in 0..3 {
        for id in 0..IDS {
            case.put(&("eu".to_owned(), id), &format!("v{round}"));
        }
        flush(&mut case).await;
    }
    let gone = ("eu".to_owned(), 1);
    case.step(&Step::Records(vec![(gone, None)])).await;
    flush(&mut case).await;
    case
}

async fn flush(case: &mut Case) {
    let (shares, announced) = ([1.0, 1.0], false);
    case.step(&Step::Flush { shares, announced }).await;
}

fn path(id: i64, rest: &str) -> String {
    format!("/v1/tables/orders/rows/[%22eu%22%2C{id}]?{rest}")
}

/// Requests of any kind that the question costs.
async fn cost(case: &Case, path: &str) -> (u16, Value, u64) {
    let before = case.world.store.requests();
    let (status, body) = case.world.get(path).await;
    (
        status,
        body,
        case.world.store.requests().since(&before).total(),
    )
}

#[tokio::test]
async fn a_past_row_costs_a_few_requests_and_then_none() {
    let case = written(QuerySettings::default()).await;
    let of = |version: u64| format!("as_of_version={version}");
    // The version itself and what is known of its files.
    let (status, ..) = cost(&case, &path(99, &of(3))).await;
    assert_eq!(status, 404);
    let (status, body, requests) = cost(&case, &path(2, &of(3))).await;
    assert_eq!((status, &body["note"]), (200, &json!("v2")));
    assert!(
        requests <= 3,
        "footer and pages of the row, perhaps a sidecar: {requests}"
    );
    let (_, again, requests) = cost(&case, &path(2, &of(3))).await;
    assert_eq!((again, requests), (body, 0));
    // Other versions share what is known of files and sidecars, and have vectors of their own.
    for (version, id, wanted) in [
        (1, 1, Some("v0")),
        (2, 1, Some("v1")),
        (3, 1, Some("v2")),
        (4, 1, None),
    ] {
        let (status, body, _) = cost(&case, &path(id, &of(version))).await;
        assert_eq!(
            status,
            if wanted.is_some() { 200 } else { 404 },
            "{version}"
        );
        assert_eq!(body["note"].as_str(), wanted, "{version}: {body}");
        let (_, _, requests) = cost(&case, &path(id, &of(version))).await;
        assert_eq!(requests, 0, "version {version}");
    }
    let sql = "SELECT note FROM orders VERSION AS OF 3 WHERE region = 'eu' AND id = 2";
    let before = case.world.store.requests();
    assert_eq!(case.world.rows(sql).await, json!([["v2"]]));
    let since = case.world.store.requests().since(&before);
    assert_eq!(since.of(Operation::Get), 0, "{since:?}");
    let plan = case.world.rows(&format!("EXPLAIN {sql}")).await.to_string();
    assert!(
        plan.contains("KeyLookup: table=orders, version=3"),
        "{plan}"
    );
}

#[tokio::test]
async fn committed_rows_are_found_without_a_follower() {
    let case = written(QuerySettings::default()).await;
    let feeds = case.world.log.feeds();
    for (id, status) in [(0, 200), (1, 404), (2, 200), (77, 404)] {
        let (found, body) = case.world.get(&path(id, "consistency=committed")).await;
        assert_eq!(found, status, "{body}");
    }
    let entry = Arc::clone(&case.table.entry);
    assert!(case.world.engine.tails().followed(&entry).is_none());
    assert_eq!(case.world.log.feeds(), feeds);
}

#[tokio::test]
async fn sidecars_that_are_lost_or_damaged_are_done_without() {
    for damage in ["lost", "cut", "flipped"] {
        let case = written(QuerySettings::default()).await;
        let store = case.table.delta.store();
        let files = case.table.snapshot.files();
        let names: Vec<String> = files
            .filter_map(|file| Some(file.tag(tidelake_table::TAG_INDEX)?.to_owned()))
            .collect();
        assert!(!names.is_empty());
        for name in names {
            let bytes = store.get(&name).await.unwrap();
            store.delete(&name).await.unwrap();
            let mut bytes = bytes.to_vec();
            match damage {
                "cut" => bytes.truncate(bytes.len() - 1),
                _ => bytes.iter_mut().skip(8).for_each(|byte| *byte ^= 1),
            }
            if damage != "lost" {
                store.put(&name, bytes.into()).await.unwrap();
            }
        }
        for (id, note) in [(0, Some("v2")), (1, None), (2, Some("v2"))] {
            let (_, body) = case.world.get(&path(id, "as_of_version=4")).await;
            assert_eq!(body["note"].as_str(), note, "{damage}: {body}");
            let sql = format!("SELECT note FROM orders WHERE region = 'eu' AND id = {id}");
            let body = json!({"sql": sql, "consistency": "committed"});
            let wanted: Vec<Value> = note.map(|note| json!([note])).into_iter().collect();
            assert_eq!(case.world.rows_of(body).await, json!(wanted), "{damage}");
        }
    }
}

/// A file of another engine says of no bucket that it is its own, and has no sidecar.
#[tokio::test]
async fn rows_of_other_engines_are_found_by_a_scan() {
    let mut case = written(QuerySettings::default()).await;
    let key = ("eu".to_owned(), 50);
    let schema = case.table.schema.clone();
    let mut decoder = tidelake_codec::json::JsonDecoder::new(&schema, Default::default()).unwrap();
    let row = record(&key, &Some("theirs".into())).to_string();
    decoder.push_record(row.as_bytes()).unwrap();
    let add = case.table.write(&decoder.finish().unwrap()).await;
    let tx = tidelake_manifest::Transaction {
        operation: "WRITE".into(),
        adds: vec![add],
        ..Default::default()
    };
    case.table.commit(tx).await;
    for (id, note) in [(50, Some("theirs")), (0, Some("v2")), (1, None), (51, None)] {
        let (_, body) = case.world.get(&path(id, "as_of_version=5")).await;
        assert_eq!(body["note"].as_str(), note, "{body}");
        let sql =
            format!("SELECT note FROM orders VERSION AS OF 5 WHERE region = 'eu' AND id = {id}");
        let wanted: Vec<Value> = note.map(|note| json!([note])).into_iter().collect();
        assert_eq!(case.world.rows(&sql).await, json!(wanted));
    }
}
