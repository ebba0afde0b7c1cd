//! Table versions and our table functions: each becomes a relation with a name of its own.
//!
//! DataFusion reads `t VERSION AS OF 3` and then ignores the version, and plans table functions
//! without waiting for anything. So `t VERSION AS OF 3` becomes `"t version 3" AS t` and
//! `table_files('t')` becomes `"table_files(t)" AS table_files`; the engine puts tables under these
//! names. A name with a space or parenthesis is never a table's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, TableAlias, TableFactor,
    TableVersion as SqlVersion, TypedString, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use tidelake_core::TableVersion;

use super::{AsOf, Relation, View, parse_timestamp};
use crate::error::QueryError;

pub(super) const TABLE_HISTORY: &str = "table_history";
pub(super) const TABLE_FILES: &str = "table_files";
/// What `DESCRIBE` reads.
pub(super) const TABLE_COLUMNS: &str = "table_columns";
/// DataFusion's own table functions that read nothing.
const HARMLESS: [&str; 2] = ["generate_series", "range"];

/// What rewriting found.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    /// Versioned tables and our functions, by the names that they were given.
    pub relations: BTreeMap<TableReference, Relation>,
    /// Names that stand for DataFusion's functions only, not for tables.
    pub functions: BTreeSet<TableReference>,
}

