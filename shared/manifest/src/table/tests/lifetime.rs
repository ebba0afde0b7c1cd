//! A table is dropped and another one created in its place, while a writer of the first goes on.

use super::*;

/// Where drop and creation stand when the writer wakes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Before,
    Fenced,
    /// Everything but the fence is removed.
    Emptied,
    Purged,
    /// The creation is about to write its first commit.
    Creating,
    /// The first commit is there, its checkpoint is not.
    Beginning,
    Created,
}

const STAGES: [Stage; 7] = [
    Stage::Before,
    Stage::Fenced,
    Stage::Emptied,
    Stage::Purged,
    Stage::Creating,
    Stage::Beginning,
    Stage::Created,
];

/// A flusher of the first table that knows of nothing.
struct Writer {
    table: DeltaTable,
    base: Arc<Snapshot>,
    mark: i64,
    /// Versions that it holds for committed, and their commits.
    committed: Vec<(TableVersion, String)>,
    conflicts: Vec<Conflict>,
}

impl Writer {
    /// One flush; its next one starts from what it believes to be the table.
    async fn flush(&mut self, stage: Stage) {
        if !self.conflicts.is_empty() {
            return;
        }
        let id = format!("{stage:?} {}", self.mark);
        let name = format!("late {}.parquet", self.mark);
        let mut tx = flush(&name, 1, vec![mark(0, self.mark, self.mark + 1)]);
        tx.id = Some(id.clone());
        match self.table.commit(&self.base, tx).await.unwrap() {
            CommitOutcome::Committed { version, snapshot } => {
                self.committed.push((version, id));
                self.base = snapshot;
                self.mark += 1;
            }
            CommitOutcome::Conflicted(conflict) => self.conflicts.push(conflict),
        }
    }
}

async fn remove_all(table: &DeltaTable, but: Option<TableVersion>) {
    let kept = but.map(|version| table.reader.log.name(version.0));
    for meta in table.store().list("").await.unwrap() {
        let rel = table.store().relative(&meta.location).unwrap();
        if Some(&rel) != kept.as_ref() {
            table.store().delete(&rel).await.unwrap();
        }
    }
}

/// Drops, purges and creates; the writer flushes at both stages.
async fn race(stages: [Stage; 2], keeps_fence: bool) {
    let (fixture, first) = Fixture::created(true).await;
    let table = fixture.table.clone();
    let base = committed(table.commit(&first, flush("a", 1, vec![])).await);
    let base = table.write_checkpoint(&base).await.unwrap();
    let mut writer = Writer {
        table: table.clone(),
        base: Arc::clone(&base),
        mark: 0,
        committed: Vec::new(),
        conflicts: Vec::new(),
    };
    let wakes = |stage| stages.contains(&stage);
    if wakes(Stage::Before) {
        writer.flush(Stage::Before).await;
    }
    let fence = table.drop_fence().await.unwrap();
    assert_eq!(
        table.drop_fence().await.unwrap(),
        fence,
        "a second drop finds the first"
    );
    assert!(table.snapshot().await.unwrap().is_dropped());
    if wakes(Stage::Fenced) {
        writer.flush(Stage::Fenced).await;
        assert_eq!(writer.conflicts, [Conflict::Dropped]);
    }
    remove_all(&table, Some(fence)).await;
    if wakes(Stage::Emptied) {
        writer.flush(Stage::Emptied).await;
    }
    if !keeps_fence {
        remove_all(&table, None).await;
    }
    if wakes(Stage::Purged) {
        writer.flush(Stage::Purged).await;
    }
    let first_version = TableVersion(fence.0 + 2);
    let spec = CreateTable {
        first_version,
        ..spec(true)
    };
    let (commit, beginning) = (Gate::new(), Gate::new());
    let name = table.reader.log.name(first_version.0);
    let rule = Rule::new(Fault::HoldBefore(commit.clone())).on(Operation::Create);
    fixture.faults.inject(rule.at(&name).times(1));
    let rule = Rule::new(Fault::HoldBefore(beginning.clone())).on(Operation::Create);
    fixture
        .faults
        .inject(rule.at("checkpoint.parquet").times(1));
    let creation = tokio::spawn({
        let (table, spec) = (table.clone(), spec.clone());
        async move { table.create(spec).await.unwrap() }
    });
    commit.reached().await;
    if wakes(Stage::Creating) {
        writer.flush(Stage::Creating).await;
    }
    commit.open();
    beginning.reached().await;
    if wakes(Stage::Beginning) {
        writer.flush(Stage::Beginning).await;
        // Whoever looks now finds the new table, and no other.
        let seen = table.snapshot().await.unwrap();
        assert_eq!((seen.version(), seen.file_count()), (first_version, 0));
    }
    beginning.open();
    let CreateOutcome::Created(created) = creation.await.unwrap() else {
        panic!("{stages:?}: found a table")
    };
    fixture.faults.heal();
    if wakes(Stage::Created) {
        writer.flush(Stage::Created).await;
    }
    check(&table, &created, &mut writer).await;
}

