//! Events by which tables go, and come back.

use std::sync::Arc;

use tidelake_core::TableId;
use tidelake_core::clock::UnixMillis;

use super::{Catalog, CatalogError, Decision, DropTable};
use crate::cache::Dropped;
use crate::entry::{Event, LastVersions, TableEntry};

impl Catalog {
    /// Takes the table out of the catalog and makes the caller its purger, who removes what it left
    /// behind at once.
    pub async fn drop_table(&self, id: &TableId) -> Result<DropTable, CatalogError> {
        self.drop_table_keeping(id, None).await
    }

    /// [`Self::drop_table`], after which the table can be restored until `kept_until_ms`: the purger
    /// ends its logs only.
    pub async fn drop_table_keeping(
        &self,
        id: &TableId,
        kept_until_ms: Option<UnixMillis>,
    ) -> Result<DropTable, CatalogError> {
        let purger = self.inner.ids.next_uuid().to_string();
        self.append(|state, claimed_ms| match state.table(id) {
            // It goes with its table only.
            Some(entry) if entry.is_dead_letters() => Decision::Answer(DropTable::NotFound),
            Some(entry) => Decision::Append(
                Event::DropTable {
                    table: id.clone(),
                    purger: purger.clone(),
                    kept_until_ms,
                },
                DropTable::Dropped(Dropped {
                    entry: Arc::clone(entry),
                    purger: purger.clone(),
                    claimed_ms,
                    kept_until_ms,
                    last: None,
                }),
            ),
            None => Decision::Answer(DropTable::NotFound),
        })
        .await
    }

    /// Notes where the dropped table's logs ended. `None`: `held` was no longer the purger.
    pub async fn end_logs(
        &self,
        held: &Dropped,
        last: LastVersions,
    ) -> Result<Option<Dropped>, CatalogError> {
        let id = &held.entry.id;
        self.append(|state, _| match state.dropped(id) {
            Some(now) if now == held => Decision::Append(
                Event::EndLogs {
                    table: id.clone(),
                    last,
                },
                Some(Dropped {
                    last: Some(last),
                    ..held.clone()
                }),
            ),
            _ => Decision::Answer(None),
        })
        .await
    }

    /// Takes the purge over from whom `held` names (which may be the caller: that renews the
    /// claim), for good: the table can't be restored any more. `None`: someone else was faster.
    pub async fn claim_purge(&self, held: &Dropped) -> Result<Option<Dropped>, CatalogError> {
        self.claim(held, false).await
    }

    /// [`Self::claim_purge`] by one who does not remove the table: it is kept as before.
    pub async fn claim_kept(&self, held: &Dropped) -> Result<Option<Dropped>, CatalogError> {
        self.claim(held, true).await
    }

    async fn claim(&self, held: &Dropped, keeps: bool) -> Result<Option<Dropped>, CatalogError> {
        let purger = self.inner.ids.next_uuid().to_string();
        let id = &held.entry.id;
        self.append(|state, claimed_ms| match state.dropped(id) {
            Some(now) if now == held => Decision::Append(
                Event::ClaimPurge {
                    table: id.clone(),
                    purger: purger.clone(),
                    keeps,
                },
                Some(Dropped {
                    purger: purger.clone(),
                    claimed_ms,
                    kept_until_ms: held.kept_until_ms.filter(|_| keeps),
                    ..held.clone()
                }),
            ),
            _ => Decision::Answer(None),
        })
        .await
    }

    /// Brings back a dropped table that is kept, whose log goes on already. `None`: `held` is no
    /// longer what the catalog has.
    pub async fn restore_table(
        &self,
        held: &Dropped,
    ) -> Result<Option<Arc<TableEntry>>, CatalogError> {
        let id = &held.entry.id;
        self.append(|state, _| match state.dropped(id) {
            Some(now) if now == held && held.kept_until_ms.is_some() => Decision::Append(
                Event::RestoreTable { table: id.clone() },
                Some(Arc::new(held.entry.restored())),
            ),
            _ => Decision::Answer(None),
        })
        .await
    }

    /// Says that nothing is left of the dropped table. False: `held` was no longer the purger.
    pub async fn purged(&self, held: &Dropped) -> Result<bool, CatalogError> {
        let id = &held.entry.id;
        self.append(|state, _| match state.dropped(id) {
            Some(now) if now == held => Decision::Append(Event::Purged { table: id.clone() }, true),
            _ => Decision::Answer(false),
        })
        .await
    }
}
