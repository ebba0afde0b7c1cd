//! Plans as pictures: one line for each file, and what becomes of it.

use std::fmt::Write;

use tidelake_core::{TableVersion, clock, ids};
use tidelake_manifest::action::{Add, TAG_BUCKET, TAG_LEVEL, TAG_OFFSETS, VectorDescriptor};
use tidelake_manifest::{CommitOutcome, CreateTable, DeltaTable, Transaction};
use tidelake_schema::TableSchema;
use tidelake_storage::StoreOptions;

use super::*;

const RULES: Rules = Rules {
    target_bytes: 100 * MIB,
    files_to_merge: 4,
    deleted_percent: 30,
};
const MIB: u64 = 1 << 20;

/// A file: its bucket, size in KiB, and deleted percent.
type File = (u32, u64, u64);

/// Files of this size could not become larger.
const FULL_KIB: u64 = 33;

async fn version(keyed: bool, files: &[File]) -> Arc<Snapshot> {
    let store = tidelake_storage::Store::open("memory:///", &StoreOptions::default()).unwrap();
    let table = DeltaTable::new(store, clock::system(), ids::random());
    let key = if keyed {
        "\"identifier-field-ids\":[1],"
    } else {
        ""
    };
    let schema = format!(
        r#"{{"type":"struct",{key}"fields":[{{"id":1,"name":"id","required":true,"type":"long"}}]}}"#
    );
    let created = table
        .create(CreateTable {
            name: "t".into(),
            schema: TableSchema::from_iceberg_json(&schema).unwrap(),
            append_only: false,
            properties: BTreeMap::new(),
            first_version: TableVersion(0),
        })
        .await
        .unwrap();
    let adds = files
        .iter()
        .enumerate()
        .map(|(place, (bucket, kib, deleted))| {
            let offsets = format!(r#"{{"{bucket}":[{place},{}]}}"#, place + 1);
            let mut tags = vec![
                (TAG_BUCKET, bucket.to_string()),
                (TAG_OFFSETS, offsets),
                (TAG_LEVEL, "0".to_owned()),
            ];
            if *kib == FULL_KIB {
                tags.push((TAG_FULL, "true".to_owned()));
            }
            let vector = (*deleted > 0).then(|| VectorDescriptor {
                storage_type: "i".into(),
                path_or_inline_dv: "x".into(),
                offset: None,
                size_in_bytes: 1,
                cardinality: *deleted as i64,
            });
            Add {
                path: format!("f{place:03}.parquet"),
                size: (kib * 1024) as i64,
                stats: Some(r#"{"numRecords":100,"tightBounds":false}"#.into()),
                tags: Some(
                    tags.into_iter()
                        .map(|(key, value)| (key.to_owned(), Some(value)))
                        .collect(),
                ),
                deletion_vector: vector,
                data_change: true,
                ..Add::default()
            }
        });
    let flush = Transaction::flush(adds.collect(), vec![]);
    match table.commit(created.snapshot(), flush).await.unwrap() {
        CommitOutcome::Committed { snapshot, .. } => snapshot,
        CommitOutcome::Conflicted(conflict) => panic!("{conflict}"),
    }
}

/// Which plan takes each file.
async fn picture(keyed: bool, files: &[File]) -> String {
    let snapshot = version(keyed, files).await;
    let plans = plan(&snapshot, &RULES);
    let mut text = String::new();
    for (place, (bucket, kib, deleted)) in files.iter().enumerate() {
        let name = format!("f{place:03}.parquet");
        let of = plans
            .iter()
            .position(|plan| plan.files.iter().any(|file| file.path() == name));
        let becomes = of.map_or("stays".to_owned(), |of| {
            format!("plan {of}, {}", plans[of].reason.as_str())
        });
        writeln!(text, "{bucket} {kib:>6}K {deleted:>2}% {becomes}").unwrap();
    }
    text
}

#[tokio::test]
async fn files_of_one_size_become_one_and_large_ones_stay() {
    let files = [
        (0, 90 * 1024, 0),
        (0, 20, 0),
        (0, 30, 0),
        (0, 5 * 1024, 0),
        (0, 10, 0),
        (0, 60, 20),
        (0, 1, 0),
    ];
    let expected = "\
0  92160K  0% stays
0     20K  0% plan 0, small_files
0     30K  0% plan 0, small_files
0   5120K  0% stays
0     10K  0% plan 0, small_files
0     60K 20% plan 0, small_files
0      1K  0% plan 0, small_files
";
    assert_eq!(picture(true, &files).await, expected);
}

#[tokio::test]
async fn files_of_a_keyed_table_stay_in_their_bucket_others_are_merged_across() {
    let files = [(0, 20, 0), (1, 20, 0), (0, 20, 0), (1, 20, 0)];
    let apart = picture(true, &files).await;
    assert_eq!(apart.matches("stays").count(), 4, "{apart}");
    let together = picture(false, &files).await;
    assert_eq!(
        together.matches("plan 0, small_files").count(),
        4,
        "{together}"
    );
}

#[tokio::test]
async fn worn_files_are_rewritten_by_themselves_unless_they_are_small() {
    let files = [
        (0, 90 * 1024, 30),
        (0, 90 * 1024, 29),
        (0, 20, 90),
        (1, 5 * 1024, 50),
    ];
    let expected = "\
0  92160K 30% plan 0, deleted_rows
0  92160K 29% stays
0     20K 90% stays
1   5120K 50% plan 1, deleted_rows
";
    assert_eq!(picture(true, &files).await, expected);
}

#[tokio::test]
async fn files_that_could_not_become_larger_stay_until_they_are_worn() {
    let small: Vec<File> = (0..20).map(|_| (0, FULL_KIB, 0)).collect();
    let shown = picture(true, &small).await;
    assert_eq!(shown.matches("stays").count(), 20, "{shown}");
}

#[tokio::test]
async fn a_plan_reads_a_bounded_part() {
    let many: Vec<File> = (0..1500).map(|_| (0, 10, 0)).collect();
    let snapshot = version(true, &many).await;
    let sizes: Vec<_> = plan(&snapshot, &RULES)
        .iter()
        .map(|plan| plan.files.len())
        .collect();
    assert_eq!(sizes, [512, 512, 476]);
    let large: Vec<File> = (0..20).map(|_| (0, 60 * 1024, 0)).collect();
    let snapshot = version(true, &large).await;
    let plans = plan(&snapshot, &RULES);
    let bytes = plans
        .iter()
        .map(|plan| plan.files.iter().map(|file| file.size()).sum::<u64>());
    assert!(bytes.max() <= Some(400 * MIB));
    assert_eq!(plans.iter().map(|plan| plan.files.len()).sum::<usize>(), 18);
}

#[tokio::test]
async fn what_a_plan_makes_is_not_planned_again() {
    // As large as the largest of their size, together as large as one of the next.
    let (mut files, mut rounds): (Vec<File>, _) = ((0..4096).map(|_| (0, 10, 0)).collect(), 0);
    loop {
        let snapshot = version(true, &files).await;
        let plans = plan(&snapshot, &RULES);
        if plans.is_empty() {
            break;
        }
        rounds += 1;
        assert!(rounds < 20, "{} files", files.len());
        let planned: std::collections::HashSet<String> = plans
            .iter()
            .flat_map(|plan| plan.files.iter().map(|file| file.path().to_owned()))
            .collect();
        let mut place = 0;
        files.retain(|_| {
            place += 1;
            !planned.contains(&format!("f{:03}.parquet", place - 1))
        });
        files.extend(plans.iter().map(|plan| {
            let bytes: u64 = plan.files.iter().map(|file| file.size()).sum();
            (0, bytes / 1024, 0)
        }));
    }
    assert!(files.len() <= 3, "{files:?}");
}
