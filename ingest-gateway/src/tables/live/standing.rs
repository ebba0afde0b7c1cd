//! Why a table that was found can't be used: its topic, its log, or its place in the catalog is not
//! what it was.

use std::sync::Arc;

use tidelake_catalog::{TableEntry, TopicChanged};
use tidelake_log::LogError;
use tidelake_manifest::ManifestError;

use super::{LiveTable, Tables};
use crate::problem::{self, Answer};
use crate::produce::{ProduceError, Written};

impl Tables {
    /// Refuses a table whose topic is not the one that it is filled from: what is written to it
    /// would not be in the table.
    pub(crate) async fn check_topic(&self, table: &Arc<LiveTable>) -> Result<(), Answer> {
        match table.check_topic(&self.log).await {
            Ok(()) => Ok(()),
            Err(changed) => Err(self.topic_changed(table, &changed, false).await),
        }
    }

    /// Refuses records that the log acknowledged, and that the table will not have.
    pub(crate) async fn check_written(
        &self,
        table: &Arc<LiveTable>,
        written: &Written,
    ) -> Result<(), Answer> {
        if written.behind.is_empty() {
            return Ok(());
        }
        let log = self.log.as_ref();
        match table.judge_behind(log, &written.behind).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(changed)) => Err(self.topic_changed(table, &changed, true).await),
            Err(error) => {
                table.doubt_topic();
                Err(problem::of_produce(
                    &table.entry.id,
                    &ProduceError::Unknown(error),
                ))
            }
        }
    }

    /// `written`: the records of this request are in the log.
    async fn topic_changed(
        &self,
        table: &LiveTable,
        changed: &TopicChanged,
        written: bool,
    ) -> Answer {
        let entry = &table.entry;
        match self.superseded(entry).await {
            // A topic that was adopted meanwhile may hold them, and then the table does.
            Ok(Some(_)) if written => {
                let moved = ProduceError::Unknown(LogError::NoTopic(entry.topic.clone()));
                problem::of_produce(&entry.id, &moved)
            }
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => problem::of_topic(changed, written),
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
    pub(crate) async fn not_produced(
        &self,
        table: &Arc<LiveTable>,
        error: &ProduceError,
    ) -> Answer {
        table.doubt_topic();
        let entry = &table.entry;
        if let ProduceError::Nothing(LogError::NoTopic(_))
        | ProduceError::Unknown(LogError::NoTopic(_)) = error
        {
            if let Ok(Some(answer)) = self.superseded(entry).await {
                return answer;
            }
            if let ProduceError::Nothing(_) = error
                && let Err(answer) = self.check_topic(table).await
            {
                return answer;
            }
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
