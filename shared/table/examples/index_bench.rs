//! How fast and how small the key index is: one JSON line for each measurement. Times are the CPU
//! time of the one thread that works (Linux), so that a busy machine disturbs less.
//!
//! `cargo run --release -p tidelake-table --example index_bench [keys in millions [only these keys]]`
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for the terminal"
)]

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tidelake_table::index::{
    Entries, Index, IndexHome, KeyKind, KeyRef, Keys, encode_sidecar, sorted_order,
};

const INTEGERS: KeyKind = KeyKind::Fixed { bytes: 8 };
const FILE_ROWS: usize = 125_000;

fn main() {
    let millions = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let count = millions.unwrap_or(10_usize) * 1_000_000;
    let only = std::env::args().nth(2);
    let folder = std::env::temp_dir().join(format!("tidelake-index-bench-{}", std::process::id()));
    sorting();
    sidecars(count);
    for (name, key) in [
        ("integers", integer as fn(u64, &mut Keys)),
        ("uuids", uuid),
        ("urls", url),
    ] {
        if only.as_deref().is_none_or(|only| only == name) {
            run(name, key, count, &folder);
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
}

/// The same numbers at every start.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }
}

/// A permutation of all numbers.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn integer(id: u64, keys: &mut Keys) {
    keys.push(KeyRef::Fixed(u128::from(id) | 1 << 63));
}

fn uuid(id: u64, keys: &mut Keys) {
    keys.push(KeyRef::Fixed(
        u128::from(mix(id)) << 64 | u128::from(mix(!id)),
    ));
}

fn url(id: u64, keys: &mut Keys) {
    let text = format!("https://example.com/catalog/items/{:016x}", mix(id));
    keys.push(KeyRef::Bytes(text.as_bytes()));
}

fn kind(name: &str) -> KeyKind {
    match name {
        "integers" => INTEGERS,
        "uuids" => KeyKind::Fixed { bytes: 16 },
        _ => KeyKind::Bytes,
    }
}

/// Nanoseconds that this thread has run.
fn cpu_ns() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// The result of some work and its time in milliseconds: the best average of some rounds, each long
/// enough for the clock, which may tick in milliseconds only.
fn timed<T>(mut work: impl FnMut() -> T) -> (T, f64) {
    let mut best = f64::INFINITY;
    let mut result = work();
    for _ in 0..3 {
        let (start, mut times) = (cpu_ns(), 0_u32);
        let spent = loop {
            result = work();
            times += 1;
            let spent = cpu_ns() - start;
            if spent > 5e7 {
                break spent;
            }
        };
        best = best.min(spent / f64::from(times));
    }
    (result, best / 1e6)
}

fn sorting() {
    let rows = 500_000;
    let mut random = Random(1);
    let mut wide = Keys::new(INTEGERS);
    let mut ids = Keys::new(INTEGERS);
    let mut uuids = Keys::new(KeyKind::Fixed { bytes: 16 });
    let mut urls = Keys::new(KeyKind::Bytes);
    for _ in 0..rows {
        wide.push(KeyRef::Fixed(u128::from(random.next())));
        integer(random.next() % 10_000_000, &mut ids);
        uuid(random.next() % 10_000_000, &mut uuids);
        url(random.next() % 10_000_000, &mut urls);
    }
    for (name, keys) in [
        ("random 64 bits", &wide),
        ("ids of 10 million", &ids),
        ("uuids", &uuids),
        ("urls", &urls),
    ] {
        let (_, ms) = timed(|| sorted_order(keys));
        println!("{}", json!({"sort": name, "keys": rows, "ms": round(ms)}));
    }
}

fn sidecars(count: usize) {
    let mut random = Random(2);
    for (name, key) in [
        ("integers", integer as fn(u64, &mut Keys)),
        ("uuids", uuid),
        ("urls", url),
    ] {
        let mut keys = Keys::new(kind(name));
        for _ in 0..FILE_ROWS {
            key(random.next() % count as u64, &mut keys);
        }
        sidecar(&format!("{name}, random"), &keys);
    }
    let mut keys = Keys::new(INTEGERS);
    (0..FILE_ROWS as u64).for_each(|id| integer(id, &mut keys));
    sidecar("integers, ascending", &keys);
}

