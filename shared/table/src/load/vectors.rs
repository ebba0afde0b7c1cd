//! Deletion vectors of many files, as sets of rows.

use std::sync::Arc;

use tidelake_manifest::{DataFile, DeltaTable};

use crate::TableError;
use crate::rowset::RowSet;

/// Vectors of many files; those that lie close together in one object are read together.
pub(crate) async fn read_vectors(
    table: &DeltaTable,
    wanted: Vec<(Arc<str>, Arc<DataFile>)>,
) -> Result<Vec<(Arc<str>, RowSet)>, TableError> {
    let (paths, files): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .filter(|(_, file)| file.dv().is_some())
        .unzip();
    let rows = table.deleted_rows_of(&files).await?;
    let sets = files.iter().zip(rows).map(|(file, rows)| {
        RowSet::from_deleted_rows(&rows).ok_or_else(|| TableError::Damaged {
            what: file.path().to_owned(),
            reason: "its deletion vector names rows beyond 2^32".into(),
        })
    });
    paths
        .into_iter()
        .zip(sets)
        .map(|(path, set)| Ok((path, set?)))
        .collect()
}
