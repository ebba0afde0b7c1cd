//! Another engine changes types: what is refused, from when on, and until when.

use std::collections::BTreeMap;

use object_store::memory::InMemory;
use serde_json::Value;
use tidelake_core::clock::ManualClock;
use tidelake_core::ids::CountingIds;
use tidelake_core::{Bucket, ErrorKind, TableVersion, TopicId, Watermark};
use tidelake_storage::{RetryPolicy, Store};

use super::*;
use crate::action::{Action, Metadata, write_commit};
use crate::{CreateTable, DeltaTable, MarkMove, Transaction};

const TOPIC: TopicId = TopicId(*b"0123456789abcdef");

fn made() -> TableSchema {
    TableSchema::from_iceberg_json(
        r#"{"identifier-field-ids": [1], "fields": [
            {"id": 1, "name": "id", "type": "long", "required": true},
            {"id": 2, "name": "v", "type": "int", "required": false}]}"#,
    )
    .unwrap()
}

async fn table() -> DeltaTable {
    let store = Store::with_policy(Arc::new(InMemory::new()), "memory://", RetryPolicy::QUICK);
    let clock = Arc::new(ManualClock::at(1_795_262_400_000));
    let table = DeltaTable::new(store.scoped("t"), clock, Arc::new(CountingIds::default()));
    let spec = CreateTable {
        name: "t".into(),
        schema: made(),
        append_only: false,
        properties: BTreeMap::new(),
        first_version: TableVersion(0),
    };
    table.create(spec).await.unwrap();
    table
}

/// Another engine commits other columns.
async fn alter(table: &DeltaTable, change: impl FnOnce(&mut Vec<Value>)) {
    let base = table.snapshot().await.unwrap();
    let mut schema: Value = serde_json::from_str(&base.metadata().schema_string).unwrap();
    change(schema["fields"].as_array_mut().unwrap());
    let metadata = Metadata {
        schema_string: schema.to_string(),
        ..base.metadata().clone()
    };
    let name = format!("_delta_log/{:020}.json", base.version().next().0);
    let bytes = write_commit(&[Action::Metadata(metadata)]);
    table.store().put(&name, bytes.into()).await.unwrap();
}

fn added(name: &str, ty: &str) -> Value {
    serde_json::json!({"name": name, "type": ty, "nullable": true, "metadata": {}})
}

fn move_on(from: i64) -> Transaction {
    let mark = MarkMove {
        topic_id: TOPIC,
        bucket: Bucket(0),
        from: Watermark(from),
        to: Watermark(from + 1),
    };
    Transaction::flush(Vec::new(), vec![mark])
}

fn refusal(error: &ManifestError) -> String {
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let ManifestError::Schema { source, .. } = error else {
        panic!("{error}")
    };
    source.to_string()
}

#[tokio::test]
async fn nothing_is_written_while_a_column_has_a_type_that_it_never_had() {
    let table = table().await;
    // A column that the table was not made with.
    alter(&table, |fields| fields.push(added("extra", "short"))).await;
    let before = table.snapshot().await.unwrap();
    alter(&table, |fields| fields[2]["type"] = "string".into()).await;
    // It does not matter whether the change is met or was there before.
    for base in [
        table.refresh(&before).await.unwrap(),
        table.snapshot().await.unwrap(),
    ] {
        let refused = table.check_writable(&base).unwrap_err();
        let text = refusal(&refused);
        assert!(
            text.contains("\"extra\"") && text.contains("from short to string"),
            "{text}"
        );
        let refused = table.commit(&base, move_on(0)).await.unwrap_err();
        assert_eq!(refusal(&refused), text);
        // A checkpoint would know nothing of it.
        assert!(table.write_checkpoint(&base).await.is_err());
        assert_eq!(base.schema().fields.len(), 3, "readers go on");
    }
    // A flush that began before loses, whatever it is.
    let lost = table.commit(&before, move_on(0)).await.unwrap();
    assert!(format!("{lost:?}").contains("SchemaChanged"), "{lost:?}");
    // Another change does not make it good; the old type does, and so does one that grew from it.
    alter(&table, |fields| fields.push(added("more", "long"))).await;
    let base = table.snapshot().await.unwrap();
    assert!(table.check_writable(&base).is_err());
    alter(&table, |fields| fields[2]["type"] = "integer".into()).await;
    let base = table.refresh(&base).await.unwrap();
    table.check_writable(&base).unwrap();
    table.commit(&base, move_on(0)).await.unwrap();
    alter(&table, |fields| fields[2]["type"] = "short".into()).await;
    let base = table.snapshot().await.unwrap();
    assert!(table.check_writable(&base).is_err(), "it had grown");
}

