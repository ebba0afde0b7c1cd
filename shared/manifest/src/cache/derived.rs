//! What readers work out from a version: it lives and goes with it.

use std::any::Any;
use std::sync::Arc;

use super::{CachedTable, Snapshot};

/// Worked out from a snapshot, and as long-lived. One type for each cache: the last one kept wins.
pub trait Derived: Any + Send + Sync {
    /// What it was worked out from. It holds it once.
    fn snapshot(&self) -> &Arc<Snapshot>;

    /// About how much memory it takes, beside the snapshot.
    fn held_bytes(&self) -> u64;
}

impl CachedTable {
    /// What `make` works out from a version of this table; once for each version as long as that is
    /// held. `make` is given what was worked out from the version before, where that is known.
    pub async fn derive<T: Derived, E>(
        &self,
        from: &Arc<Snapshot>,
        make: impl FnOnce(Option<&T>) -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        if let Some((made, true)) = self.slot.derived(from) {
            return Ok(made);
        }
        let _turn = self.slot.deriving.lock().await;
        let before = match self.slot.derived::<T>(from) {
            Some((made, true)) => return Ok(made),
            Some((before, false)) => Some(before),
            None => None,
        };
        let made = Arc::new(make(before.as_deref())?);
        drop(before);
        self.shared.attach(&self.slot, &made);
        Ok(made)
    }
}
