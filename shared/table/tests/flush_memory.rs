//! What a flush allocates beside its rows stays below what budgets are told.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use tidelake_core::{Bucket, TableVersion, TopicId, Watermark, clock, ids};
use tidelake_manifest::{CreateTable, DeltaTable};
use tidelake_schema::TableSchema;
use tidelake_schema::arrow::to_arrow;
use tidelake_storage::{Store, StoreOptions};
use tidelake_table::index::IndexHome;
use tidelake_table::{
    COLUMN_BYTES, Chunk, FileSettings, Flush, FlushOutcome, FlushRows, Memtable, Owners, Positions,
    Sealed, StateLoader, UpsertBucket, VECTOR_IDS, bytes_while_flushing,
};

/// Counts what is allocated, and remembers the most.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(held, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "an allocator has no safe way")]
// SAFETY: every call is the system allocator's, with the caller's own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TOPIC: TopicId = TopicId([7; 16]);
/// The commit, requests: what does not grow with the rows.
const SLACK: usize = 1 << 20;
/// Two of the table, and the hidden ones.
const COLUMNS: usize = 6;

fn schema(keys: &str, ty: &str) -> TableSchema {
    TableSchema::from_iceberg_json(&format!(
        r#"{{"type":"struct","schema-id":0,"identifier-field-ids":{keys},"fields":[
            {{"id":1,"name":"k","required":true,"type":"{ty}"}},
            {{"id":2,"name":"v","required":false,"type":"string"}}]}}"#
    ))
    .unwrap()
}

/// Numbers that don't compress.
fn random(seed: i64) -> i64 {
    let mix = |i: i64| (i ^ (i << 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64);
    mix(mix(mix(seed + 1) >> 3) ^ (seed << 21))
}

fn rows(schema: &TableSchema, ty: &str, count: i64) -> Sealed {
    let mut memtable = Memtable::new(Bucket(0), Watermark(0));
    for first in (0..count).step_by(1_000) {
        let numbers = first..first + 1_000;
        let keys: ArrayRef = if ty == "string" {
            let texts = numbers
                .clone()
                .map(|n| Some(format!("user-{:016x}", random(n))));
            Arc::new(texts.collect::<StringArray>())
        } else {
            Arc::new(numbers.clone().map(random).collect::<Int64Array>())
        };
        let values = numbers
            .clone()
            .map(|n| Some(format!("{:x}{:x}", random(n), random(-n))));
        let values: ArrayRef = Arc::new(values.collect::<StringArray>());
        let batch = RecordBatch::try_new(to_arrow(schema), vec![keys, values]).unwrap();
        let positions = Positions {
            offsets: numbers.collect(),
            rows: vec![0; 1_000],
            timestamps_ms: vec![0; 1_000],
        };
        memtable.push(Chunk::new(batch, positions));
    }
    memtable.seal()
}

/// What a flush held at most beside its rows, and what was told before.
async fn flushed(ty: &str, has_keys: bool, count: i64) -> (usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let store = Store::open(&url, &StoreOptions::default()).unwrap();
    let table = DeltaTable::new(store, clock::system(), ids::random());
    let schema = schema(if has_keys { "[1]" } else { "[]" }, ty);
    let create = CreateTable {
        name: "t".into(),
        schema: schema.clone(),
        append_only: !has_keys,
        properties: BTreeMap::new(),
        first_version: TableVersion(0),
    };
    let base = Arc::clone(table.create(create).await.unwrap().snapshot());
    let sealed = rows(&schema, ty, count);
    let told = bytes_while_flushing(&sealed, has_keys);
    let next = || ids::random().next_uuid();
    let rows = if has_keys {
        let home = Arc::new(IndexHome::open(&folder.path().join("runs"), 256 << 10).unwrap());
        let delta_schema = &base.metadata().schema_string;
        let loader = StateLoader::new(&schema, delta_schema, Owners::single(), home).unwrap();
        let loader = loader.unwrap();
        let (state, _) = loader.load(&table, &base, Bucket(0), None).await.unwrap();
        FlushRows::Upsert {
            loader,
            buckets: vec![UpsertBucket {
                sealed,
                state,
                file_id: next(),
            }],
            vector_ids: (0..VECTOR_IDS).map(|_| next()).collect(),
        }
    } else {
        FlushRows::Append {
            buckets: vec![sealed],
            file_id: next(),
        }
    };
    let flush = Flush {
        topic_id: TOPIC,
        rows,
        txns: Vec::new(),
        files: FileSettings::default(),
        reason: "size",
        now_ms: 0,
    };
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let ended = flush.run(&table, &base).await.unwrap();
    let held = PEAK.load(Ordering::Relaxed) - before;
    assert!(matches!(ended.outcome, FlushOutcome::Committed(_)));
    (held, told)
}

/// One test, one after the other: they share the allocator.
#[tokio::test]
async fn a_flush_holds_no_more_than_budgets_are_told() {
    for (ty, has_keys) in [
        ("long", false),
        ("string", false),
        ("long", true),
        ("string", true),
    ] {
        for count in [1_000, 20_000, 100_000] {
            let (held, told) = flushed(ty, has_keys, count).await;
            println!("{count} of {ty}, keys: {has_keys}: {held} held, {told} told");
            assert!(
                held <= told + COLUMNS * COLUMN_BYTES + SLACK,
                "{count} of {ty}, keys: {has_keys}: {held} bytes held, {told} told"
            );
        }
    }
}
