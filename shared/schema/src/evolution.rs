//! What other engines may do to the columns of a table of ours, and what stops the table.
//!
//! | change | |
//! | --- | --- |
//! | a column is added, dropped, renamed, moved | followed; a key's column may not go |
//! | a type grows: byte → short → int → long, float → double, decimal by digits | followed, but not in a key |
//! | any other change of a type | refused |
//! | the primary key has other columns, or others in front | refused |
//!
//! A column is its physical name: what files and statistics call it. That stays through renames,
//! through moves, and while column mapping is turned on, where ids may be given anew. Rows on their
//! way were made by the older columns, and files that are there hold the older types: so a change
//! that is refused must stop the table before the next row is written.
//!
//! Types are compared as they are declared: a uuid that became its storage type is another type.

use crate::delta::{PhysicalNames, physical_name};
use crate::error::{Problem, SchemaError};
use crate::types::{Field, Primitive, TableSchema, Type, join};

/// One version of a table's columns.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    pub schema: &'a TableSchema,
    /// The names that the columns have in files, where they differ.
    pub names: &'a PhysicalNames,
}

/// Refuses columns whose types are no legal successors of what they were.
pub fn check_types(was: Columns<'_>, now: Columns<'_>) -> Result<(), SchemaError> {
    fields(&was.schema.fields, &now.schema.fields, was, now, "")
}

/// Refuses another primary key: of other columns, of the same in another order, or of another type.
pub fn check_key(was: Columns<'_>, now: Columns<'_>) -> Result<(), SchemaError> {
    let (old, new) = (
        was.schema.identifier_fields(),
        now.schema.identifier_fields(),
    );
    let name_in =
        |columns: Columns<'_>, field: &Field| physical_name(field, columns.names).to_owned();
    let key = |columns: Columns<'_>, fields: &[&Field]| -> Vec<String> {
        fields.iter().map(|field| name_in(columns, field)).collect()
    };
    if key(was, &old) != key(now, &new) {
        let names = |fields: &[&Field]| -> String {
            let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
            names.join(", ")
        };
        return Err(SchemaError::Table(Problem::KeyChanged {
            was: names(&old),
            now: names(&new),
        }));
    }
    for (old, new) in old.into_iter().zip(new) {
        // A key's text, its bucket and its place in the index follow from its type.
        if old.ty != new.ty {
            let (was, now) = (old.ty.name(), new.ty.name());
            let problem = Problem::KeyRetyped { was, now };
            return Err(SchemaError::at(&new.name, problem));
        }
    }
    Ok(())
}

fn fields(
    old: &[Field],
    new: &[Field],
    was: Columns<'_>,
    now: Columns<'_>,
    parent: &str,
) -> Result<(), SchemaError> {
    for field in old {
        let name = physical_name(field, was.names);
        let same = |field: &&Field| physical_name(field, now.names) == name;
        if let Some(successor) = new.iter().find(same) {
            let path = join(parent, &successor.name);
            types(&field.ty, &successor.ty, was, now, &path)?;
        }
    }
    Ok(())
}

fn types(
    old: &Type,
    new: &Type,
    was: Columns<'_>,
    now: Columns<'_>,
    path: &str,
) -> Result<(), SchemaError> {
    let inside =
        |old: &Type, new: &Type, segment: &str| types(old, new, was, now, &join(path, segment));
    match (old, new) {
        (Type::Primitive(old), Type::Primitive(new)) if widens(*old, *new) => Ok(()),
        (Type::Struct(old), Type::Struct(new)) => fields(old, new, was, now, path),
        (Type::List(old), Type::List(new)) => inside(&old.element, &new.element, "element"),
        (Type::Map(old), Type::Map(new)) => {
            inside(&old.key, &new.key, "key")?;
            inside(&old.value, &new.value, "value")
        }
        (old, new) => {
            let (was, now) = (old.name(), new.name());
            Err(SchemaError::at(path, Problem::Retyped { was, now }))
        }
    }
}

/// Delta's rules of type widening, as far as every reader of ours casts so: the same type, or one
/// that holds every value of it.
fn widens(old: Primitive, new: Primitive) -> bool {
    use Primitive as P;
    match (old, new) {
        (P::Byte, P::Short | P::Int | P::Long)
        | (P::Short, P::Int | P::Long)
        | (P::Int, P::Long)
        | (P::Float, P::Double) => true,
        (
            P::Decimal { precision, scale },
            P::Decimal {
                precision: digits,
                scale: fraction,
            },
        ) => {
            let more = i16::from(digits) - i16::from(precision);
            let finer = i16::from(fraction) - i16::from(scale);
            finer >= 0 && more >= finer
        }
        (old, new) => old == new,
    }
}

#[cfg(test)]
mod tests;
