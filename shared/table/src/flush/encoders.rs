//! The memory of files that are being encoded, apart from their rows.
//!
//! A writer of a file holds a compressor, a dictionary and pages for each column, some megabytes
//! even where there is one row. Where hundreds of tables and buckets are due at once, this is what
//! takes the memory; so whoever flushes them gives all flushes the same [`Encoders`]. Invariant:
//! files that are encoded at once take the bound at most, or one file is encoded alone.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::FileLayout;

/// What the writer of a file holds for each column at most, beside what it has written.
pub const COLUMN_BYTES: usize = 3 << 19;
/// The unit in which memory is handed out.
const UNIT: usize = 1 << 16;

/// The memory that files may take while they are encoded. A clone is the same.
#[derive(Debug, Clone)]
pub struct Encoders {
    memory: Arc<Semaphore>,
    units: u32,
}

/// Without a bound: for one flush that is alone.
impl Default for Encoders {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Encoders {
    pub fn new(bytes_max: usize) -> Self {
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let units = (bytes_max / UNIT).clamp(1, most);
        Self {
            memory: Arc::new(Semaphore::new(units)),
            units: u32::try_from(units).unwrap_or(u32::MAX),
        }
    }

    /// Waits until one more file may be encoded. Whoever holds a permit must not wait for another.
    pub(super) async fn permit(&self, layout: &FileLayout) -> Option<OwnedSemaphorePermit> {
        let columns = layout.file_schema().flattened_fields().len();
        let units = columns.saturating_mul(COLUMN_BYTES).div_ceil(UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(self.units);
        // The semaphore is never closed.
        Arc::clone(&self.memory)
            .acquire_many_owned(units)
            .await
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tidelake_schema::TableSchema;

    use super::*;

    #[test]
    fn files_are_encoded_within_the_bound_or_alone() {
        let text = r#"{"type":"struct","schema-id":0,"fields":[
            {"id":1,"name":"v","required":false,"type":"long"}]}"#;
        let layout = FileLayout::plain(&TableSchema::from_iceberg_json(text).unwrap());
        // The hidden columns count, too.
        let file = COLUMN_BYTES * layout.file_schema().fields().len();
        for (bytes_max, at_once) in [(file * 3, 3), (file, 1), (1, 1)] {
            let encoders = Encoders::new(bytes_max);
            let mut held = Vec::new();
            while let Some(permit) = encoders.permit(&layout).now_or_never() {
                held.push(permit.unwrap());
            }
            assert_eq!(held.len(), at_once, "{bytes_max}");
            held.pop();
            assert!(encoders.permit(&layout).now_or_never().is_some());
        }
        let unbounded = Encoders::default();
        let many = (0..1_000).map(|_| unbounded.permit(&layout).now_or_never());
        assert!(many.collect::<Vec<_>>().iter().all(Option::is_some));
    }
}
