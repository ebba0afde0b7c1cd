//! Output columns of one name, as the planner names them: `SELECT ts, ts::date`, `SELECT *, v + 1 AS
//! v`, `SELECT *, *`.
//!
//! The planner has each name once, and what it calls an expression only it knows. So a statement that
//! it refused is asked again in parts, what each item of an outermost `SELECT` is called; those whose
//! name is there already get the next free one (`v`, `v_2`), a `*` that has such is written out. What
//! is repeated word by word is named before ([`crate::sql::name_repeated`]).
//!
//! Invariants: a statement that the planner takes is never asked again; names of inner queries have a
//! meaning and are left alone; `ORDER BY` never takes one of several different columns of its name.

use std::collections::{HashMap, HashSet};

use datafusion::common::Column;
use datafusion::logical_expr::{Expr as Planned, LogicalPlan, Projection};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SetExpr, Statement as Sql, With,
};

use crate::error::{PlanFault, QueryError};
use crate::sql::{folded, ordered_by};

/// Parts of a statement that are asked; each is planned with all that it reads.
const PARTS_MAX: usize = 32;

/// Plans a statement.
pub(super) type Plan<'a> = &'a dyn Fn(Statement) -> Result<LogicalPlan, QueryError>;

/// Whether any of the names could be there twice.
pub(super) fn may_repeat(statement: &mut Statement) -> bool {
    let Some(query) = query_of(statement) else {
        return false;
    };
    let mut selects = selects(query);
    selects.any(|select| {
        let items = &select.projection;
        items.len() > 1 || items.iter().any(wildcard)
    })
}

fn wildcard(item: &SelectItem) -> bool {
    matches!(
        item,
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
    )
}

/// The statement under names that are there once; none where that is not what is wrong with it.
pub(super) fn renamed(
    mut statement: Statement,
    plan: Plan<'_>,
) -> Result<Option<Statement>, QueryError> {
    let Some(query) = query_of(&mut statement) else {
        return Ok(None);
    };
    let with = query.with.clone();
    // A set operation's names are those of its first part.
    let mut ordered = ordered_by(query);
    let is_wildcard = |item: &&SelectItem| wildcard(item);
    let asked = selects(query).map(|select| {
        let wildcards = select.projection.iter().filter(is_wildcard);
        1 + wildcards.count()
    });
    if asked.sum::<usize>() > PARTS_MAX {
        return Ok(None);
    }
    let mut any = false;
    for select in selects(query) {
        let Some(outputs) = outputs(select, with.as_ref(), plan) else {
            return Ok(None);
        };
        any |= rename(select, outputs, &std::mem::take(&mut ordered))?;
    }
    Ok(any.then_some(statement))
}

fn query_of(statement: &mut Statement) -> Option<&mut Query> {
    match statement {
        Statement::Statement(inner) => match inner.as_mut() {
            Sql::Query(query) => Some(query),
            _ => None,
        },
        Statement::Explain(explain) => query_of(&mut explain.statement),
        _ => None,
    }
}

/// The outermost ones, of which set operations consist.
fn selects(query: &mut Query) -> impl Iterator<Item = &mut Select> {
    let (mut open, mut found) = (vec![query.body.as_mut()], Vec::new());
    while let Some(body) = open.pop() {
        match body {
            SetExpr::Select(select) => found.push(select.as_mut()),
            SetExpr::SetOperation { left, right, .. } => {
                open.push(right.as_mut());
                open.push(left.as_mut());
            }
            _ => {}
        }
    }
    found.into_iter()
}

/// A column of the answer.
struct Output {
    /// Of the `SELECT` list.
    item: usize,
    name: String,
    expr: Planned,
    /// Of a `*`, where it can be named by itself.
    column: Option<Column>,
    /// By the text: what it is made of is nothing that the planner compares.
    is_alias: bool,
}

/// What each item comes to; none where it can't be told.
fn outputs(select: &Select, with: Option<&With>, plan: Plan<'_>) -> Option<Vec<Output>> {
    let hidden = |item: usize| format!("\u{1}{item}");
    let mut outputs = Vec::new();
    let mut asked = Vec::new();
    let mut names = HashMap::new();
    for (item, found) in select.projection.iter().enumerate() {
        match found {
            SelectItem::UnnamedExpr(expr) => {
                let alias = Ident::with_quote('"', hidden(item));
                names.insert(hidden(item), (item, None));
                asked.push(SelectItem::ExprWithAlias {
                    expr: expr.clone(),
                    alias,
                });
            }
            // What groups or filters may name it, so the first of a name keeps it.
            SelectItem::ExprWithAlias { expr, alias } => {
                let name = folded(alias);
                let alias = match names.contains_key(&name) {
                    true => Ident::with_quote('"', hidden(item)),
                    false => Ident::with_quote('"', name.clone()),
                };
                names.insert(alias.value.clone(), (item, Some(name)));
                asked.push(SelectItem::ExprWithAlias {
                    expr: expr.clone(),
                    alias,
                });
            }
            wildcard => {
                let shown = projection(select, vec![wildcard.clone()], with, plan)?;
                for expr in shown.expr {
                    let Planned::Column(column) = &expr else {
                        return None;
                    };
                    outputs.push(Output {
                        item,
                        name: column.name.clone(),
                        column: Some(column.clone()),
                        is_alias: false,
                        expr,
                    });
                }
            }
        }
    }
    if !asked.is_empty() {
        for expr in projection(select, asked, with, plan)?.expr {
            let (alias, expr) = match expr {
                Planned::Alias(alias) => (alias.name, *alias.expr),
                // A column under its own name gets no alias.
                Planned::Column(column) => (column.name.clone(), Planned::Column(column)),
                _ => return None,
            };
            let (item, name) = names.remove(&alias)?;
            outputs.push(Output {
                item,
                is_alias: name.is_some(),
                name: name.unwrap_or_else(|| name_of(&expr)),
                expr,
                column: None,
            });
        }
    }
    Some(outputs)
}

