//! Deletion vectors of many files, as sets of rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tidelake_manifest::vector::{self, Place as VectorPlace};
use tidelake_manifest::{DataFile, DeltaTable};

use super::READS_IN_FLIGHT_MAX;
use crate::TableError;
use crate::rowset::RowSet;

/// A file by its path, and where its vector lies in an object.
type Part = (Arc<str>, Arc<DataFile>, std::ops::Range<u64>);

/// Vectors of many files; those that lie in one object are read together.
pub(super) async fn read_vectors(
    table: &DeltaTable,
    wanted: Vec<(Arc<str>, Arc<DataFile>)>,
) -> Result<Vec<(Arc<str>, RowSet)>, TableError> {
    let mut found = Vec::with_capacity(wanted.len());
    let mut objects: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    for (path, file) in wanted {
        let Some(descriptor) = file.dv() else {
            continue;
        };
        match vector::locate(descriptor).map_err(|error| damaged(&file, &error))? {
            VectorPlace::Inline(data) => {
                let rows = vector::decode(&data);
                let rows = rows.and_then(|rows| vector::checked(rows, descriptor));
                found.push((path, row_set(&file, rows)?));
            }
            VectorPlace::File { name, range } => {
                objects.entry(name).or_default().push((path, file, range));
            }
        }
    }
    let mut reads = futures::stream::iter(objects)
        .map(|(name, parts)| {
            let table = table.clone();
            async move {
                let from = parts
                    .iter()
                    .map(|(_, _, range)| range.start)
                    .min()
                    .unwrap_or(0);
                let to = parts
                    .iter()
                    .map(|(_, _, range)| range.end)
                    .max()
                    .unwrap_or(0);
                let bytes = table.store().get_range(&name, from..to).await?;
                Ok::<_, TableError>((from, bytes, parts))
            }
        })
        .buffered(READS_IN_FLIGHT_MAX)
        .boxed();
    while let Some((from, bytes, parts)) = reads.try_next().await? {
        for (path, file, range) in parts {
            let own = (range.start - from) as usize..(range.end - from) as usize;
            let rows = bytes.get(own).unwrap_or_default();
            let rows = vector::decode_in_file(rows);
            let rows = match file.dv() {
                Some(descriptor) => rows.and_then(|rows| vector::checked(rows, descriptor)),
                None => rows,
            };
            found.push((path, row_set(&file, rows)?));
        }
    }
    Ok(found)
}

fn row_set(
    file: &DataFile,
    rows: Result<vector::DeletedRows, vector::VectorError>,
) -> Result<RowSet, TableError> {
    let rows = rows.map_err(|error| damaged(file, &error))?;
    RowSet::from_deleted_rows(&rows).ok_or_else(|| TableError::Damaged {
        what: file.path().to_owned(),
        reason: "its deletion vector names rows beyond 2^32".into(),
    })
}

fn damaged(file: &DataFile, error: &vector::VectorError) -> TableError {
    TableError::Damaged {
        what: file.path().to_owned(),
        reason: format!("its deletion vector can't be read: {error}"),
    }
}
