//! Another engine changes the table's schema while a flusher holds rows that were decoded before.

use super::*;

impl World {
    /// Flushes rows that were decoded by the schema that the world began with, on the newest
    /// version.
    async fn flush_late(&mut self, records: &Records) -> FlushOutcome {
        self.writers[0].base = self.latest().await;
        let request = self.request(0, records).await;
        let own = &self.writers[0];
        let flushed = request.run(&own.table, &own.base).await.unwrap();
        self.writers[0].states.extend(flushed.states);
        flushed.outcome
    }
}

fn some(keys: std::ops::Range<u32>, value: i64) -> (u32, Vec<Vec<Record>>) {
    let keys = keys.filter(|key| key % 2 == 0);
    let rows = keys.map(|key| (key, Some(Some(value + i64::from(key)))));
    (0, vec![rows.collect()])
}

/// What another engine may set: a property, or a writer feature that nobody here knows.
#[derive(Debug, Clone, Copy)]
enum Forbids {
    Property(&'static str, &'static str),
    Feature(&'static str),
}

impl World {
    async fn forbid(&self, forbids: Forbids) {
        let base = self.latest().await;
        let action = match forbids {
            Forbids::Property(name, value) => {
                let mut metadata = base.metadata().clone();
                let set = &mut metadata.configuration;
                set.insert(name.to_owned(), value.to_owned());
                Action::Metadata(metadata)
            }
            Forbids::Feature(name) => {
                let mut protocol = base.protocol().clone();
                let features = protocol.writer_features.as_mut().unwrap();
                features.push(name.to_owned());
                Action::Protocol(protocol)
            }
        };
        let bytes = write_commit(&[Action::CommitInfo(CommitInfo::default()), action]);
        let name = format!("_delta_log/{:020}.json", base.version().next().0);
        self.table.store().put(&name, bytes.into()).await.unwrap();
    }
}

#[tokio::test]
async fn what_can_not_be_committed_is_not_stored() {
    for (forbids, told) in [
        (
            Forbids::Property("delta.constraints.small", "v < 9"),
            "delta.constraints",
        ),
        (
            Forbids::Property("delta.appendOnly", "true"),
            "delta.appendOnly",
        ),
        (
            Forbids::Property("delta.enableDeletionVectors", "false"),
            "delta.enableDeletionVectors",
        ),
        (Forbids::Feature("clairvoyance"), "clairvoyance"),
    ] {
        let mut world = World::new(Shape::Long).await;
        world.flush(0, &[some(0..20, 1)], true).await;
        world.forbid(forbids).await;
        let store = world.table.store().clone();
        let before = store.list("").await.unwrap().len();
        world.writers[0].base = world.latest().await;
        // As a flusher that tries again would.
        for _ in 0..2 {
            let request = world.request(0, &[some(10..30, 1000)]).await;
            let own = &world.writers[0];
            let error = request.run(&own.table, &own.base).await.unwrap_err();
            assert!(error_chain(&error).contains(told), "{forbids:?}: {error}");
            let after = store.list("").await.unwrap().len();
            assert_eq!(after, before, "{forbids:?}");
        }
    }
}

/// A table that may only grow takes rows of keys that it does not have.
#[tokio::test]
async fn what_takes_no_row_away_is_committed_although_rows_may_not_be_taken_away() {
    for property in [
        Forbids::Property("delta.appendOnly", "true"),
        Forbids::Property("delta.enableDeletionVectors", "false"),
    ] {
        let mut world = World::new(Shape::Long).await;
        world.flush(0, &[some(0..20, 1)], true).await;
        world.forbid(property).await;
        let outcome = world.flush_late(&[some(20..40, 1000)]).await;
        let committed = matches!(outcome, FlushOutcome::Committed(_));
        assert!(committed, "{property:?}: {outcome:?}");
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| {
        format!("{text}: {source}")
    })
}

#[tokio::test]
async fn columns_that_change_places_under_decoded_rows_keep_their_values() {
    for shape in [Shape::Long, Shape::TextAndInt] {
        let mut world = World::new(shape).await;
        let first = [some(0..20, 1)];
        world.flush(0, &first, true).await;
        // The value, of the type of the key or not, comes first.
        world.alter(|fields| fields.rotate_right(1)).await;
        let late = [some(10..30, 1000)];
        let outcome = world.flush_late(&late).await;
        assert!(matches!(outcome, FlushOutcome::Committed(_)), "{outcome:?}");
        apply(&mut world.model, &late);
        let removed = [(0, vec![vec![(2, None), (12, None)]])];
        let outcome = world.flush_late(&removed).await;
        assert!(matches!(outcome, FlushOutcome::Committed(_)), "{outcome:?}");
        apply(&mut world.model, &removed);
        let version = world.latest().await.version().0;
        world.versions.insert(version, world.model.clone());
        world.check_versions().await;
        world.check_states().await;
    }
}

#[tokio::test]
async fn rows_without_a_column_that_came_are_decoded_again() {
    let mut world = World::new(Shape::Long).await;
    world.flush(0, &[some(0..20, 1)], true).await;
    world
        .alter(|fields| {
            let mut extra = fields[1].clone();
            extra["name"] = "extra".into();
            extra["metadata"]["delta.columnMapping.id"] = 4.into();
            extra["metadata"]["delta.columnMapping.physicalName"] = "col-4".into();
            fields.push(extra);
        })
        .await;
    let before = world.latest().await.version();
    let outcome = world.flush_late(&[some(10..30, 1000)]).await;
    let conflict = FlushOutcome::Conflicted(Conflict::SchemaChanged);
    assert_eq!(format!("{outcome:?}"), format!("{conflict:?}"));
    assert_eq!(
        world.latest().await.version(),
        before,
        "nothing was committed"
    );
}

#[tokio::test]
async fn a_new_column_behind_another_conflict_is_not_passed_over() {
    let mut world = World::new(Shape::Long).await;
    // Rows of the key that the flush brings, then a column that its rows were decoded without.
    world.insert(Some(0), &[(2, Some(Some(0)))]).await;
    world.change(&Change::Add { front: false }).await;
    let records = [some(0..6, 1000)];
    let before = world.latest().await.version();
    world.flush(0, &records, false).await;
    assert_eq!(
        world.latest().await.version(),
        before,
        "nothing was committed"
    );
    world.flush(0, &records, true).await;
    let version = world.latest().await.version().0;
    world.versions.insert(version, world.model.clone());
    world.check_versions().await;
}
