//! Table versions and our table functions: each becomes a relation with a name of its own.
//!
//! DataFusion reads `t VERSION AS OF 3` and then ignores the version, and plans table functions
//! without waiting for anything. So `t VERSION AS OF 3` becomes `"t version 3" AS t` and
//! `table_files('t')` becomes `"table_files(t)" AS table_files`; the engine puts tables under these
//! names. A name with a space or parenthesis is never a table's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::common::{ScalarValue, TableReference};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, Spanned, TableAlias,
    TableFactor, TableVersion as SqlVersion, TypedString, UnaryOperator, Value, VisitMut,
    VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use tidelake_core::{SnapshotName, TableVersion};

use super::named::{hidden_name, not_a_version};
use super::{AsOf, KeyPart, Relation, View, params, parse_timestamp};
use crate::error::QueryError;

pub(super) const TABLE_HISTORY: &str = "table_history";
pub(super) const TABLE_FILES: &str = "table_files";
pub(super) const TABLE_SNAPSHOTS: &str = "table_snapshots";
pub(super) const TABLE_CHANGES: &str = "table_changes";
pub(super) const KEY_HISTORY: &str = "key_history";
/// Our table functions that users know of.
const OURS: [&str; 5] = [
    TABLE_HISTORY,
    TABLE_FILES,
    TABLE_SNAPSHOTS,
    TABLE_CHANGES,
    KEY_HISTORY,
];
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
    params: &[ScalarValue],
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
    params: &'a [ScalarValue],
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
                    AsOf::Snapshot(ref name) => format!("snapshot {name}"),
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
                    return Err(QueryError::Unsupported(format!(
                        "{function} takes no SETTINGS"
                    )));
                };
                if version.is_some() {
                    return Err(QueryError::Unsupported(format!(
                        "{function} has no versions"
                    )));
                }
                if !is_ours(&function) {
                    *args = Some(datafusion::sql::sqlparser::ast::TableFunctionArgs {
                        args: given,
                        settings: None,
                    });
                    return self.harmless(&function);
                }
                let (view, table) = self.view(&function, &given)?;
                let made = match &view {
                    View::Changes { .. } | View::KeyHistory { .. } => {
                        let given: Vec<_> = given.iter().map(ToString::to_string).collect();
                        format!("{function}({table}: {})", given.join(", "))
                    }
                    _ => format!("{function}({table})"),
                };
                self.replace(name, alias, Ident::new(function), made, view, table, None);
                Ok(())
            }
            TableFactor::Function { name, .. } => {
                let function = function_name(name)?;
                if is_ours(&function) {
                    let reason = format!("{function} is not supported after LATERAL");
                    return Err(QueryError::Unsupported(reason));
                }
                self.harmless(&function)
            }
            TableFactor::TableFunction { expr, .. } => Err(QueryError::Unsupported(format!(
                "TABLE({expr}) is not supported; write FROM {expr}"
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
        *name = ObjectName::from(vec![quoted(&made, name.span())]);
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
            "table function {function} is not allowed; there are {}, {}",
            OURS.join(", "),
            HARMLESS.join(", ")
        )))
    }

    fn version(&self, version: &SqlVersion) -> Result<AsOf, QueryError> {
        match version {
            SqlVersion::VersionAsOf(expr) => version_of(expr, self.literal(expr)),
            SqlVersion::TimestampAsOf(expr) | SqlVersion::ForSystemTimeAsOf(expr) => {
                timestamp_of(expr, self.literal(expr))
            }
            other => Err(QueryError::Unsupported(format!(
                "{other} is not supported; write VERSION AS OF n or TIMESTAMP AS OF '…'"
            ))),
        }
    }

    /// What a function of ours shows, by its arguments.
    fn view(
        &self,
        function: &str,
        args: &[FunctionArg],
    ) -> Result<(View, TableReference), QueryError> {
        let usage = match function {
            TABLE_CHANGES => "'table', from version[, to version]",
            KEY_HISTORY => "'table', key column[, key column, …]",
            _ => "'table'",
        };
        let wrong = || QueryError::Invalid(format!("write {function}({usage})"));
        let exprs = args.iter().map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
            _ => Err(wrong()),
        });
        let exprs = exprs.collect::<Result<Vec<_>, _>>()?;
        let (table, rest) = exprs.split_first().ok_or_else(wrong)?;
        let table = TableReference::parse_str(&self.literal(table).ok_or_else(wrong)?);
        let version = |expr: &Expr| {
            version_of(expr, self.literal(expr)).map_err(|_| {
                QueryError::Invalid(format!(
                    "{function} takes a version's number or a snapshot's name, not {expr}"
                ))
            })
        };
        let view = match (function, rest) {
            (TABLE_CHANGES, [from]) => View::Changes {
                from: version(from)?,
                to: None,
            },
            (TABLE_CHANGES, [from, to]) => View::Changes {
                from: version(from)?,
                to: Some(version(to)?),
            },
            (KEY_HISTORY, [_, ..]) => {
                let key = rest.iter().map(|expr| {
                    key_part(expr, self.params).ok_or_else(|| {
                        QueryError::Invalid(format!(
                            "{function} takes the key's values as literals, not {expr}"
                        ))
                    })
                });
                let key = key.collect::<Result<_, _>>()?;
                View::KeyHistory { key }
            }
            (TABLE_HISTORY, []) => View::History,
            (TABLE_FILES, []) => View::Files,
            (TABLE_COLUMNS, []) => View::Columns,
            (TABLE_SNAPSHOTS, []) => View::Snapshots,
            _ => return Err(wrong()),
        };
        Ok((view, table))
    }

    fn literal(&self, expr: &Expr) -> Option<String> {
        literal(expr, self.params)
    }
}

