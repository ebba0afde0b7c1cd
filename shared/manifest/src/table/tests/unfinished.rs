//! A commit that somebody writes into a folder piece by piece.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
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
        append(&self.path, version, line)
    }

    /// The clock, after the last change of a file.
    fn after(&self, file: &File, by: Duration) {
        let changed = file.metadata().unwrap().modified().unwrap();
        let changed = changed.duration_since(UNIX_EPOCH).unwrap() + by;
        let now = Duration::from_millis(u64::try_from(self.clock.now_ms()).unwrap());
        self.clock.advance(changed.saturating_sub(now));
    }
}

fn append(table: &Path, version: u64, line: &str) -> File {
    let path = table.join(format!("_delta_log/{version:020}.json"));
    let file = OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.unwrap();
    writeln!(file, "{line}").unwrap();
    file
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
    folder.after(&folder.append(1, &added("a")), Duration::ZERO);
    let stop = Arc::new(AtomicBool::new(false));
    let (path, stopped) = (folder.path.clone(), Arc::clone(&stop));
    // What stands between lines says nothing; a slow machine makes longer pauses.
    let writer = std::thread::spawn(move || {
        let mut longest = Duration::ZERO;
        while !stopped.load(Ordering::Relaxed) {
            let changed = append(&path, 1, "").metadata().unwrap().modified().unwrap();
            std::thread::park_timeout(Duration::from_millis(20));
            longest = longest.max(changed.elapsed().unwrap_or_default());
        }
        longest
    });
    // It reads like a whole one. Neither who knows the version before it nor who comes anew takes
    // it up, and nobody writes on top of it.
    let known = table.refresh(&base).await.unwrap().version();
    let anew = table.snapshot().await.unwrap().version();
    let ours = flush("ours", 1, vec![mark(7, 0, 1)]);
    let refused = table.commit(&base, ours.clone()).await;
    stop.store(true, Ordering::Relaxed);
    if writer.join().unwrap() < Duration::from_millis(400) {
        assert_eq!((known, anew), (TableVersion(0), TableVersion(0)));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
        folder.append(1, &added("b"));
        let whole = table.refresh(&base).await.unwrap();
        assert_eq!((whole.version(), whole.file_count()), (TableVersion(1), 2));
        let snapshot = committed(table.commit(&base, ours).await);
        assert_eq!(snapshot.version(), TableVersion(2));
        assert!(snapshot.file("a").is_some() && snapshot.file("b").is_some());
    }
}

#[tokio::test]
async fn a_commit_that_was_taken_for_whole_too_early_is_read_again() {
    let folder = Folder::new();
    let table = &folder.table;
    let created = table.create(spec(false)).await.unwrap();
    folder.append(1, INFO);
    folder.append(1, &added("a"));
    // The clock stands at 0: the file is not young, as after a long pause.
    let half = table.refresh(created.snapshot()).await.unwrap();
    assert_eq!((half.version(), half.file_count()), (TableVersion(1), 1));
    folder.append(1, &added("b"));
    let ours = flush("ours", 1, vec![mark(7, 0, 1)]);
    let error = table.commit(&half, ours.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let whole = table.refresh(&half).await.unwrap();
    assert_eq!((whole.version(), whole.file_count()), (TableVersion(1), 2));
    assert!(!whole.is_same_as(&half));
    committed(table.commit(&whole, ours).await);
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
