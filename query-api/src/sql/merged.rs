//! `JOIN … USING (k)` and `NATURAL JOIN`: the one column that is made of two.
//!
//! The planner knows no such column: `k` by itself is the left side's, and `*` shows the one of the
//! side whose name comes first in the alphabet, both null where an outer join found nothing. So a join
//! that merges is marked here, and planned by `engine/merged.rs`: what comes out of it has the merged
//! column in the place of the left side's, and none of the right side. `b.k` is not there then. A
//! query that names a column which would be gone, or shows `b.*`, is left to the planner where that is
//! right, and refused where it is not.
//!
//! The mark is `GLOBAL`, which a text can't have: [`super::clauses`] refuses it. Marked joins stand in
//! parentheses, as the planner asks for nothing smaller.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectNamePart, PipeOperator, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement as Sql, TableFactor,
    TableWithJoins, Visit, VisitMut, Visitor, VisitorMut,
};

use super::relations::fold;
use crate::error::QueryError;

/// How often marked joins and others may follow each other: each time is one more within another.
const CHANGES_MAX: usize = 16;

/// Marks the joins whose columns are merged.
pub(super) fn mark(statement: &mut Statement) -> Result<(), QueryError> {
    match statement {
        Statement::Statement(inner) => match inner.as_mut() {
            Sql::Query(query) => match query.visit(&mut Marks) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(refused) => Err(refused),
            },
            _ => Ok(()),
        },
        Statement::Explain(explain) => mark(&mut explain.statement),
        Statement::CopyTo(_) | Statement::CreateExternalTable(_) | Statement::Reset(_) => Ok(()),
    }
}

struct Marks;

impl VisitorMut for Marks {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        let Query {
            body,
            order_by,
            pipe_operators,
            ..
        } = query;
        let mut around = Named::default();
        if let SetExpr::Select(_) = body.as_ref() {
            around.all = !pipe_operators.is_empty();
            let _ = Visit::visit(&*order_by, &mut around);
            let _ = Visit::visit(&*pipe_operators, &mut around);
        }
        let mut marked = pipe_operators.iter().try_for_each(of_pipe);
        let mut open = vec![body.as_mut()];
        while let (Ok(()), Some(body)) = (&marked, open.pop()) {
            match body {
                SetExpr::Select(select) => marked = of_select(select, around.clone()),
                SetExpr::SetOperation { left, right, .. } => {
                    open.push(right.as_mut());
                    open.push(left.as_mut());
                }
                _ => {}
            }
        }
        match marked {
            Ok(()) => ControlFlow::Continue(()),
            Err(refused) => ControlFlow::Break(refused),
        }
    }
}

/// What is joined by an operator is not within a `FROM`, and so left to the planner.
fn of_pipe(operator: &PipeOperator) -> Result<(), QueryError> {
    let merging = match operator {
        PipeOperator::Join(join) => Merging::of(&join.join_operator),
        _ => None,
    };
    match merging {
        Some(merging) if merging.keeps != Keeps::Neither => {
            Err(refused("|> with an outer JOIN by USING or NATURAL"))
        }
        _ => Ok(()),
    }
}

/// `named`: what is named around it.
fn of_select(select: &mut Select, mut named: Named) -> Result<(), QueryError> {
    if !select.from.iter().any(merges) {
        return Ok(());
    }
    let _ = Visit::visit(&*select, &mut named);
    for item in &select.projection {
        match item {
            SelectItem::Wildcard(_) => named.all = true,
            SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(table),
                _,
            ) => {
                let table = table.0.last().and_then(ObjectNamePart::as_ident);
                named.wildcards.extend(table.map(alike));
            }
            _ => {}
        }
    }
    let mut tables = select.from.iter_mut();
    tables.try_for_each(|table| of_table(table, &named))
}

/// Whether a join of it names columns by `USING` or `NATURAL`.
fn merges(table: &TableWithJoins) -> bool {
    let nested = |factor: &TableFactor| match factor {
        TableFactor::NestedJoin {
            table_with_joins, ..
        } => merges(table_with_joins),
        _ => false,
    };
    let joins = &table.joins;
    nested(&table.relation)
        || joins
            .iter()
            .any(|join| Merging::of(&join.join_operator).is_some() || nested(&join.relation))
}

