//! Queries that name rows by the values of their columns: `SELECT … FROM t WHERE k = … AND …`.
//!
//! Owns which statements have that form and nothing more: one table, columns as they are, each
//! condition a column and the literals that it may be. Whether the columns are a key, and what the
//! literals mean for their types, is the engine's to decide. Every struct is taken apart field by
//! field: what the parser learns next year is no part of the form until somebody has decided so.
//!
//! Invariant: a statement of this form means the same whoever answers it; any doubt, be it a wrong
//! statement, is the planner's.

use datafusion::common::ScalarValue;
use datafusion::sql::parser::{ExplainStatement, Statement};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Ident, LimitClause, Query as SqlQuery, Select, SelectFlavor,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement as Sql, TableAlias,
    TableFactor, TableWithJoins, UnaryOperator, Value, WildcardAdditionalOptions,
};

use super::relations::{fold, reference};
use super::{Query, View, params};

/// Conditions of one statement: more than any key has columns.
const CONDITIONS_MAX: usize = 64;
/// Values of one condition; who names more has them planned.
const VALUES_MAX: usize = 1_000;

/// A statement of the form.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub columns: Vec<Wanted>,
    /// Each holds: a column and the values of which it must have one.
    pub conditions: Vec<(Ident, Vec<Literal>)>,
    pub limit: Option<usize>,
    /// Not the rows are asked for, but the way to them.
    pub is_explained: bool,
}

/// What a `SELECT` list names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Wanted {
    All,
    Column {
        name: Ident,
        /// Where it is shown under another name.
        shown: Option<String>,
    },
}

/// A value as it is written, or as a parameter gives it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Boolean(bool),
    Integer(i64),
    /// With a point, without an exponent.
    Number(String),
    Text(String),
    /// A parameter of another type, each of whose values equals itself only.
    Typed(ScalarValue),
}

impl Point {
    /// The statement, where it is of the form.
    pub(crate) fn of(query: &Query, params: &[ScalarValue]) -> Option<Self> {
        let mut relations = query.relations.iter();
        let (Some((name, relation)), None) = (relations.next(), relations.next()) else {
            return None;
        };
        if relation.view != View::Rows || !query.information.is_empty() {
            return None;
        }
        let (statement, is_explained) = match &query.statement {
            Statement::Statement(statement) => (statement.as_ref(), false),
            Statement::Explain(explain) => (explained(explain)?, true),
            _ => return None,
        };
        let Sql::Query(sql) = statement else {
            return None;
        };
        let (select, limit) = select_of(sql)?;
        let (projection, from, selection) = parts(select)?;
        let (table, visible) = table(from)?;
        if table != *name {
            return None;
        }
        let columns = projection.iter().map(|item| wanted(item, &visible));
        let columns = columns.collect::<Option<Vec<_>>>()?;
        let mut conditions = Vec::new();
        let read = Conditions {
            visible: &visible,
            params,
        };
        read.all(selection?, &mut conditions)?;
        Some(Self {
            columns,
            conditions,
            limit,
            is_explained,
        })
    }
}

/// Measured or in another format the planner explains.
fn explained(explain: &ExplainStatement) -> Option<&Sql> {
    let options = &explain.options;
    let is_plain = !options.analyze
        && !options.verbose
        && options.format.is_none()
        && options.analyze_level.is_none()
        && options.analyze_categories.is_none()
        && options.show_statistics.is_none();
    match explain.statement.as_ref() {
        Statement::Statement(inner) if is_plain => Some(inner),
        _ => None,
    }
}

fn select_of(query: &SqlQuery) -> Option<(&Select, Option<usize>)> {
    let SqlQuery {
        with: None,
        body,
        order_by: None,
        limit_clause,
        fetch: None,
        locks,
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators,
    } = query
    else {
        return None;
    };
    let SetExpr::Select(select) = body.as_ref() else {
        return None;
    };
    if !locks.is_empty() || !pipe_operators.is_empty() {
        return None;
    }
    let limit = match limit_clause {
        None => None,
        Some(LimitClause::LimitOffset {
            limit: Some(Expr::Value(limit)),
            offset: None,
            limit_by,
        }) if limit_by.is_empty() => match &limit.value {
            Value::Number(digits, false) => Some(digits.parse().ok()?),
            _ => return None,
        },
        Some(_) => return None,
    };
    Some((select, limit))
}

type Parts<'a> = (&'a [SelectItem], &'a TableWithJoins, Option<&'a Expr>);

