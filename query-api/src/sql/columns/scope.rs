//! The columns that a name may mean at one place of a statement.

use std::collections::BTreeSet;

use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::Ident;

use super::super::relations::{fold, quoted};
use crate::error::QueryError;

/// Of a table's columns or a struct's fields.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub name: String,
    /// Of a struct.
    pub fields: Fields,
}

impl Column {
    pub(super) fn named(name: String) -> Self {
        let fields = Fields::empty();
        Self { name, fields }
    }
}

impl From<&Field> for Column {
    fn from(field: &Field) -> Self {
        Self {
            name: field.name().clone(),
            fields: fields_of(field.data_type()),
        }
    }
}

/// Fields that can be reached by a name: through lists and maps, too.
fn fields_of(data_type: &DataType) -> Fields {
    match data_type {
        DataType::Struct(fields) => fields.clone(),
        DataType::List(item) => fields_of(item.data_type()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) => pair
                .last()
                .map_or_else(Fields::empty, |value| fields_of(value.data_type())),
            _ => Fields::empty(),
        },
        _ => Fields::empty(),
    }
}

/// Whether the name, or one within, is not the one that SQL folds it to.
pub(super) fn is_mixed(field: &Field) -> bool {
    let folded = field.name().to_ascii_lowercase();
    folded != *field.name()
        || fields_of(field.data_type())
            .iter()
            .any(|field| is_mixed(field))
}

/// What a relation has or a query gives, in its order. A column whose name no unquoted one can mean
/// has an empty name and keeps its place.
#[derive(Debug, Clone, Default)]
pub(super) struct Columns {
    pub known: Vec<Column>,
    /// Whether there may be others.
    pub is_open: bool,
}

impl Columns {
    pub(super) fn known(known: Vec<Column>) -> Self {
        let is_open = false;
        Self { known, is_open }
    }

    pub(super) fn open() -> Self {
        let (known, is_open) = (Vec::new(), true);
        Self { known, is_open }
    }

    pub(super) fn push(&mut self, name: String) {
        self.known.push(Column::named(name));
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.known.extend(others.known);
        self.is_open |= others.is_open;
    }

    /// Writes the name as the column it means, and tells that one's fields. Where there may be
    /// others, one that differs by case is not taken: the name may be another's own.
    pub(super) fn resolve(&self, ident: &mut Ident) -> Result<Option<Fields>, QueryError> {
        match self.is_open {
            true => Ok(exact(ident, self.known.iter())),
            false => resolve(ident, self.known.iter()),
        }
    }
}

/// Something in `FROM`.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    /// Absent: it has none, and its columns stand alone.
    pub name: Option<TableReference>,
    /// Whether the name is ours, for a version of a table or a function's rows.
    pub is_made: bool,
    pub columns: Columns,
}

impl Relation {
    pub(super) fn of_table(name: &TableReference, fields: &Fields) -> Self {
        let columns = fields.iter().map(|field| Column::from(field.as_ref()));
        Self {
            name: Some(name.clone()),
            is_made: name.table().contains([' ', '(']),
            columns: Columns::known(columns.collect()),
        }
    }

    pub(super) fn of(name: Option<TableReference>, columns: Columns) -> Self {
        Self {
            name,
            is_made: false,
            columns,
        }
    }

    /// Whether the parts before a column's name mean this.
    fn is_named(&self, parts: &[Ident]) -> bool {
        let Some(name) = &self.name else {
            return false;
        };
        let parts: Vec<_> = parts.iter().map(fold).collect();
        let same = |found: Option<&str>, part: &str| found.is_none_or(|found| found == part);
        match parts.as_slice() {
            [table] => name.table() == table,
            [schema, table] => name.table() == table && same(name.schema(), schema),
            [catalog, schema, table] => {
                name.table() == table
                    && same(name.schema(), schema)
                    && same(name.catalog(), catalog)
            }
            _ => false,
        }
    }
}

/// What one query's names may mean, and what its outer queries' may.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub relations: Vec<Relation>,
    /// Names of the `SELECT` list, where they are in sight.
    pub aliases: BTreeSet<String>,
}

/// What was found for a folded name.
enum Found {
    Nothing,
    /// As it is.
    Exact(Fields),
    Other(Column),
}

/// The fields of the column of exactly that name.
fn exact<'a>(ident: &Ident, mut columns: impl Iterator<Item = &'a Column>) -> Option<Fields> {
    let folded = fold(ident);
    let found = columns.find(|column| column.name == folded)?;
    Some(found.fields.clone())
}

