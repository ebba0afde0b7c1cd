//! The log replayed: pure, no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelake_core::clock::UnixMillis;
use tidelake_core::{TableId, TableVersion, TenantId};

use crate::entry::{Event, LastVersions, Record, TableEntry};

/// A dropped table whose topics and folder may still be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The table as it was.
    pub entry: Arc<TableEntry>,
    /// Who removes it.
    pub purger: String,
    /// When the purger took it, by the purger's clock.
    pub claimed_ms: UnixMillis,
    /// It can be restored until then; none where it is being removed.
    pub kept_until_ms: Option<UnixMillis>,
    /// Where its logs ended; none while they have not.
    pub last: Option<LastVersions>,
}

/// What is known of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Live(Arc<TableEntry>),
    Dropped(Dropped),
    Purged,
}

/// Every event before `next`, applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The number that the next event will have.
    pub next: u64,
    /// The id of the event before that one; empty before the first.
    pub last_id: String,
    /// By name: its state and the number of its last event.
    names: BTreeMap<TableId, (u64, Name)>,
    /// The last version that the log of a dropped table had, by name: kept for ever, since no later
    /// table of the name may use a version again.
    last_versions: BTreeMap<TableId, TableVersion>,
}

impl State {
    /// A state as a checkpoint has kept it.
    pub(crate) fn kept(
        next: u64,
        last_id: String,
        names: BTreeMap<TableId, (u64, Name)>,
        last_versions: BTreeMap<TableId, TableVersion>,
    ) -> Self {
        Self {
            next,
            last_id,
            names,
            last_versions,
        }
    }

    /// By name: its state and the number of its last event.
    pub(crate) fn names(&self) -> &BTreeMap<TableId, (u64, Name)> {
        &self.names
    }

    pub(crate) fn last_versions(&self) -> &BTreeMap<TableId, TableVersion> {
        &self.last_versions
    }

    pub(crate) fn name(&self, id: &TableId) -> Option<&Name> {
        self.names.get(id).map(|(_, name)| name)
    }

    /// The number of the last event that touched the name.
    pub(crate) fn mark(&self, id: &TableId) -> Option<u64> {
        self.names.get(id).map(|(number, _)| *number)
    }

    pub(crate) fn table(&self, id: &TableId) -> Option<&Arc<TableEntry>> {
        match self.name(id)? {
            Name::Live(entry) => Some(entry),
            Name::Dropped(_) | Name::Purged => None,
        }
    }

    pub(crate) fn dropped(&self, id: &TableId) -> Option<&Dropped> {
        match self.name(id)? {
            Name::Dropped(dropped) => Some(dropped),
            Name::Live(_) | Name::Purged => None,
        }
    }

    /// The last version that the log of an earlier table of this name had.
    pub(crate) fn last_version(&self, id: &TableId) -> Option<TableVersion> {
        self.last_versions.get(id).copied()
    }

    /// Every table that is dropped and not purged.
    pub(crate) fn all_dropped(&self) -> impl Iterator<Item = &Dropped> {
        self.names.values().filter_map(|(_, name)| match name {
            Name::Dropped(dropped) => Some(dropped),
            Name::Live(_) | Name::Purged => None,
        })
    }

    /// Tables in the order of their names; of one tenant, or of all.
    pub(crate) fn tables(
        &self,
        tenant: Option<&TenantId>,
    ) -> impl Iterator<Item = &Arc<TableEntry>> {
        self.names.values().filter_map(move |(_, name)| match name {
            Name::Live(entry) if tenant.is_none_or(|tenant| *tenant == entry.id.tenant) => {
                Some(entry)
            }
            _ => None,
        })
    }

    /// Takes the event of number `next`. An event that can't stand here means a damaged log.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), &'static str> {
        let number = self.next;
        let (id, name) = match &record.event {
            Event::CreateTable { table } => {
                if !matches!(self.name(&table.id), None | Some(Name::Purged)) {
                    return Err("creates a table that exists or is not purged");
                }
                self.show_dead_letters(table);
                (
                    table.id.clone(),
                    Name::Live(Arc::new(table.as_ref().clone())),
                )
            }
            Event::AddDeadLetters { table, topic_id } => {
                let entry = self
                    .table(table)
                    .ok_or("gives dead letters to a table that does not exist")?;
                let mut entry = entry.as_ref().clone();
                entry.dead_letters_topic_id = Some(*topic_id);
                self.show_dead_letters(&entry);
                (table.clone(), Name::Live(Arc::new(entry)))
            }
            Event::AdoptTopic { table, from, to } => {
                let entry = self
                    .table(table)
                    .filter(|entry| entry.topics() == *from)
                    .ok_or("gives a table other topics that has not those it names")?;
                let entry = entry.with_topics(*to);
                self.show_dead_letters(&entry);
                (table.clone(), Name::Live(Arc::new(entry)))
            }
            Event::DropTable {
                table,
                purger,
                kept_until_ms,
            } => {
                let entry = self
                    .table(table)
                    .ok_or("drops a table that does not exist")?;
                let entry = Arc::clone(entry);
                self.names.remove(&table.dead_letters());
                let dropped = Dropped {
                    entry,
                    purger: purger.clone(),
                    claimed_ms: record.timestamp_ms,
                    kept_until_ms: *kept_until_ms,
                    last: None,
                };
                (table.clone(), Name::Dropped(dropped))
            }
            Event::EndLogs { table, last } => {
                let dropped = self
                    .dropped(table)
                    .ok_or("ends the logs of a table that is not dropped")?;
                let dropped = Dropped {
                    last: Some(*last),
                    ..dropped.clone()
                };
                let dead_letters = (table.dead_letters(), last.dead_letters);
                for (id, version) in [(table.clone(), last.table), dead_letters] {
                    self.raise_last_version(id, version);
                }
                (table.clone(), Name::Dropped(dropped))
            }
            Event::ClaimPurge {
                table,
                purger,
                keeps,
            } => {
                let dropped = self
                    .dropped(table)
                    .ok_or("claims a table that is not dropped")?;
                let dropped = Dropped {
                    entry: Arc::clone(&dropped.entry),
                    purger: purger.clone(),
                    claimed_ms: record.timestamp_ms,
                    kept_until_ms: dropped.kept_until_ms.filter(|_| *keeps),
                    last: dropped.last,
                };
                (table.clone(), Name::Dropped(dropped))
            }
            Event::RestoreTable { table } => {
                let dropped = self
                    .dropped(table)
                    .filter(|dropped| dropped.kept_until_ms.is_some())
                    .ok_or("restores a table that is not kept")?;
                let entry = Arc::new(dropped.entry.restored());
                self.show_dead_letters(&entry);
                (table.clone(), Name::Live(entry))
            }
            Event::Purged { table } => {
                self.dropped(table)
                    .ok_or("purges a table that is not dropped")?;
                (table.clone(), Name::Purged)
            }
        };
        self.names.insert(id, (number, name));
        self.next += 1;
        self.last_id.clone_from(&record.id);
        Ok(())
    }

    fn raise_last_version(&mut self, id: TableId, version: Option<TableVersion>) {
        if let Some(version) = version {
            let last = self.last_versions.entry(id).or_insert(version);
            *last = version.max(*last);
        }
    }

    /// A table's dead-letter table is there as long as the table itself.
    fn show_dead_letters(&mut self, table: &TableEntry) {
        if let Some(entry) = table.dead_letters() {
            let id = entry.id.clone();
            self.names
                .insert(id, (self.next, Name::Live(Arc::new(entry))));
        }
    }
}