fn parts(select: &Select) -> Option<Parts<'_>> {
    let Select {
        select_token: _,
        optimizer_hints,
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: _,
        projection,
        exclude: None,
        into: None,
        from,
        lateral_views,
        prewhere: None,
        selection,
        connect_by,
        group_by: GroupByExpr::Expressions(grouped, modifiers),
        cluster_by,
        distribute_by,
        sort_by,
        having: None,
        named_window,
        qualify: None,
        window_before_qualify: _,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    } = select
    else {
        return None;
    };
    let is_plain = optimizer_hints.is_empty()
        && lateral_views.is_empty()
        && connect_by.is_empty()
        && grouped.is_empty()
        && modifiers.is_empty()
        && cluster_by.is_empty()
        && distribute_by.is_empty()
        && sort_by.is_empty()
        && named_window.is_empty();
    match from.as_slice() {
        [from] if is_plain && from.joins.is_empty() => Some((projection, from, selection.as_ref())),
        _ => None,
    }
}

/// The table, and the name by which the statement's columns may be told from others'.
fn table(from: &TableWithJoins) -> Option<(datafusion::common::TableReference, String)> {
    let TableFactor::Table {
        name,
        alias,
        args: None,
        with_hints,
        version: None,
        with_ordinality: false,
        partitions,
        json_path: None,
        sample: None,
        index_hints,
    } = &from.relation
    else {
        return None;
    };
    if !with_hints.is_empty() || !partitions.is_empty() || !index_hints.is_empty() {
        return None;
    }
    let table = reference(name).ok()?;
    let visible = match alias {
        None => table.table().to_owned(),
        Some(TableAlias {
            explicit: _,
            name,
            columns,
            at: None,
        }) if columns.is_empty() => fold(name),
        Some(_) => return None,
    };
    Some((table, visible))
}

fn wanted(item: &SelectItem, visible: &str) -> Option<Wanted> {
    Some(match item {
        SelectItem::Wildcard(options) if is_bare(options) => Wanted::All,
        SelectItem::QualifiedWildcard(
            SelectItemQualifiedWildcardKind::ObjectName(name),
            options,
        ) if is_bare(options) => match name.0.as_slice() {
            [part] if fold(part.as_ident()?) == visible => Wanted::All,
            _ => return None,
        },
        SelectItem::UnnamedExpr(expr) => Wanted::Column {
            name: column(expr, visible)?.clone(),
            shown: None,
        },
        SelectItem::ExprWithAlias { expr, alias } => Wanted::Column {
            name: column(expr, visible)?.clone(),
            shown: Some(fold(alias)),
        },
        _ => return None,
    })
}

fn is_bare(options: &WildcardAdditionalOptions) -> bool {
    let WildcardAdditionalOptions {
        wildcard_token: _,
        opt_ilike,
        opt_exclude,
        opt_except,
        opt_replace,
        opt_rename,
        opt_alias,
    } = options;
    opt_ilike.is_none()
        && opt_exclude.is_none()
        && opt_except.is_none()
        && opt_replace.is_none()
        && opt_rename.is_none()
        && opt_alias.is_none()
}

/// A column's name; no variable's, and no field's of a column.
fn column<'a>(expr: &'a Expr, visible: &str) -> Option<&'a Ident> {
    let name = match expr {
        Expr::Identifier(name) => name,
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, name] if fold(table) == visible => name,
            _ => return None,
        },
        _ => return None,
    };
    (!name.value.starts_with('@')).then_some(name)
}

/// Reads conditions.
struct Conditions<'a> {
    visible: &'a str,
    params: &'a [ScalarValue],
}

