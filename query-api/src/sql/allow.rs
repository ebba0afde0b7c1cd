//! What SQL may do: read, and nothing else.
//!
//! The list is of what is allowed; what DataFusion learns next year is refused until it stands
//! here. Which clauses are is in [`clauses`].

use std::fmt::Display;
use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    self, Expr, ObjectName, Query, Select, ShowStatementFilter, ShowStatementFilterPosition,
    ShowStatementIn, ShowStatementOptions, Statement as Sql, TableFactor, Value, VisitMut,
    VisitorMut,
};

use super::clauses;
use super::dialect::TidelakeDialect;
use crate::error::QueryError;

/// Turns `SHOW TABLES`, `SHOW COLUMNS FROM t` and `DESCRIBE t` into queries; others pass unchanged,
/// which is told.
pub(super) fn rewrite_show(statement: Statement) -> Result<(Statement, bool), QueryError> {
    let Statement::Statement(inner) = &statement else {
        return Ok((statement, true));
    };
    let sql = match inner.as_ref() {
        Sql::ShowTables {
            terse,
            history,
            extended,
            full,
            external,
            show_options,
        } => {
            if *terse || *history || *extended || *full || *external {
                let reason = "write SHOW TABLES, without a word between them";
                return Err(QueryError::Unsupported(reason.into()));
            }
            if show_options.show_in.is_some() {
                return Err(QueryError::Unsupported(
                    "SHOW TABLES shows the tenant's tables and takes no FROM or IN; a table's \
                     columns are shown by SHOW COLUMNS FROM t"
                        .into(),
                ));
            }
            let filter = like(show_options, "table_name")?;
            format!(
                "SELECT table_catalog, table_schema, table_name, table_type \
                 FROM information_schema.tables \
                 WHERE table_schema <> 'information_schema'{filter} ORDER BY table_name"
            )
        }
        Sql::ShowColumns {
            extended,
            full,
            show_options,
        } => {
            let from = match &show_options.show_in {
                Some(ShowStatementIn {
                    clause: _,
                    parent_type: None,
                    parent_name: Some(name),
                }) if !*extended && !*full => Some(name),
                _ => None,
            };
            let Some(name) = from else {
                return Err(QueryError::Unsupported(
                    "write SHOW COLUMNS FROM table".into(),
                ));
            };
            let filter = like(show_options, "column_name")?;
            describe(
                name,
                filter
                    .strip_prefix(" AND")
                    .map(|rest| format!(" WHERE{rest}")),
            )
        }
        Sql::ExplainTable {
            describe_alias: _,
            hive_format,
            has_table_keyword: _,
            table_name,
        } => {
            if hive_format.is_some() {
                let reason = "write DESCRIBE table, without EXTENDED or FORMATTED";
                return Err(QueryError::Unsupported(reason.into()));
            }
            describe(table_name, None)
        }
        Sql::ShowVariable { .. } | Sql::ShowVariables { .. } | Sql::ShowStatus { .. } => {
            return Err(QueryError::Unsupported("settings can't be shown".into()));
        }
        _ => return Ok((statement, true)),
    };
    let mut parsed = DFParserBuilder::new(sql.as_str())
        .with_dialect(&TidelakeDialect::of(sql.len()))
        .build()?
        .parse_statements()?;
    parsed
        .pop_front()
        .map(|statement| (statement, false))
        .ok_or_else(|| QueryError::Engine("a rewritten SHOW is empty".into()))
}

fn describe(table: &ObjectName, filter: Option<String>) -> String {
    format!(
        "SELECT column_name, data_type, is_nullable, comment FROM {}({}){}",
        super::relations::TABLE_COLUMNS,
        Value::SingleQuotedString(table.to_string()),
        filter.unwrap_or_default()
    )
}

fn like(options: &ShowStatementOptions, column: &str) -> Result<String, QueryError> {
    let only_like = || QueryError::Unsupported("SHOW takes LIKE 'pattern' and nothing else".into());
    let ShowStatementOptions {
        show_in: _,
        starts_with,
        limit,
        limit_from,
        filter_position,
    } = options;
    if limit.is_some() || starts_with.is_some() || limit_from.is_some() {
        return Err(only_like());
    }
    let filter = match filter_position {
        None => return Ok(String::new()),
        Some(ShowStatementFilterPosition::Infix(filter))
        | Some(ShowStatementFilterPosition::Suffix(filter)) => filter,
    };
    let (operator, pattern) = match filter {
        ShowStatementFilter::Like(pattern) => ("LIKE", pattern),
        ShowStatementFilter::ILike(pattern) => ("ILIKE", pattern),
        _ => return Err(only_like()),
    };
    Ok(format!(
        " AND {column} {operator} {}",
        Value::SingleQuotedString(pattern.clone())
    ))
}

/// Refuses everything that is not a query or an explanation of one.
pub(super) fn check(statement: &mut Statement) -> Result<(), QueryError> {
    let refused = match statement {
        Statement::Statement(inner) => match inner.as_mut() {
            Sql::Query(query) => {
                return match query.visit(&mut Check) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(refused) => Err(refused),
                };
            }
            other => first_words(other),
        },
        Statement::Explain(explain) => return check(&mut explain.statement),
        Statement::CopyTo(_) => "COPY".to_owned(),
        Statement::CreateExternalTable(_) => "CREATE EXTERNAL TABLE".to_owned(),
        Statement::Reset(_) => "RESET".to_owned(),
    };
    Err(QueryError::NotAllowed(format!(
        "{refused} is not allowed: queries only read"
    )))
}

pub(super) fn first_words(told: &impl Display) -> String {
    let told = told.to_string();
    let words: Vec<_> = told.split_whitespace().take(2).collect();
    words.join(" ").chars().take(60).collect()
}

struct Check;

/// What is dropped by the planner is refused, or written as what it heeds.
impl VisitorMut for Check {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        flow(clauses::query(query))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<QueryError> {
        flow(clauses::select(select))
    }

    fn pre_visit_statement(&mut self, statement: &mut Sql) -> ControlFlow<QueryError> {
        match statement {
            Sql::Query(_) => ControlFlow::Continue(()),
            other => refuse(format!("{} is not allowed", first_words(other))),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<QueryError> {
        flow(clauses::factor(factor))?;
        match factor {
            TableFactor::Table { name, .. } => check_name(name),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<QueryError> {
        flow(clauses::expr(expr))
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<QueryError> {
        check_name(relation)
    }
}

fn flow(checked: Result<(), QueryError>) -> ControlFlow<QueryError> {
    match checked {
        Ok(()) => ControlFlow::Continue(()),
        Err(refused) => ControlFlow::Break(refused),
    }
}

fn check_name(name: &ObjectName) -> ControlFlow<QueryError> {
    for part in &name.0 {
        match part {
            ast::ObjectNamePart::Identifier(ident) if ident.quote_style == Some('\'') => {
                return refuse(format!(
                    "{name} is not allowed: files and URLs can't be read; quote a table's name \
                     with \"double quotes\""
                ));
            }
            ast::ObjectNamePart::Identifier(_) => {}
            ast::ObjectNamePart::Function(_) => {
                return refuse(format!("{name} is not a table's name"));
            }
        }
    }
    ControlFlow::Continue(())
}

fn refuse(reason: impl Into<String>) -> ControlFlow<QueryError> {
    ControlFlow::Break(QueryError::NotAllowed(reason.into()))
}
