//! Who sleeps, who reads while others write, and what it costs to look again.

use super::*;

#[tokio::test]
async fn a_writer_that_slept_longer_than_the_log_is_kept_is_stopped() {
    let (fixture, versions) = checkpointed().await;
    let stale = &versions[3];
    fixture.clock.advance(40 * DAY);
    fixture.delete_log_below(10).await;
    let tx = flush("late", 1, vec![mark(7, 0, 1)]);
    let error = fixture.table.commit(stale, tx).await.unwrap_err();
    assert!(matches!(
        error,
        ManifestError::BelowCleanedLog {
            version: TableVersion(4),
            ..
        }
    ));
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let name = fixture.table.reader.log.name(4);
    assert_eq!(
        fixture.table.store().get_opt(&name).await.unwrap(),
        None,
        "the void commit is gone"
    );
    // A reader that slept as long finds its way as well.
    let now = fixture.table.refresh(stale).await.unwrap();
    assert_eq!(now.version(), TableVersion(15));
    // And a writer that slept over a log that was not cleaned is not stopped.
    fixture.clock.advance(2 * DAY);
    let tx = flush("late", 1, vec![mark(7, 0, 1)]);
    committed(fixture.table.commit(&now, tx).await);
}

#[tokio::test]
async fn a_second_sleeper_does_not_build_on_the_void_commit_of_the_first() {
    let (fixture, versions) = checkpointed().await;
    let stale = &versions[3];
    fixture.clock.advance(40 * DAY);
    fixture.delete_log_below(10).await;
    // What a writer leaves that slept as long and died right after its put.
    let void = flush("first", 1, vec![mark(6, 0, 1)]);
    let void = write_commit(&void.actions("first", stale, NOON_MS));
    let name = fixture.table.reader.log.name(4);
    fixture.table.store().put(&name, void.into()).await.unwrap();
    let second = flush("second", 1, vec![mark(7, 0, 1)]);
    let error = fixture.table.commit(stale, second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let beyond = fixture.table.reader.log.name(5);
    assert_eq!(fixture.table.store().get_opt(&beyond).await.unwrap(), None);
    // Not even where the void commit stands in the place of the base itself.
    let base = &versions[4];
    let error = fixture
        .table
        .commit(base, flush("third", 1, vec![mark(7, 0, 1)]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let now = fixture.table.refresh(base).await.unwrap();
    assert_eq!(now.version(), TableVersion(15));
}

#[tokio::test]
async fn an_idle_table_is_proven_again_instead_of_read_again() {
    let (fixture, versions) = checkpointed().await;
    let table = &fixture.table;
    let latest = versions.last().unwrap();
    let store = table.store().clone();
    let cost = async |snapshot: &Arc<Snapshot>| {
        let before = store.requests();
        let same = table.refresh(snapshot).await.unwrap();
        assert!(Arc::ptr_eq(&same, snapshot));
        store.requests().since(&before).total()
    };
    for _ in 0..3 {
        fixture.clock.advance(Duration::from_secs(7200));
        assert_eq!(cost(latest).await, 2, "the commit itself, and the next one");
        assert_eq!(cost(latest).await, 1);
    }
    // Loaded from a checkpoint, or long ago: no difference.
    let loaded = table.snapshot().await.unwrap();
    fixture.clock.advance(2 * DAY);
    assert_eq!(cost(&loaded).await, 2);
    // What came meanwhile is read, and nothing else.
    fixture.clock.advance(Duration::from_secs(7200));
    let next = committed(table.commit(latest, flush("x", 1, vec![])).await);
    fixture.clock.advance(Duration::from_secs(7200));
    let before = store.requests();
    let refreshed = table.refresh(&loaded).await.unwrap();
    assert!(store.requests().since(&before).total() <= 5);
    same_table(&refreshed, &next);
    // After many commits the checkpoint is the shorter way.
    let mut newest = next;
    for i in 0..80 {
        let more = flush(&format!("more {i}"), 1, vec![]);
        newest = committed(table.commit(&newest, more).await);
    }
    table.write_checkpoint(&newest).await.unwrap();
    fixture.clock.advance(Duration::from_secs(7200));
    let before = store.requests();
    same_table(&table.refresh(&loaded).await.unwrap(), &newest);
    assert!(store.requests().since(&before).total() < 10);
}

#[tokio::test]
async fn a_writer_that_slept_over_a_whole_log_meets_what_came_since() {
    let (fixture, base) = Fixture::created(true).await;
    let table = &fixture.table;
    let other = flush("a", 1, vec![mark(0, 0, 5)]);
    let newest = committed(table.commit(&base, other).await);
    fixture.clock.advance(3 * DAY);
    let before = table.store().requests();
    let late = flush("b", 1, vec![mark(1, 0, 5)]);
    let late = committed(table.commit(&base, late).await);
    assert_eq!(late.version(), TableVersion(2));
    // The base, the commit after it, the end of the log, the put.
    assert_eq!(table.store().requests().since(&before).total(), 4);
    fixture.clock.advance(3 * DAY);
    let zombie = flush("c", 1, vec![mark(0, 0, 7)]);
    let conflict = conflicted(table.commit(&base, zombie).await);
    assert!(matches!(conflict, Conflict::WatermarkMoved { .. }));
    assert_eq!(state(&table.refresh(&newest).await.unwrap()), state(&late));
}

#[tokio::test]
async fn a_short_log_retention_of_another_engine_shortens_the_trust() {
    let (fixture, base) = Fixture::created(true).await;
    let mut metadata = base.metadata().clone();
    let short = "interval 30 minutes".to_owned();
    metadata
        .configuration
        .insert("delta.logRetentionDuration".into(), short);
    let line = serde_json::to_string(&Action::Metadata(metadata)).unwrap();
    fixture.foreign(1, &[&line]).await;
    let base = fixture.table.refresh(&base).await.unwrap();
    let newer = committed(fixture.table.commit(&base, flush("a", 1, vec![])).await);
    // Two minutes later the commits are cleaned away, which the default would still trust.
    fixture.clock.advance(Duration::from_secs(120));
    fixture.table.write_checkpoint(&newer).await.unwrap();
    fixture.delete_log_below(2).await;
    let late = flush("b", 1, vec![mark(1, 0, 5)]);
    let error = fixture.table.commit(&base, late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    committed(fixture.table.commit(&newer, flush("c", 1, vec![])).await);
}

#[tokio::test]
async fn a_log_that_was_cleaned_right_after_its_retention_was_cut_does_not_take_a_flush_in() {
    let (fixture, base) = Fixture::created(true).await;
    // Nobody writes for a while; another engine shortens the retention and cleans what it wrote.
    fixture.clock.advance(Duration::from_secs(301));
    let mut metadata = base.metadata().clone();
    let none = "interval 0 hours".to_owned();
    let retention = "delta.logRetentionDuration";
    metadata.configuration.insert(retention.into(), none);
    let line = serde_json::to_string(&Action::Metadata(metadata)).unwrap();
    fixture.foreign(1, &[&line]).await;
    fixture.foreign(2, &[r#"{"commitInfo":{}}"#]).await;
    let newest = fixture.table.snapshot().await.unwrap();
    fixture.table.write_checkpoint(&newest).await.unwrap();
    fixture.delete_log_below(2).await;

    let late = flush("b", 1, vec![mark(1, 0, 5)]);
    let error = fixture.table.commit(&base, late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let now = fixture.table.refresh(&base).await.unwrap();
    assert_eq!(
        (now.version(), state(&now)),
        (newest.version(), state(&newest))
    );
    committed(fixture.table.commit(&now, flush("c", 1, vec![])).await);
}

#[tokio::test]
async fn a_commit_that_a_listing_skips_is_no_damage() {
    let (fixture, versions) = checkpointed().await;
    let latest = versions.last().unwrap();
    for hidden in [0, 4, 11, 13, 14] {
        let name = format!("{hidden:020}.json");
        fixture.faults.hide_from_listings(&name);
        for version in [9, 12, 15] {
            let read = fixture.table.snapshot_at(TableVersion(version)).await;
            same_table(&read.unwrap(), &versions[version as usize]);
        }
        same_table(&fixture.table.snapshot().await.unwrap(), latest);
        let refreshed = fixture.table.refresh(&versions[1]).await.unwrap();
        same_table(&refreshed, latest);
        if hidden > 0 {
            let history = fixture.table.history(100).await.unwrap();
            assert_eq!(history.len(), 16, "{hidden}");
            let found = fixture.table.version_at(versions[1].timestamp_ms()).await;
            assert_eq!(found.unwrap(), TableVersion(1));
        }
        fixture.faults.heal();
    }
    // The checkpoint itself may be skipped, too.
    fixture.faults.hide_from_listings("checkpoint.parquet");
    same_table(&fixture.table.snapshot().await.unwrap(), latest);
    fixture.faults.heal();
    // One that is missing for real is damage, and named so.
    fixture.delete_log_below(1).await;
    let name = fixture.table.reader.log.name(13);
    fixture.table.store().delete(&name).await.unwrap();
    let error = fixture.table.snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

/// Whoever takes the next number each second would never look at those behind it.
#[tokio::test]
async fn a_log_that_is_removed_under_a_busy_writer_takes_nothing_in_for_long() {
    let (fixture, mut base) = Fixture::created(true).await;
    fixture.delete_log_below(1).await;
    let mut taken = 0;
    let error = loop {
        fixture.clock.advance(Duration::from_secs(60));
        let tx = flush(&format!("f{taken}"), 1, vec![mark(taken, 0, 1)]);
        match fixture.table.commit(&base, tx).await {
            Ok(CommitOutcome::Committed { snapshot, .. }) => base = snapshot,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
        // It only sees that its own commit is the last one.
        match fixture.table.refresh(&base).await {
            Ok(newest) => base = newest,
            Err(error) => break error,
        }
        taken += 1;
        assert!(taken < 6, "it goes on for ever");
        fixture.delete_log_below(base.version().0 + 1).await;
    };
    let told = [ErrorKind::Fenced, ErrorKind::Corrupt].contains(&error.kind());
    assert!(told, "{error}");
}

/// As one with nothing in it, it would hide the rows of the commit that it was.
#[tokio::test]
async fn an_empty_commit_is_damage() {
    let (fixture, base) = Fixture::created(true).await;
    for text in ["", "\n"] {
        let name = fixture.table.reader.log.name(1);
        let text = bytes::Bytes::from_static(text.as_bytes());
        fixture.table.store().put(&name, text).await.unwrap();
        for read in [
            fixture.table.refresh(&base).await,
            fixture.table.snapshot().await,
        ] {
            let error = read.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains("empty"), "{error}");
        }
    }
}
