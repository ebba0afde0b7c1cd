//! What reading one row of a file by its number costs, in microseconds of CPU time, with all bytes
//! in memory: through parquet's own readers, and through `lookup`.
//!
//! `cargo run --release -p tidelake-table --example lookup_bench [reads [rows of a page]]`
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for the terminal"
)]

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use serde_json::json;
use tidelake_core::{Bucket, Watermark};
use tidelake_schema::TableSchema;
use tidelake_schema::arrow::to_arrow;
use tidelake_table::lookup::{FileRows, PageCache};
use tidelake_table::{Chunk, FileLayout, FileSettings, Memtable, Positions, encode};

const ROWS: u64 = 1_000_000;
const CHUNK_ROWS: u64 = 10_000;
const COLUMNS: [usize; 6] = [0, 1, 2, 3, 4, 5];
const SCHEMA: &str = r#"{"type":"struct","schema-id":0,"identifier-field-ids":[1],"fields":[
    {"id":1,"name":"id","required":true,"type":"long"},
    {"id":2,"name":"user","required":true,"type":"string"},
    {"id":3,"name":"amount","required":false,"type":"double"},
    {"id":4,"name":"ts","required":false,"type":"long"},
    {"id":5,"name":"country","required":false,"type":"string"},
    {"id":6,"name":"event","required":false,"type":"string"}]}"#;
const COUNTRIES: [&str; 12] = [
    "DE", "FR", "US", "GB", "NL", "PL", "ES", "IT", "SE", "CH", "AT", "JP",
];
const EVENTS: [&str; 5] = ["page_view", "click", "purchase", "sign_up", "search"];

fn main() {
    let reads = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let reads: usize = reads.unwrap_or(10_000);
    let page_rows = std::env::args().nth(2).and_then(|n| n.parse().ok());
    let file = file(page_rows);
    let metadata = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Required)
        .parse_and_finish(&file)
        .unwrap();
    let metadata = Arc::new(metadata);
    println!("{}", json!({"file_bytes": file.len(), "rows": ROWS}));
    let run = |name: &str, read: &mut dyn FnMut(u32) -> RecordBatch| {
        let row = |read: usize| (read as u64 * 7_919_777 % ROWS) as u32;
        for n in 0..reads / 10 {
            black_box(read(row(n)));
        }
        let before = cpu_seconds();
        for n in 0..reads {
            assert_eq!(black_box(read(row(n))).num_rows(), 1);
        }
        let micros = (cpu_seconds() - before) * 1e6 / reads as f64;
        println!(
            "{}",
            json!({"read": name, "us_per_row": (micros * 10.0).round() / 10.0})
        );
    };
    let arrow =
        ArrowReaderMetadata::try_new(Arc::clone(&metadata), ArrowReaderOptions::new()).unwrap();
    let mask = ProjectionMask::roots(metadata.file_metadata().schema_descr(), COLUMNS);
    let selection = |row: u32| {
        let row = row as usize;
        RowSelection::from_consecutive_ranges(std::iter::once(row..row + 1), ROWS as usize)
    };
    run("sync", &mut |row| {
        ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), arrow.clone())
            .with_projection(mask.clone())
            .with_row_selection(selection(row))
            .with_batch_size(1)
            .build()
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
    });
    run("stream", &mut |row| {
        let stream = ParquetRecordBatchStreamBuilder::new_with_metadata(
            InMemory(file.clone(), Arc::clone(&metadata)),
            arrow.clone(),
        );
        let mut stream = stream
            .with_projection(mask.clone())
            .with_row_selection(selection(row))
            .with_batch_size(1)
            .build()
            .unwrap();
        futures::executor::block_on(stream.try_next())
            .unwrap()
            .unwrap()
    });
    let opened = Arc::new(FileRows::open(&metadata, &COLUMNS).unwrap().unwrap());
    run("lookup", &mut |row| {
        let read = opened.plan(&[row], None).unwrap();
        let ranges = read.ranges().iter();
        let bytes = ranges.map(|range| file.slice(range.start as usize..range.end as usize));
        let bytes = bytes.collect();
        read.decode(bytes).unwrap()
    });
    let pages = PageCache::new(1 << 30).file();
    let mut known = |row| {
        let read = opened.plan(&[row], Some(&pages)).unwrap();
        let ranges = read.ranges().iter();
        let bytes = ranges.map(|range| file.slice(range.start as usize..range.end as usize));
        let bytes = bytes.collect();
        read.decode(bytes).unwrap()
    };
    run("warming up", &mut known);
    run("lookup of known pages", &mut known);
    run("plan", &mut |row| {
        black_box(opened.plan(&[row], None).unwrap());
        RecordBatch::try_from_iter([("row", Arc::new(Int64Array::from(vec![1])) as ArrayRef)])
            .unwrap()
    });
    run("open", &mut |_| {
        black_box(FileRows::open(&metadata, &COLUMNS).unwrap().unwrap());
        RecordBatch::try_from_iter([("row", Arc::new(Int64Array::from(vec![1])) as ArrayRef)])
            .unwrap()
    });
}

/// Of this thread.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace()
        .next()
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1e9
}

struct InMemory(Bytes, Arc<ParquetMetaData>);

impl AsyncFileReader for InMemory {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        let bytes = self.0.slice(range.start as usize..range.end as usize);
        async move { Ok(bytes) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        let metadata = Arc::clone(&self.1);
        async move { Ok(metadata) }.boxed()
    }
}

/// The records of the bench program, as a file of an upsert table.
fn file(page_rows: Option<usize>) -> Bytes {
    let schema = TableSchema::from_iceberg_json(SCHEMA).unwrap();
    let mut table = Memtable::new(Bucket(0), Watermark(0));
    for from in (0..ROWS).step_by(CHUNK_ROWS as usize) {
        let ids = || from..from + CHUNK_ROWS;
        let mixes =
            || ids().map(|id| (id ^ 0x5_DEEC_E66D).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 17);
        let columns: [ArrayRef; 6] = [
            Arc::new(Int64Array::from_iter_values(ids().map(|id| id as i64))),
            Arc::new(StringArray::from_iter_values(
                mixes().map(|mix| format!("u{:06}", mix % 500_000)),
            )),
            Arc::new(Float64Array::from_iter_values(
                mixes().map(|mix| (mix % 50_000) as f64 / 100.0),
            )),
            Arc::new(Int64Array::from_iter_values(
                ids().map(|id| 1_790_000_000_000 + id as i64 / 3),
            )),
            Arc::new(StringArray::from_iter_values(
                mixes().map(|mix| COUNTRIES[(mix >> 9) as usize % COUNTRIES.len()]),
            )),
            Arc::new(StringArray::from_iter_values(
                mixes().map(|mix| EVENTS[(mix >> 5) as usize % EVENTS.len()]),
            )),
        ];
        let batch = RecordBatch::try_new(to_arrow(&schema), columns.to_vec()).unwrap();
        let positions = Positions {
            offsets: ids().map(|id| id as i64).collect(),
            rows: vec![0; batch.num_rows()],
            timestamps_ms: ids().map(|id| 1_790_000_000_000 + id as i64).collect(),
        };
        table.push(Chunk::new(batch, positions));
    }
    let mut settings = FileSettings::default().for_lookups();
    settings.page_rows_max = page_rows.unwrap_or(settings.page_rows_max);
    encode(&FileLayout::plain(&schema), &[table.seal()], settings)
        .unwrap()
        .unwrap()
        .bytes
}
