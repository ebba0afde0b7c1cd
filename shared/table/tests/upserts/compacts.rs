//! Our own compaction: files of an older version are written anew while others went on.

use tidelake_core::ids;
use tidelake_table::{Rewrite, RewriteOutcome, TAG_FULL, TableError};

use super::*;

/// Which files, as of when, and into how large ones.
#[derive(Debug, Clone)]
pub(super) struct Compaction {
    pub(super) bucket: u32,
    /// Versions that others have committed since it began.
    pub(super) behind: u64,
    /// One bit for each file.
    pub(super) files: u8,
    pub(super) output_rows_max: u64,
}

pub(super) fn compaction() -> impl Strategy<Value = Compaction> {
    let parts = (
        0..2u32,
        0..4u64,
        any::<u8>(),
        prop_oneof![1..4u64, Just(1000)],
    );
    parts.prop_map(|(bucket, behind, files, output_rows_max)| Compaction {
        bucket,
        behind,
        files,
        output_rows_max,
    })
}

impl World {
    pub(super) async fn compact(&mut self, how: &Compaction) {
        let newest = self.latest().await;
        let version = newest.version().0.saturating_sub(how.behind);
        let base = self.table.snapshot_at(TableVersion(version)).await.unwrap();
        let own = Some(vec![Bucket(how.bucket)]);
        let mut files: Vec<_> = base.files().filter(|file| file.buckets() == own).collect();
        files.sort_by_key(|file| file.path().to_owned());
        let chosen = files.into_iter().enumerate();
        let chosen = chosen.filter(|(place, _)| how.files >> (place % 8) & 1 == 1);
        let inputs: Vec<Arc<DataFile>> = chosen.map(|(_, file)| Arc::clone(file)).collect();
        if inputs.is_empty() {
            return;
        }
        let rewrite = Rewrite {
            inputs: inputs.clone(),
            files: FileSettings::default(),
            output_rows_max: how.output_rows_max,
            output_bytes_max: u64::MAX,
            level: 1,
            reason: "test".into(),
            ids: ids::random(),
            now_ms: 1,
        };
        let dropped = match rewrite.run(&self.table, &base).await {
            Ok(RewriteOutcome::Committed(done)) => {
                assert_eq!(done.snapshot.version(), newest.version().next());
                self.check_compacted(how, &inputs, &newest, &done.snapshot);
                return;
            }
            Ok(RewriteOutcome::Dropped(conflict)) => conflict,
            Err(TableError::OtherSchema { .. }) => {
                assert!(self.altered > 0, "no column was changed");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        match dropped {
            Conflict::FileRemoved { path } => assert!(newest.file(&path).is_none(), "{path}"),
            // A vector that another one took the place of, of an older version.
            Conflict::VectorChanged { .. } => assert!(self.revived > version),
            Conflict::SchemaChanged | Conflict::PropertiesChanged | Conflict::ProtocolChanged => {
                assert!(self.altered > version, "nothing had changed");
            }
            other => panic!("unexpected conflict: {other}"),
        }
    }

    /// Rows as before, in files of which each has its sidecar, and no object beside.
    fn check_compacted(
        &self,
        how: &Compaction,
        inputs: &[Arc<DataFile>],
        before: &Snapshot,
        after: &Snapshot,
    ) {
        assert!(
            inputs
                .iter()
                .all(|input| after.file(input.path()).is_none())
        );
        let (mut rows, mut left) = (0, 0);
        for input in inputs {
            rows += before.file(input.path()).unwrap().live_rows().unwrap();
        }
        let came = after
            .files()
            .filter(|file| before.file(file.path()).is_none());
        for file in came {
            assert!(!file.add.data_change && file.tag(TAG_INDEX).is_some());
            let is_full = file.num_records() >= Some(how.output_rows_max);
            assert_eq!(file.tag(TAG_FULL).is_some(), is_full);
            left += file.live_rows().unwrap();
        }
        assert_eq!(left, rows);
    }
}
