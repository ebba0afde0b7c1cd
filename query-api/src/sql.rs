//! From SQL text to a statement that may be planned, and the relations it reads.
//!
//! ```text
//!  text ─► limits ─► parser ─► tree ─► allow, clauses ─► relations ─► reads
//!          tokens              flat    only reads        versions     what is read, how often
//! ```
//! Owns what a statement may cost ([`limits`], [`tree`], [`reads`]), what SQL is allowed ([`allow`],
//! [`clauses`], [`grouping`]), table versions and our table functions ([`relations`]), the case of column names
//! ([`columns`]), which joins make one of two ([`merged`]) and what repeated ones are called
//! ([`repeated`]), the few statements that change something ([`command`]), which queries name their
//! rows ([`point`]), and what was read before ([`cache`]). Knows nothing of snapshots: the engine
//! resolves the [`Relation`]s that come out of here.

mod allow;
mod cache;
mod clauses;
mod columns;
mod command;
mod dialect;
mod grouping;
mod limits;
mod merged;
mod named;
mod params;
mod point;
mod reads;
mod relations;
mod repeated;
#[cfg(test)]
mod tests;
mod time;
mod tree;
mod zone;

use std::collections::BTreeMap;

use datafusion::common::{ScalarValue, TableReference};
use datafusion::sql::parser::{DFParserBuilder, ParserInput, Statement};
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;
use tidelake_core::clock::UnixMillis;
use tidelake_core::{SnapshotName, TableVersion};

use crate::error::QueryError;

pub(crate) use cache::Statements;
pub(crate) use columns::{FoldedNames, column_named, fold_columns};
pub(crate) use command::{Command, command};
pub(crate) use point::{Literal, Point, Wanted};
pub(crate) use repeated::{folded, name_repeated, ordered_by};
pub(crate) use time::parse_timestamp;
pub use zone::TimeZone;

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

impl Relation {
    /// The version whose rows it shows, in a request for `asked`.
    pub(crate) fn shown_as_of(&self, asked: &AsOf) -> AsOf {
        let own = match &self.view {
            View::Changes { to, .. } => to,
            _ => &self.as_of,
        };
        own.as_ref().unwrap_or(asked).clone()
    }
}

/// A statement that passed every check of its text.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub statement: Statement,
    /// By the name under which the statement refers to each.
    pub relations: BTreeMap<TableReference, Relation>,
    /// `information_schema` tables that are read.
    pub information: Vec<String>,
    /// Places in it are places in the text; a `SHOW` is another text by now.
    is_as_written: bool,
}

/// The error with the place of the table that it misses.
pub(crate) fn placed(mut error: QueryError, query: &Query) -> QueryError {
    if let QueryError::TableNotFound { name, at, .. } = &mut error {
        // Tables without a version are called by their names, others by what was made of them.
        let means = |table: &TableReference| {
            let table = query
                .relations
                .get(table)
                .map_or(table, |known| &known.table);
            table.table() == name || table.to_string() == *name
        };
        *at = query
            .is_as_written
            .then(|| reads::place(&query.statement, means))
            .flatten();
    }
    error
}

/// Parses one statement and checks that it only reads the tenant's tables. Its tree is flat and of a
/// bounded size: it can be visited, copied and dropped on any stack.
pub(crate) fn parse(sql: &str, params: &[ScalarValue]) -> Result<Query, QueryError> {
    let measured = limits::measure(sql)?;
    if measured.is_deep() {
        return limits::on_own_stack(|| read(sql, measured.tokens, params));
    }
    read(sql, measured.tokens, params)
}

/// As [`parse`], where that takes moments on any stack; none where it may take longer.
pub(crate) fn parse_short(sql: &str, params: &[ScalarValue]) -> Option<Result<Query, QueryError>> {
    let measured = limits::short(sql)?;
    Some(read(sql, measured.tokens, params))
}

fn read(
    sql: &str,
    tokens: Option<Vec<TokenWithSpan>>,
    params: &[ScalarValue],
) -> Result<Query, QueryError> {
    let count = tokens.as_ref().map_or(0, Vec::len);
    let input = match tokens {
        Some(mut tokens) => {
            named::hide_names(&mut tokens)?;
            ParserInput::Tokens(tokens)
        }
        None => ParserInput::Sql(sql),
    };
    let dialect = dialect::TidelakeDialect::of(count);
    let parsed = DFParserBuilder::new(input)
        .with_dialect(&dialect)
        .with_recursion_limit(RECURSION_MAX)
        .build()?
        .parse_statements();
    if dialect.gave_up() {
        return Err(QueryError::NotAllowed(
            "the statement nests what can be read in several ways; name inner queries in a WITH \
             list and compute inner expressions in steps"
                .into(),
        ));
    }
    let mut statements = parsed?;
    let statement = statements.pop_front().ok_or_else(|| {
        let reason = "the statement is empty; send one such as SELECT 1".to_owned();
        QueryError::Syntax { reason, at: None }
    })?;
    if !statements.is_empty() {
        return Err(QueryError::NotAllowed(
            "send one statement at a time".into(),
        ));
    }
    let (mut statement, is_as_written) = allow::rewrite_show(statement)?;
    tree::flatten(&mut statement)?;
    allow::check(&mut statement)?;
    merged::mark(&mut statement)?;
    let relations::Rewritten {
        mut relations,
        functions,
    } = relations::rewrite(&mut statement, params)?;
    let mut information = Vec::new();
    for reference in reads::tables(&statement)? {
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
        is_as_written,
    })
}
