//! Events by which tables come, and change what they are filled from.

use std::sync::Arc;

use tidelake_core::TopicId;

use super::{AddTable, Catalog, CatalogError, Decision};
use crate::cache::Name;
use crate::entry::{Event, TableEntry, Topics};

impl Catalog {
    /// Adds a table whose topic and Delta log exist already.
    pub async fn add_table(&self, entry: TableEntry) -> Result<AddTable, CatalogError> {
        self.refresh().await?;
        let mark = self.mark(&entry.id);
        self.add_table_since(entry, mark).await
    }

    /// Adds a table if nothing happened to its name since `mark`, which was read before the
    /// table's topic and Delta log were made.
    pub async fn add_table_since(
        &self,
        entry: TableEntry,
        mark: Option<u64>,
    ) -> Result<AddTable, CatalogError> {
        let id = entry.id.clone();
        self.append(|state, _| match state.name(&id) {
            Some(Name::Live(entry)) => Decision::Answer(AddTable::Exists(Arc::clone(entry))),
            None | Some(Name::Purged) if state.mark(&id) == mark => Decision::Append(
                Event::CreateTable {
                    table: Box::new(entry.clone()),
                },
                AddTable::Added(Arc::new(entry.clone())),
            ),
            _ => Decision::Answer(AddTable::Moved),
        })
        .await
    }

    /// Gives the table, if it is still this incarnation, a dead-letter table whose topic and Delta
    /// log exist already. True: it has one now.
    pub async fn add_dead_letters(
        &self,
        entry: &TableEntry,
        topic_id: TopicId,
    ) -> Result<bool, CatalogError> {
        let id = &entry.id;
        self.append(|state, _| match state.table(id) {
            Some(now) if now.dead_letters_topic_id.is_some() => Decision::Answer(true),
            Some(now) if now.topic_id == entry.topic_id => Decision::Append(
                Event::AddDeadLetters {
                    table: id.clone(),
                    topic_id,
                },
                true,
            ),
            _ => Decision::Answer(false),
        })
        .await
    }

    /// Fills the table from other topics from here on. Whoever calls it has seen to it that nobody
    /// goes on with the old ones. `None`: the table is gone, or has other topics than `entry` by now.
    pub async fn adopt_topic(
        &self,
        entry: &TableEntry,
        to: Topics,
    ) -> Result<Option<Arc<TableEntry>>, CatalogError> {
        let (id, from) = (&entry.id, entry.topics());
        self.append(|state, _| match state.table(id) {
            Some(now) if now.topics() == to => Decision::Answer(Some(Arc::clone(now))),
            Some(now) if now.topics() == from => Decision::Append(
                Event::AdoptTopic {
                    table: id.clone(),
                    from,
                    to,
                },
                Some(Arc::new(now.with_topics(to))),
            ),
            _ => Decision::Answer(None),
        })
        .await
    }
}
