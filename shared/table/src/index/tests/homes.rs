use std::fs;
use std::path::Path;

use super::*;

fn entries(count: u128) -> Entries {
    let keys: Vec<_> = (0..count).map(OwnedKey::Fixed).collect();
    Entries::of_rows(&keys_of(KIND, &keys))
}

const KIND: KeyKind = KeyKind::Fixed { bytes: 8 };

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

#[test]
fn a_run_becomes_a_file_beyond_the_limit_only() {
    let folder = tempfile::tempdir().unwrap();
    let home = IndexHome::open(folder.path(), 2000).unwrap();
    let index = Index::new(KIND);
    let small = index
        .with_entries(&home, "1".into(), &entries(100))
        .unwrap();
    assert!(!small.runs()[0].is_file());
    let large = index
        .with_entries(&home, "2".into(), &entries(100_000))
        .unwrap();
    assert!(large.runs()[0].is_file());
    let on_disk = fs::metadata(home.folder().unwrap().join("0.run")).unwrap();
    assert_eq!(on_disk.len(), large.bytes());
    assert!(large.memory_bytes() as u64 * 4 < 100_000);
}

#[test]
fn a_file_goes_with_the_last_reader_of_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let home = IndexHome::open(folder.path(), 0).unwrap();
    let own = home.folder().unwrap().to_owned();
    let mut index = Index::new(KIND);
    index = index.with_entries(&home, "1".into(), &entries(10)).unwrap();
    index = index.with_entries(&home, "2".into(), &entries(10)).unwrap();
    let pinned = index.clone();
    assert_eq!(names(&own), ["0.run", "1.run", "lock"]);
    let job = index.merge_all().unwrap();
    let run = index.merge(&job, &home, &slot, &|_, _| false).unwrap();
    index = index.replaced(&job, run);
    drop(job);
    assert_eq!(names(&own), ["0.run", "1.run", "2.run", "lock"]);
    drop(pinned);
    assert_eq!(names(&own), ["2.run", "lock"]);
    drop(home);
    let mut hits = 0;
    index
        .probe(&entries(10).keys, &slot, &mut |_, _, _| hits += 1)
        .unwrap();
    assert_eq!(hits, 20);
    drop(index);
    assert_eq!(names(folder.path()), ["lock"]);
}

#[test]
fn a_merge_that_fails_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let home = IndexHome::open(folder.path(), 0).unwrap();
    let own = home.folder().unwrap().to_owned();
    let index = Index::new(KIND);
    let index = index
        .with_entries(&home, "1".into(), &entries(1000))
        .unwrap();
    let whole = fs::read(own.join("0.run")).unwrap();
    fs::write(own.join("0.run"), &whole[..whole.len() / 2]).unwrap();
    let job = MergeJob {
        runs: index.runs().to_vec(),
    };
    assert!(index.merge(&job, &home, &slot, &|_, _| false).is_err());
    assert_eq!(names(&own), ["0.run", "lock"]);
}

#[test]
fn homes_of_one_folder_never_meet() {
    let folder = tempfile::tempdir().unwrap();
    let first = IndexHome::open(folder.path(), 0).unwrap();
    let kept = Index::new(KIND)
        .with_entries(&first, "1".into(), &entries(10))
        .unwrap();
    let second = IndexHome::open(folder.path(), 0).unwrap();
    assert_ne!(first.folder(), second.folder());
    let mut hits = 0;
    kept.probe(&entries(10).keys, &slot, &mut |_, _, _| hits += 1)
        .unwrap();
    assert_eq!(hits, 10);
}

#[test]
fn what_a_dead_process_left_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for home in ["runs-0", "runs-7", "other", "runs-x"] {
        fs::create_dir(path.join(home)).unwrap();
        fs::write(path.join(home).join("3.run"), "left").unwrap();
    }
    fs::write(path.join("runs-0/lock"), "").unwrap();
    fs::write(path.join("runs-7/notes.txt"), "mine").unwrap();
    fs::write(path.join("5.run"), "mine").unwrap();
    let home = IndexHome::open(path, 0).unwrap();
    assert_eq!(home.folder().unwrap(), path.join("runs-0"));
    assert_eq!(
        names(path),
        ["5.run", "lock", "other", "runs-0", "runs-7", "runs-x"]
    );
    assert_eq!(names(&path.join("runs-0")), ["lock"]);
    assert_eq!(names(&path.join("runs-7")), ["notes.txt"]);
    assert_eq!(names(&path.join("other")), ["3.run"]);
    assert_eq!(names(&path.join("runs-x")), ["3.run"]);
}
