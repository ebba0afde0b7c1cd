//! Whether a topic is still the one that its table was filled from: a pure comparison.
//!
//! A watermark speaks of one incarnation of one topic. Where the topic was made anew or cut back,
//! going on would pass acknowledged records over in silence; where it lost or got partitions, keys
//! would live in two buckets. The gateway takes no records then, the flusher stops the table, and
//! queries of what is newest are refused: all by these rules, and in these words. Owns neither the
//! questions to the log nor how old their answers may be: that is each service's.
//!
//! Invariant: each text says what was found, what was expected, and the commands that resolve it.

use tidelake_core::{Bucket, Offset, TopicId, Watermark};

use crate::entry::{TableEntry, TableMode};

/// What the log says of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundTopic {
    pub id: TopicId,
    pub partitions: u32,
}

/// What is wrong with a table's topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicFault {
    /// There is no such topic.
    Missing,
    /// The topic of that name is another than the one the table was filled from.
    Replaced,
    /// It has fewer partitions than the table has buckets.
    PartitionsMissing,
    /// It has partitions that an upsert table can't have.
    PartitionsAdded,
    /// It ends before the table's watermark.
    CutBack,
}

/// A topic that is not, or not only, the table's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}: {resolve}")]
pub struct TopicChanged {
    pub fault: TopicFault,
    /// What was found and what was expected. Begins with the table's name.
    pub found: String,
    /// The commands that resolve it.
    pub resolve: String,
}

impl TableEntry {
    /// Whether the topic as a whole is the table's. Partitions that it has besides the table's are
    /// looked at by [`Self::check_added`].
    pub fn check_topic(&self, found: Option<FoundTopic>) -> Result<(), TopicChanged> {
        let (id, topic) = (&self.id, &self.topic);
        let Some(found) = found else {
            let text = format!(
                "table {id}: its topic {topic} is not there; its rows are kept, but nothing can \
                 be written to it"
            );
            return Err(self.changed(TopicFault::Missing, text));
        };
        if found.id != self.topic_id {
            let text = format!(
                "table {id}: topic {topic} was deleted and made again (its id is {}, the table \
                 was filled from {}); records of the new topic would be passed over",
                found.id, self.topic_id
            );
            return Err(self.changed(TopicFault::Replaced, text));
        }
        if found.partitions < self.buckets {
            let text = format!(
                "table {id}: topic {topic} has {} partitions, the table has {} buckets",
                found.partitions, self.buckets
            );
            return Err(self.changed(TopicFault::PartitionsMissing, text));
        }
        Ok(())
    }

    /// Whether partitions that were added to the topic of an upsert table hold records: their keys
    /// would live in two buckets. An append table takes them as they come.
    pub fn check_added(
        &self,
        partitions: u32,
        ends: impl IntoIterator<Item = (Bucket, Offset)>,
    ) -> Result<(), TopicChanged> {
        if self.mode == TableMode::Append {
            return Ok(());
        }
        let mut added = ends
            .into_iter()
            .filter(|(bucket, _)| bucket.0 >= self.buckets);
        match added.find(|(_, end)| end.0 > 0) {
            None => Ok(()),
            Some((bucket, end)) => {
                let waiting = format!("{end} records of this partition wait in the log");
                Err(self.added(bucket, partitions, &waiting))
            }
        }
    }

    /// The refusal of one partition that an upsert table has no bucket for; `waiting` says what is
    /// in it.
    pub fn added(&self, bucket: Bucket, partitions: u32, waiting: &str) -> TopicChanged {
        let text = format!(
            "table {} bucket {bucket}: topic {} was given more partitions ({partitions}) than the \
             table has buckets ({}), so keys would live in two; {waiting}",
            self.id, self.topic, self.buckets
        );
        self.changed(TopicFault::PartitionsAdded, text)
    }

    /// Whether a bucket ends at the table's watermark or behind it. `end` was asked for after the
    /// watermark was read.
    pub fn check_end(
        &self,
        bucket: Bucket,
        end: Offset,
        watermark: Watermark,
    ) -> Result<(), TopicChanged> {
        if end.0 >= watermark.0 {
            return Ok(());
        }
        let text = format!(
            "table {} bucket {bucket}: the log ends at {end}, before the table's watermark \
             {watermark}: it was cut back, and what is written up to there would be passed over",
            self.id
        );
        Err(self.changed(TopicFault::CutBack, text))
    }

