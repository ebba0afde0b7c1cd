//! Column names without quotes are found whatever their case.
//!
//! SQL folds unquoted names to lower case, so a column `userId` could only be reached as `"userId"`.
//! Here every unquoted name that, lower-cased, is the name of exactly one mixed-case column of the
//! statement's tables is written as that column's name. Aliases are treated alike, so that a name
//! and the references to it stay together.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::arrow::datatypes::{DataType, Fields};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, TableAlias, TableFactor, VisitMut, VisitorMut,
};

use super::relations::quoted;

/// Mixed-case names by their lower-case form.
#[derive(Debug, Default)]
pub(crate) struct FoldedNames {
    mixed: BTreeMap<String, String>,
    /// Lower-case forms that mean more than one name.
    taken: BTreeSet<String>,
}

impl FoldedNames {
    /// Adds a table's columns, nested ones included.
    pub(crate) fn add(&mut self, fields: &Fields) {
        for field in fields {
            let folded = field.name().to_lowercase();
            if *field.name() == folded {
                self.taken.insert(folded);
            } else if let Some(other) = self.mixed.insert(folded.clone(), field.name().clone())
                && other != *field.name()
            {
                self.taken.insert(folded);
            }
            self.add_nested(field.data_type());
        }
    }

    fn add_nested(&mut self, data_type: &DataType) {
        match data_type {
            DataType::Struct(fields) => self.add(fields),
            DataType::List(element) => self.add_nested(element.data_type()),
            DataType::Map(entries, _) => {
                if let DataType::Struct(fields) = entries.data_type() {
                    fields
                        .iter()
                        .for_each(|field| self.add_nested(field.data_type()));
                }
            }
            _ => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.mixed.is_empty()
    }

    fn fix(&self, ident: &mut Ident) {
        if ident.quote_style.is_some() {
            return;
        }
        let folded = ident.value.to_lowercase();
        if self.taken.contains(&folded) {
            return;
        }
        if let Some(exact) = self.mixed.get(&folded) {
            *ident = quoted(exact, ident.span);
        }
    }
}

/// Writes unquoted names as the columns they mean.
pub(crate) fn fold_columns(statement: &mut Statement, names: &FoldedNames) {
    if names.is_empty() {
        return;
    }
    match statement {
        Statement::Statement(inner) => {
            let _: ControlFlow<()> = inner.visit(&mut Fold(names));
        }
        Statement::Explain(explain) => fold_columns(&mut explain.statement, names),
        _ => {}
    }
}

struct Fold<'a>(&'a FoldedNames);

impl Fold<'_> {
    fn alias(&self, alias: &mut Option<TableAlias>) {
        for column in alias.iter_mut().flat_map(|alias| &mut alias.columns) {
            self.0.fix(&mut column.name);
        }
    }
}

impl VisitorMut for Fold<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(ident) => self.0.fix(ident),
            Expr::CompoundIdentifier(parts) => parts.iter_mut().for_each(|part| self.0.fix(part)),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for item in &mut select.projection {
            if let SelectItem::ExprWithAlias { alias, .. } = item {
                self.0.fix(alias);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        for cte in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            cte.alias
                .columns
                .iter_mut()
                .for_each(|column| self.0.fix(&mut column.name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::NestedJoin { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::Function { alias, .. } => self.alias(alias),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