/// Looks a name up among columns of several relations.
fn among<'a>(
    ident: &Ident,
    columns: impl Iterator<Item = &'a Column> + Clone,
) -> Result<Found, QueryError> {
    let folded = fold(ident);
    if let Some(exact) = columns.clone().find(|column| column.name == folded) {
        return Ok(Found::Exact(exact.fields.clone()));
    }
    if ident.quote_style.is_some() {
        return Ok(Found::Nothing);
    }
    let alike = columns.filter(|column| column.name.to_lowercase() == folded.to_lowercase());
    let mut found: Option<&Column> = None;
    for column in alike {
        match found {
            Some(first) if first.name != column.name => {
                return Err(QueryError::Invalid(format!(
                    "{ident} may be \"{}\" or \"{}\"; write the one that is meant, with quotes",
                    first.name, column.name
                )));
            }
            _ => found = Some(column),
        }
    }
    Ok(found.map_or(Found::Nothing, |column| Found::Other(column.clone())))
}

/// Writes the name as the column it means, and tells that one's fields; absent where there is none.
fn resolve<'a>(
    ident: &mut Ident,
    columns: impl Iterator<Item = &'a Column> + Clone,
) -> Result<Option<Fields>, QueryError> {
    Ok(match among(ident, columns)? {
        Found::Nothing => None,
        Found::Exact(fields) => Some(fields),
        Found::Other(column) => {
            *ident = quoted(&column.name, ident.span);
            Some(column.fields)
        }
    })
}

/// Writes the names of fields within fields.
fn resolve_nested(parts: &mut [Ident], mut fields: Fields) -> Result<(), QueryError> {
    for part in parts {
        let columns: Vec<Column> = fields.iter().map(|field| field.as_ref().into()).collect();
        match resolve(part, columns.iter())? {
            Some(within) => fields = within,
            None => return Ok(()),
        }
    }
    Ok(())
}

impl Scope {
    fn columns(&self) -> impl Iterator<Item = &Column> + Clone {
        let relations = self.relations.iter();
        relations.flat_map(|relation| &relation.columns.known)
    }

    /// Whether a relation here may have columns that are not known.
    pub(super) fn is_open(&self) -> bool {
        let mut relations = self.relations.iter();
        relations.any(|relation| relation.columns.is_open)
    }

    /// A name that stands alone; whether it means something here, or may do so.
    pub(super) fn name(&self, ident: &mut Ident) -> Result<bool, QueryError> {
        // What is not known may have the name: a neighbour's or an outer query's is no answer.
        if self.aliases.contains(&fold(ident)) || self.is_open() {
            return Ok(true);
        }
        Ok(resolve(ident, self.columns())?.is_some())
    }

    /// A name of several parts: a relation's column, or a column's field; whether it means
    /// something here. `open_within`: a query within has columns that are not known, and the first
    /// part may be one of these.
    pub(super) fn compound(
        &self,
        parts: &mut Vec<Ident>,
        open_within: bool,
    ) -> Result<bool, QueryError> {
        for prefix in (1..parts.len().min(4)).rev() {
            let named = |relation: &&Relation| relation.is_named(&parts[..prefix]);
            let Some(relation) = self.relations.iter().find(named) else {
                continue;
            };
            if let Some(fields) = relation.columns.resolve(&mut parts[prefix])? {
                resolve_nested(&mut parts[prefix + 1..], fields)?;
            }
            // A version of a table is known by the table's name only.
            if relation.is_made && prefix > 1 {
                parts.drain(..prefix - 1);
            }
            return Ok(true);
        }
        let found = match open_within || self.is_open() {
            true => exact(&parts[0], self.columns()),
            false => resolve(&mut parts[0], self.columns())?,
        };
        match found {
            Some(fields) => resolve_nested(&mut parts[1..], fields).map(|()| true),
            None => Ok(false),
        }
    }

    /// Columns of the relation of that name, or of all.
    pub(super) fn columns_of(&self, name: Option<&[Ident]>) -> Columns {
        let asked = |relation: &&Relation| name.is_none_or(|name| relation.is_named(name));
        let mut columns = Columns::default();
        for relation in self.relations.iter().filter(asked) {
            columns.extend(relation.columns.clone());
        }
        columns
    }
}
