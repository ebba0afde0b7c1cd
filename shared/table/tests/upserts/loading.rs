//! What loading buckets costs, and what happens to a state that is behind its table.

use tidelake_core::ErrorKind;
use tidelake_storage::faults::{Fault, FaultStore, Rule};
use tidelake_table::TableError;

use super::*;

fn rows(keys: std::ops::Range<u32>, value: i64) -> Vec<Record> {
    keys.map(|key| (key, Some(Some(value)))).collect()
}

/// Loads both buckets or one, where the store answers so many reads of foreign files and no more.
async fn load(world: &World, buckets: &[u32], reads: u32) -> Result<Vec<u64>, TableError> {
    let faults = FaultStore::new(world.table.store().object_store());
    faults.inject(Rule::new(Fault::FailBefore).at("part-").after(reads));
    let store = Store::new(Arc::new(faults), "memory:///");
    let table = DeltaTable::new(store, clock::system(), ids::random());
    let snapshot = world.latest().await;
    let loader = &world.writers[0].loader;
    let wanted = buckets.iter().map(|bucket| (Bucket(*bucket), None));
    let wanted: Vec<_> = wanted.collect();
    let states = loader.load_all(&table, &snapshot, wanted).await?;
    let entries = states.iter().map(|(_, state, _)| state.index().entries());
    Ok(entries.collect())
}

#[tokio::test]
async fn a_file_of_several_buckets_is_read_once_for_all_of_them() {
    let mut world = World::new(Shape::LongText).await;
    world.insert(None, &rows(0..30, 1)).await;
    world.insert(None, &rows(40..71, 1)).await;
    let failed = load(&world, &[0, 1], 0).await.unwrap_err();
    assert_eq!(
        failed.kind(),
        ErrorKind::Unavailable,
        "may pass: {failed:?}"
    );
    let mut reads = 1;
    while load(&world, &[0], reads).await.is_err() {
        reads += 1;
    }
    assert_eq!(load(&world, &[0, 1], reads).await.unwrap(), [31, 30]);
}

#[tokio::test]
async fn a_state_that_is_behind_its_table_brings_no_row_back() {
    let mut world = World::new(Shape::Long).await;
    world.insert(None, &rows(0..40, 1)).await;
    let early = [(0, vec![vec![(0, Some(Some(2)))]])];
    world.flush(0, &early, true).await;
    let late = [(0, vec![vec![(2, Some(Some(3))), (4, Some(Some(3)))]])];
    world.writers[0].base = world.latest().await;
    let request = world.request(0, &late).await;
    // Meanwhile every third row of the file goes, and the states stay as they were.
    let files = world.latest().await;
    let foreign = files
        .files()
        .position(|file| file.tag(TAG_BUCKET).is_none());
    world.delete(3, foreign.unwrap()).await;
    let own = &world.writers[0];
    let base = world.latest().await;
    let error = request.run(&own.table, &base).await.unwrap_err();
    assert!(matches!(error, TableError::RowsRevived { .. }), "{error}");
    assert_eq!(world.latest().await.version(), base.version());
    // Brought up to it, they go on.
    world.flush(0, &late, true).await;
    let version = world.latest().await.version().0;
    world.versions.insert(version, world.model.clone());
    world.check_versions().await;
    world.check_states().await;
}
