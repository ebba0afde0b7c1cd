//! What is committed, what is refused, and who loses against whom.

use super::*;

#[tokio::test]
async fn a_new_table_has_the_protocol_that_other_engines_read() {
    let (fixture, snapshot) = Fixture::created(true).await;
    let protocol = snapshot.protocol();
    assert_eq!(
        (protocol.min_reader_version, protocol.min_writer_version),
        (3, 7)
    );
    assert_eq!(
        protocol.reader_features.as_deref().unwrap(),
        ["timestampNtz"]
    );
    let writer = protocol.writer_features.as_deref().unwrap();
    assert_eq!(writer, ["timestampNtz", "appendOnly", "invariants"]);
    let properties = snapshot.properties();
    assert!(!properties.contains_key("delta.columnMapping.mode"));
    assert_eq!(properties["delta.columnMapping.maxColumnId"], "2");
    assert!(!properties.contains_key("delta.appendOnly"));
    assert_eq!(snapshot.schema().schema_id, 3);
    assert_eq!(*snapshot.schema().as_ref(), spec(true).schema);
    let again = fixture.table.create(spec(true)).await.unwrap();
    let CreateOutcome::Exists(found) = again else {
        panic!("{again:?}")
    };
    assert_eq!(found.metadata().id, snapshot.metadata().id);
}

