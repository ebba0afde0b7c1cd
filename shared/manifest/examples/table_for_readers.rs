//! Writes a small table into a folder, for trying other Delta readers on what the log says.
//!
//! ```text
//! cargo run -p tidelake-manifest --example table_for_readers -- FOLDER [append|upsert]
//! ```
//!
//! Twelve flushes of ten rows (ids 0 to 119); in an upsert table each flush after the first deletes
//! one row of the file before it. A checkpoint stands at version 8, and the commits before it are
//! gone, so a reader must use it.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use parquet::arrow::ArrowWriter;
use tidelake_core::{Bucket, TableVersion, TopicId, Watermark, clock, ids};
use tidelake_manifest::vector::VectorFile;
use tidelake_manifest::{
    Add, CommitOutcome, CreateTable, DeltaTable, MarkMove, Snapshot, StatsCollector, Transaction,
};
use tidelake_schema::TableSchema;
use tidelake_schema::arrow::storage_schema;
use tidelake_storage::{Store, StoreOptions};

type Outcome<T> = Result<T, Box<dyn Error>>;

const SCHEMA: &str = r#"{"type": "struct", "fields": [
    {"id": 1, "name": "id", "type": "long", "required": true},
    {"id": 2, "name": "name", "type": "string", "required": false},
    {"id": 3, "name": "at", "type": "timestamptz", "required": false}]}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("name a folder")?;
    let append_only = arguments.next().as_deref() != Some("upsert");
    let store = Store::open(&format!("file://{folder}"), &StoreOptions::default())?;
    let table = DeltaTable::new(store, clock::system(), ids::random());
    let schema = TableSchema::from_iceberg_json(SCHEMA)?;
    let spec = CreateTable {
        name: "orders".into(),
        schema: schema.clone(),
        append_only,
        properties: BTreeMap::new(),
        first_version: TableVersion(0),
    };
    let mut snapshot = Arc::clone(table.create(spec).await?.snapshot());
    for flush in 0..12 {
        let tx = flush_of(&table, &schema, &snapshot, flush, append_only).await?;
        snapshot = match table.commit(&snapshot, tx).await? {
            CommitOutcome::Committed { snapshot, .. } => snapshot,
            CommitOutcome::Conflicted(conflict) => return Err(conflict.into()),
        };
        if snapshot.version() == TableVersion(8) {
            table.write_checkpoint(&snapshot).await?;
        }
    }
    for version in 0..8 {
        table
            .store()
            .delete(&format!("_delta_log/{version:020}.json"))
            .await?;
    }
    Ok(())
}

async fn flush_of(
    table: &DeltaTable,
    schema: &TableSchema,
    snapshot: &Snapshot,
    flush: i64,
    append_only: bool,
) -> Outcome<Transaction> {
    let name = format!("data {flush}.parquet");
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(flush * 10..flush * 10 + 10));
    let names: ArrayRef = Arc::new(StringArray::from_iter((0..10).map(|i| {
        (i % 3 > 0).then(|| format!("row {i} of a flush whose number is {flush}, with a long text"))
    })));
    let times = TimestampMicrosecondArray::from_iter_values(
        (0..10).map(|i| (clock::system().now_ms() + i) * 1000 + 7),
    );
    let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
    let batch = RecordBatch::try_new(storage_schema(schema), vec![ids, names, times])?;
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None)?;
    writer.write(&batch)?;
    let bytes = writer.into_inner()?;
    let mut stats = StatsCollector::new(32);
    stats.update(&batch);
    let now_ms = clock::system().now_ms();
    let add = Add {
        path: tidelake_manifest::action::encode_path(&name),
        size: bytes.len() as i64,
        modification_time: now_ms,
        data_change: true,
        stats: Some(stats.finish().to_json()),
        tags: Some([("tidelake.level".to_owned(), Some("0".to_owned()))].into()),
        ..Add::default()
    };
    table.store().put(&name, bytes.into()).await?;
    let mark = MarkMove {
        topic_id: TopicId(*b"0123456789abcdef"),
        bucket: Bucket(0),
        from: Watermark(flush * 10),
        to: Watermark(flush * 10 + 10),
    };
    let mut tx = Transaction::flush(vec![add], vec![mark]);
    if !append_only && let Some(before) = snapshot.file(&format!("data {}.parquet", flush - 1)) {
        let rows = [u64::try_from(flush)? % 10].into_iter().collect();
        let mut file = VectorFile::new(ids::random().next_uuid());
        // Both forms: in a file of its own, and in the log.
        let vector = if flush % 2 == 0 {
            file.push(&rows)
        } else {
            file.place(&rows)?
        };
        for (name, bytes) in file.finish() {
            table.store().put(&name, bytes.into()).await?;
        }
        tx.removes.push(before.add.to_remove(now_ms, true));
        let stats = before.widened_stats().ok_or("no statistics")?;
        tx.adds.push(Add {
            deletion_vector: Some(vector),
            stats: Some(stats),
            ..before.add.clone()
        });
    }
    Ok(tx)
}
