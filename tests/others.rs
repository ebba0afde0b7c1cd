//! What readers that we did not write make of our tables: those of the testkit, and delta_kernel.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use delta_kernel::Snapshot;
use delta_kernel::engine::arrow_data::EngineDataArrowExt;
use delta_kernel_default_engine::DefaultEngineBuilder;
use delta_kernel_default_engine::storage::store_from_url;
use tidelake_testkit::{Reader, Readers, Reading};

/// Two columns of whole numbers that a version of a table holds, in their order.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub folder: PathBuf,
    pub version: u64,
    pub rows: Vec<(u64, u64)>,
}

/// Every reader finds these rows, no more and no fewer.
pub(crate) async fn agree(states: &[State], [first, second]: [&str; 2]) -> Result<()> {
    for state in states {
        let rows = kernel_pairs(&state.folder, state.version, [first, second])?;
        same("delta_kernel", state, &rows)?;
    }
    let Some(readers) = Readers::new()? else {
        return Ok(());
    };
    let mut pairs = Vec::new();
    for state in states {
        let mapped = is_mapped(&state.folder)?;
        let able = Reader::ALL
            .into_iter()
            .filter(|reader| !mapped || reader.reads_column_mapping());
        pairs.extend(able.map(|reader| (reader, state)));
    }
    let readings: Vec<_> = pairs
        .iter()
        .map(|&(reader, state)| Reading {
            reader,
            path: state.folder.display().to_string(),
            version: Some(state.version),
            sql: format!("SELECT {first}, {second} FROM t ORDER BY {first}"),
        })
        .collect();
    for ((reader, state), found) in pairs.into_iter().zip(readers.all(&readings).await?) {
        let number = |row: &serde_json::Value, name: &str| {
            row[name]
                .as_u64()
                .with_context(|| format!("no {name} in {row}"))
        };
        let rows: Vec<_> = found
            .iter()
            .map(|row| Ok((number(row, first)?, number(row, second)?)))
            .collect::<Result<_>>()?;
        same(reader.name(), state, &rows)?;
    }
    Ok(())
}

/// Whether columns of the table are known by other names in its files.
fn is_mapped(folder: &Path) -> Result<bool> {
    for entry in std::fs::read_dir(folder.join("_delta_log"))? {
        let path = entry?.path();
        let commit = path
            .extension()
            .is_some_and(|extension| extension == "json");
        if commit && std::fs::read_to_string(&path)?.contains("delta.columnMapping.mode") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn same(reader: &str, state: &State, rows: &[(u64, u64)]) -> Result<()> {
    let differs = rows.iter().zip(&state.rows).find(|(a, b)| a != b);
    ensure!(
        differs.is_none() && rows.len() == state.rows.len(),
        "{reader} reads {} rows of {} at version {}, expected {}; found and expected: {differs:?}",
        rows.len(),
        state.folder.display(),
        state.version,
        state.rows.len(),
    );
    Ok(())
}

/// All rows through delta_kernel.
pub(crate) fn kernel(folder: &Path, version: Option<u64>) -> Result<Vec<RecordBatch>> {
    let url = url::Url::from_directory_path(folder)
        .ok()
        .context("not a path")?;
    let engine = Arc::new(DefaultEngineBuilder::new(store_from_url(&url)?).build());
    let mut snapshot = Snapshot::builder_for(url.as_str());
    if let Some(version) = version {
        snapshot = snapshot.at_version(version);
    }
    let scan = snapshot.build(engine.as_ref())?.scan_builder().build()?;
    let mut batches = Vec::new();
    for data in scan.execute(engine)? {
        batches.push(data.try_into_record_batch()?);
    }
    Ok(batches)
}

/// Two columns of whole numbers through delta_kernel, in their order.
pub(crate) fn kernel_pairs(
    folder: &Path,
    version: u64,
    [first, second]: [&str; 2],
) -> Result<Vec<(u64, u64)>> {
    let batches = kernel(folder, Some(version))?;
    let (first, second) = (longs(&batches, first)?, longs(&batches, second)?);
    let mut rows: Vec<_> = first.into_iter().zip(second).collect();
    rows.sort_unstable();
    Ok(rows)
}

fn longs(batches: &[RecordBatch], name: &str) -> Result<Vec<u64>> {
    let mut values = Vec::new();
    for batch in batches {
        let column = batch.column_by_name(name).context("no such column")?;
        for value in column.as_primitive::<Int64Type>() {
            values.push(u64::try_from(value.context("no value")?)?);
        }
    }
    Ok(values)
}
