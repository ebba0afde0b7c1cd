//! Tables of a session with a zone of its own, as its planner sees them.
//!
//! The planner fixes types: of set operations, of queries within others, of what a `ROLLUP` groups
//! by. So it is shown tables whose instants bear the zone already. Before types are coerced the
//! table itself is put in this one's place, below casts that change no value
//! ([`super::zones::tables_in`]).

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::Constraints;
use datafusion::logical_expr::{TableSource, TableType};

/// A table under types of the zone.
pub(super) struct ZonedSource {
    pub table: Arc<dyn TableSource>,
    schema: SchemaRef,
}

/// The table in the zone; itself where it has no instants, or none of another zone.
pub(crate) fn source_in(table: Arc<dyn TableSource>, zone: &Arc<str>) -> Arc<dyn TableSource> {
    let schema = table.schema();
    let mut any = false;
    let fields = schema.fields().iter().map(|field| {
        let Some(data_type) = moved(field.data_type(), zone) else {
            return Arc::clone(field);
        };
        any = true;
        Arc::new(Field::clone(field).with_data_type(data_type))
    });
    let fields: Vec<FieldRef> = fields.collect();
    if !any {
        return table;
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    Arc::new(ZonedSource { table, schema })
}

impl TableSource for ZonedSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn constraints(&self) -> Option<&Constraints> {
        self.table.constraints()
    }

    fn table_type(&self) -> TableType {
        self.table.table_type()
    }
}

/// The same values in the zone; none for what has no instants, or has all of them in it. Keys of
/// maps are left as they are: what is read of such is refused.
pub(super) fn moved(data_type: &DataType, zone: &Arc<str>) -> Option<DataType> {
    let field_in = |field: &FieldRef| {
        let data_type = moved(field.data_type(), zone)?;
        Some(Arc::new(Field::clone(field).with_data_type(data_type)))
    };
    match data_type {
        DataType::Timestamp(unit, Some(own)) if own != zone => {
            Some(DataType::Timestamp(*unit, Some(Arc::clone(zone))))
        }
        DataType::List(element) => Some(DataType::List(field_in(element)?)),
        DataType::Struct(fields) => {
            let changed: Vec<_> = fields.iter().map(field_in).collect();
            if changed.iter().all(Option::is_none) {
                return None;
            }
            let fields = changed.into_iter().zip(fields);
            let fields =
                fields.map(|(changed, field)| changed.unwrap_or_else(|| Arc::clone(field)));
            Some(DataType::Struct(fields.collect()))
        }
        _ => None,
    }
}