/// The text of a literal or of the parameter that stands for one.
pub(super) fn literal(expr: &Expr, params: &[ScalarValue]) -> Option<String> {
    let value = match expr {
        Expr::Value(value) => &value.value,
        Expr::TypedString(TypedString { value, .. }) => &value.value,
        _ => return None,
    };
    match value {
        Value::SingleQuotedString(text) | Value::Number(text, _) => Some(text.clone()),
        Value::Placeholder(name) => params::text(params::param(name, params)?),
        _ => None,
    }
}

/// A version by number, or by the name that a snapshot gives it.
pub(super) fn version_of(expr: &Expr, text: Option<String>) -> Result<AsOf, QueryError> {
    if let Some(name) = hidden_name(expr) {
        return Ok(AsOf::Snapshot(name));
    }
    let wrong = || not_a_version(&expr.to_string());
    let text = text.ok_or_else(wrong)?;
    if let Ok(number) = text.parse() {
        return Ok(AsOf::Version(TableVersion(number)));
    }
    // No name begins with a digit: what does is a number gone wrong.
    SnapshotName::new(&text)
        .map(AsOf::Snapshot)
        .map_err(|_| wrong())
}

pub(super) fn timestamp_of(expr: &Expr, text: Option<String>) -> Result<AsOf, QueryError> {
    let text = text.ok_or_else(|| {
        QueryError::Invalid(format!("TIMESTAMP AS OF takes a literal, not {expr}"))
    })?;
    parse_timestamp(&text)
        .map(AsOf::Timestamp)
        .map_err(QueryError::Invalid)
}

/// One value of a key, as JSON.
fn key_part(expr: &Expr, params: &[ScalarValue]) -> Option<KeyPart> {
    // Digits behind a point are exact as text only.
    let number = |text: &str| match text.parse::<i64>() {
        Ok(number) => Some(KeyPart::Value(number.into())),
        Err(_) => Some(KeyPart::Text(text.to_owned())),
    };
    match expr {
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => match expr.as_ref() {
            Expr::Value(value) => match &value.value {
                Value::Number(text, _) => number(&format!("-{text}")),
                _ => None,
            },
            _ => None,
        },
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => number(text),
            Value::Boolean(value) => Some(KeyPart::Value((*value).into())),
            Value::Placeholder(name) => params::key_part(params::param(name, params)?),
            _ => literal(expr, params).map(KeyPart::Text),
        },
        _ => literal(expr, params).map(KeyPart::Text),
    }
}

fn is_ours(function: &str) -> bool {
    function == TABLE_COLUMNS || OURS.contains(&function)
}

fn function_name(name: &ObjectName) -> Result<String, QueryError> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(ident)] => Ok(fold(ident)),
        _ => Err(QueryError::NotAllowed(format!(
            "table function {name} is not allowed"
        ))),
    }
}

pub(super) fn reference(name: &ObjectName) -> Result<TableReference, QueryError> {
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
        // As the planner does: other letters keep their case.
        None => ident.value.to_ascii_lowercase(),
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
