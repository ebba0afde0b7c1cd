//! What SQL may do: read, and nothing else.
//!
//! The list is of what is allowed; what DataFusion learns next year is refused until it stands here.
//! Also refused: clauses that DataFusion parses and then ignores, because their answer would be wrong.

use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    self, ObjectName, Query, Select, SetExpr, ShowStatementFilter, ShowStatementFilterPosition,
    ShowStatementOptions, Statement as Sql, TableFactor, Value, Visit, Visitor,
};

use super::dialect::TidelakeDialect;
use crate::error::QueryError;

/// Turns `SHOW TABLES`, `SHOW COLUMNS FROM t` and `DESCRIBE t` into queries; others pass unchanged.
pub(super) fn rewrite_show(statement: Statement) -> Result<Statement, QueryError> {
    let Statement::Statement(inner) = &statement else {
        return Ok(statement);
    };
    let sql = match inner.as_ref() {
        Sql::ShowTables { show_options, .. } => {
            let filter = like(show_options, "table_name")?;
            format!(
                "SELECT table_catalog, table_schema, table_name, table_type \
                 FROM information_schema.tables \
                 WHERE table_schema <> 'information_schema'{filter} ORDER BY table_name"
            )
        }
        Sql::ShowColumns { show_options, .. } => {
            let name = show_options
                .show_in
                .as_ref()
                .and_then(|show| show.parent_name.as_ref());
            let Some(name) = name else {
                return Err(QueryError::NotAllowed(
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
        Sql::ExplainTable { table_name, .. } => describe(table_name, None),
        Sql::ShowVariable { .. } | Sql::ShowVariables { .. } | Sql::ShowStatus { .. } => {
            return Err(QueryError::NotAllowed("settings can't be shown".into()));
        }
        _ => return Ok(statement),
    };
    let mut parsed = DFParserBuilder::new(sql.as_str())
        .with_dialect(&TidelakeDialect)
        .build()?
        .parse_statements()?;
    parsed
        .pop_front()
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
    let only_like = || QueryError::NotAllowed("SHOW takes LIKE 'pattern' and nothing else".into());
    if options.limit.is_some() || options.starts_with.is_some() || options.limit_from.is_some() {
        return Err(only_like());
    }
    let filter = match &options.filter_position {
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
pub(super) fn check(statement: &Statement) -> Result<(), QueryError> {
    let refused = match statement {
        Statement::Statement(inner) => match inner.as_ref() {
            Sql::Query(query) => return check_query(query),
            other => first_words(&other.to_string()),
        },
        Statement::Explain(explain) => return check(&explain.statement),
        Statement::CopyTo(_) => "COPY".to_owned(),
        Statement::CreateExternalTable(_) => "CREATE EXTERNAL TABLE".to_owned(),
        Statement::Reset(_) => "RESET".to_owned(),
    };
    Err(QueryError::NotAllowed(format!(
        "{refused} is not allowed: queries only read"
    )))
}

fn first_words(statement: &str) -> String {
    let words: Vec<_> = statement.split_whitespace().take(2).collect();
    words.join(" ").chars().take(60).collect()
}

fn check_query(query: &Query) -> Result<(), QueryError> {
    match query.visit(&mut Check) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(reason) => Err(QueryError::NotAllowed(reason)),
    }
}

struct Check;

impl Visitor for Check {
    type Break = String;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        if !query.locks.is_empty() {
            return refuse("FOR UPDATE and FOR SHARE are not allowed: queries take no locks");
        }
        if query.for_clause.is_some() || query.settings.is_some() || query.format_clause.is_some() {
            return refuse("FOR, SETTINGS and FORMAT clauses are not allowed");
        }
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        if ctes.into_iter().any(|cte| cte.from.is_some()) {
            return refuse("WITH … FROM is not allowed");
        }
        check_body(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        if select.into.is_some() {
            return refuse("SELECT INTO is not allowed: queries only read");
        }
        if select.prewhere.is_some() || !select.connect_by.is_empty() {
            return refuse("PREWHERE and CONNECT BY are not allowed");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Sql) -> ControlFlow<String> {
        match statement {
            Sql::Query(_) => ControlFlow::Continue(()),
            other => refuse(format!(
                "{} is not allowed",
                first_words(&other.to_string())
            )),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<String> {
        match factor {
            TableFactor::Table {
                name,
                with_hints,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
                ..
            } => {
                if sample.is_some() {
                    return refuse("TABLESAMPLE is not supported; WHERE random() < 0.1 samples");
                }
                if !with_hints.is_empty()
                    || *with_ordinality
                    || !partitions.is_empty()
                    || json_path.is_some()
                    || !index_hints.is_empty()
                {
                    return refuse("hints, partitions and paths after a table are not allowed");
                }
                check_name(name)
            }
            TableFactor::Derived {
                sample: Some(_), ..
            } => refuse("TABLESAMPLE is not supported; WHERE random() < 0.1 samples"),
            TableFactor::Derived { .. }
            | TableFactor::NestedJoin { .. }
            | TableFactor::UNNEST { .. }
            | TableFactor::Function { .. }
            | TableFactor::TableFunction { .. } => ControlFlow::Continue(()),
            other => refuse(format!(
                "{} is not allowed",
                first_words(&other.to_string())
            )),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<String> {
        check_name(relation)
    }
}

fn check_body(body: &SetExpr) -> ControlFlow<String> {
    match body {
        // What is nested is visited as a query, select or statement of its own.
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => ControlFlow::Continue(()),
        SetExpr::SetOperation { left, right, .. } => {
            check_body(left)?;
            check_body(right)
        }
        SetExpr::Table(_) => refuse("TABLE t is not allowed; write SELECT * FROM t"),
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            refuse("INSERT, UPDATE, DELETE and MERGE are not allowed: queries only read")
        }
    }
}

fn check_name(name: &ObjectName) -> ControlFlow<String> {
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

fn refuse(reason: impl Into<String>) -> ControlFlow<String> {
    ControlFlow::Break(reason.into())
}