    fn changed(&self, fault: TopicFault, found: String) -> TopicChanged {
        let resolve = match fault {
            TopicFault::Missing | TopicFault::Replaced => self.adopt_or_begin_anew(),
            _ => self.begin_anew(),
        };
        TopicChanged {
            fault,
            found,
            resolve,
        }
    }

    /// How a table whose topic is another by now goes on.
    fn adopt_or_begin_anew(&self) -> String {
        let table = self.of_commands();
        format!(
            "run `tidelake table adopt-topic {table}`, after which the table goes on with the \
             topic of that name from its beginning (what was only in the old topic is gone), or \
             {}; between the two, delete topic {} with a Kafka tool: it is not the table's, so \
             the drop leaves it",
            self.begin_anew(),
            self.topic
        )
    }

    /// The commands that put a new table in the place of one whose log can't be used any more.
    pub fn begin_anew(&self) -> String {
        let table = self.of_commands();
        format!(
            "keep what you need of it (`tidelake query \"SELECT * FROM {table}\" --consistency \
             committed -o json`), then run `tidelake table drop {table}` and `tidelake table \
             create {table} …`, and load it again"
        )
    }

    /// A dead-letter table comes and goes with its table.
    fn of_commands(&self) -> String {
        let of = self.id.table.dead_letters_of();
        of.as_ref().unwrap_or(&self.id.table).to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidelake_core::{TableId, TableName, TenantId};
    use tidelake_schema::dead_letters;

    use super::*;

    fn entry(mode: TableMode) -> TableEntry {
        TableEntry {
            id: TableId::new(TenantId::default(), TableName::new("orders").unwrap()),
            mode,
            schema: dead_letters::schema().clone(),
            buckets: 2,
            topic: "tidelake.default.orders".into(),
            topic_id: TopicId([1; 16]),
            properties: BTreeMap::new(),
            created_ms: 0,
            dead_letters_topic_id: Some(TopicId([7; 16])),
            restores: 0,
        }
    }

    fn found(id: u8, partitions: u32) -> Option<FoundTopic> {
        let id = TopicId([id; 16]);
        Some(FoundTopic { id, partitions })
    }

    fn fault(checked: Result<(), TopicChanged>) -> Option<TopicFault> {
        let changed = checked.err()?;
        let text = changed.to_string();
        assert!(text.starts_with("table default.orders"), "{text}");
        for command in [
            "`tidelake table drop orders`",
            "`tidelake table create orders …`",
        ] {
            assert!(text.contains(command), "{text}");
        }
        let adoptable = matches!(changed.fault, TopicFault::Missing | TopicFault::Replaced);
        let adopt = "`tidelake table adopt-topic orders`";
        assert_eq!(text.contains(adopt), adoptable, "{text}");
        Some(changed.fault)
    }

    #[test]
    fn another_topic_of_the_same_name_is_not_the_table_s() {
        let entry = entry(TableMode::Upsert);
        let check = |found| fault(entry.check_topic(found));
        assert_eq!(check(found(1, 2)), None);
        assert_eq!(
            check(found(1, 3)),
            None,
            "added ones are looked at by themselves"
        );
        assert_eq!(check(found(2, 2)), Some(TopicFault::Replaced));
        assert_eq!(check(found(1, 1)), Some(TopicFault::PartitionsMissing));
        assert_eq!(check(None), Some(TopicFault::Missing));
        // The commands are those of the table that a dead-letter table belongs to.
        let dead_letters = entry.dead_letters().unwrap();
        let text = dead_letters.check_topic(None).unwrap_err().to_string();
        assert!(
            text.contains("`tidelake table adopt-topic orders`"),
            "{text}"
        );
    }

    #[test]
    fn added_partitions_stop_an_upsert_table_once_they_hold_records() {
        let check = |mode, end| {
            let ends = [(Bucket(0), Offset(5)), (Bucket(2), Offset(end))];
            fault(entry(mode).check_added(3, ends))
        };
        assert_eq!(check(TableMode::Upsert, 0), None);
        assert_eq!(
            check(TableMode::Upsert, 1),
            Some(TopicFault::PartitionsAdded)
        );
        assert_eq!(check(TableMode::Append, 1), None);
    }

    #[test]
    fn a_log_that_ends_before_the_watermark_was_cut_back() {
        let entry = entry(TableMode::Append);
        let check = |end| fault(entry.check_end(Bucket(0), Offset(end), Watermark(9)));
        assert_eq!(check(9), None);
        assert_eq!(check(8), Some(TopicFault::CutBack));
    }
}