impl Conditions<'_> {
    /// All of them, left to right, without recursion: a chain of `AND` may be long.
    fn all(&self, selection: &Expr, found: &mut Vec<(Ident, Vec<Literal>)>) -> Option<()> {
        let mut left = vec![selection];
        while let Some(expr) = left.pop() {
            match expr {
                Expr::Nested(inner) => left.push(inner),
                Expr::BinaryOp {
                    left: first,
                    op: BinaryOperator::And,
                    right: second,
                } => left.extend([second.as_ref(), first.as_ref()]),
                other => found.push(self.one(other)?),
            }
            if found.len() + left.len() > CONDITIONS_MAX {
                return None;
            }
        }
        Some(())
    }

    fn one(&self, expr: &Expr) -> Option<(Ident, Vec<Literal>)> {
        match expr {
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Eq,
                right,
            } => {
                let (name, value) = match column(left, self.visible) {
                    Some(name) => (name, right),
                    None => (column(right, self.visible)?, left),
                };
                Some((name.clone(), vec![self.literal(value)?]))
            }
            Expr::InList {
                expr,
                list,
                negated: false,
            } if list.len() <= VALUES_MAX => {
                let values = list.iter().map(|value| self.literal(value));
                let values = values.collect::<Option<Vec<_>>>()?;
                Some((column(expr, self.visible)?.clone(), values))
            }
            _ => None,
        }
    }

    fn literal(&self, expr: &Expr) -> Option<Literal> {
        match expr {
            Expr::Value(value) => match &value.value {
                Value::Number(digits, false) => number(digits.clone()),
                Value::SingleQuotedString(text) => Some(Literal::Text(text.clone())),
                Value::Boolean(value) => Some(Literal::Boolean(*value)),
                Value::Placeholder(name) => self.param(name),
                _ => None,
            },
            Expr::UnaryOp {
                op: UnaryOperator::Minus,
                expr,
            } => match expr.as_ref() {
                Expr::Value(value) => match &value.value {
                    Value::Number(digits, false) => number(format!("-{digits}")),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    fn param(&self, name: &str) -> Option<Literal> {
        params::literal(params::param(name, self.params)?)
    }
}

/// Digits, perhaps with a sign or one point.
fn number(text: String) -> Option<Literal> {
    if let Ok(value) = text.parse() {
        return Some(Literal::Integer(value));
    }
    let digits = text.strip_prefix('-').unwrap_or(&text);
    let (whole, fraction) = digits.split_once('.')?;
    let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = !fraction.is_empty() && are_digits(whole) && are_digits(fraction);
    is_number.then_some(Literal::Number(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql;

    fn point(text: &str) -> Option<Point> {
        let params = [
            ScalarValue::from(7i64),
            ScalarValue::from("x"),
            ScalarValue::Null,
            ScalarValue::from(1.5),
        ];
        Point::of(&sql::parse(text, &params).unwrap(), &params)
    }

    #[test]
    fn rows_named_by_values_are_told_from_all_other_queries() {
        for text in [
            "SELECT * FROM t WHERE k = 1",
            "SELECT t.*, a AS b FROM t WHERE 1 = k LIMIT 5",
            "SELECT x.a FROM t x WHERE (x.k = -1) AND (x.j IN ('a', $2))",
            "SELECT a FROM t VERSION AS OF 3 WHERE t.k = $1;",
            "EXPLAIN SELECT a FROM t WHERE k IN (1, 2.5)",
        ] {
            assert!(point(text).is_some(), "{text}");
        }
        for text in [
            "SELECT * FROM t",
            "SELECT * FROM t WHERE k > 1",
            "SELECT * FROM t WHERE k = 1 OR j = 2",
            "SELECT * FROM t WHERE k NOT IN (1)",
            "SELECT * FROM t WHERE k = NULL",
            "SELECT * FROM t WHERE k = $3",
            "SELECT * FROM t WHERE k = $4",
            "SELECT * FROM t WHERE k = $5",
            "SELECT * FROM t WHERE k = 1e3",
            "SELECT * FROM t WHERE k = 1 + 1",
            "SELECT * FROM t WHERE k = now()",
            "SELECT * FROM t WHERE k = j",
            "SELECT * FROM t WHERE k = DATE '2026-01-01'",
            "SELECT a + 1 FROM t WHERE k = 1",
            "SELECT count(*) FROM t WHERE k = 1",
            "SELECT * EXCLUDE (a) FROM t WHERE k = 1",
            "SELECT DISTINCT a FROM t WHERE k = 1",
            "SELECT a FROM t WHERE k = 1 ORDER BY a",
            "SELECT a FROM t WHERE k = 1 LIMIT 1 OFFSET 1",
            "SELECT a FROM t WHERE k = 1 GROUP BY a",
            "SELECT a FROM t, u WHERE k = 1",
            "SELECT a FROM t x (k, a) WHERE k = 1",
            "SELECT a FROM (SELECT * FROM t) WHERE k = 1",
            "SELECT y.a FROM t WHERE k = 1",
            "WITH u AS (SELECT 1) SELECT a FROM t WHERE k = 1",
            "SELECT a FROM t WHERE k = 1 UNION ALL SELECT 1",
            "SELECT * FROM table_history('t') WHERE version = 1",
            "EXPLAIN ANALYZE SELECT a FROM t WHERE k = 1",
        ] {
            assert!(point(text).is_none(), "{text}");
        }
    }

    #[test]
    fn literals_are_read_as_they_are_written() {
        let values = |list: &str| {
            let text = format!("SELECT * FROM t WHERE k IN ({list})");
            point(&text).map(|mut point| point.conditions.remove(0).1)
        };
        assert_eq!(
            values("0001, -5, 9223372036854775807, $1"),
            Some(vec![
                Literal::Integer(1),
                Literal::Integer(-5),
                Literal::Integer(i64::MAX),
                Literal::Integer(7),
            ])
        );
        assert_eq!(
            values("1.0, -0.50, 'it''s', true, $2"),
            Some(vec![
                Literal::Number("1.0".into()),
                Literal::Number("-0.50".into()),
                Literal::Text("it's".into()),
                Literal::Boolean(true),
                Literal::Text("x".into()),
            ])
        );
        for list in [
            "9223372036854775808",
            "1e2",
            "1., 2",
            "-'1'",
            "X'00'",
            "E'a'",
        ] {
            assert_eq!(values(list), None, "{list}");
        }
    }
}
