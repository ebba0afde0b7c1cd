//! How many rows a scan decodes at a time: by what they take, not by their number alone.
//!
//! Rows of fixed width are as large as their types say. Texts, binaries and lists may have any size,
//! which only footers tell; these are read anyway once rows are. Of many files those are looked at
//! whose rows are largest by the log's word, compressed.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use futures::{StreamExt, TryStreamExt};

use crate::error::QueryError;
use crate::table::facts::FileFacts;
use crate::table::readers::Readers;
use crate::table::shape::Shape;

/// What a batch may take, unless one row takes more.
const BATCH_BYTES_MAX: u64 = 4 << 20;
/// Files whose footers are looked at, and how many at a time.
const FILES_MAX: usize = 32;
const FOOTERS_IN_FLIGHT_MAX: usize = 8;

/// Rows of a batch of these columns (by place), `most` or fewer.
pub(super) async fn rows(
    readers: &Readers,
    shape: &Shape,
    files: &[Arc<FileFacts>],
    columns: &BTreeSet<usize>,
    most: usize,
) -> Result<usize, QueryError> {
    if let Some(rows) = fixed(shape, columns, most) {
        return Ok(rows);
    }
    let fields = shape.scan.fields();
    let read = columns.iter().filter_map(|place| fields.get(*place));
    let names: HashSet<&str> = read.map(|field| field.name().as_str()).collect();
    let compressed = |file: &FileFacts| file.size() / file.records().unwrap_or(1).max(1);
    let mut files: Vec<&Arc<FileFacts>> = files.iter().collect();
    if files.len() > FILES_MAX {
        let place = FILES_MAX - 1;
        files.select_nth_unstable_by_key(place, |file| Reverse(compressed(file)));
        files.truncate(FILES_MAX);
    }
    // Futures before the stream: a closure over borrowed ones makes one that can't be sent.
    let mut looking = Vec::with_capacity(files.len());
    for file in files {
        let names = &names;
        looking.push(async move { file.row_bytes(readers, |name| names.contains(name)).await });
    }
    let looking = futures::stream::iter(looking).buffer_unordered(FOOTERS_IN_FLIGHT_MAX);
    let largest = looking.try_fold(0, |most, bytes| async move { Ok(bytes.max(most)) });
    Ok(fitting(largest.await?, most))
}

/// The same without files, where the columns' types say it.
pub(super) fn fixed(shape: &Shape, columns: &BTreeSet<usize>, most: usize) -> Option<usize> {
    let fields = shape.scan.fields();
    let read = columns.iter().filter_map(|place| fields.get(*place));
    // A boolean takes less than that.
    let widths = read.map(|field| match field.data_type() {
        DataType::Boolean => Some(1),
        other => other.primitive_width(),
    });
    let row_bytes = widths.sum::<Option<usize>>()?;
    Some(fitting(row_bytes as u64, most))
}

fn fitting(row_bytes: u64, most: usize) -> usize {
    let rows = BATCH_BYTES_MAX / row_bytes.max(1);
    usize::try_from(rows)
        .unwrap_or(usize::MAX)
        .clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::settings::QuerySettings;
    use crate::testing::World;

    const SCHEMA: &str = r#"{"type": "struct", "fields": [
        {"name": "id", "type": "long", "required": true},
        {"name": "doc", "type": "string", "required": false}]}"#;

    #[tokio::test]
    async fn large_rows_come_a_few_at_a_time_and_small_ones_as_before() {
        let world = World::new(QuerySettings::default()).await;
        let mut table = world.table("t", SCHEMA, 1).await;
        let doc = "lorem ipsum ".repeat(50_000);
        let rows: Vec<_> = (0..32).map(|id| json!({"id": id, "doc": doc})).collect();
        table.push(0, &rows);
        table.flush(0, 32).await;
        let batches = async |sql: &str| {
            let sql = format!("EXPLAIN ANALYZE {sql}");
            let plan = world
                .rows_of(json!({"sql": sql, "consistency": "committed"}))
                .await;
            let plan = plan.to_string();
            let scan = plan.split("DataSourceExec").nth(1).unwrap().to_owned();
            let count = scan.split("output_batches=").nth(1).unwrap();
            let digits: String = count.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<usize>().unwrap()
        };
        // 600 KB each: 6 in 4 MiB. A row group has 16 rows.
        let large = batches("SELECT max(length(doc)) FROM t").await;
        assert_eq!(large, 6);
        let small = batches("SELECT sum(id) FROM t WHERE id > 0").await;
        assert_eq!(small, 2);
    }
}
