//! What is wrong with a table is never told as a fault of the request.

use serde_json::json;
use tidelake_core::TableVersion;
use tidelake_log::LogError;
use tidelake_schema::{SchemaError, TableSchema};

use super::*;
use crate::settings::QuerySettings;
use crate::testing::World;

fn told(error: ManifestError) -> (u16, &'static str) {
    let problem = Problem::from(&QueryError::from(error));
    (problem.status, problem.code)
}

fn no_schema() -> SchemaError {
    TableSchema::from_iceberg_json("{}").unwrap_err()
}

#[test]
fn each_error_of_a_table_s_log_has_the_status_of_whoever_can_mend_it() {
    let at = || "default/t".to_owned();
    let version = TableVersion(3);
    let unfit = (503, "TABLE_UNAVAILABLE");
    let cases = [
        (ManifestError::NoTable { at: at() }, unfit),
        (
            ManifestError::ReaderFeatures {
                at: at(),
                features: vec!["x".into()],
            },
            unfit,
        ),
        (
            ManifestError::WriterFeatures {
                at: at(),
                features: vec!["x".into()],
            },
            unfit,
        ),
        (
            ManifestError::Partitioned {
                at: at(),
                columns: vec!["x".into()],
            },
            unfit,
        ),
        (
            ManifestError::Schema {
                at: at(),
                source: no_schema(),
            },
            unfit,
        ),
        (
            ManifestError::VersionGone {
                at: at(),
                version,
                earliest: version,
            },
            (404, "VERSION_NOT_FOUND"),
        ),
        (
            ManifestError::VersionAhead {
                at: at(),
                version,
                latest: version,
            },
            (404, "VERSION_NOT_FOUND"),
        ),
        (
            ManifestError::Corrupt {
                at: at(),
                reason: "x".into(),
            },
            (500, "CORRUPT"),
        ),
    ];
    for (error, expected) in cases {
        let text = error.to_string();
        assert_eq!(told(error), expected, "{text}");
    }
    let glitch = QueryError::from(LogError::NoTopic("t".into()));
    assert_eq!(Problem::from(&glitch).code, "LOG_UNAVAILABLE");
    let schema = QueryError::from(no_schema());
    assert_eq!(Problem::from(&schema).code, "TABLE_UNAVAILABLE");
    assert_eq!(schema.outcome(), "failed");
}

#[tokio::test]
async fn a_table_that_another_engine_made_unreadable_answers_with_its_reason() {
    let world = World::new(QuerySettings::default()).await;
    let schema = r#"{"type": "struct", "fields": [
        {"id": 1, "name": "id", "type": "long", "required": true}]}"#;
    let table = world.table("orders", schema, 1).await;
    // As another engine does, which does not ask our committer.
    let features = json!(["typeWidening", "strange"]);
    let protocol = json!({"protocol": {
        "minReaderVersion": 3, "minWriterVersion": 7,
        "readerFeatures": features, "writerFeatures": features,
    }});
    let info = json!({"commitInfo": {"operation": "SET TBLPROPERTIES"}});
    let log = "_delta_log/00000000000000000001.json";
    let commit = format!("{info}\n{protocol}\n");
    table.delta.store().put(log, commit.into()).await.unwrap();
    for body in [
        json!({"sql": "SELECT * FROM orders"}),
        json!({"sql": "SELECT * FROM orders", "consistency": "committed"}),
        json!({"sql": "SELECT * FROM orders", "as_of_version": 1}),
    ] {
        let (parts, problem) = world.sql(body.clone()).await;
        assert_eq!(parts.status, 503, "{body}: {problem}");
        assert_eq!(problem["code"], "TABLE_UNAVAILABLE", "{body}");
        assert!(problem["detail"].as_str().unwrap().contains("strange"));
    }
    // What was there before can be read as ever.
    let past = json!({"sql": "SELECT count(*) FROM orders", "as_of_version": 0});
    assert_eq!(world.rows_of(past).await, json!([[0]]));
}
