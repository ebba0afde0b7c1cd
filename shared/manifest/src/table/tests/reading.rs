//! What of a log is understood, and what of its past can be read.

use super::*;

#[tokio::test]
async fn what_other_engines_do_is_understood() {
    let (fixture, base) = Fixture::created(false).await;
    let base = committed(
        fixture
            .table
            .commit(&base, flush("a b.parquet", 9, vec![]))
            .await,
    );
    // A DELETE by vector, on a path that the other engine encodes; then its own file; then
    // OPTIMIZE.
    let lines = [
        r#"{"commitInfo":{"operation":"DELETE","operationParameters":{"predicate":"[\"x\"]"}}}"#,
        r#"{"add":{"path":"a%20b.parquet","partitionValues":{},"size":109,"modificationTime":1,"dataChange":true,"stats":"{\"numRecords\":9,\"tightBounds\":false}","tags":{"tidelake.bucket":"0,3"},"deletionVector":{"storageType":"u","pathOrInlineDv":"vBn[lx{q8@P<9BNH/isA","offset":1,"sizeInBytes":36,"cardinality":2}}}"#,
        r#"{"remove":{"path":"a%20b.parquet","deletionTimestamp":5,"dataChange":true,"extendedFileMetadata":true,"partitionValues":{},"size":109}}"#,
    ];
    fixture.foreign(2, &lines).await;
    let other = r#"{"add":{"path":"part-0.parquet","partitionValues":{},"size":7,"modificationTime":1,"dataChange":true}}"#;
    fixture.foreign(3, &[other]).await;
    let deleted = fixture.table.refresh(&base).await.unwrap();
    let file = deleted.file("a b.parquet").unwrap();
    assert_eq!((file.num_records(), file.live_rows()), (Some(9), Some(7)));
    assert_eq!(file.buckets().unwrap().len(), 2, "tags survive");
    assert_eq!(
        (deleted.total_rows(), deleted.totals().files_uncounted),
        (7, 1)
    );
    let vector = r#""deletionVector":{"storageType":"u","pathOrInlineDv":"vBn[lx{q8@P<9BNH/isA","offset":1,"sizeInBytes":36,"cardinality":2}"#;
    let remove = format!(
        r#"{{"remove":{{"path":"a%20b.parquet","deletionTimestamp":6,"dataChange":false,{vector}}}}}"#
    );
    let merged = r#"{"add":{"path":"part-1.parquet","partitionValues":{},"size":9,"modificationTime":1,"dataChange":false,"stats":"{\"numRecords\":7}"}}"#;
    fixture.foreign(4, &[&remove, merged]).await;
    let optimized = fixture.table.refresh(&deleted).await.unwrap();
    assert_eq!(
        optimized
            .files()
            .map(|f| f.path())
            .collect::<BTreeSet<_>>()
            .len(),
        2
    );
    assert_eq!(
        state(&optimized),
        state(&fixture.table.snapshot().await.unwrap())
    );

    // A compaction of ours that was planned before the DELETE, and one planned before OPTIMIZE.
    let rewrite = |of: &Snapshot| Transaction {
        removes: vec![
            of.file("a b.parquet")
                .unwrap()
                .add
                .to_remove(NOON_MS, false),
        ],
        ..Transaction::flush(
            vec![Add {
                data_change: false,
                ..add("c", 9)
            }],
            vec![],
        )
    };
    let conflict = conflicted(fixture.table.commit(&base, rewrite(&base)).await);
    assert!(
        matches!(&conflict, Conflict::VectorChanged { path, found: Some(_) } if path == "a b.parquet")
    );
    let conflict = conflicted(fixture.table.commit(&deleted, rewrite(&deleted)).await);
    assert_eq!(
        conflict,
        Conflict::FileRemoved {
            path: "a b.parquet".into()
        }
    );
}

#[tokio::test]
async fn two_live_vectors_of_one_file_are_corruption() {
    let (fixture, base) = Fixture::created(false).await;
    let base = committed(fixture.table.commit(&base, flush("a", 9, vec![])).await);
    let add = r#"{"add":{"path":"a","partitionValues":{},"size":1,"modificationTime":1,"dataChange":true,"deletionVector":{"storageType":"i","pathOrInlineDv":"00000","sizeInBytes":4,"cardinality":1}}}"#;
    fixture.foreign(2, &[add]).await;
    let error = fixture.table.refresh(&base).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("count twice"), "{error}");
}

