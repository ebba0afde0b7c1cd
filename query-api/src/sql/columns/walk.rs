//! Visits queries so that a name's tables are known before the name is.
//!
//! ```text
//!  WITH ─► FROM (inner queries, joins) ─► SELECT, WHERE ─► GROUP BY, HAVING, … ─► ORDER BY
//!                                         columns          and aliases            and outputs
//! ```

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, ExcludeSelectItem, Expr, Ident, Join, JoinConstraint, JoinOperator, ObjectName,
    ObjectNamePart, PipeOperator, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, TableAlias, TableFactor, TableWithJoins, Values, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};

use super::super::relations::{fold, quoted, reference};
use super::FoldedNames;
use super::scope::{Column, Columns, Relation, Scope};
use crate::error::QueryError;

/// What a query gives to the one around it.
pub(super) type Outputs = Columns;

pub(super) struct Walk<'a> {
    names: &'a FoldedNames,
    /// `WITH` queries in sight, the nearest last.
    with: Vec<(TableReference, Outputs)>,
    /// From the outermost query to the one that is visited.
    scopes: Vec<Scope>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(names: &'a FoldedNames) -> Self {
        let (with, scopes) = (Vec::new(), Vec::new());
        Self {
            names,
            with,
            scopes,
        }
    }

    pub(super) fn query(&mut self, query: &mut Query) -> Result<Outputs, QueryError> {
        let outer_with = self.with.len();
        if let Some(with) = &mut query.with {
            for cte in &mut with.cte_tables {
                let name = TableReference::bare(fold(&cte.alias.name));
                if with.recursive
                    && let SetExpr::SetOperation { left, .. } = cte.query.body.as_mut()
                {
                    // Its own name means what its first part gives.
                    let (outputs, _) = self.body(left)?;
                    self.with
                        .push((name.clone(), renamed(outputs, Some(&cte.alias))));
                }
                let outputs = self.query(&mut cte.query)?;
                self.with.push((name, renamed(outputs, Some(&cte.alias))));
            }
        }
        let (mut outputs, scope) = self.body(&mut query.body)?;
        let mut scope = scope.unwrap_or_default();
        // A set operation's names are its outputs', and nothing else.
        give(&mut scope, None, &outputs);
        self.within(scope, |walk| {
            walk.exprs(&mut query.order_by)?;
            walk.exprs(&mut query.limit_clause)?;
            let mut operators = query.pipe_operators.iter_mut();
            operators.try_for_each(|operator| walk.pipe(operator, &mut outputs))
        })?;
        self.with.truncate(outer_with);
        Ok(outputs)
    }

    /// What one operator gives is in sight of those after it.
    fn pipe(
        &mut self,
        operator: &mut PipeOperator,
        outputs: &mut Outputs,
    ) -> Result<(), QueryError> {
        let mut name = None;
        match operator {
            PipeOperator::Select { exprs } => {
                let mut selected = Outputs::default();
                for item in exprs {
                    self.item(item, &mut selected, &mut BTreeSet::new())?;
                }
                *outputs = selected;
            }
            PipeOperator::Extend { exprs } => {
                for item in exprs {
                    self.item(item, outputs, &mut BTreeSet::new())?;
                }
            }
            PipeOperator::Aggregate {
                full_table_exprs,
                group_by_expr,
            } => {
                let mut given = Outputs::default();
                for part in group_by_expr.iter_mut().chain(full_table_exprs) {
                    self.exprs(&mut part.expr.expr)?;
                    given.push(match &part.expr.alias {
                        Some(alias) => fold(alias),
                        None => name_of(&part.expr.expr),
                    });
                }
                *outputs = given;
            }
            PipeOperator::As { alias } => name = Some(TableReference::bare(fold(alias))),
            PipeOperator::Join(join) => {
                let right = self.scope().relations.len();
                self.factor(&mut join.relation)?;
                self.constraint(join, 0, right)?;
                for relation in self.scope().relations.iter().skip(right) {
                    outputs.extend(relation.columns.clone());
                }
            }
            other => return self.exprs(other),
        }
        give(self.scope(), name, outputs);
        Ok(())
    }

    fn body(&mut self, body: &mut SetExpr) -> Result<(Outputs, Option<Scope>), QueryError> {
        match body {
            SetExpr::Select(select) => {
                let (outputs, scope) = self.select(select)?;
                Ok((outputs, Some(scope)))
            }
            SetExpr::Query(query) => Ok((self.query(query)?, None)),
            SetExpr::SetOperation { left, right, .. } => {
                let (outputs, _) = self.body(left)?;
                self.body(right)?;
                Ok((outputs, None))
            }
            SetExpr::Values(values) => {
                let width = values.rows.first().map_or(0, |row| row.len());
                self.exprs(values)?;
                let columns = (1..=width).map(|place| Column::named(format!("column{place}")));
                Ok((Outputs::known(columns.collect()), None))
            }
            _ => Ok((Outputs::open(), None)),
        }
    }

    fn select(&mut self, select: &mut Select) -> Result<(Outputs, Scope), QueryError> {
        let mut from = std::mem::take(&mut select.from);
        self.scopes.push(Scope::default());
        for table in &mut from {
            self.table(table)?;
        }
        select.from = from;
        let mut outputs = Outputs::default();
        let mut aliases = BTreeSet::new();
        for item in &mut select.projection {
            self.item(item, &mut outputs, &mut aliases)?;
        }
        self.exprs(&mut select.selection)?;
        if let Some(scope) = self.scopes.last_mut() {
            scope.aliases = aliases;
        }
        self.exprs(&mut select.distinct)?;
        self.exprs(&mut select.group_by)?;
        self.exprs(&mut select.having)?;
        self.exprs(&mut select.named_window)?;
        self.exprs(&mut select.qualify)?;
        self.exprs(&mut select.distribute_by)?;
        Ok((outputs, self.scopes.pop().unwrap_or_default()))
    }

    fn table(&mut self, table: &mut TableWithJoins) -> Result<(), QueryError> {
        let left = self.scope().relations.len();
        self.factor(&mut table.relation)?;
        for join in &mut table.joins {
            let right = self.scope().relations.len();
            self.factor(&mut join.relation)?;
            self.constraint(join, left, right)?;
        }
        Ok(())
    }

    fn scope(&mut self) -> &mut Scope {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn factor(&mut self, factor: &mut TableFactor) -> Result<(), QueryError> {
        let relation = match factor {
            TableFactor::Table {
                name, alias, args, ..
            } => {
                self.exprs(args)?;
                let name = reference(name)?;
                let with = self.with.iter().rev().find(|(with, _)| *with == name);
                let known = match with {
                    Some((_, outputs)) => Some(outputs.clone()),
                    None if args.is_some() => Some(rows_of_function()),
                    None => None,
                };
                let table = match known {
                    Some(columns) => Relation::of(Some(name), columns),
                    // Those of information_schema are nobody's to look up.
                    None => match self.names.relation(&name) {
                        Some(table) => table,
                        None => Relation::of(Some(name), Outputs::open()),
                    },
                };
                named(table, alias.as_ref())
            }
            TableFactor::Derived {
                lateral,
                subquery,
                alias,
                ..
            } => {
                // Without LATERAL, its neighbours are out of sight.
                let neighbours = match *lateral {
                    true => None,
                    false => self.scopes.pop(),
                };
                let outputs = self.query(subquery);
                self.scopes.extend(neighbours);
                named(Relation::of(None, outputs?), alias.as_ref())
            }
            TableFactor::NestedJoin {
                table_with_joins,
                alias,
            } => {
                let first = self.scope().relations.len();
                self.table(table_with_joins)?;
                if alias.is_none() {
                    return Ok(());
                }
                // The alias hides the names within.
                let mut columns = Outputs::default();
                for relation in self.scope().relations.drain(first..) {
                    columns.extend(relation.columns);
                }
                named(Relation::of(None, columns), alias.as_ref())
            }
            TableFactor::UNNEST {
                alias, array_exprs, ..
            } => {
                self.exprs(array_exprs)?;
                // Without an alias for each, its columns are called "UNNEST(…)".
                named(Relation::of(None, Outputs::default()), alias.as_ref())
            }
            TableFactor::Function {
                name, args, alias, ..
            } => {
                self.exprs(args)?;
                let rows = Relation::of(Some(reference(name)?), rows_of_function());
                named(rows, alias.as_ref())
            }
            other => {
                self.exprs(other)?;
                Relation::of(None, Outputs::open())
            }
        };
        self.scope().relations.push(relation);
        Ok(())
    }

    fn constraint(&mut self, join: &mut Join, left: usize, right: usize) -> Result<(), QueryError> {
        let Some(constraint) = constraint_of(&mut join.join_operator) else {
            return self.exprs(&mut join.join_operator);
        };
        let JoinConstraint::Using(names) = constraint else {
            return self.exprs(&mut join.join_operator);
        };
        let relations = &self.scope().relations;
        let columns = |relations: &[Relation]| -> Columns {
            let mut columns = Columns::default();
            for relation in relations {
                columns.extend(relation.columns.clone());
            }
            columns
        };
        let before = columns(relations.get(left..right).unwrap_or_default());
        let after = columns(relations.get(right..).unwrap_or_default());
        if before.is_open || after.is_open {
            // How the two spell a name is not known.
            return Ok(());
        }
        for name in names {
            let [ObjectNamePart::Identifier(ident)] = name.0.as_mut_slice() else {
                continue;
            };
            let mut other = ident.clone();
            let found = before.resolve(ident)?.and(after.resolve(&mut other)?);
            if found.is_some() && fold(ident) != fold(&other) {
                return Err(QueryError::Invalid(format!(
                    "the tables spell {} and {}; write JOIN … ON instead of USING",
                    ident, other
                )));
            }
        }
        Ok(())
    }

    fn item(
        &mut self,
        item: &mut SelectItem,
        outputs: &mut Outputs,
        aliases: &mut BTreeSet<String>,
    ) -> Result<(), QueryError> {
        match item {
            SelectItem::UnnamedExpr(expr) => {
                self.exprs(expr)?;
                outputs.push(name_of(expr));
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                self.exprs(expr)?;
                aliases.insert(fold(alias));
                outputs.push(fold(alias));
            }
            SelectItem::ExprWithAliases {
                expr,
                aliases: names,
            } => {
                self.exprs(expr)?;
                for alias in names {
                    aliases.insert(fold(alias));
                    outputs.push(fold(alias));
                }
            }
            SelectItem::Wildcard(options) => {
                let columns = self.scope().columns_of(None);
                self.wildcard(options, columns, outputs)?;
            }
            SelectItem::QualifiedWildcard(kind, options) => {
                let columns = match kind {
                    SelectItemQualifiedWildcardKind::ObjectName(name) => {
                        let parts = name.0.iter().filter_map(ObjectNamePart::as_ident);
                        let parts: Vec<Ident> = parts.cloned().collect();
                        self.scope().columns_of(Some(&parts))
                    }
                    SelectItemQualifiedWildcardKind::Expr(expr) => {
                        self.exprs(expr)?;
                        Outputs::open()
                    }
                };
                self.wildcard(options, columns, outputs)?;
            }
        }
        Ok(())
    }

    fn wildcard(
        &mut self,
        options: &mut WildcardAdditionalOptions,
        mut columns: Outputs,
        outputs: &mut Outputs,
    ) -> Result<(), QueryError> {
        let mut left_out = BTreeSet::new();
        if let Some(except) = &mut options.opt_except {
            let others = except.additional_elements.iter_mut();
            for ident in std::iter::once(&mut except.first_element).chain(others) {
                columns.resolve(ident)?;
                left_out.insert(fold(ident));
            }
        }
        let excluded: &mut [ObjectName] = match &mut options.opt_exclude {
            Some(ExcludeSelectItem::Single(name)) => std::slice::from_mut(name),
            Some(ExcludeSelectItem::Multiple(names)) => names,
            None => &mut [],
        };
        for name in excluded {
            if let [ObjectNamePart::Identifier(ident)] = name.0.as_mut_slice() {
                columns.resolve(ident)?;
                left_out.insert(fold(ident));
            }
        }
        for element in options
            .opt_replace
            .iter_mut()
            .flat_map(|replace| &mut replace.items)
        {
            self.exprs(&mut element.expr)?;
            columns.resolve(&mut element.column_name)?;
        }
        let kept = |column: &Column| !left_out.contains(&column.name);
        columns.known.retain(kept);
        outputs.extend(columns);
        Ok(())
    }

    fn within<T>(
        &mut self,
        scope: Scope,
        visit: impl FnOnce(&mut Self) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        self.scopes.push(scope);
        let visited = visit(self);
        self.scopes.pop();
        visited
    }

    /// Visits the names of expressions, and their inner queries.
    fn exprs(&mut self, part: &mut impl VisitMut) -> Result<(), QueryError> {
        let taken = Vec::new();
        match part.visit(&mut Exprs { walk: self, taken }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        }
    }

    fn name(&mut self, ident: &mut Ident) -> Result<(), QueryError> {
        for scope in self.scopes.iter().rev() {
            if scope.name(ident)? {
                break;
            }
        }
        Ok(())
    }

    fn compound(&mut self, parts: &mut Vec<Ident>) -> Result<(), QueryError> {
        let mut open_within = false;
        for scope in self.scopes.iter().rev() {
            if scope.compound(parts, open_within)? {
                break;
            }
            open_within |= scope.is_open();
        }
        Ok(())
    }
}

