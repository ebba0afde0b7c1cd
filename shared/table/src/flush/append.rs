//! A flush of an append table: one data file for the rows of all buckets.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelake_manifest::{CommitOutcome, MarkMove, Snapshot};
use uuid::Uuid;

use super::{Desk, FlushEnded, FlushOutcome, FlushReport, Flushed, refused, tags_of};
use crate::aside::aside;
use crate::{FileLayout, Sealed, TableError, encode};

/// Commits the buckets' rows.
pub(super) async fn run(
    desk: &Desk<'_>,
    base: &Arc<Snapshot>,
    buckets: Vec<Sealed>,
    file_id: Uuid,
) -> Result<FlushEnded, TableError> {
    let outcome = commit(desk, base, buckets, file_id).await?;
    Ok(FlushEnded {
        outcome,
        states: BTreeMap::new(),
    })
}

async fn commit(
    desk: &Desk<'_>,
    base: &Arc<Snapshot>,
    buckets: Vec<Sealed>,
    file_id: Uuid,
) -> Result<FlushOutcome, TableError> {
    let marks: Vec<MarkMove> = buckets.iter().map(|sealed| desk.mark(sealed)).collect();
    let tags = tags_of(&buckets);
    let layout = FileLayout::new(base.schema(), base.metadata())?;
    let files = desk.files;
    let permit = desk.encoders.permit(&layout).await;
    let encoded = aside(move || encode(&layout, &buckets, files)).await;
    drop(permit);
    let file = match encoded {
        Ok(file) => file,
        Err(error) => return refused(error).map(FlushOutcome::Conflicted),
    };
    let mut report = FlushReport::default();
    let mut adds = Vec::new();
    if let Some(file) = file {
        report = FlushReport {
            rows: file.rows,
            files: 1,
            bytes: file.bytes.len() as u64,
            ..FlushReport::default()
        };
        let name = format!("{}.parquet", file_id.simple());
        adds.push(desk.upload(&name, file, tags).await?);
    }
    let transaction = desk.transaction(adds, marks, &report);
    Ok(
        match desk.uploads.commit(desk.table, base, transaction).await? {
            CommitOutcome::Committed { version, snapshot } => FlushOutcome::Committed(Flushed {
                version,
                snapshot,
                report,
            }),
            CommitOutcome::Conflicted(conflict) => FlushOutcome::Conflicted(conflict),
        },
    )
}
