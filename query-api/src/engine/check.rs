//! Proving a table: what is stored, and the log behind it.

use std::sync::Arc;
use std::time::Duration;

use tidelake_core::TableId;
use tidelake_table::StateLoader;
use tidelake_table::check::{self, Report};

use super::Engine;
use crate::error::QueryError;
use crate::moment;
use crate::tail::look;

impl Engine {
    /// Checks the newest version of a table against its files, and its watermarks against the log.
    /// `repair` writes index sidecars anew that are lost or wrong. Takes a turn and a query's longest
    /// time-out.
    ///
    /// # Errors
    /// Where the table, the store or the log can't be read at all; what is wrong is in the report.
    pub async fn check(&self, id: &TableId, repair: bool) -> Result<Report, QueryError> {
        let (engine, id) = (self.clone(), id.clone());
        let timeout_ms = self.inner.settings.timeout_ms_max;
        let deadline = moment::now() + Duration::from_millis(timeout_ms);
        let checked = self.aside(async move { engine.check_here(&id, repair).await });
        let checked = moment::by(deadline, checked).await;
        checked.unwrap_or(Err(QueryError::Timeout(timeout_ms)))
    }

    async fn check_here(&self, id: &TableId, repair: bool) -> Result<Report, QueryError> {
        let entry = self.entry(id).await?;
        let pins = &self.inner.pins;
        let pinned = pins.newest(&entry, Duration::ZERO).await?;
        let snapshot = &pinned.snapshot;
        let home = Arc::clone(self.inner.tails.index_home());
        let names = &snapshot.metadata().schema_string;
        let loader = match &pinned.keys {
            Some(keys) => StateLoader::new(&pinned.shape.table, names, keys.owners(), home)?,
            None => None,
        };
        let table = pins.table(&entry);
        let checked = check::check(&table, snapshot, &entry.topic_id, loader.as_ref(), repair);
        let mut report = checked.await?;
        let source = self.inner.tails.source();
        let ends = match look(source, &entry).await {
            Ok(ends) => ends,
            Err(QueryError::TopicChanged { found, .. }) => {
                report.add("the_topic_is_the_tables", entry.topic.clone(), found);
                return Ok(report);
            }
            Err(error) => return Err(error),
        };
        for (bucket, end) in ends {
            let (mark, start) = (pinned.watermark(bucket), source.start(&entry.topic, bucket));
            let start = start.await?;
            if mark.0 > end.0 {
                let detail = format!("watermark {mark}, the log ends at {end}");
                let check = "watermarks_lie_within_the_log";
                report.add(check, format!("bucket {bucket}"), detail);
            }
            if start.0 > mark.0 {
                let detail = format!("watermark {mark}, the log begins at {start}");
                let check = "the_log_reaches_back_to_the_watermark";
                report.add(check, format!("bucket {bucket}"), detail);
            }
        }
        Ok(report)
    }
}
