//! What other engines do to a table, and what they need of ours.

use tidelake_schema::delta::from_schema_string;

use super::*;
use crate::features::with_column_mapping;

fn spec_of(fields: &str, append_only: bool) -> CreateTable {
    let schema = format!(r#"{{"type": "struct", "fields": [{fields}]}}"#);
    CreateTable {
        schema: TableSchema::from_iceberg_json(&schema).unwrap(),
        ..spec(append_only)
    }
}

const ID: &str = r#"{"id": 7, "name": "id", "type": "long", "required": true}"#;
const AWKWARD: &str = r#"{"id": 9, "name": "a b", "type": "long", "required": false}"#;
const NTZ: &str = r#"{"id": 9, "name": "at", "type": "timestamp", "required": false}"#;

#[tokio::test]
async fn a_new_table_asks_for_no_feature_that_it_does_not_need() {
    for (fields, append_only, versions, features) in [
        (ID.to_owned(), true, (1, 2), None),
        (ID.to_owned(), false, (3, 7), Some(vec!["deletionVectors"])),
        (
            format!("{ID},{NTZ}"),
            true,
            (3, 7),
            Some(vec!["timestampNtz"]),
        ),
        (
            format!("{ID},{AWKWARD}"),
            true,
            (3, 7),
            Some(vec!["columnMapping"]),
        ),
        (
            format!("{ID},{AWKWARD}"),
            false,
            (3, 7),
            Some(vec!["columnMapping", "deletionVectors"]),
        ),
    ] {
        let fixture = Fixture::new();
        let spec = spec_of(&fields, append_only);
        let created = fixture.table.create(spec.clone()).await.unwrap();
        let snapshot = created.snapshot();
        let protocol = snapshot.protocol();
        let found = (protocol.min_reader_version, protocol.min_writer_version);
        assert_eq!(found, versions, "{fields}");
        let named = protocol.reader_features.as_ref();
        let named = named.map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(named, features, "{fields}");
        assert_eq!(protocol.writer_features.is_some(), features.is_some());
        assert_eq!(snapshot.schema().fields, spec.schema.fields, "ids are kept");
        assert!(snapshot.physical_names().is_empty());
        let last = &snapshot.properties()["delta.columnMapping.maxColumnId"];
        assert_eq!(*last, spec.schema.last_column_id().to_string());
        let mapped = snapshot
            .properties()
            .contains_key("delta.columnMapping.mode");
        assert_eq!(mapped, fields.contains("a b"));
        // Written and read like any other.
        let next = committed(fixture.table.commit(snapshot, flush("a", 1, vec![])).await);
        same_table(&fixture.table.snapshot().await.unwrap(), &next);
    }
}

#[tokio::test]
async fn column_mapping_is_switched_on_in_one_commit() {
    for append_only in [true, false] {
        let fixture = Fixture::new();
        let created = fixture
            .table
            .create(spec_of(ID, append_only))
            .await
            .unwrap();
        let base = created.snapshot();
        let (protocol, metadata) =
            with_column_mapping(base.protocol(), base.metadata(), base.schema());
        let tx = Transaction {
            operation: "SET TBLPROPERTIES".into(),
            protocol: Some(protocol),
            metadata: Some(metadata),
            ..Transaction::default()
        };
        let mapped = committed(fixture.table.commit(base, tx).await);
        assert_eq!(mapped.schema(), base.schema());
        assert!(
            mapped.physical_names().is_empty(),
            "names are still the first ones"
        );
        assert!(mapped.metadata().schema_string.contains("physicalName"));
        let vectors = crate::features::takes_vectors(mapped.protocol(), mapped.metadata());
        assert_eq!(vectors, !append_only);
        // Now another engine renames.
        let renamed = Metadata {
            schema_string: mapped
                .metadata()
                .schema_string
                .replace(r#""name":"id""#, r#""name":"key""#),
            ..mapped.metadata().clone()
        };
        let line = serde_json::to_string(&Action::Metadata(renamed)).unwrap();
        fixture.foreign(2, &[&line]).await;
        let renamed = fixture.table.refresh(&mapped).await.unwrap();
        assert_eq!(renamed.schema().fields[0].name, "key");
        assert_eq!(renamed.physical_names()[&7], "id");
        let again = with_column_mapping(renamed.protocol(), renamed.metadata(), renamed.schema());
        assert_eq!(
            again.1,
            *renamed.metadata(),
            "a second time changes nothing"
        );
        let next = flush("a", 1, vec![]);
        committed(fixture.table.commit(&renamed, next).await);
    }
}

/// The newest metadata with another schema or property, committed by another engine.
async fn alter(fixture: &Fixture, base: &Snapshot, change: impl FnOnce(&mut Metadata)) {
    let mut metadata = base.metadata().clone();
    change(&mut metadata);
    let line = serde_json::to_string(&Action::Metadata(metadata)).unwrap();
    fixture.foreign(base.version().0 + 1, &[&line]).await;
}

fn fields_of(metadata: &Metadata) -> serde_json::Value {
    serde_json::from_str(&metadata.schema_string).unwrap()
}

/// delta-rs names it on every table with features of which it sets a property, whatever the property.
#[tokio::test]
async fn a_feature_of_a_type_that_no_column_has_asks_for_nothing() {
    for feature in ["variantType", "variantType-preview"] {
        let (fixture, base) = Fixture::created(false).await;
        let mut protocol = base.protocol().clone();
        for names in [&mut protocol.reader_features, &mut protocol.writer_features] {
            names.as_mut().unwrap().push(feature.into());
        }
        let line = serde_json::to_string(&Action::Protocol(protocol)).unwrap();
        fixture.foreign(1, &[&line]).await;
        let now = fixture.table.refresh(&base).await.unwrap();
        let next = committed(fixture.table.commit(&now, flush("a", 1, vec![])).await);
        same_table(&fixture.table.snapshot().await.unwrap(), &next);
        alter(&fixture, &next, |metadata| {
            let mut value = fields_of(metadata);
            let new = serde_json::json!(
                {"name": "any", "type": "variant", "nullable": true, "metadata": {}});
            value["fields"].as_array_mut().unwrap().push(new);
            metadata.schema_string = value.to_string();
        })
        .await;
        let error = fixture.table.refresh(&next).await.unwrap_err();
        assert!(
            matches!(&error, ManifestError::Schema { source, .. }
                if source.to_string().contains("\"any\"")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_column_that_another_engine_adds_is_followed() {
    let (fixture, base) = Fixture::created(false).await;
    alter(&fixture, &base, |metadata| {
        let mut value = fields_of(metadata);
        let new = serde_json::json!(
            {"name": "extra", "type": "string", "nullable": true, "metadata": {}});
        value["fields"].as_array_mut().unwrap().insert(0, new);
        metadata.schema_string = value.to_string();
    })
    .await;
    let altered = fixture.table.refresh(&base).await.unwrap();
    let ids: Vec<_> = altered
        .schema()
        .fields
        .iter()
        .map(|field| field.id)
        .collect();
    assert_eq!(ids[1..], [1, 2]);
    assert!(ids[0] > 1 << 20);
    // The same in whatever process reads it.
    same_table(&fixture.table.snapshot().await.unwrap(), &altered);
    committed(fixture.table.commit(&altered, flush("a", 1, vec![])).await);
}

#[tokio::test]
async fn what_can_t_be_followed_is_refused_by_name() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(&str, &str, Change); 3] = [
        ("nullable key", "NOT NULL", |value| {
            value["fields"][0]["metadata"]["tidelake.identifier"] = 0.into();
            value["fields"][0]["nullable"] = true.into();
        }),
        ("hidden name", "__x", |value| {
            value["fields"][1]["name"] = "__x".into();
        }),
        ("unknown type", "variant", |value| {
            value["fields"][1]["type"] = "variant".into();
        }),
    ];
    for (case, told, change) in cases {
        let (fixture, base) = Fixture::created(false).await;
        alter(&fixture, &base, |metadata| {
            let mut value = fields_of(metadata);
            change(&mut value);
            metadata.schema_string = value.to_string();
        })
        .await;
        let error = fixture.table.refresh(&base).await.unwrap_err();
        let ManifestError::Schema { source, .. } = &error else {
            panic!("{case}: {error}")
        };
        assert!(source.to_string().contains(told), "{case}: {source}");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{case}");
    }
}

#[tokio::test]
async fn writers_features_count_where_they_are_used() {
    let (fixture, base) = Fixture::created(false).await;
    let mut protocol = base.protocol().clone();
    let features = protocol.writer_features.as_mut().unwrap();
    features.extend(["changeDataFeed", "checkConstraints"].map(str::to_owned));
    let line = serde_json::to_string(&Action::Protocol(protocol)).unwrap();
    fixture.foreign(1, &[&line]).await;
    let base = fixture.table.refresh(&base).await.unwrap();
    let base = committed(fixture.table.commit(&base, flush("a", 1, vec![])).await);
    for (key, value, named) in [
        ("delta.enableChangeDataFeed", "true", "changeDataFeed"),
        (
            "delta.constraints.positive",
            "id > 0",
            "delta.constraints.positive",
        ),
    ] {
        let mut used = base.metadata().clone();
        used.configuration.insert(key.into(), value.into());
        let refused = crate::features::check_writable("t", base.protocol(), &used);
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    // What an older engine calls by a number is read the same way.
    let by_number = Protocol {
        min_reader_version: 2,
        min_writer_version: 5,
        ..Protocol::default()
    };
    crate::features::check_writable("t", &by_number, base.metadata()).unwrap();
    let upgraded = Protocol {
        min_reader_version: 3,
        min_writer_version: 8,
        ..Protocol::default()
    };
    assert!(crate::features::check_writable("t", &upgraded, base.metadata()).is_err());
}

#[tokio::test]
async fn what_a_property_of_another_engine_forbids_is_refused_with_the_way_out() {
    for (key, value) in [
        ("delta.appendOnly", "true"),
        ("delta.enableDeletionVectors", "false"),
    ] {
        let (fixture, base) = Fixture::created(false).await;
        let base = committed(fixture.table.commit(&base, flush("a", 9, vec![])).await);
        alter(&fixture, &base, |metadata| {
            metadata.configuration.insert(key.into(), value.into());
        })
        .await;
        let base = fixture.table.refresh(&base).await.unwrap();
        let file = base.file("a").unwrap();
        let mut tx = replace_by(&file.add, vector::inline(&[1].into_iter().collect()));
        tx.adds[0].stats = file.widened_stats();
        let error = fixture.table.commit(&base, tx).await.unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        // Rows that supersede nothing are taken all the same.
        committed(fixture.table.commit(&base, flush("b", 1, vec![])).await);
    }
}

#[test]
fn column_mapping_keeps_what_a_number_stood_for() {
    let by_number = Protocol {
        min_reader_version: 1,
        min_writer_version: 4,
        ..Protocol::default()
    };
    let schema = spec(true).schema;
    let (protocol, metadata) = with_column_mapping(&by_number, &Metadata::default(), &schema);
    let expected = [
        "columnMapping",
        "appendOnly",
        "invariants",
        "checkConstraints",
        "changeDataFeed",
        "generatedColumns",
    ];
    assert_eq!(protocol.writer_features.unwrap(), expected);
    assert_eq!(protocol.reader_features.unwrap(), ["columnMapping"]);
    assert!(crate::features::is_mapped(&metadata));
}

#[tokio::test]
async fn a_free_form_commit_info_and_files_without_statistics_are_read() {
    let (fixture, base) = Fixture::created(false).await;
    let info = r#"{"commitInfo":{"timestamp":"2026-11-29T00:00:00Z","operation":"MAINTENANCE","operationMetrics":["a"],"operationParameters":"none"}}"#;
    let bare = r#"{"add":{"path":"bare.parquet","size":7,"stats":null,"partitionValues":null}}"#;
    let partial = r#"{"add":{"path":"partial.parquet","size":7,"modificationTime":1,"dataChange":true,"stats":"{\"minValues\":null,\"nullCount\":{\"id\":0}}"}}"#;
    fixture.foreign(1, &[info, bare, partial]).await;
    let read = fixture.table.refresh(&base).await.unwrap();
    assert_eq!((read.file_count(), read.totals().files_uncounted), (2, 2));
    assert_eq!(read.timestamp_ms(), base.timestamp_ms() + 1, "times rise");
    let newest = fixture.table.history(1).await.unwrap().remove(0);
    assert_eq!(newest.operation, "MAINTENANCE");
    // Through a checkpoint as well; and a vector on such a file tells its rows.
    let read = fixture.table.write_checkpoint(&read).await.unwrap();
    assert_eq!(
        state(&fixture.table.snapshot().await.unwrap()),
        state(&read)
    );
    let file = read.file("partial.parquet").unwrap();
    assert_eq!(file.widened_stats(), None, "its rows are in its footer");
    let stats = crate::stats::widened(file.add.stats.as_deref(), 5);
    let mut tx = replace_by(&file.add, vector::inline(&[1].into_iter().collect()));
    tx.adds[0].stats = Some(stats);
    let marked = committed(fixture.table.commit(&read, tx).await);
    let file = marked.file("partial.parquet").unwrap();
    assert_eq!((file.num_records(), file.live_rows()), (Some(5), Some(4)));
    assert!(
        file.add
            .stats
            .as_deref()
            .unwrap()
            .contains(r#""nullCount":{"id":0}"#)
    );
}

fn replace_by(old: &Add, vector: VectorDescriptor) -> Transaction {
    Transaction {
        operation: "DELETE".into(),
        removes: vec![old.to_remove(NOON_MS, true)],
        adds: vec![Add {
            deletion_vector: Some(vector),
            ..old.clone()
        }],
        ..Transaction::default()
    }
}

#[tokio::test]
async fn no_flush_gives_deleted_rows_back() {
    let (fixture, base) = Fixture::created(false).await;
    let base = committed(fixture.table.commit(&base, flush("a", 9, vec![])).await);
    let widened = base.file("a").unwrap().widened_stats();
    let mut old = base.file("a").unwrap().add.clone();
    old.stats = widened;
    let mut tx = replace_by(&old, vector::inline(&[1, 2].into_iter().collect()));
    tx.removes = vec![base.file("a").unwrap().add.to_remove(NOON_MS, true)];
    let marked = committed(fixture.table.commit(&base, tx).await);
    let old = &marked.file("a").unwrap().add;
    let restore = replace_by(old, vector::inline(&[1].into_iter().collect()));
    let mut whole = restore.clone();
    whole.adds[0].deletion_vector = None;
    for gives_back in [&restore, &whole] {
        let flush = Transaction {
            marks: vec![mark(0, 0, 1)],
            ..gives_back.clone()
        };
        let probe = Transaction {
            probed: vec![Bucket(0)],
            ..gives_back.clone()
        };
        for tx in [flush, probe] {
            let error = fixture.table.commit(&marked, tx).await.unwrap_err();
            let ManifestError::Invariant { source, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!(source.predicate, "vectors_only_grow");
        }
    }
    // Who restores an older version means it.
    committed(fixture.table.commit(&marked, restore).await);
}

#[tokio::test]
async fn bounds_survive_a_vector_and_a_checkpoint_byte_for_byte() {
    let (fixture, base) = Fixture::created(false).await;
    let bounds = r#""minValues":{"v":0.1234567890123456789},"maxValues":{"v":2.5e-7}"#;
    let mut tx = flush("a", 9, vec![]);
    tx.adds[0].stats = Some(format!(r#"{{"numRecords":9,{bounds}}}"#));
    let base = committed(fixture.table.commit(&base, tx).await);
    let file = base.file("a").unwrap();
    let mut tx = replace_by(&file.add, vector::inline(&[1].into_iter().collect()));
    tx.adds[0].stats = file.widened_stats();
    let marked = committed(fixture.table.commit(&base, tx).await);
    fixture.table.write_checkpoint(&marked).await.unwrap();
    fixture.delete_log_below(2).await;
    let read = fixture.table.snapshot().await.unwrap();
    let stats = read.file("a").unwrap().add.stats.clone().unwrap();
    assert_eq!(
        stats,
        format!(r#"{{"numRecords":9,{bounds},"tightBounds":false}}"#)
    );
}

#[test]
fn a_schema_keeps_its_ids_with_and_without_column_mapping() {
    let schema = spec(true).schema;
    let plain = schema_string(&schema);
    assert!(
        plain.contains("tidelake.id") && !plain.contains("columnMapping"),
        "{plain}"
    );
    assert_eq!(from_schema_string(&plain).unwrap().fields, schema.fields);
}