/// Replaces versioned tables and our functions.
pub(super) fn rewrite(
    statement: &mut Statement,
    params: &[serde_json::Value],
) -> Result<Rewritten, QueryError> {
    let mut rewrite = Rewrite {
        params,
        found: Rewritten::default(),
        tables: BTreeSet::new(),
    };
    let flow = match statement {
        Statement::Statement(inner) => inner.visit(&mut rewrite),
        Statement::Explain(explain) => return self::rewrite(&mut explain.statement, params),
        _ => ControlFlow::Continue(()),
    };
    match flow {
        ControlFlow::Continue(()) => {
            let Rewrite {
                mut found, tables, ..
            } = rewrite;
            found
                .functions
                .retain(|function| !tables.contains(function));
            Ok(found)
        }
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rewrite<'a> {
    params: &'a [serde_json::Value],
    found: Rewritten,
    /// Names that stand for tables.
    tables: BTreeSet<TableReference>,
}

impl VisitorMut for Rewrite<'_> {
    type Break = QueryError;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<QueryError> {
        match self.factor(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Rewrite<'_> {
    fn factor(&mut self, factor: &mut TableFactor) -> Result<(), QueryError> {
        match factor {
            TableFactor::Table {
                name,
                args: None,
                alias,
                version,
                ..
            } => {
                let Some(asked) = version.take() else {
                    self.tables.insert(reference(name)?);
                    return Ok(());
                };
                let as_of = self.version(&asked)?;
                let table = reference(name)?;
                let suffix = match as_of {
                    AsOf::Latest => "latest".to_owned(),
                    AsOf::Version(version) => format!("version {version}"),
                    AsOf::Timestamp(ms) => format!("at {ms} ms"),
                };
                let shown = Ident::with_quote('"', table.table());
                let made = format!("{table} {suffix}");
                self.replace(name, alias, shown, made, View::Rows, table, Some(as_of));
                Ok(())
            }
            TableFactor::Table {
                name,
                args: args @ Some(_),
                alias,
                version,
                ..
            } => {
                let function = function_name(name)?;
                let taken = args.take().map(|args| (args.args, args.settings));
                let Some((given, None)) = taken else {
                    return Err(QueryError::NotAllowed(format!(
                        "{function} takes no SETTINGS"
                    )));
                };
                if version.is_some() {
                    return Err(QueryError::NotAllowed(format!(
                        "{function} has no versions"
                    )));
                }
                let Some(view) = view_of(&function) else {
                    *args = Some(datafusion::sql::sqlparser::ast::TableFunctionArgs {
                        args: given,
                        settings: None,
                    });
                    return self.harmless(&function);
                };
                let table = self.table_argument(&function, &given)?;
                let made = format!("{function}({table})");
                self.replace(name, alias, Ident::new(function), made, view, table, None);
                Ok(())
            }
            TableFactor::Function { name, .. } => {
                let function = function_name(name)?;
                if view_of(&function).is_some() {
                    let reason = format!("{function} is not allowed after LATERAL");
                    return Err(QueryError::NotAllowed(reason));
                }
                self.harmless(&function)
            }
            TableFactor::TableFunction { expr, .. } => Err(QueryError::NotAllowed(format!(
                "TABLE({expr}) is not allowed; write FROM {expr}"
            ))),
            _ => Ok(()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one table factor")]
    fn replace(
        &mut self,
        name: &mut ObjectName,
        alias: &mut Option<TableAlias>,
        shown: Ident,
        made: String,
        view: View,
        table: TableReference,
        as_of: Option<AsOf>,
    ) {
        if alias.is_none() {
            let columns = Vec::new();
            *alias = Some(TableAlias {
                explicit: true,
                name: shown,
                columns,
                at: None,
            });
        }
        *name = ObjectName::from(vec![Ident::with_quote('"', made.clone())]);
        self.found
            .relations
            .insert(TableReference::bare(made), Relation { view, table, as_of });
    }

    fn harmless(&mut self, function: &str) -> Result<(), QueryError> {
        if HARMLESS.contains(&function) {
            self.found.functions.insert(TableReference::bare(function));
            return Ok(());
        }
        Err(QueryError::NotAllowed(format!(
            "table function {function} is not allowed; there are {TABLE_HISTORY}, {TABLE_FILES}, {}",
            HARMLESS.join(", ")
        )))
    }

    fn version(&self, version: &SqlVersion) -> Result<AsOf, QueryError> {
        match version {
            SqlVersion::VersionAsOf(expr) => {
                let text = self.literal(expr).ok_or_else(|| bad_version(expr))?;
                text.parse()
                    .map(|number| AsOf::Version(TableVersion(number)))
                    .map_err(|_| bad_version(expr))
            }
            SqlVersion::TimestampAsOf(expr) | SqlVersion::ForSystemTimeAsOf(expr) => {
                let text = self.literal(expr).ok_or_else(|| {
                    QueryError::Invalid(format!("TIMESTAMP AS OF takes a literal, not {expr}"))
                })?;
                parse_timestamp(&text)
                    .map(AsOf::Timestamp)
                    .map_err(QueryError::Invalid)
            }
            other => Err(QueryError::NotAllowed(format!(
                "{other} is not supported; write VERSION AS OF n or TIMESTAMP AS OF '…'"
            ))),
        }
    }

    fn table_argument(
        &self,
        function: &str,
        args: &[FunctionArg],
    ) -> Result<TableReference, QueryError> {
        let wrong = || QueryError::Invalid(format!("write {function}('table')"));
        let [FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))] = args else {
            return Err(wrong());
        };
        let text = self.literal(expr).ok_or_else(wrong)?;
        Ok(TableReference::parse_str(&text))
    }

    /// The text of a literal or of the parameter that stands for one.
    fn literal(&self, expr: &Expr) -> Option<String> {
        let value = match expr {
            Expr::Value(value) => &value.value,
            Expr::TypedString(TypedString { value, .. }) => &value.value,
            _ => return None,
        };
        match value {
            Value::SingleQuotedString(text) | Value::Number(text, _) => Some(text.clone()),
            Value::Placeholder(name) => {
                let place: usize = name.strip_prefix('$')?.parse().ok()?;
                match self.params.get(place.checked_sub(1)?)? {
                    serde_json::Value::String(text) => Some(text.clone()),
                    serde_json::Value::Number(number) => Some(number.to_string()),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

fn bad_version(expr: &Expr) -> QueryError {
    QueryError::Invalid(format!("VERSION AS OF takes a version number, not {expr}"))
}

fn view_of(function: &str) -> Option<View> {
    match function {
        TABLE_HISTORY => Some(View::History),
        TABLE_FILES => Some(View::Files),
        TABLE_COLUMNS => Some(View::Columns),
        _ => None,
    }
}

fn function_name(name: &ObjectName) -> Result<String, QueryError> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(ident)] => Ok(fold(ident)),
        _ => Err(QueryError::NotAllowed(format!(
            "table function {name} is not allowed"
        ))),
    }
}

fn reference(name: &ObjectName) -> Result<TableReference, QueryError> {
    let parts: Option<Vec<_>> = name
        .0
        .iter()
        .map(|part| part.as_ident().map(fold))
        .collect();
    match parts.unwrap_or_default().as_slice() {
        [table] => Ok(TableReference::bare(table.as_str())),
        [schema, table] => Ok(TableReference::partial(schema.as_str(), table.as_str())),
        [catalog, schema, table] => Ok(TableReference::full(
            catalog.as_str(),
            schema.as_str(),
            table.as_str(),
        )),
        _ => Err(QueryError::Invalid(format!("{name} is not a table's name"))),
    }
}

/// An identifier as SQL reads it: lower case unless quoted.
pub(super) fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// An identifier that is taken as it is.
pub(super) fn quoted(name: &str, span: Span) -> Ident {
    Ident {
        value: name.to_owned(),
        quote_style: Some('"'),
        span,
    }
}