/// A cast is called as what it casts.
fn name_of(expr: &Planned) -> String {
    match expr {
        Planned::Cast(cast) => name_of(&cast.expr),
        Planned::TryCast(cast) => name_of(&cast.expr),
        Planned::Column(column) => column.name.clone(),
        other => other.schema_name().to_string(),
    }
}

/// The projection of these items by themselves.
fn projection(
    select: &Select,
    items: Vec<SelectItem>,
    with: Option<&With>,
    plan: Plan<'_>,
) -> Option<Projection> {
    let select = Select {
        projection: items,
        distinct: None,
        ..select.clone()
    };
    let query = Query {
        with: with.cloned(),
        body: Box::new(SetExpr::Select(Box::new(select))),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    };
    let statement = Statement::Statement(Box::new(Sql::Query(Box::new(query))));
    match plan(statement).ok()? {
        LogicalPlan::Projection(projection) => Some(projection),
        _ => None,
    }
}

/// Gives names to what has one that is there already; false where all are their own.
fn rename(
    select: &mut Select,
    outputs: Vec<Output>,
    ordered: &HashSet<String>,
) -> Result<bool, QueryError> {
    let mut used: HashSet<String> = outputs.iter().map(|output| output.name.clone()).collect();
    let mut first: HashMap<String, Planned> = HashMap::new();
    let mut keys = HashSet::new();
    let (mut any, mut written) = (
        false,
        HashMap::<usize, Vec<(Output, Option<String>)>>::new(),
    );
    // Those of a `*` come first: beside one it is the other that is renamed.
    for output in outputs {
        let is_new_key = output.is_alias || keys.insert(output.expr.schema_name().to_string());
        let known = first.get(&output.name);
        if known.is_some_and(|known| *known != output.expr) && ordered.contains(&output.name) {
            return Err(QueryError::Plan {
                fault: PlanFault::AmbiguousColumn,
                reason: format!(
                    "ORDER BY {} may mean several columns of the SELECT list: give them names",
                    output.name
                ),
                at: None,
            });
        }
        let alias = (known.is_some() || !is_new_key).then(|| free(&output.name, &mut used));
        if alias.is_none() {
            first.insert(output.name.clone(), output.expr.clone());
        }
        any |= alias.is_some();
        written
            .entry(output.item)
            .or_default()
            .push((output, alias));
    }
    let items = std::mem::take(&mut select.projection);
    for (place, item) in items.into_iter().enumerate() {
        let written = written.remove(&place).unwrap_or_default();
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }
                if let [(_, Some(name))] = written.as_slice() =>
            {
                let alias = Ident::with_quote('"', name.clone());
                select
                    .projection
                    .push(SelectItem::ExprWithAlias { expr, alias });
            }
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
                if written.iter().any(|(_, name)| name.is_some()) =>
            {
                let columns = written.into_iter();
                select.projection.extend(columns.filter_map(by_itself));
            }
            other => select.projection.push(other),
        }
    }
    Ok(any)
}

/// The next free name.
fn free(name: &str, used: &mut HashSet<String>) -> String {
    let mut copies = (2_usize..).map(|copy| format!("{name}_{copy}"));
    let free = copies.find(|name| used.insert(name.clone()));
    free.unwrap_or_default()
}

/// A column of a `*`.
fn by_itself((output, alias): (Output, Option<String>)) -> Option<SelectItem> {
    let Column { relation, name, .. } = output.column?;
    let quoted = |part: &str| Ident::with_quote('"', part);
    let mut parts: Vec<Ident> = relation
        .iter()
        .flat_map(|table| table.to_vec())
        .map(|part| quoted(&part))
        .collect();
    parts.push(quoted(&name));
    let expr = match parts.len() {
        1 => Expr::Identifier(parts.remove(0)),
        _ => Expr::CompoundIdentifier(parts),
    };
    Some(match alias {
        Some(alias) => SelectItem::ExprWithAlias {
            expr,
            alias: quoted(&alias),
        },
        None => SelectItem::UnnamedExpr(expr),
    })
}