#[tokio::test]
async fn a_partitioned_table_is_refused_by_name() {
    let (fixture, base) = Fixture::created(true).await;
    let metadata = Metadata {
        partition_columns: vec!["at".into()],
        ..base.metadata().clone()
    };
    let line = serde_json::to_string(&Action::Metadata(metadata)).unwrap();
    fixture.foreign(1, &[&line]).await;
    let error = fixture.table.snapshot().await.unwrap_err();
    assert!(
        error.to_string().contains(r#"partitioned by ["at"]"#),
        "{error}"
    );
}

#[tokio::test]
async fn an_idle_table_costs_one_request_to_refresh_and_a_commit_costs_one_put() {
    let (fixture, base) = Fixture::created(true).await;
    let store = fixture.table.store().clone();
    let before = store.requests();
    let same = fixture.table.refresh(&base).await.unwrap();
    assert!(Arc::ptr_eq(&same, &base));
    assert_eq!(store.requests().since(&before).total(), 1);
    let before = store.requests();
    committed(fixture.table.commit(&base, flush("a", 1, vec![])).await);
    assert_eq!(store.requests().since(&before).total(), 1);
}

#[tokio::test]
async fn a_point_in_time_is_the_version_that_was_the_latest_then() {
    let (fixture, versions) = checkpointed().await;
    for (i, snapshot) in versions.iter().enumerate() {
        for late_ms in [0, 1, 59_999] {
            let found = fixture
                .table
                .version_at(snapshot.timestamp_ms() + late_ms)
                .await
                .unwrap();
            assert_eq!(found, TableVersion(i as u64));
        }
    }
    let latest = fixture.table.version_at(i64::MAX).await.unwrap();
    assert_eq!(latest, TableVersion(15));
    let error = fixture.table.version_at(NOON_MS - 1).await.unwrap_err();
    assert!(
        matches!(
            error,
            ManifestError::BeforeFirst {
                earliest_ms: NOON_MS,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn times_rise_although_the_clock_goes_back() {
    let (fixture, base) = Fixture::created(true).await;
    let clock: SharedClock = Arc::new(ManualClock::at(NOON_MS - 5000));
    let behind = DeltaTable {
        clock,
        ..fixture.table.clone()
    };
    let next = committed(behind.commit(&base, flush("a", 1, vec![])).await);
    assert_eq!(next.timestamp_ms(), NOON_MS + 1);
}

#[tokio::test]
async fn history_tells_newest_first() {
    let (fixture, _) = checkpointed().await;
    let history = fixture.table.history(3).await.unwrap();
    assert_eq!(
        history.iter().map(|c| c.version.0).collect::<Vec<_>>(),
        [15, 14, 13]
    );
    let newest = &history[0];
    assert_eq!(newest.operation, "FLUSH");
    assert_eq!((newest.files_added, newest.files_removed), (2, 1));
    assert!(newest.commit_id.is_some());
    assert!(newest.engine.as_deref().unwrap().starts_with("Tidelake/"));
    assert_eq!(fixture.table.history(100).await.unwrap().len(), 16);
}

#[tokio::test]
async fn vectors_are_read_from_their_files() {
    let (fixture, _) = Fixture::created(false).await;
    let rows: DeletedRows = (0..100_000).filter(|row| row % 7 == 0).collect();
    let mut file = vector::VectorFile::new(uuid::Uuid::from_u128(5));
    file.push(&[1, 2].into_iter().collect());
    let descriptor = file.place(&rows).unwrap();
    assert_eq!(descriptor.storage_type, "u");
    for (name, bytes) in file.finish() {
        let put = fixture.table.store().put(&name, bytes.into());
        put.await.unwrap();
    }
    assert_eq!(fixture.table.deleted_rows(&descriptor).await.unwrap(), rows);
    let wrong = VectorDescriptor {
        cardinality: 3,
        ..descriptor
    };
    assert_eq!(
        fixture.table.deleted_rows(&wrong).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[tokio::test]
async fn every_call_may_run_on_any_thread() {
    fn sendable(_: impl Send) {}
    let (Fixture { table, .. }, base) = Fixture::created(true).await;
    sendable(table.create(spec(true)));
    sendable(table.snapshot());
    sendable(table.snapshot_at(TableVersion(0)));
    sendable(table.refresh(&base));
    sendable(table.commit(&base, flush("a", 1, vec![])));
    sendable(table.write_checkpoint(&base));
    sendable(table.history(1));
    sendable(table.version_at(0));
    sendable(table.visit_commits(0..=1, |_, _, _| Ok(())));
    sendable(table.drop_fence());
    sendable(table.withdraw_void_commit(TableVersion(0), "x"));
    sendable(table.deleted_rows(&vector::inline(&DeletedRows::new())));
}

#[test]
fn formats_of_other_files_are_refused() {
    let metadata = Metadata {
        format: Format {
            provider: "orc".into(),
            ..Format::default()
        },
        ..Metadata::default()
    };
    let refused = crate::features::check_readable("t", &Protocol::default(), &metadata);
    assert!(refused.unwrap_err().to_string().contains("orc"));
}