/// What a query names together with its table.
#[derive(Debug, Clone, Default)]
struct Named {
    /// Table, or what else stands before a name, and name.
    columns: BTreeSet<(String, String)>,
    /// Tables of which all is shown.
    wildcards: BTreeSet<String>,
    /// All is shown of all tables.
    all: bool,
    /// Queries of `FROM` that see nothing of what is around them.
    hidden: usize,
}

impl Visitor for Named {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.hidden += usize::from(is_closed(factor));
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.hidden -= usize::from(is_closed(factor));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let (Expr::CompoundIdentifier(parts), 0) = (expr, self.hidden) {
            let pairs = parts.iter().zip(parts.iter().skip(1));
            let pairs = pairs.map(|(table, name)| (alike(table), alike(name)));
            self.columns.extend(pairs);
        }
        ControlFlow::Continue(())
    }
}

fn is_closed(factor: &TableFactor) -> bool {
    matches!(factor, TableFactor::Derived { lateral: false, .. })
}

fn is_lateral(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Derived { lateral, .. } | TableFactor::Function { lateral, .. } => *lateral,
        TableFactor::UNNEST { .. } => true,
        _ => false,
    }
}

/// Names that may mean the same column.
fn alike(name: &Ident) -> String {
    name.value.to_lowercase()
}

/// Which rows a join keeps that have nothing on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Neither,
    Left,
    Right,
    Both,
}

/// A join that merges columns.
struct Merging {
    keeps: Keeps,
    /// None: all that the sides have in common.
    columns: Option<BTreeSet<String>>,
}

impl Merging {
    fn of(operator: &JoinOperator) -> Option<Self> {
        use JoinOperator as Op;
        let (keeps, constraint) = match operator {
            Op::Join(constraint) | Op::Inner(constraint) => (Keeps::Neither, constraint),
            Op::Left(constraint) | Op::LeftOuter(constraint) => (Keeps::Left, constraint),
            Op::Right(constraint) | Op::RightOuter(constraint) => (Keeps::Right, constraint),
            Op::FullOuter(constraint) => (Keeps::Both, constraint),
            _ => return None,
        };
        let columns = match constraint {
            JoinConstraint::Natural => None,
            JoinConstraint::Using(names) => {
                let names = names.iter().filter_map(|name| name.0.last()?.as_ident());
                Some(names.map(alike).collect())
            }
            JoinConstraint::On(_) | JoinConstraint::None => return None,
        };
        Some(Self { keeps, columns })
    }

    /// The first column of these tables that is named with its table, or all of one of them.
    fn named(&self, tables: &[Table], named: &Named) -> Option<String> {
        let of = |name: &str| tables.iter().any(|table| alike(&table.0) == name);
        let is_merged = |name: &String| match &self.columns {
            Some(columns) => columns.contains(name),
            None => true,
        };
        let mut columns = named.columns.iter();
        let column = columns.find(|(table, name)| of(table) && is_merged(name));
        let mut wildcards = named.wildcards.iter();
        column
            .map(|(table, name)| format!("{table}.{name}"))
            .or_else(|| {
                let table = wildcards.find(|table| of(table))?;
                Some(format!("{table}.*"))
            })
    }
}

/// What a table is called.
#[derive(Debug, Clone)]
struct Table(Ident);