async fn check(table: &DeltaTable, created: &Snapshot, writer: &mut Writer) {
    let first = created.first_version();
    assert_eq!(created.version(), first);
    for (version, _) in &writer.committed {
        assert!(*version < first, "{version} of {first}");
    }
    // The new table lives: nothing of the old one shows, whichever way it is read.
    let latest = Arc::new(created.clone());
    let next = committed(
        table
            .commit(&latest, flush("new", 4, vec![mark(0, 0, 4)]))
            .await,
    );
    assert_eq!(next.version(), first.next());
    let hint = table.reader.hint().await.unwrap();
    assert_eq!(hint, Some(first.0));
    for read in [
        table.snapshot().await.unwrap(),
        table.snapshot_at(next.version()).await.unwrap(),
        table.refresh(&latest).await.unwrap(),
    ] {
        same_table(&read, &next);
        assert_eq!(read.total_rows(), 4);
    }
    table
        .store()
        .delete("_delta_log/_last_checkpoint")
        .await
        .unwrap();
    same_table(&table.snapshot().await.unwrap(), &next);
    let history = table.history(100).await.unwrap();
    let versions: Vec<_> = history.iter().map(|commit| commit.version).collect();
    assert_eq!(versions, [next.version(), first]);
    assert_eq!(history[1].operation, "CREATE TABLE");
    let at = table.version_at(next.timestamp_ms()).await.unwrap();
    assert_eq!(at, next.version());
    // The writer is stopped for good, wherever it had come to, and takes back what is void.
    while writer.conflicts.is_empty() {
        writer.flush(Stage::Created).await;
        assert!(writer.committed.len() < 10, "it goes on for ever");
    }
    let conflict = &writer.conflicts[0];
    assert!(
        matches!(conflict, Conflict::Dropped | Conflict::TableReplaced),
        "{conflict}"
    );
    assert_eq!(conflict.kind(), ErrorKind::NotFound);
    for (version, id) in &writer.committed {
        table.withdraw_void_commit(*version, id).await.unwrap();
        let name = table.reader.log.name(version.0);
        assert_eq!(table.store().get_opt(&name).await.unwrap(), None);
    }
    same_table(&table.snapshot().await.unwrap(), &next);
}

#[tokio::test]
async fn a_writer_of_a_dropped_table_never_gets_into_its_successor() {
    for (i, early) in STAGES.into_iter().enumerate() {
        for late in STAGES.into_iter().skip(i) {
            for keeps_fence in [true, false] {
                race([early, late], keeps_fence).await;
            }
        }
    }
}

#[tokio::test]
async fn a_fence_wins_against_flushes_and_changes_on_the_way() {
    let (fixture, base) = Fixture::created(true).await;
    let table = &fixture.table;
    let gate = Gate::new();
    let rule = Rule::new(Fault::HoldBefore(gate.clone())).on(Operation::Create);
    fixture.faults.inject(rule.times(1));
    let dropping = tokio::spawn({
        let table = table.clone();
        async move { table.drop_fence().await.unwrap() }
    });
    gate.reached().await;
    let flushed = committed(
        table
            .commit(&base, flush("a", 1, vec![mark(0, 0, 4)]))
            .await,
    );
    let mut metadata = flushed.metadata().clone();
    metadata.configuration.insert("x".into(), "y".into());
    let altered = Transaction {
        metadata: Some(metadata),
        ..Transaction::default()
    };
    committed(table.commit(&flushed, altered).await);
    gate.open();
    let fence = dropping.await.unwrap();
    assert_eq!(fence, TableVersion(3));
    let last = table.snapshot().await.unwrap();
    assert_eq!((last.total_rows(), last.is_dropped()), (1, true));
    assert_eq!(last.properties()["x"], "y");
    // On top of it there is nothing any more, whatever a writer starts from.
    for base in [&base, &flushed, &last] {
        let late = flush("b", 1, vec![mark(1, 0, 4)]);
        let conflict = conflicted(table.commit(base, late).await);
        assert!(matches!(conflict, Conflict::Dropped), "{conflict}");
    }
    assert_eq!(table.history(1).await.unwrap()[0].operation, "DROP TABLE");
}

