//! Local parts of the key index whose bytes are not what was written.

use tidelake_table::index::IndexHome;

use super::*;

/// A followed table whose index is files, and the folder of these.
async fn followed() -> (Case, IndexHome, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let home = IndexHome::open(folder.path(), 0).unwrap().keeping();
    let world = World::with_indexes(QuerySettings::default(), Some(home.clone())).await;
    let mut case = Case::of(world).await;
    for id in 0..IDS {
        case.put(&("eu".to_owned(), id), "a");
        case.put(&("us".to_owned(), id), "a");
    }
    let (shares, announced) = ([1.0, 1.0], false);
    case.step(&Step::Flush { shares, announced }).await;
    case.put(&("eu".to_owned(), 0), "fresh");
    case.check().await;
    (case, home, folder)
}

fn damage(home: &IndexHome) {
    let mut files = 0;
    for entry in std::fs::read_dir(home.folder().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "run") {
            let bytes: Vec<u8> = std::fs::read(&path).unwrap();
            let bytes: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
            std::fs::write(&path, bytes).unwrap();
            files += 1;
        }
    }
    assert!(files > 0);
}

#[tokio::test]
async fn lookups_read_a_damaged_index_anew_though_the_version_is_the_same() {
    let (case, home, _folder) = followed().await;
    damage(&home);
    let asked =
        json!([{"region": "eu", "id": 0}, {"region": "us", "id": 1}, {"region": "eu", "id": 99}]);
    let (status, body) = case
        .world
        .post("/v1/tables/orders/lookup", &json!({"keys": asked}))
        .await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["rows"][0]["note"], "fresh");
    assert_eq!(body["rows"][1]["note"], "a");
    assert_eq!(body["rows"][2], Value::Null);
    case.check().await;
}

#[tokio::test]
async fn ranges_and_statements_do_without_a_damaged_index() {
    for path in ["/v1/tables/orders/rows?limit=3", "sql", "past"] {
        let (mut case, home, _folder) = followed().await;
        damage(&home);
        match path {
            "sql" => {
                let sql = "SELECT note FROM orders WHERE region = 'eu' AND id IN (0, 1) ORDER BY 1";
                assert_eq!(case.world.rows(sql).await, json!([["a"], ["fresh"]]));
            }
            "past" => {
                let one = "/v1/tables/orders/rows/[%22eu%22%2C0]?as_of_version=1";
                let (status, body) = case.world.get(one).await;
                assert_eq!((status, &body["note"]), (200, &json!("a")), "{body}");
            }
            path => {
                let (status, body) = case.world.get(path).await;
                assert_eq!(status, 200, "{body}");
                assert_eq!(body["rows"][0]["note"], "fresh");
            }
        }
        // New rows are taken in, and the next version is read.
        case.put(&("us".to_owned(), 1), "new");
        case.check().await;
        let (shares, announced) = ([1.0, 1.0], true);
        case.step(&Step::Flush { shares, announced }).await;
        case.check().await;
    }
}
