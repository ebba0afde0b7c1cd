//! From SQL text to a statement that may be planned, and the relations it reads.
//!
//! Owns what SQL is allowed ([`allow`]), table versions and our table functions ([`relations`]), the
//! case of column names ([`columns`]), and the few statements that change something ([`command`]). Knows nothing of snapshots: the engine resolves the
//! [`Relation`]s that come out of here.

mod allow;
mod columns;
mod command;
mod dialect;
mod named;
mod relations;
#[cfg(test)]
mod tests;
mod time;

use std::collections::BTreeMap;

use datafusion::common::TableReference;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use tidelake_core::clock::UnixMillis;
use tidelake_core::{SnapshotName, TableVersion};

use crate::error::QueryError;

pub(crate) use columns::{FoldedNames, fold_columns};
pub(crate) use command::{Command, command};
pub(crate) use time::parse_timestamp;

/// Depth of nested expressions and queries.
const RECURSION_MAX: usize = 100;
/// Relations one statement may read.
const RELATIONS_MAX: usize = 256;

/// Which version of a table a relation reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AsOf {
    /// The newest one.
    Latest,
    Version(TableVersion),
    /// The newest one at that time.
    Timestamp(UnixMillis),
    /// The one of that name.
    Snapshot(SnapshotName),
}

/// One value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum KeyPart {
    /// Text: a string, or whatever the column's type reads from text.
    Text(String),
    /// A number or boolean, as JSON.
    Value(serde_json::Value),
}

/// What a relation shows of its table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum View {
    Rows,
    /// `table_history('t')`
    History,
    /// `table_files('t')`
    Files,
    /// `DESCRIBE t`
    Columns,
    /// `table_snapshots('t')`
    Snapshots,
    /// `table_changes('t', from, to)`
    Changes {
        from: AsOf,
        /// Absent: as the request says.
        to: Option<AsOf>,
    },
    /// `key_history('t', key…)`
    KeyHistory {
        key: Vec<KeyPart>,
    },
}

/// Something in the tenant's schema that a statement reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Relation {
    pub view: View,
    /// As written, lower-cased unless quoted.
    pub table: TableReference,
    /// Absent: as the request says.
    pub as_of: Option<AsOf>,
}

/// A statement that passed every check of its text.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub statement: Statement,
    /// By the name under which the statement refers to each.
    pub relations: BTreeMap<TableReference, Relation>,
    /// `information_schema` tables that are read.
    pub information: Vec<String>,
}

/// Parses one statement and checks that it only reads the tenant's tables.
pub(crate) fn parse(sql: &str, params: &[serde_json::Value]) -> Result<Query, QueryError> {
    let sql = named::hide_names(sql)?;
    let mut statements = DFParserBuilder::new(sql.as_ref())
        .with_dialect(&dialect::TidelakeDialect)
        .with_recursion_limit(RECURSION_MAX)
        .build()?
        .parse_statements()?;
    let statement = statements.pop_front().ok_or_else(|| {
        QueryError::Syntax("the statement is empty; send one such as SELECT 1".into())
    })?;
    if !statements.is_empty() {
        return Err(QueryError::NotAllowed(
            "send one statement at a time".into(),
        ));
    }
    let mut statement = allow::rewrite_show(statement)?;
    allow::check(&statement)?;
    let relations::Rewritten {
        mut relations,
        functions,
    } = relations::rewrite(&mut statement, params)?;
    let (references, _) = datafusion::sql::resolve::resolve_table_references(&statement, true)?;
    let mut information = Vec::new();
    for reference in references {
        if relations.contains_key(&reference) || functions.contains(&reference) {
            continue;
        }
        if reference.schema() == Some("information_schema") {
            information.push(reference.table().to_owned());
            continue;
        }
        let relation = Relation {
            view: View::Rows,
            table: reference.clone(),
            as_of: None,
        };
        relations.insert(reference, relation);
    }
    if relations.len() > RELATIONS_MAX {
        return Err(QueryError::NotAllowed(format!(
            "the statement reads {} tables; {RELATIONS_MAX} is the most",
            relations.len()
        )));
    }
    Ok(Query {
        statement,
        relations,
        information,
    })
}