#[tokio::test]
async fn a_creation_on_top_of_a_fence_finds_its_own_beginning() {
    let (fixture, base) = Fixture::created(true).await;
    let table = &fixture.table;
    committed(table.commit(&base, flush("a", 1, vec![])).await);
    let fence = table.drop_fence().await.unwrap();
    let created = table.create(spec(true)).await.unwrap();
    let CreateOutcome::Created(created) = created else {
        panic!("{created:?}")
    };
    assert_eq!(created.version(), TableVersion(fence.0 + 2));
    assert_eq!(created.commits_since_checkpoint(), 0);
    let again = table.create(spec(true)).await.unwrap();
    assert!(matches!(&again, CreateOutcome::Exists(found) if same_id(found, &created)));
    let names: Vec<_> = table.store().list("_delta_log").await.unwrap();
    assert_eq!(names.len(), 3, "commit, checkpoint and hint: {names:?}");
    // The old table's writer, who loses against a table of another id.
    let conflict = conflicted(
        table
            .commit(&created, flush("b", 1, vec![mark(0, 1, 2)]))
            .await,
    );
    assert!(matches!(conflict, Conflict::WatermarkMoved { .. }));
    // And once more.
    let fence = table.drop_fence().await.unwrap();
    let third = table.create(spec(true)).await.unwrap();
    assert_eq!(third.snapshot().version(), TableVersion(fence.0 + 2));
}

fn same_id(a: &Snapshot, b: &Snapshot) -> bool {
    a.metadata().id == b.metadata().id
}

#[tokio::test]
async fn a_creation_that_died_half_way_is_completed_by_the_next() {
    let fixture = Fixture::new();
    let spec = CreateTable {
        first_version: TableVersion(9),
        ..spec(true)
    };
    // What a writer of an earlier table left.
    fixture
        .foreign(6, &[r#"{"txn":{"appId":"x","version":1}}"#])
        .await;
    let rule = Rule::new(Fault::ReadOnly).at("checkpoint.parquet");
    fixture.faults.inject(rule);
    fixture.table.create(spec.clone()).await.unwrap_err();
    fixture.faults.heal();
    let held = fixture.table.snapshot().await.unwrap();
    assert_eq!(
        (held.version(), held.checkpoint_version()),
        (TableVersion(9), None)
    );
    assert_eq!(held.commits_since_checkpoint(), 1);
    let again = fixture.table.create(spec).await.unwrap();
    assert!(matches!(&again, CreateOutcome::Exists(found) if same_id(found, &held)));
    let now = fixture.table.snapshot().await.unwrap();
    assert_eq!(now.checkpoint_version(), Some(TableVersion(9)));
    same_table(&now, &held);
    assert_eq!(fixture.table.earliest().await.unwrap(), TableVersion(9));
    let gone = fixture
        .table
        .snapshot_at(TableVersion(6))
        .await
        .unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_commit_that_counts_is_not_withdrawn() {
    let (fixture, base) = Fixture::created(true).await;
    let mut tx = flush("a", 1, vec![]);
    tx.id = Some("mine".into());
    let next = committed(fixture.table.commit(&base, tx).await);
    for (version, id) in [(1, "mine"), (1, "theirs"), (0, "mine"), (7, "mine")] {
        let withdrawn = fixture
            .table
            .withdraw_void_commit(TableVersion(version), id)
            .await;
        assert!(!withdrawn.unwrap(), "{version} {id}");
    }
    same_table(&fixture.table.snapshot().await.unwrap(), &next);
}

#[tokio::test]
async fn a_commit_into_an_emptied_log_is_withdrawn() {
    let (fixture, base) = Fixture::created(true).await;
    let store = fixture.table.store();
    for file in store.list("_delta_log").await.unwrap() {
        let name = store.relative(&file.location).unwrap();
        store.delete(&name).await.unwrap();
    }
    let mut tx = flush("a", 1, vec![]);
    tx.id = Some("mine".into());
    committed(fixture.table.commit(&base, tx).await);
    let withdraw = |id| fixture.table.withdraw_void_commit(TableVersion(1), id);
    assert!(!withdraw("theirs").await.unwrap());
    assert!(withdraw("mine").await.unwrap());
    assert!(store.list("_delta_log").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lifted_fence_lets_the_table_go_on_and_nothing_else_follows_one() {
    let (fixture, base) = Fixture::created(true).await;
    let table = &fixture.table;
    let first = flush("a", 1, vec![mark(0, 0, 4)]);
    let flushed = committed(table.commit(&base, first).await);
    assert_eq!(
        table.lift_fence().await.unwrap(),
        flushed.version(),
        "not dropped"
    );
    let fence = table.drop_fence().await.unwrap();
    let dropped = table.snapshot().await.unwrap();
    let late = flush("b", 1, vec![mark(0, 4, 5)]);
    let outcome = table.commit(&dropped, late.clone()).await.unwrap();
    assert!(matches!(
        outcome,
        CommitOutcome::Conflicted(Conflict::Dropped)
    ));
    assert_eq!(table.lift_fence().await.unwrap(), fence.next());
    // Who met the fence stays out; who opens the table anew goes on where it stood.
    let outcome = table.commit(&flushed, late.clone()).await.unwrap();
    assert!(matches!(
        outcome,
        CommitOutcome::Conflicted(Conflict::Dropped)
    ));
    let now = table.snapshot().await.unwrap();
    assert_eq!(now.total_rows(), flushed.total_rows());
    committed(table.commit(&now, late).await);
    assert!(table.drop_fence().await.unwrap() > fence);
}
