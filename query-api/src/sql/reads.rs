//! What a statement reads, and how much of it there is once its `WITH` queries stand where they are
//! named.
//!
//! A `WITH` query stands in the plan wherever it is named, so twenty of them, each of which names
//! the one before twice, are a plan of a million tables. Sizes are added up here without building
//! anything. One visit of the tree, every query once.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, Select, Spanned, Visit, Visitor, visit_relations,
};
use tidelake_service::Position;

use super::limits::too_large;
use super::relations::{fold, reference};
use crate::error::QueryError;

/// Tables and functions that are read, `WITH` queries counted wherever they are named.
const READS_MAX: usize = 2_000;
/// Expressions, counted likewise.
const EXPRESSIONS_MAX: usize = 500_000;
/// Queries, joins and pipe operators above each other.
const STEPS_MAX: usize = 400;

/// The names that stand for tables, without those of `WITH` queries.
pub(super) fn tables(statement: &Statement) -> Result<BTreeSet<TableReference>, QueryError> {
    let inner = match statement {
        Statement::Statement(inner) => inner,
        Statement::Explain(explain) => return tables(&explain.statement),
        Statement::CopyTo(_) | Statement::CreateExternalTable(_) | Statement::Reset(_) => {
            return Ok(BTreeSet::new());
        }
    };
    let mut reads = Reads {
        found: BTreeSet::new(),
        scopes: vec![Scope::default()],
    };
    match inner.visit(&mut reads) {
        ControlFlow::Continue(()) => Ok(reads.found),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Where the statement first names a table that is looked for.
pub(super) fn place(
    statement: &Statement,
    is_it: impl Fn(&TableReference) -> bool,
) -> Option<Position> {
    let inner = match statement {
        Statement::Statement(inner) => inner,
        Statement::Explain(explain) => return place(&explain.statement, is_it),
        Statement::CopyTo(_) | Statement::CreateExternalTable(_) | Statement::Reset(_) => {
            return None;
        }
    };
    let found = visit_relations(inner.as_ref(), |name| match reference(name) {
        Ok(table) if is_it(&table) => ControlFlow::Break(name.span().start),
        _ => ControlFlow::Continue(()),
    });
    let start = found.break_value()?;
    Position::at(start.line, start.column)
}

/// Of a query, with all that it names.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    reads: usize,
    expressions: usize,
    steps: usize,
}

impl Size {
    fn add(&mut self, other: Size) -> Result<(), QueryError> {
        self.reads = self.reads.saturating_add(other.reads);
        self.expressions = self.expressions.saturating_add(other.expressions);
        self.steps = self.steps.max(other.steps);
        self.check()
    }

    fn check(self) -> Result<(), QueryError> {
        let note = "a WITH query counts wherever it is named: name it less often";
        for (what, found, max) in [
            ("tables to read", self.reads, READS_MAX),
            ("expressions to compute", self.expressions, EXPRESSIONS_MAX),
            ("steps above each other", self.steps, STEPS_MAX),
        ] {
            if found > max {
                return Err(too_large(what, found, max, note));
            }
        }
        Ok(())
    }
}

/// A query that is being visited.
#[derive(Debug, Default)]
struct Scope {
    /// Its `WITH` queries: its first children, in this order.
    with: Vec<TableReference>,
    recursive: bool,
    /// Those of them that were visited, and can be named.
    defined: Vec<Size>,
    size: Size,
    /// Expressions and steps of its own.
    expressions: usize,
    steps: usize,
}

impl Scope {
    /// What the name stands for here, if it is a `WITH` query's.
    fn named(&self, name: &TableReference) -> Option<Size> {
        let place = self.with.iter().position(|with| with == name)?;
        match self.defined.get(place) {
            Some(size) => Some(*size),
            // A recursive query that is being visited names itself.
            None if self.recursive && place == self.defined.len() => Some(Size {
                reads: 1,
                ..Size::default()
            }),
            None => None,
        }
    }
}

struct Reads {
    found: BTreeSet<TableReference>,
    /// From the statement, which is no query, to the query that is visited.
    scopes: Vec<Scope>,
}

impl Reads {
    fn scope(&mut self) -> &mut Scope {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn relation(&mut self, name: &ObjectName) -> Result<(), QueryError> {
        let name = reference(name)?;
        let with = self
            .scopes
            .iter()
            .rev()
            .find_map(|scope| scope.named(&name));
        let size = match with {
            // Renaming it is a step, too.
            Some(size) => Size {
                reads: size.reads.saturating_add(1),
                steps: size.steps.saturating_add(1),
                ..size
            },
            None => {
                self.found.insert(name);
                Size {
                    reads: 1,
                    ..Size::default()
                }
            }
        };
        self.scope().size.add(size)
    }

    fn leave(&mut self) -> Result<(), QueryError> {
        let Some(scope) = self.scopes.pop() else {
            return Ok(());
        };
        let mut size = scope.size;
        size.steps += scope.steps + 1;
        size.check()?;
        let outer = self.scope();
        if outer.defined.len() == outer.with.len() {
            return outer.size.add(size);
        }
        // What nobody names is planned and thrown away: what it names stands in it shared.
        outer.defined.push(size);
        outer.size.expressions = outer.size.expressions.saturating_add(scope.expressions);
        Ok(())
    }
}

fn flow(result: Result<(), QueryError>) -> ControlFlow<QueryError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl Visitor for Reads {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<QueryError> {
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        let with = with.map(|with| TableReference::bare(fold(&with.alias.name)));
        self.scopes.push(Scope {
            with: with.collect(),
            recursive: query.with.as_ref().is_some_and(|with| with.recursive),
            steps: query.pipe_operators.len(),
            ..Scope::default()
        });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<QueryError> {
        flow(self.leave())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<QueryError> {
        let joins: usize = select.from.iter().map(|table| table.joins.len()).sum();
        let steps = joins + select.from.len().saturating_sub(1);
        let scope = self.scope();
        scope.steps = scope.steps.max(steps);
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<QueryError> {
        flow(self.relation(relation))
    }

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<QueryError> {
        let scope = self.scope();
        scope.expressions += 1;
        scope.size.expressions += 1;
        ControlFlow::Continue(())
    }
}