fn tables_of(factor: &TableFactor, tables: &mut Vec<Table>) {
    let name = match factor {
        TableFactor::NestedJoin {
            table_with_joins,
            alias: None,
        } => {
            tables_of(&table_with_joins.relation, tables);
            for join in &table_with_joins.joins {
                tables_of(&join.relation, tables);
            }
            return;
        }
        TableFactor::Table {
            name, alias: None, ..
        }
        | TableFactor::Function {
            name, alias: None, ..
        } => name.0.last().and_then(ObjectNamePart::as_ident),
        TableFactor::Table { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => alias.as_ref().map(|alias| &alias.name),
        _ => None,
    };
    tables.extend(name.cloned().map(Table));
}

/// Marks the joins of a table of `FROM`, from the left.
fn of_table(table: &mut TableWithJoins, named: &Named) -> Result<(), QueryError> {
    within(&mut table.relation, named)?;
    let mut left = Vec::new();
    tables_of(&table.relation, &mut left);
    // Whether a join before has merged columns in the planner's way.
    let mut is_planners = false;
    let can_mark = !is_lateral(&table.relation);
    let mut marked = Vec::with_capacity(table.joins.len());
    for join in &mut table.joins {
        within(&mut join.relation, named)?;
        let mut right = Vec::new();
        tables_of(&join.relation, &mut right);
        if let Some(merging) = Merging::of(&join.join_operator) {
            let can_mark = can_mark && !is_lateral(&join.relation);
            join.global = can_mark && merging.is_possible(&left, &right, named)?;
            if !join.global {
                merging.planned(&left, &right, (named, is_planners))?;
                is_planners = true;
            }
        }
        marked.push(join.global);
        left.append(&mut right);
    }
    parenthesized(table, &marked)
}

fn within(factor: &mut TableFactor, named: &Named) -> Result<(), QueryError> {
    match factor {
        TableFactor::NestedJoin {
            table_with_joins, ..
        } => of_table(table_with_joins, named),
        _ => Ok(()),
    }
}

impl Merging {
    /// Whether nothing is named that would be gone; an error where the planner has no right answer
    /// either.
    fn is_possible(
        &self,
        left: &[Table],
        right: &[Table],
        named: &Named,
    ) -> Result<bool, QueryError> {
        let whole = |tables: &[Table]| {
            let mut shown = named.wildcards.iter();
            let found = shown.find(|shown| tables.iter().any(|t| alike(&t.0) == **shown));
            found.map(|table| format!("{table}.*"))
        };
        let gone = match self.keeps {
            Keeps::Neither | Keeps::Left => return Ok(self.named(right, named).is_none()),
            // The merged one is the right side's, in another place.
            Keeps::Right => self.named(left, named).or_else(|| whole(right)),
            Keeps::Both => self.named(left, named).or_else(|| self.named(right, named)),
        };
        match gone {
            None => Ok(true),
            Some(gone) => Err(refused(&format!(
                "{gone} beside a RIGHT or FULL JOIN that merges columns by USING or NATURAL"
            ))),
        }
    }

    /// Refuses what the planner's way would give the wrong column for.
    fn planned(
        &self,
        left: &[Table],
        right: &[Table],
        (named, after_another): (&Named, bool),
    ) -> Result<(), QueryError> {
        let first = |tables: &[Table]| tables.iter().map(|table| fold(&table.0)).min();
        let last = |tables: &[Table]| tables.iter().map(|table| fold(&table.0)).max();
        match self.keeps {
            Keeps::Right | Keeps::Both => Err(refused(
                "LATERAL or UNNEST beside a RIGHT or FULL JOIN that merges columns by USING or NATURAL",
            )),
            Keeps::Neither if !after_another => Ok(()),
            _ if named.all && (left.is_empty() || last(left) >= first(right)) => Err(refused(
                "* with a column of the right side, such as b.k or b.*, beside a JOIN that merges \
                 columns by USING or NATURAL",
            )),
            Keeps::Neither | Keeps::Left => Ok(()),
        }
    }
}

fn refused(what: &str) -> QueryError {
    QueryError::Unsupported(format!(
        "{what} is not supported: the merged column is named by itself; where those of the two sides \
         are meant, write ON a.k = b.k, and coalesce(a.k, b.k) for the merged one"
    ))
}

/// Puts marked joins in parentheses, with all that is before them, so that they are planned as one.
fn parenthesized(table: &mut TableWithJoins, marked: &[bool]) -> Result<(), QueryError> {
    let changes = marked.windows(2).filter(|pair| pair[0] != pair[1]).count();
    if changes > CHANGES_MAX {
        return Err(QueryError::NotAllowed(format!(
            "joins by USING or NATURAL and others follow each other {changes} times; {CHANGES_MAX} \
             is the most: join by ON"
        )));
    }
    let joins = std::mem::take(&mut table.joins);
    for (join, is_marked) in joins.into_iter().zip(marked) {
        let before = table.joins.last().is_some_and(|join| join.global);
        if *is_marked != before && !table.joins.is_empty() {
            enclose(table);
        }
        table.joins.push(join);
    }
    if marked.last() == Some(&true) {
        enclose(table);
    }
    Ok(())
}

fn enclose(table: &mut TableWithJoins) {
    let nothing = TableFactor::UNNEST {
        alias: None,
        array_exprs: Vec::new(),
        with_offset: false,
        with_offset_alias: None,
        with_ordinality: false,
    };
    let inner = TableWithJoins {
        relation: std::mem::replace(&mut table.relation, nothing),
        joins: std::mem::take(&mut table.joins),
    };
    table.relation = TableFactor::NestedJoin {
        table_with_joins: Box::new(inner),
        alias: None,
    };
}
