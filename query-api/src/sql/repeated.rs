//! Columns that a statement shows more than once: `SELECT b, b FROM t`, `SELECT *, id FROM t`.
//!
//! The planner has each name once. So a column of the outermost `SELECT` whose name is there before is
//! given the next free one: `b`, `b_2`, `b_3`, as the answer calls columns of several tables that
//! share a name. Beside a `*` it is the column that is written by itself. Queries within others are
//! left to the planner: what their columns are called has a meaning.
//!
//! What has the same name without being written alike is found by the planner, and named then
//! (`engine/repeats.rs`).
//!
//! Invariant: a statement that the planner takes as it is shows the same names as before.

use std::collections::HashSet;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    Statement as Sql, WildcardAdditionalOptions,
};

/// Gives columns of the outermost `SELECT` names of their own.
pub(crate) fn name_repeated(statement: &mut Statement) {
    match statement {
        Statement::Statement(inner) => {
            if let Sql::Query(query) = inner.as_mut() {
                name_in_query(query);
            }
        }
        Statement::Explain(explain) => name_repeated(&mut explain.statement),
        Statement::CopyTo(_) | Statement::CreateExternalTable(_) | Statement::Reset(_) => {}
    }
}

fn name_in_query(query: &mut Query) {
    // A set operation's names are those of its first part.
    let mut ordered = ordered_by(query);
    // Chains of set operations are long, and lean to the left.
    let mut open = vec![query.body.as_mut()];
    while let Some(body) = open.pop() {
        match body {
            SetExpr::Select(select) => name_in_select(select, &std::mem::take(&mut ordered)),
            SetExpr::Query(query) => open.push(query.body.as_mut()),
            SetExpr::SetOperation { left, right, .. } => {
                open.push(right.as_mut());
                open.push(left.as_mut());
            }
            _ => {}
        }
    }
}

/// The names that `ORDER BY` has by themselves.
pub(crate) fn ordered_by(query: &Query) -> HashSet<String> {
    let exprs = match query.order_by.as_ref().map(|order| &order.kind) {
        Some(OrderByKind::Expressions(exprs)) => exprs.as_slice(),
        _ => &[],
    };
    let names = exprs.iter().filter_map(|ordered| match &ordered.expr {
        Expr::Identifier(name) => Some(folded(name)),
        _ => None,
    });
    names.collect()
}

/// What an item is called, and of which table where that is said.
struct Shown {
    table: Option<String>,
    name: String,
    is_column: bool,
}

/// Which items stand for whole tables.
#[derive(Default)]
struct Wildcards {
    all: bool,
    tables: HashSet<String>,
    /// One table is all that is read.
    single: bool,
}

fn name_in_select(select: &mut Select, ordered: &HashSet<String>) {
    for (place, name) in names(select, ordered) {
        let alias = Ident::with_quote('"', name);
        let Some(item) = select.projection.get_mut(place) else {
            continue;
        };
        match item {
            SelectItem::UnnamedExpr(expr) => {
                let expr = expr.clone();
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
            SelectItem::ExprWithAlias { alias: known, .. } => *known = alias,
            _ => {}
        }
    }
}

/// The items that are there already, by their places, and what they are to be called. Those that an
/// `ORDER BY` may mean as well as another are left for the planner to refuse.
fn names(select: &Select, ordered: &HashSet<String>) -> Vec<(usize, String)> {
    let wildcards = wildcards(select);
    let shown = select.projection.iter().map(shown);
    let shown: Vec<Option<Shown>> = shown.collect();
    let mut used: HashSet<String> = shown.iter().flatten().map(|s| s.name.clone()).collect();
    let mut before: Vec<(&SelectItem, &Shown)> = Vec::new();
    let mut names = Vec::new();
    for (place, (item, shown)) in select.projection.iter().zip(&shown).enumerate() {
        let Some(shown) = shown else {
            continue;
        };
        let first = before.iter().find(|(_, other)| other.is_like(shown));
        let is_meant = ordered.contains(&shown.name);
        let is_other = first.is_some_and(|(first, _)| expr_of(first) != expr_of(item));
        let is_repeated = wildcards.hold(shown) || first.is_some();
        before.push((item, shown));
        if !is_repeated || (is_meant && is_other) {
            continue;
        }
        let mut copies = (2_usize..).map(|copy| format!("{}_{copy}", shown.name));
        let name = copies.find(|name| used.insert(name.clone()));
        names.extend(name.map(|name| (place, name)));
    }
    names
}

fn expr_of(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    }
}

impl Shown {
    /// What has no table is called as a column of any.
    fn is_like(&self, other: &Self) -> bool {
        let same = match (&self.table, &other.table) {
            (Some(table), Some(other)) => table == other,
            _ => true,
        };
        same && self.name == other.name
    }
}

impl Wildcards {
    fn hold(&self, shown: &Shown) -> bool {
        let of_table = match &shown.table {
            Some(table) => self.tables.contains(table),
            None => self.single && !self.tables.is_empty(),
        };
        shown.is_column && (self.all || of_table)
    }
}

fn wildcards(select: &Select) -> Wildcards {
    let single = matches!(select.from.as_slice(), [from] if from.joins.is_empty());
    let mut found = Wildcards {
        single,
        ..Wildcards::default()
    };
    let plain = |options: &WildcardAdditionalOptions| {
        options.opt_ilike.is_none()
            && options.opt_exclude.is_none()
            && options.opt_except.is_none()
            && options.opt_replace.is_none()
            && options.opt_rename.is_none()
    };
    for item in &select.projection {
        match item {
            SelectItem::Wildcard(options) if plain(options) => found.all = true,
            SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(table),
                options,
            ) if plain(options) => {
                let table = table.0.last().and_then(|part| part.as_ident());
                found.tables.extend(table.map(folded));
            }
            _ => {}
        }
    }
    found
}

fn shown(item: &SelectItem) -> Option<Shown> {
    let column = |table: Option<&Ident>, name: &Ident| Shown {
        table: table.map(folded),
        name: folded(name),
        is_column: true,
    };
    Some(match item {
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => column(None, name),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
            let (name, tables) = parts.split_last()?;
            column(tables.last(), name)
        }
        SelectItem::UnnamedExpr(expr) => Shown {
            table: None,
            name: text_of(expr),
            is_column: false,
        },
        SelectItem::ExprWithAlias { alias, .. } => Shown {
            table: None,
            name: folded(alias),
            is_column: false,
        },
        _ => return None,
    })
}

/// Names without quotes are the same whatever their case.
pub(crate) fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

/// An expression as the planner may call it; capitals tell nothing where nothing is quoted.
fn text_of(expr: &Expr) -> String {
    let text = expr.to_string();
    match text.contains(['"', '\'']) {
        true => text,
        false => text.to_lowercase(),
    }
}
