//! Names of topics: `<prefix>.<tenant>.<table>` for a table, `….dlq` for its dead letters (which
//! are the table `<table>__dead_letters`), `<prefix>.commits` for commit events.

use std::fmt;
use std::sync::Arc;

use tidelake_core::{Bucket, TableId, TableName, TenantId};

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicBucket {
    pub topic: Arc<str>,
    pub bucket: Bucket,
}

impl fmt::Display for TopicBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.bucket)
    }
}

/// Ends the name of a dead-letter topic.
const DEAD_LETTERS_SUFFIX: &str = ".dlq";

/// The topic of a table; that of a dead-letter table is its table's dead-letter topic.
pub fn table_topic(prefix: &str, table: &TableId) -> String {
    match table.table.dead_letters_of() {
        Some(of) => format!("{prefix}.{}.{of}{DEAD_LETTERS_SUFFIX}", table.tenant),
        None => format!("{prefix}.{}.{}", table.tenant, table.table),
    }
}

/// The topic that keeps a table's dead letters.
pub fn dead_letter_topic(prefix: &str, table: &TableId) -> String {
    table_topic(prefix, &table.dead_letters())
}

/// True of topics whose messages are dead letters.
pub fn is_dead_letter_topic(topic: &str) -> bool {
    topic.ends_with(DEAD_LETTERS_SUFFIX)
}

/// The topic of commit events.
pub fn commits_topic(prefix: &str) -> String {
    format!("{prefix}.commits")
}

/// The table of a topic; `None` for any topic that is not a table's.
pub fn parse_table_topic(prefix: &str, topic: &str) -> Option<TableId> {
    let rest = topic.strip_prefix(prefix)?.strip_prefix('.')?;
    let (tenant, table) = rest.split_once('.')?;
    let tenant = TenantId::new(tenant).ok()?;
    let (table, of_dead_letters) = match table.strip_suffix(DEAD_LETTERS_SUFFIX) {
        Some(table) => (table, true),
        None => (table, false),
    };
    let table = TableName::new(table).ok()?;
    // Its dead letters are elsewhere, and have none themselves.
    if table.dead_letters_of().is_some() {
        return None;
    }
    let id = TableId::new(tenant, table);
    Some(if of_dead_letters {
        id.dead_letters()
    } else {
        id
    })
}

/// The subscription that matches every table's topic, dead letters among them, and nothing else
/// (librdkafka takes a leading `^` for a regular expression).
pub fn table_topics_pattern(prefix: &str) -> String {
    let prefix: String = prefix
        .chars()
        .flat_map(|c| {
            let escape = !(c.is_ascii_alphanumeric() || c == '_' || c == '-');
            escape.then_some('\\').into_iter().chain([c])
        })
        .collect();
    format!("^{prefix}\\.[a-z][a-z0-9_]*\\.[a-z][a-z0-9_]*(\\.dlq)?$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_topic_names_its_table_and_nothing_else_does() {
        let id = TableId::new(
            TenantId::new("acme").unwrap(),
            TableName::new("orders").unwrap(),
        );
        let topic = table_topic("tidelake", &id);
        assert_eq!(topic, "tidelake.acme.orders");
        assert_eq!(parse_table_topic("tidelake", &topic), Some(id.clone()));
        let dead_letters = dead_letter_topic("tidelake", &id);
        assert_eq!(dead_letters, "tidelake.acme.orders.dlq");
        assert_eq!(table_topic("tidelake", &id.dead_letters()), dead_letters);
        assert_eq!(
            parse_table_topic("tidelake", &dead_letters),
            Some(id.dead_letters())
        );
        assert!(is_dead_letter_topic(&dead_letters) && !is_dead_letter_topic(&topic));
        let others = [
            commits_topic("tidelake"),
            "tidelake.acme.orders__dead_letters".into(),
            "tidelake.acme.orders__dead_letters.dlq".into(),
            "tidelake.acme.orders.dlq.dlq".into(),
            "tidelakes.acme.orders".into(),
            "tidelake.Acme.orders".into(),
        ];
        for other in others {
            assert_eq!(parse_table_topic("tidelake", &other), None, "{other}");
        }
    }

    #[test]
    fn the_pattern_takes_the_prefix_literally() {
        assert_eq!(
            table_topics_pattern("a.b"),
            "^a\\.b\\.[a-z][a-z0-9_]*\\.[a-z][a-z0-9_]*(\\.dlq)?$"
        );
    }
}
