//! Column names without quotes are found whatever their case.
//!
//! SQL folds unquoted names to lower case, so a column `userId` could only be reached as
//! `"userId"`. Here each name is looked up where it stands, in the tables that it may mean
//! ([`scope`]): a column of exactly the folded name comes first, then the only one that differs by
//! case, which is written with quotes; where several do, they are named in an error. A name that is
//! not found stays as it is: the planner tells what is there. [`walk`] visits queries in the order
//! in which names come into sight.

mod scope;
mod walk;

use std::collections::BTreeMap;

use datafusion::arrow::datatypes::Fields;
use datafusion::common::TableReference;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Ident, Statement as Sql};

use self::scope::{Columns, Relation};
use self::walk::Walk;
use super::relations::fold;
use crate::error::QueryError;

/// The columns of the tables that a statement reads, by the names that it gives them.
#[derive(Debug, Default)]
pub(crate) struct FoldedNames {
    tables: BTreeMap<TableReference, Fields>,
}

impl FoldedNames {
    /// Adds a table's columns.
    pub(crate) fn add(&mut self, table: &TableReference, fields: &Fields) {
        self.tables.insert(table.clone(), fields.clone());
    }

    /// Whether there is a name that quotes would be needed for.
    fn is_plain(&self) -> bool {
        let fields = self.tables.values().flatten();
        !fields.into_iter().any(|field| scope::is_mixed(field))
    }

    fn relation(&self, table: &TableReference) -> Option<Relation> {
        let fields = self.tables.get(table)?;
        Some(Relation::of_table(table, fields))
    }
}

/// The column of a table that a name means where no other table is in sight; absent where there is
/// none, or the name may mean several.
pub(crate) fn column_named(ident: &Ident, fields: &Fields) -> Option<usize> {
    let place = |name: &str| fields.iter().position(|field| field.name() == name);
    // An exact name needs no look at the others' case.
    if let Some(exact) = place(&fold(ident)) {
        return Some(exact);
    }
    let known: Vec<_> = fields.iter().map(|field| field.as_ref().into()).collect();
    let mut ident = ident.clone();
    Columns::known(known).resolve(&mut ident).ok()??;
    place(&fold(&ident))
}

/// Writes unquoted names as the columns they mean.
pub(crate) fn fold_columns(
    statement: &mut Statement,
    names: &FoldedNames,
) -> Result<(), QueryError> {
    // Most schemas have no such name, and the walk has nothing to do.
    if names.is_plain() {
        return Ok(());
    }
    match statement {
        Statement::Statement(inner) => match inner.as_mut() {
            Sql::Query(query) => Walk::new(names).query(query).map(drop),
            _ => Ok(()),
        },
        Statement::Explain(explain) => fold_columns(&mut explain.statement, names),
        Statement::CopyTo(_) | Statement::CreateExternalTable(_) | Statement::Reset(_) => Ok(()),
    }
}