fn sidecar(name: &str, keys: &Keys) {
    let entries = Entries::of_rows(keys);
    let (bytes, encode_ms) = timed(|| encode_sidecar(&entries));
    let index = Index::new(keys.kind());
    let home = IndexHome::memory();
    let (_, load_ms) = timed(|| {
        let bytes = bytes.clone();
        index.with_sidecar(&home, Arc::from("f"), bytes).unwrap()
    });
    let each = |ms: f64| round(ms * 1e6 / FILE_ROWS as f64);
    println!(
        "{}",
        json!({"sidecar": name, "keys": FILE_ROWS, "bytes_per_key": round(bytes.len() as f64 / FILE_ROWS as f64),
            "encode_ns_per_key": each(encode_ms), "load_ns_per_key": each(load_ms)})
    );
}

/// One run of all keys, merged from many files.
fn run(name: &str, key: fn(u64, &mut Keys), count: usize, folder: &Path) {
    let home = IndexHome::open(folder, 1 << 20).unwrap();
    let mut index = Index::new(kind(name));
    // Which file and row a key is in: random.
    let place = |i: u64| (i.wrapping_mul(6_700_417) + 12_345) % count as u64;
    let files = count.div_ceil(FILE_ROWS);
    for file in 0..files {
        let mut keys = Keys::new(kind(name));
        for row in 0..FILE_ROWS.min(count - file * FILE_ROWS) {
            key(place((file * FILE_ROWS + row) as u64), &mut keys);
        }
        let entries = Entries::of_rows(&keys);
        let path = Arc::from(file.to_string());
        index = index.with_entries(&home, path, &entries).unwrap();
    }
    let slot = |path: &str| path.parse().ok();
    let start = cpu_ns();
    let mut written = 0;
    let mut last = (0, 0.0);
    while index.runs().len() > 1 {
        let mut job = index.due();
        if job.is_none() {
            job = index.merge_all();
        }
        let job = job.unwrap();
        let merging = cpu_ns();
        let run = index.merge(&job, &home, &slot, &|_, _| false).unwrap();
        written += job.entries();
        last = (job.runs(), (cpu_ns() - merging) / job.entries() as f64);
        index = index.replaced(&job, run);
    }
    println!(
        "{}",
        json!({"merge": name, "files": files, "entries_written": written,
            "ns_per_entry": round((cpu_ns() - start) / written as f64),
            "last_merge_inputs": last.0, "last_merge_ns_per_entry": round(last.1)})
    );
    println!(
        "{}",
        json!({"run": name, "entries": index.entries(), "bytes_per_key": round(index.bytes() as f64 / index.entries() as f64),
            "memory_bytes_per_100m": (index.memory_bytes() as f64 / index.entries() as f64 * 1e8) as u64})
    );
    // One big run and a small one: what a flush is merged with.
    let mut keys = Keys::new(kind(name));
    for row in 0..FILE_ROWS {
        key(place((row * 31) as u64), &mut keys);
    }
    let entries = Entries::of_rows(&keys);
    let two = index
        .with_entries(&home, Arc::from("999999"), &entries)
        .unwrap();
    let job = two.merge_all().unwrap();
    let (_, ms) = timed(|| two.merge(&job, &home, &slot, &|_, _| false).unwrap());
    println!(
        "{}",
        json!({"merge_big_with_small": name, "entries": job.entries(), "ns_per_entry": round(ms * 1e6 / job.entries() as f64)})
    );
    let mut random = Random(3);
    for probes in [300_000, 30_000, 1_000, 1] {
        let mut keys = Keys::new(kind(name));
        for _ in 0..probes {
            key(random.next() % count as u64, &mut keys);
        }
        let mut order = sorted_order(&keys);
        order.dedup_by_key(|i| keys.get(*i as usize));
        let keys = keys.take(&order);
        let (hits, ms) = timed(|| {
            let mut hits = 0;
            index.probe(&keys, &slot, &mut |_, _, _| hits += 1).unwrap();
            hits
        });
        assert_eq!(hits, keys.len());
        println!(
            "{}",
            json!({"probe": name, "run": count, "probes": probes, "ms": (ms * 1e4).round() / 1e4})
        );
    }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
