//! What Tab completes. Pure: text and known words to candidates.

use std::collections::{BTreeMap, BTreeSet};

use super::meta;

/// Candidates that are offered at a time.
const CANDIDATES_MAX: usize = 200;

const KEYWORDS: &[&str] = &[
    "ALL",
    "AND",
    "ANALYZE",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CREATE",
    "CROSS",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DROP",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FALSE",
    "FILTER",
    "FOR",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "IN",
    "INNER",
    "INTERSECT",
    "INTERVAL",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "NULLS",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "RIGHT",
    "SELECT",
    "SHOW",
    "SNAPSHOT",
    "TABLE",
    "TABLES",
    "THEN",
    "TIMESTAMP",
    "TRUE",
    "UNION",
    "USING",
    "VALUES",
    "VERSION",
    "WHEN",
    "WHERE",
    "WITH",
];

const FUNCTIONS: &[&str] = &[
    "abs(",
    "approx_distinct(",
    "approx_percentile_cont(",
    "array_agg(",
    "array_length(",
    "avg(",
    "ceil(",
    "coalesce(",
    "concat(",
    "corr(",
    "count(",
    "date_bin(",
    "date_part(",
    "date_trunc(",
    "dense_rank(",
    "extract(",
    "first_value(",
    "floor(",
    "greatest(",
    "key_history(",
    "lag(",
    "last_value(",
    "lead(",
    "least(",
    "length(",
    "lower(",
    "max(",
    "median(",
    "min(",
    "now(",
    "nullif(",
    "rank(",
    "regexp_like(",
    "regexp_replace(",
    "replace(",
    "round(",
    "row_number(",
    "split_part(",
    "starts_with(",
    "stddev(",
    "string_agg(",
    "strpos(",
    "substr(",
    "sum(",
    "table_changes(",
    "table_files(",
    "table_history(",
    "table_snapshots(",
    "to_char(",
    "to_timestamp(",
    "trim(",
    "unnest(",
    "upper(",
];

/// Words behind which a table's name stands.
const BEFORE_TABLES: &[&str] = &["from", "join", "table", "describe", "\\d", "\\dt"];

/// Tables of the tenant with their columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Words(pub BTreeMap<String, Vec<String>>);

impl Words {
    /// What can stand at the cursor: where the word begins, and what it may become.
    pub(crate) fn complete(&self, text: &str, cursor: usize) -> (usize, Vec<String>) {
        let before = &text[..cursor];
        if before.starts_with('\\') && !before.contains(char::is_whitespace) {
            let names = meta::NAMES.iter().filter(|name| name.starts_with(before));
            return (0, names.map(|name| (*name).to_owned()).collect());
        }
        let in_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"');
        let start = before
            .char_indices()
            .rev()
            .take_while(|(_, c)| in_word(*c))
            .last()
            .map_or(cursor, |(at, _)| at);
        let word = &before[start..];
        if let Some((relation, part)) = word.rsplit_once('.') {
            let relation = relation.trim_matches('"');
            let columns = self.columns_of(&self.meant(relation, text), part);
            return (start + word.len() - part.len(), columns);
        }
        let tables = self
            .0
            .keys()
            .filter(|name| begins(name, word))
            .map(|name| quoted(name));
        if BEFORE_TABLES.contains(&word_before(&before[..start]).as_str()) {
            return (start, tables.take(CANDIDATES_MAX).collect());
        }
        let named = words_of(text);
        let here = self
            .0
            .keys()
            .filter(|table| named.contains(&table.to_lowercase()));
        let columns = here.flat_map(|table| self.columns_of(table, word));
        let mut found: Vec<String> = Vec::new();
        let functions = FUNCTIONS.iter().filter(|name| begins(name, word));
        let keywords = KEYWORDS.iter().filter(|name| begins(name, word));
        let lower = word.starts_with(char::is_lowercase);
        let keyword = |name: &&str| match lower {
            true => name.to_lowercase(),
            false => (*name).to_owned(),
        };
        let all = columns
            .chain(tables)
            .chain(functions.map(|name| (*name).to_owned()))
            .chain(keywords.map(keyword));
        let mut seen = BTreeSet::new();
        for candidate in all {
            if found.len() < CANDIDATES_MAX && seen.insert(candidate.clone()) {
                found.push(candidate);
            }
        }
        (start, found)
    }