fn constraint_of(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    use JoinOperator as Op;
    match operator {
        Op::Join(constraint)
        | Op::Inner(constraint)
        | Op::Left(constraint)
        | Op::LeftOuter(constraint)
        | Op::Right(constraint)
        | Op::RightOuter(constraint)
        | Op::FullOuter(constraint)
        | Op::CrossJoin(constraint)
        | Op::Semi(constraint)
        | Op::LeftSemi(constraint)
        | Op::RightSemi(constraint)
        | Op::Anti(constraint)
        | Op::LeftAnti(constraint)
        | Op::RightAnti(constraint)
        | Op::StraightJoin(constraint) => Some(constraint),
        Op::CrossApply
        | Op::OuterApply
        | Op::AsOf { .. }
        | Op::ArrayJoin
        | Op::LeftArrayJoin
        | Op::InnerArrayJoin => None,
    }
}

/// The relation under its alias.
fn named(relation: Relation, alias: Option<&TableAlias>) -> Relation {
    let name = alias.map(|alias| TableReference::bare(fold(&alias.name)));
    Relation {
        name: name.or(relation.name),
        is_made: relation.is_made,
        columns: renamed(relation.columns, alias),
    }
}

/// The columns under the names that an alias gives them: the planner takes one for each, or none.
fn renamed(mut columns: Outputs, alias: Option<&TableAlias>) -> Outputs {
    let names = alias.iter().flat_map(|alias| &alias.columns);
    let names: Vec<String> = names.map(|name| fold(&name.name)).collect();
    if names.is_empty() {
        return columns;
    }
    if columns.is_open || columns.known.len() != names.len() {
        // Which of them has which fields is not known.
        let named = names.into_iter().map(Column::named);
        return Outputs::known(named.collect());
    }
    for (column, name) in columns.known.iter_mut().zip(names) {
        column.name = name;
    }
    columns
}

