//! What a checkpoint says, and what becomes of a log without one.

use super::*;

#[tokio::test]
async fn a_checkpoint_says_what_the_commits_said() {
    let (fixture, versions) = checkpointed().await;
    let latest = versions.last().unwrap();
    let before = fixture.table.store().requests();
    let loaded = fixture.table.snapshot().await.unwrap();
    // Hint, listing, checkpoint, the commit at the checkpoint for its time, five commits.
    assert_eq!(fixture.table.store().requests().since(&before).total(), 9);
    same_table(&loaded, latest);
    let gone = gone_by_commits(&fixture.table, latest.version()).await;
    assert!(gone.len() > 9, "{gone:?}");
    // From the start, from the checkpoint, and from one that is written on top of that.
    for snapshot in [&loaded, &versions[9], latest] {
        let expected = gone_by_commits(&fixture.table, snapshot.version()).await;
        assert_eq!(tombstones(&fixture.table, snapshot, 0).await, expected);
    }
    assert_eq!(loaded.commits_since_checkpoint(), 5);
    // Without the commits that it stands in for, every later version is still there.
    fixture.delete_log_below(10).await;
    for version in 10..=15 {
        let read = fixture
            .table
            .snapshot_at(TableVersion(version))
            .await
            .unwrap();
        same_table(&read, &versions[version as usize]);
    }
    let error = fixture
        .table
        .snapshot_at(TableVersion(4))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ManifestError::VersionGone {
                earliest: TableVersion(10),
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("the earliest that can be read is 10")
    );
    let error = fixture
        .table
        .snapshot_at(TableVersion(16))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the latest is 15"), "{error}");
    // Nor can the table be created anew on top of a cleaned log.
    let outcome = fixture.table.create(spec(false)).await.unwrap();
    assert!(matches!(outcome, CreateOutcome::Exists(_)));
}

#[tokio::test]
async fn expired_tombstones_stay_out_of_a_checkpoint_and_watermarks_stay_in() {
    let (fixture, versions) = checkpointed().await;
    let latest = versions.last().unwrap();
    let half_way = versions[12].timestamp_ms();
    let some = tombstones(&fixture.table, latest, half_way).await;
    let all = tombstones(&fixture.table, latest, 0).await;
    assert!(!some.is_empty() && some.len() < all.len());
    fixture.clock.advance(8 * DAY);
    fixture.table.write_checkpoint(latest).await.unwrap();
    let loaded = fixture.table.snapshot().await.unwrap();
    same_table(&loaded, latest);
    assert!(tombstones(&fixture.table, &loaded, 0).await.is_empty());
    assert_eq!(loaded.watermark(&TOPIC, Bucket(0)), Some(Watermark(15)));
}

#[tokio::test]
async fn damage_to_hint_or_checkpoint_is_survived_while_the_commits_are_there() {
    let (fixture, versions) = checkpointed().await;
    let store = fixture.table.store().clone();
    let latest = versions.last().unwrap();
    let checkpoint = checkpoint_name(TableVersion(10));
    for (name, bytes) in [
        ("_delta_log/_last_checkpoint", "not json"),
        ("_delta_log/_last_checkpoint", r#"{"version":77,"size":1}"#),
        (checkpoint.as_str(), "not parquet"),
    ] {
        store.put(name, bytes.into()).await.unwrap();
        same_table(&fixture.table.snapshot().await.unwrap(), latest);
    }
    fixture.delete_log_below(10).await;
    let error = fixture.table.snapshot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("checkpoint.parquet"), "{error}");
}

#[tokio::test]
async fn an_older_checkpoint_does_not_pull_the_hint_back() {
    let (fixture, versions) = checkpointed().await;
    fixture.table.write_checkpoint(&versions[5]).await.unwrap();
    assert_eq!(fixture.table.reader.hint().await.unwrap(), Some(10));
    // Writing one that exists is no error and changes nothing.
    fixture.table.write_checkpoint(&versions[10]).await.unwrap();
}
