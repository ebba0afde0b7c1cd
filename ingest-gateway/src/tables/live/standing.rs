//! Why a table that was found can't be used: its topic, its log, or its place in the catalog is not
//! what it was.

use std::sync::Arc;
use std::time::Duration;

use tidelake_catalog::{TableEntry, TopicChanged, TopicFault};
use tidelake_log::LogError;
use tidelake_manifest::ManifestError;

use super::{LiveTable, Tables};
use crate::moment;
use crate::problem::{self, Answer, Fate};
use crate::produce::{ProduceError, Written};

/// A write that takes longer has the topic looked at meanwhile.
const ACKNOWLEDGED_SOON: Duration = Duration::from_secs(1);

impl Tables {
    /// Refuses a table whose topic is not the one that it is filled from: what is written to it
    /// would not be in the table.
    pub(crate) async fn check_topic(&self, table: &Arc<LiveTable>) -> Result<(), Answer> {
        match table.check_topic(&self.log).await {
            Ok(()) => Ok(()),
            Err(changed) => Err(self.topic_changed(table, &changed, Fate::NotWritten).await),
        }
    }

    /// Awaits that the log has what is written, for as long as the topic is the table's: of one that
    /// is gone nobody says anything until the client of the log gives up, half a minute later.
    pub(crate) async fn acknowledged(
        &self,
        table: &Arc<LiveTable>,
        writing: impl Future<Output = Result<Written, ProduceError>>,
    ) -> Result<Written, Answer> {
        let written = tokio::select! {
            biased;
            written = writing => written,
            answer = self.topic_gone(table) => return Err(answer),
        };
        match written {
            Ok(written) => {
                self.check_written(table, &written).await?;
                Ok(written)
            }
            Err(error) => Err(self.not_produced(table, &error).await),
        }
    }

    /// Resolves once the topic is seen to be gone, or another one.
    async fn topic_gone(&self, table: &Arc<LiveTable>) -> Answer {
        loop {
            moment::pass(ACKNOWLEDGED_SOON).await;
            table.doubt_topic();
            if let Err(changed) = table.check_topic(&self.log).await
                && let TopicFault::Missing | TopicFault::Replaced = changed.fault
            {
                return self.topic_changed(table, &changed, Fate::Unknown).await;
            }
        }
    }

    /// Refuses records that the log acknowledged, and that the table will not have.
    async fn check_written(&self, table: &Arc<LiveTable>, written: &Written) -> Result<(), Answer> {
        if written.behind.is_empty() {
            return Ok(());
        }
        let log = self.log.as_ref();
        match table.judge_behind(log, &written.behind).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(changed)) => Err(self.topic_changed(table, &changed, Fate::Written).await),
            Err(error) => {
                table.doubt_topic();
                Err(problem::of_produce(
                    &table.entry.id,
                    &ProduceError::Unknown(error),
                ))
            }
        }
    }

    async fn topic_changed(&self, table: &LiveTable, changed: &TopicChanged, fate: Fate) -> Answer {
        let entry = &table.entry;
        match self.superseded(entry).await {
            // A topic that was adopted meanwhile may hold them, and then the table does.
            Ok(Some(_)) if fate != Fate::NotWritten => {
                let moved = ProduceError::Unknown(LogError::NoTopic(entry.topic.clone()));
                problem::of_produce(&entry.id, &moved)
            }
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => problem::of_topic(changed, fate),
        }
    }

    /// What is told of a table that the catalog, as of now, has no more, or has with another topic.
    async fn superseded(&self, entry: &TableEntry) -> Result<Option<Answer>, Answer> {
        let now = self.catalog.find_fresh(&entry.id).await?;
        Ok(match now {
            None => Some(problem::no_table(entry.id.table.as_str()).into()),
            Some(now) if now.topic_id != entry.topic_id => {
                Some(problem::table_replaced(&entry.id).into())
            }
            Some(_) => None,
        })
    }

    /// Why records are not known to be in the log, as clients are told. A log that does not know
    /// the topic of a table that the catalog has may not know it for a moment only.
    async fn not_produced(&self, table: &Arc<LiveTable>, error: &ProduceError) -> Answer {
        table.doubt_topic();
        let entry = &table.entry;
        if let ProduceError::Nothing(LogError::NoTopic(_))
        | ProduceError::Unknown(LogError::NoTopic(_)) = error
            && let Ok(Some(answer)) = self.superseded(entry).await
        {
            return answer;
        }
        let fate = match error {
            ProduceError::Nothing(_) | ProduceError::Spool(_) => Fate::NotWritten,
            _ => Fate::Unknown,
        };
        if let Err(changed) = table.check_topic(&self.log).await {
            return self.topic_changed(table, &changed, fate).await;
        }
        problem::of_produce(&entry.id, error)
    }

    /// Why the table's log can't be read, as clients are told. What the catalog has is no missing
    /// table, whatever became of its log.
    pub(crate) async fn unreadable(&self, table: &LiveTable, error: &ManifestError) -> Answer {
        if let ManifestError::NoTable { .. } = error {
            match self.superseded(&table.entry).await {
                Err(answer) | Ok(Some(answer)) => return answer,
                Ok(None) => {}
            }
        }
        problem::unreadable(&table.entry.id, error)
    }
}