    fn columns_of(&self, table: &str, part: &str) -> Vec<String> {
        let columns = self.0.get(table).map_or(&[][..], Vec::as_slice).iter();
        let columns = columns.filter(|name| begins(name, part.trim_start_matches('"')));
        columns
            .map(|name| quoted(name))
            .take(CANDIDATES_MAX)
            .collect()
    }

    /// The table that a name in the text stands for: itself, or what it is an alias of.
    fn meant(&self, name: &str, text: &str) -> String {
        let found = self.0.keys().find(|table| table.eq_ignore_ascii_case(name));
        if let Some(table) = found {
            return table.clone();
        }
        let words: Vec<String> = tokens(text);
        let places = (1..words.len()).filter(|at| words[*at].eq_ignore_ascii_case(name));
        for at in places {
            let is_as = words[at - 1].eq_ignore_ascii_case("as");
            let of = match is_as {
                true => at.checked_sub(2),
                false => Some(at - 1),
            };
            let of = of.map(|of| words[of].trim_matches('"'));
            let known = |of: &str| self.0.keys().find(|table| table.eq_ignore_ascii_case(of));
            if let Some(table) = of.and_then(known) {
                return table.clone();
            }
        }
        name.to_owned()
    }
}

fn begins(name: &str, part: &str) -> bool {
    let head = name.get(..part.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(part))
}

/// A name as SQL takes it.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let needs_none = name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit());
    match needs_none {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

fn word_before(text: &str) -> String {
    let end = text.trim_end_matches([' ', '\t', '\n']);
    let word = end.rsplit(|c: char| c.is_whitespace() || c == '(').next();
    word.unwrap_or_default().to_lowercase()
}

fn tokens(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '"')));
    let words = words.filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

fn words_of(text: &str) -> BTreeSet<String> {
    let words = tokens(text).into_iter();
    words
        .map(|word| word.trim_matches('"').to_lowercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(text: &str) -> Vec<String> {
        let tables = [
            ("orders", vec!["id", "customer", "order date"]),
            ("Items", vec!["id", "orderId"]),
        ];
        let tables = tables.map(|(table, columns)| {
            let columns = columns.into_iter().map(str::to_owned).collect();
            (table.to_owned(), columns)
        });
        let cursor = text.find('|').unwrap();
        let text = text.replace('|', "");
        let (start, found) = Words(tables.into()).complete(&text, cursor);
        let taken = &text[..start];
        found
            .into_iter()
            .map(|word| format!("{taken}{word}"))
            .collect()
    }

    #[test]
    fn tables_stand_behind_from_and_columns_of_the_statement_s_tables_elsewhere() {
        assert_eq!(offered("SELECT * FROM or|"), ["SELECT * FROM orders"]);
        assert_eq!(
            offered("select * from |"),
            ["select * from Items", "select * from orders"]
        );
        assert_eq!(offered("SELECT cust| FROM orders"), ["SELECT customer"]);
        assert_eq!(offered("\\d i|"), ["\\d Items"]);
        let all = offered("SELECT ord| FROM orders");
        assert_eq!(
            all,
            ["SELECT \"order date\"", "SELECT orders", "SELECT order"]
        );
    }

    #[test]
    fn a_dot_asks_for_the_columns_of_a_table_or_its_alias() {
        assert_eq!(offered("SELECT orders.cu|"), ["SELECT orders.customer"]);
        assert_eq!(
            offered("SELECT o.cu| FROM orders AS o"),
            ["SELECT o.customer"]
        );
        assert_eq!(
            offered("SELECT i.| FROM items i"),
            ["SELECT i.id", "SELECT i.orderId"]
        );
        assert!(offered("SELECT x.|").is_empty());
    }

    #[test]
    fn keywords_follow_the_case_of_what_is_typed() {
        assert_eq!(offered("sele|"), ["select"]);
        assert_eq!(offered("SELE|"), ["SELECT"]);
        assert_eq!(offered("\\ti|"), ["\\timing", "\\timezone"]);
        assert!(offered("SELECT date_t|").contains(&"SELECT date_trunc(".to_owned()));
        assert!(offered("SELECT 'ü|").is_empty());
    }
}