#[tokio::test]
async fn columns_and_key_that_a_table_was_made_with_stay() {
    type Change = fn(&mut Vec<Value>);
    let cases: [(Change, bool, Option<&str>); 8] = [
        (
            |fields| fields[1]["type"] = "binary".into(),
            false,
            Some("from int to binary"),
        ),
        (|fields| fields[1]["type"] = "long".into(), true, None),
        (
            |fields| fields[0]["type"] = "string".into(),
            true,
            Some("from long to string"),
        ),
        (
            |fields| fields[0]["type"] = "decimal(20,0)".into(),
            true,
            Some("from long to decimal"),
        ),
        // Engines that write a schema anew leave our metadata out.
        (
            |fields| fields[0] = added("id", "long"),
            true,
            Some("from (id) to ()"),
        ),
        (|fields| fields[0] = added("id", "long"), false, None),
        (
            |fields| {
                fields[1]["metadata"]["tidelake.identifier"] = 1.into();
                fields[1]["nullable"] = false.into();
            },
            true,
            Some("from (id) to (id, v)"),
        ),
        (
            |fields| {
                fields.remove(0);
            },
            true,
            Some("from (id) to ()"),
        ),
    ];
    for (case, (change, key, reason)) in cases.into_iter().enumerate() {
        let table = table().await;
        alter(&table, change).await;
        let snapshot = table.snapshot().await.unwrap();
        let checked = table.check_columns(&snapshot, &made(), key);
        match (checked, reason) {
            (Ok(()), None) => {}
            (Err(error), Some(reason)) => {
                let text = refusal(&error);
                assert!(text.contains(reason), "case {case}: {text}");
            }
            (checked, reason) => panic!("case {case}: {checked:?}, expected {reason:?}"),
        }
    }
    // A key that may be null has no reading at all.
    let table = table().await;
    alter(&table, |fields| fields[0]["nullable"] = true.into()).await;
    let text = refusal(&table.snapshot().await.unwrap_err());
    assert!(
        text.contains("\"id\"") && text.contains("NOT NULL"),
        "{text}"
    );
}

#[tokio::test]
async fn what_a_checkpoint_no_longer_tells_the_made_columns_do() {
    let table = table().await;
    alter(&table, |fields| fields[1]["type"] = "string".into()).await;
    // As another engine's checkpoint of that version would leave it.
    let snapshot = table.snapshot().await.unwrap();
    let forgotten = Snapshot {
        retyped: None,
        ..Snapshot::clone(&snapshot)
    };
    table.check_writable(&forgotten).unwrap();
    let error = table.check_columns(&forgotten, &made(), true).unwrap_err();
    assert!(refusal(&error).contains("from int to string"), "{error}");
}

/// Another engine commits `actions`.
async fn put(table: &DeltaTable, version: u64, actions: &[Action]) {
    let name = format!("_delta_log/{version:020}.json");
    let bytes = write_commit(actions);
    table.store().put(&name, bytes.into()).await.unwrap();
}

/// By both ways, the newest version can't be read; `says` is why.
async fn is_refused(table: &DeltaTable, known: &Arc<Snapshot>, says: &str) {
    for read in [table.snapshot().await, table.refresh(known).await] {
        let error = read.unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error}: {}", source.unwrap_or_default());
        assert!(text.contains(says), "{text}");
    }
}

/// By both ways, the newest version is `version`, with the columns of `known`, and rows may follow.
async fn goes_on(table: &DeltaTable, known: &Arc<Snapshot>, version: u64) {
    for read in [table.snapshot().await, table.refresh(known).await] {
        let now = read.unwrap();
        assert_eq!(now.version(), TableVersion(version));
        assert_eq!(now.schema(), known.schema());
        table.check_columns(&now, &made(), true).unwrap();
        table.check_writable(&now).unwrap();
    }
}

#[tokio::test]
async fn what_can_t_be_read_counts_until_it_is_taken_back_and_no_longer() {
    let table = table().await;
    let known = table.snapshot().await.unwrap();
    // delta-rs, where it merges the schema of rows that it appends.
    alter(&table, |fields| fields[0]["nullable"] = true.into()).await;
    is_refused(&table, &known, "may be null").await;
    let back = Action::Metadata(known.metadata().clone());
    put(&table, 2, std::slice::from_ref(&back)).await;
    goes_on(&table, &known, 2).await;

    alter(&table, |fields| fields.push(added("z", "variant"))).await;
    is_refused(&table, &known, "variant").await;
    put(&table, 4, std::slice::from_ref(&back)).await;
    goes_on(&table, &known, 4).await;

    let mut newer = known.protocol().clone();
    let features = newer.reader_features.get_or_insert_default();
    features.push("typeWidening".into());
    put(&table, 5, &[Action::Protocol(newer)]).await;
    is_refused(&table, &known, "typeWidening").await;
    put(&table, 6, &[Action::Protocol(known.protocol().clone())]).await;
    goes_on(&table, &known, 6).await;
    // The versions between stay as they are.
    assert!(table.snapshot_at(TableVersion(5)).await.is_err());

    // A type that changed by way of columns that can't be read has changed all the same.
    alter(&table, |fields| fields.push(added("z", "variant"))).await;
    let mut schema: Value = serde_json::from_str(&known.metadata().schema_string).unwrap();
    schema["fields"][1]["type"] = "string".into();
    let retyped = Metadata {
        schema_string: schema.to_string(),
        ..known.metadata().clone()
    };
    put(&table, 8, &[Action::Metadata(retyped)]).await;
    let now = table.snapshot().await.unwrap();
    let error = table.check_writable(&now).unwrap_err();
    assert!(refusal(&error).contains("from int to string"));
}
