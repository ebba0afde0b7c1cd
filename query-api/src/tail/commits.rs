//! Commit events: which tables have a newer version. Hints that save requests; nothing rests on them.

use std::sync::Arc;

use serde::Deserialize;
use tidelake_core::{TableId, TableName, TableVersion, TenantId};
use tidelake_intake::Seen;
use tidelake_log::LogError;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::log::visit;

/// The parts of an event that matter here.
#[derive(Debug, Deserialize)]
struct Event {
    tenant: TenantId,
    table: TableName,
    version: TableVersion,
}

/// Follows the events until it is told to end.
pub(super) async fn run(shared: Arc<Shared>, until: CancellationToken) {
    tokio::select! {
        biased;
        () = until.cancelled() => {}
        ended = follow(&shared) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "commit events can't be followed: snapshots are read by time");
            }
        }
    }
}

async fn follow(shared: &Shared) -> Result<(), LogError> {
    let mut feed = shared.source.commits()?;
    loop {
        let news = feed.next().await?;
        visit(&news.messages, |_, message| {
            if let Some((id, version)) = read(message) {
                shared.announced(&id, version);
            }
        });
    }
}

fn read(message: &Seen<'_>) -> Option<(TableId, TableVersion)> {
    let event: Event = serde_json::from_slice(message.value?).ok()?;
    Some((TableId::new(event.tenant, event.table), event.version))
}