/// What `generate_series` and `range` give.
fn rows_of_function() -> Outputs {
    Outputs::known(vec![Column::named("value".into())])
}

/// Brings what a query or an operator gives into sight.
fn give(scope: &mut Scope, name: Option<TableReference>, outputs: &Outputs) {
    let names = outputs.known.iter().map(|column| column.name.clone());
    scope.aliases.extend(names);
    scope.relations.push(Relation::of(name, outputs.clone()));
}

/// The name that the planner gives to an expression without an alias; empty where it is a text that
/// no unquoted name can mean. Parentheses and casts keep the name of what is within.
fn name_of(expr: &Expr) -> String {
    let mut inner = expr;
    while let Expr::Nested(within) | Expr::Cast { expr: within, .. } = inner {
        inner = within;
    }
    match inner {
        Expr::Identifier(ident) => fold(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(fold).unwrap_or_default(),
        _ => String::new(),
    }
}

/// The names of expressions; an inner query is taken out of its place while it is walked.
struct Exprs<'w, 'a> {
    walk: &'w mut Walk<'a>,
    taken: Vec<Query>,
}

impl VisitorMut for Exprs<'_, '_> {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        let mut inner = std::mem::replace(query, nothing());
        let walked = self.walk.query(&mut inner);
        self.taken.push(inner);
        match walked {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        if let Some(inner) = self.taken.pop() {
            *query = inner;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<QueryError> {
        let resolved = match expr {
            Expr::Identifier(ident) => self.walk.name(ident),
            Expr::CompoundIdentifier(parts) => self.walk.compound(parts),
            Expr::CompoundFieldAccess { access_chain, .. } => {
                // A field's name is no column's.
                for access in access_chain {
                    if let AccessExpr::Dot(Expr::Identifier(field)) = access {
                        *field = quoted(&fold(field), field.span);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        };
        match resolved {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

fn nothing() -> Query {
    let values = SetExpr::Values(Values {
        explicit_row: false,
        value_keyword: false,
        rows: Vec::new(),
    });
    Query {
        with: None,
        body: Box::new(values),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    }
}