#[tokio::test]
async fn an_upsert_table_takes_deletion_vectors_and_an_append_table_does_not() {
    let (_, upsert) = Fixture::created(false).await;
    assert!(crate::features::takes_vectors(
        upsert.protocol(),
        upsert.metadata()
    ));
    let (fixture, base) = Fixture::created(true).await;
    let mut tx = flush("a.parquet", 9, vec![]);
    tx.adds[0].deletion_vector = Some(vector::inline(&[1].into_iter().collect()));
    let error = fixture.table.commit(&base, tx).await.unwrap_err();
    let ManifestError::Invariant { source, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(source.predicate, "vectors_are_allowed_and_sound");
}

#[tokio::test]
async fn harmful_properties_are_refused() {
    for key in [
        "delta.setTransactionRetentionDuration",
        "delta.enableTypeWidening",
    ] {
        let mut spec = spec(true);
        spec.properties.insert(key.into(), "x".into());
        let error = Fixture::new().table.create(spec).await.unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn flushes_of_different_buckets_all_land() {
    let (fixture, base) = Fixture::created(true).await;
    let table = &fixture.table;
    let writers = (0..8u32).map(|bucket| {
        let tx = flush(&format!("{bucket}.parquet"), 1, vec![mark(bucket, 0, 10)]);
        table.commit(&base, tx)
    });
    let outcomes = futures::future::join_all(writers).await;
    let versions: BTreeSet<_> = outcomes
        .into_iter()
        .map(|outcome| committed(outcome).version().0)
        .collect();
    assert_eq!(versions, (1..=8).collect());
    let snapshot = table.refresh(&base).await.unwrap();
    assert_eq!(snapshot.watermarks(&TOPIC).len(), 8);
    assert_eq!(snapshot.total_rows(), 8);
    let file = snapshot.file("3.parquet").unwrap();
    assert_eq!(file.buckets().unwrap(), [Bucket(0), Bucket(3)]);
    assert_eq!(file.offsets().unwrap()[&Bucket(3)].1.0, 9);
}

#[tokio::test]
async fn a_zombie_is_stopped_whatever_its_base() {
    let (fixture, base) = Fixture::created(true).await;
    let fresh = fixture
        .table
        .commit(&base, flush("a.parquet", 1, vec![mark(0, 0, 10)]))
        .await;
    let fresh = committed(fresh);
    let expected = Conflict::WatermarkMoved {
        topic_id: TOPIC,
        bucket: Bucket(0),
        expected: Watermark(0),
        found: Watermark(10),
    };
    for base in [&base, &fresh] {
        let zombie = flush("z.parquet", 1, vec![mark(1, 0, 4), mark(0, 0, 7)]);
        let conflict = conflicted(fixture.table.commit(base, zombie).await);
        assert_eq!(conflict, expected);
        assert_eq!(conflict.kind(), ErrorKind::Fenced);
    }
    let now = fixture.table.refresh(&base).await.unwrap();
    assert_eq!(
        state(&now),
        state(&fresh),
        "nothing of the zombie is in the log"
    );
}

#[tokio::test]
async fn broken_transactions_are_not_made() {
    let (fixture, base) = Fixture::created(true).await;
    let cases: Vec<(&str, Transaction)> = vec![
        (
            "no_name_twice",
            Transaction::flush(vec![add("a", 1), add("%61", 1)], vec![]),
        ),
        (
            "watermarks_move_on_from_the_snapshot",
            flush("a", 1, vec![mark(0, 0, 0)]),
        ),
        (
            "one_transaction_for_an_application",
            flush("a", 1, vec![mark(0, 0, 1), mark(0, 0, 2)]),
        ),
        ("names_lie_inside_the_table", flush("../a", 1, vec![])),
        (
            "statistics_are_present",
            Transaction::flush(
                vec![Add {
                    stats: None,
                    ..add("a", 1)
                }],
                vec![],
            ),
        ),
    ];
    for (predicate, tx) in cases {
        let error = fixture.table.commit(&base, tx).await.unwrap_err();
        let ManifestError::Invariant { source, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(source.predicate, predicate);
        assert_eq!(error.kind(), ErrorKind::Bug);
    }
    assert_eq!(
        fixture.table.snapshot().await.unwrap().version(),
        TableVersion(0)
    );
}

/// Where the first writer stands while the second one commits.
#[derive(Debug, Clone, Copy)]
enum Step {
    BeforePut,
    AfterPut,
    AfterPutWithLostAnswer,
}

#[tokio::test]
async fn two_writers_interleave_at_every_step() {
    for step in [
        Step::BeforePut,
        Step::AfterPut,
        Step::AfterPutWithLostAnswer,
    ] {
        for same_bucket in [false, true] {
            interleave(step, same_bucket).await;
        }
    }
}

async fn interleave(step: Step, same_bucket: bool) {
    let (fixture, base) = Fixture::created(true).await;
    let gate = Gate::new();
    let first_number = "00000000000000000001.json";
    let hold = match step {
        Step::BeforePut => Rule::new(Fault::HoldBefore(gate.clone())).on(Operation::Create),
        Step::AfterPut => Rule::new(Fault::HoldAfter(gate.clone())).on(Operation::Create),
        Step::AfterPutWithLostAnswer => {
            // The answer is lost; then the writer stands at the read that resolves it.
            let lose = Rule::new(Fault::LoseAnswer).on(Operation::Create).times(1);
            fixture.faults.inject(lose);
            Rule::new(Fault::HoldBefore(gate.clone())).on(Operation::Get)
        }
    };
    fixture.faults.inject(hold.at(first_number).times(1));
    let slow = tokio::spawn({
        let (table, base) = (fixture.table.clone(), Arc::clone(&base));
        async move {
            table
                .commit(&base, flush("slow", 1, vec![mark(0, 0, 5)]))
                .await
        }
    });
    gate.reached().await;
    let bucket = u32::from(!same_bucket);
    let fast = fixture
        .table
        .commit(&base, flush("fast", 2, vec![mark(bucket, 0, 7)]))
        .await;
    gate.open();
    let slow = slow.await.unwrap();
    let slow_is_first = !matches!(step, Step::BeforePut);
    let (first, second) = if slow_is_first {
        (slow, fast)
    } else {
        (fast, slow)
    };
    assert_eq!(committed(first).version(), TableVersion(1), "{step:?}");
    let now = fixture.table.snapshot().await.unwrap();
    if same_bucket {
        let conflict = conflicted(second);
        assert!(
            matches!(conflict, Conflict::WatermarkMoved { .. }),
            "{step:?} {conflict}"
        );
        assert_eq!((now.version(), now.file_count()), (TableVersion(1), 1));
    } else {
        assert_eq!(committed(second).version(), TableVersion(2), "{step:?}");
        assert_eq!(now.total_rows(), 3);
    }
}

#[tokio::test]
async fn a_silent_store_leaves_the_outcome_open_and_the_same_commit_may_be_repeated() {
    let (fixture, base) = Fixture::created(true).await;
    fixture
        .faults
        .inject(Rule::new(Fault::LoseAnswer).on(Operation::Create));
    fixture
        .faults
        .inject(Rule::new(Fault::FailBefore).on(Operation::Get));
    let tx = Transaction {
        id: Some("me".into()),
        ..flush("a", 1, vec![mark(0, 0, 5)])
    };
    let error = fixture.table.commit(&base, tx.clone()).await.unwrap_err();
    assert!(matches!(
        error,
        ManifestError::Storage(StorageError::OutcomeUnknown { .. })
    ));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    fixture.faults.heal();
    let other = flush("b", 1, vec![mark(1, 0, 5)]);
    committed(fixture.table.commit(&base, other).await);
    let snapshot = committed(fixture.table.commit(&base, tx).await);
    assert_eq!(
        snapshot.version(),
        TableVersion(1),
        "it had landed the first time"
    );
    assert_eq!(
        fixture.table.snapshot().await.unwrap().version(),
        TableVersion(2)
    );
}

#[tokio::test]
async fn a_change_of_the_schema_or_the_protocol_stops_a_flush() {
    let (fixture, base) = Fixture::created(true).await;
    let changed = Metadata {
        schema_string: schema_string(&TableSchema {
            fields: spec(true).schema.fields[..1].to_vec(),
            ..spec(true).schema
        }),
        ..base.metadata().clone()
    };
    let tx = Transaction {
        metadata: Some(changed),
        ..Transaction::default()
    };
    let after = committed(fixture.table.commit(&base, tx).await);
    assert_eq!(after.schema().fields.len(), 1);
    let conflict = conflicted(fixture.table.commit(&base, flush("a", 1, vec![])).await);
    assert_eq!(conflict, Conflict::SchemaChanged);

    let mut protocol = after.protocol().clone();
    protocol
        .writer_features
        .as_mut()
        .unwrap()
        .push("rowTracking".into());
    let line = serde_json::to_string(&Action::Protocol(protocol.clone())).unwrap();
    fixture.foreign(2, &[&line]).await;
    let conflict = conflicted(fixture.table.commit(&after, flush("a", 1, vec![])).await);
    assert_eq!(conflict, Conflict::ProtocolChanged);
    // What another engine asks of writers does not keep us from reading.
    let now = fixture.table.refresh(&after).await.unwrap();
    let error = fixture
        .table
        .commit(&now, flush("a", 1, vec![]))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ManifestError::WriterFeatures { features, .. } if features == &["rowTracking"])
    );

    protocol
        .reader_features
        .as_mut()
        .unwrap()
        .push("typeWidening".into());
    let line = serde_json::to_string(&Action::Protocol(protocol)).unwrap();
    fixture.foreign(3, &[&line]).await;
    for error in [
        fixture.table.refresh(&now).await,
        fixture.table.snapshot().await,
    ] {
        let error = error.unwrap_err();
        assert!(error.to_string().contains("typeWidening"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_vector_that_was_changed_and_changed_back_still_counts_as_changed() {
    let (fixture, first) = Fixture::created(false).await;
    let table = &fixture.table;
    let added = committed(table.commit(&first, flush("1.parquet", 9, vec![])).await);
    let marked = committed(
        table
            .commit(&added, replace(&added, 0, Some(3)).unwrap())
            .await,
    );
    let stale = replace(&marked, 0, Some(1)).unwrap();
    let other = committed(
        table
            .commit(&marked, replace(&marked, 0, Some(0)).unwrap())
            .await,
    );
    let back = committed(
        table
            .commit(&other, replace(&other, 0, Some(3)).unwrap())
            .await,
    );
    assert_eq!(state(&back).0, state(&marked).0);
    let conflict = conflicted(table.commit(&marked, stale).await);
    assert!(matches!(&conflict, Conflict::VectorChanged { path, .. } if path == "1.parquet"));
}

#[tokio::test]
async fn rows_that_others_bring_into_a_probed_bucket_are_not_overlooked() {
    let (_fixture, base) = Fixture::created(false).await;
    let of = |bucket: Option<&str>, data_change| Add {
        tags: bucket.map(|own| BTreeMap::from([(TAG_BUCKET.into(), Some(own.into()))])),
        data_change,
        ..add("theirs.parquet", 3)
    };
    let winners = [
        (of(Some("1"), true), true),
        (of(Some("0,1"), true), true),
        (of(None, true), true),
        (of(Some("0"), true), false),
        (of(None, false), false),
    ];
    for (winner, loses) in winners {
        let winners = || vec![(1, Commit::of(vec![Action::Add(winner.clone())]))];
        let tx = Transaction {
            probed: vec![Bucket(1), Bucket(2)],
            ..flush("ours.parquet", 4, vec![])
        };
        let rebased = rebase("t", &tx, "ours", &base, winners(), NOON_MS).unwrap();
        let lost = matches!(
            &rebased,
            Rebased::Conflicted(Conflict::RowsAdded { path }) if path == "theirs.parquet"
        );
        assert_eq!(lost, loses, "{winner:?}");
        let blind = Transaction {
            probed: vec![],
            ..tx
        };
        let rebased = rebase("t", &blind, "ours", &base, winners(), NOON_MS).unwrap();
        assert!(matches!(rebased, Rebased::Again(_)));
    }
}

#[test]
fn commits_keep_what_they_are_given() {
    let txn = Txn {
        app_id: "tidelake/x/0/from/1".into(),
        version: 4,
        last_updated: Some(1),
    };
    let remove: Remove = add("a", 1).to_remove(7, false);
    let actions = vec![
        Action::Txn(txn),
        Action::Remove(remove),
        Action::Add(add("b", 2)),
        Action::Protocol(NewTable::of(&spec(true).schema, false).protocol),
    ];
    let read = crate::action::parse_commit(&write_commit(&actions)).unwrap();
    assert_eq!(read, actions);
}
