//! That another engine gave a column a type that its rows never had.
//!
//! Owns what is remembered of it: which columns were the last legal ones, so that a later version
//! that has them again is sound. Readers go on, and cast where they can; nothing is written, no
//! checkpoint either, since a checkpoint tells only of the newest columns.

use std::sync::Arc;

use tidelake_schema::delta::PhysicalNames;
use tidelake_schema::evolution::{Columns, check_key, check_types};
use tidelake_schema::{SchemaError, TableSchema};

use crate::error::{ManifestError, Result};
use crate::snapshot::Snapshot;

/// The columns of one version.
type Shared<'a> = (&'a Arc<TableSchema>, &'a Arc<PhysicalNames>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Retyped {
    source: SchemaError,
    schema: Arc<TableSchema>,
    names: Arc<PhysicalNames>,
}

impl Retyped {
    /// What is to be remembered once the columns `before` became `now`.
    pub(crate) fn after(
        known: Option<&Self>,
        before: Shared<'_>,
        now: Shared<'_>,
    ) -> Option<Arc<Self>> {
        let legal = known.map_or(before, |known| (&known.schema, &known.names));
        let source = check_types(columns(legal), columns(now)).err()?;
        Some(Arc::new(Self {
            source,
            schema: Arc::clone(legal.0),
            names: Arc::clone(legal.1),
        }))
    }
}

/// Refuses a version whose columns no row may follow, as far as the log tells.
pub(crate) fn check(at: &str, snapshot: &Snapshot) -> Result<()> {
    match &snapshot.retyped {
        Some(retyped) => Err(unusable(at, retyped.source.clone())),
        None => Ok(()),
    }
}

/// Refuses a version whose columns can't have followed from those that the table was made with; of
/// a table whose rows are told apart by their key also one with another key.
pub(crate) fn check_made_as(
    at: &str,
    snapshot: &Snapshot,
    made: &TableSchema,
    key: bool,
) -> Result<()> {
    let names = PhysicalNames::new();
    let was = Columns {
        schema: made,
        names: &names,
    };
    let now = columns((&snapshot.schema, &snapshot.physical));
    let checked = check_types(was, now);
    let checked = checked.and_then(|()| if key { check_key(was, now) } else { Ok(()) });
    checked.map_err(|source| unusable(at, source))
}

pub(crate) fn unusable(at: &str, source: SchemaError) -> ManifestError {
    ManifestError::Schema {
        at: at.to_owned(),
        source,
    }
}

fn columns<'a>((schema, names): Shared<'a>) -> Columns<'a> {
    Columns { schema, names }
}

#[cfg(test)]
mod tests;
