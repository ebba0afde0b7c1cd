//! A commit that somebody writes into a folder piece by piece.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use tempfile::TempDir;
use tidelake_core::ids::CountingIds;
use tidelake_storage::{Store, StoreOptions};

use super::*;
use tidelake_core::clock::Clock;

const INFO: &str = r#"{"commitInfo":{"timestamp":1,"operation":"WRITE"}}"#;
const NAMED: &str = r#"{"commitInfo":{"timestamp":1,"engineInfo":"delta-rs:1.0"}}"#;

/// A table in a folder, whose clock stands where a test puts it.
struct Folder {
    _dir: TempDir,
    path: PathBuf,
    clock: Arc<ManualClock>,
    table: DeltaTable,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::create_dir_all(&path).unwrap();
        let url = format!("file://{}", path.display());
        let store = Store::open(&url, &StoreOptions::default()).unwrap();
        let clock = Arc::new(ManualClock::at(0));
        let table = DeltaTable::new(store, clock.clone(), Arc::new(CountingIds::default()));
        Self {
            _dir: dir,
            path,
            clock,
            table,
        }
    }

    fn append(&self, version: u64, line: &str) -> File {
        let name = format!("_delta_log/{version:020}.json");
        let path = self.path.join(name);
        let mut file = OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.as_mut().unwrap(), "{line}").unwrap();
        file.unwrap()
    }

    /// The clock, after the last change of a file.
    fn after(&self, file: &File, by: Duration) {
        let changed = file.metadata().unwrap().modified().unwrap();
        let changed = changed.duration_since(UNIX_EPOCH).unwrap() + by;
        let now = Duration::from_millis(u64::try_from(self.clock.now_ms()).unwrap());
        self.clock.advance(changed.saturating_sub(now));
    }
}

fn added(path: &str) -> String {
    serde_json::to_string(&serde_json::json!({"add": {
        "path": path, "size": 1, "modificationTime": 1, "dataChange": true,
        "partitionValues": {}, "stats": "{\"numRecords\":1}",
    }}))
    .unwrap()
}

#[tokio::test]
async fn a_commit_counts_once_it_no_longer_grows() {
    let folder = Folder::new();
    let table = &folder.table;
    let created = table.create(spec(false)).await.unwrap();
    let base = created.snapshot().clone();
    folder.append(1, INFO);
    let half = folder.append(1, &added("a"));
    let soon = Duration::from_millis(100);
    folder.after(&half, soon);
    // It reads like a whole one. Neither who knows the version before it nor who comes anew takes
    // it up, and nobody writes on top of it.
    assert_eq!(
        table.refresh(&base).await.unwrap().version(),
        TableVersion(0)
    );
    assert_eq!(table.snapshot().await.unwrap().version(), TableVersion(0));
    let ours = flush("ours", 1, vec![mark(7, 0, 1)]);
    let error = table.commit(&base, ours.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let rest = folder.append(1, &added("b"));
    folder.after(&rest, Duration::from_secs(5));
    let whole = table.refresh(&base).await.unwrap();
    assert_eq!((whole.version(), whole.file_count()), (TableVersion(1), 2));
    let snapshot = committed(table.commit(&base, ours).await);
    assert_eq!(snapshot.version(), TableVersion(2));
    assert!(snapshot.file("a").is_some() && snapshot.file("b").is_some());
}

#[tokio::test]
async fn an_engine_that_names_itself_is_not_waited_for() {
    let folder = Folder::new();
    let table = &folder.table;
    let created = table.create(spec(false)).await.unwrap();
    folder.append(1, NAMED);
    let file = folder.append(1, &added("a"));
    folder.after(&file, Duration::ZERO);
    let now = table.refresh(created.snapshot()).await.unwrap();
    assert_eq!(now.version(), TableVersion(1));
    assert_eq!(table.snapshot().await.unwrap().version(), TableVersion(1));
}
