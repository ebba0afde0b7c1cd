//! The table schema as a Delta table's `schemaString`, and back.
//!
//! | type | Delta type | `tidelake.type` |
//! | --- | --- | --- |
//! | boolean, byte, short, float, double, string, binary, date | the same word | |
//! | int, long | `integer`, `long` | |
//! | decimal(p,s) | `decimal(p,s)` | |
//! | timestamp, timestamptz | `timestamp_ntz`, `timestamp` | |
//! | time, timestamp_ns, timestamptz_ns | `long` | `time`, `timestamp_ns`, `timestamptz_ns` |
//! | uuid | `string` | `uuid` |
//! | fixed\[n\] | `binary` | `fixed[n]` |
//! | struct, list, map | `struct`, `array`, `map` | |
//!
//! Keys in a field's metadata:
//!
//! | key | value |
//! | --- | --- |
//! | `tidelake.id` | the field's id, in a table without column mapping |
//! | `delta.columnMapping.id` | the field's id, in a table with column mapping |
//! | `delta.columnMapping.physicalName` | with it, its name in Parquet: the first logical name, nested too |
//! | `comment` | the doc |
//! | `tidelake.identifier` | place in the primary key, from 0 |
//! | `tidelake.type` | the declared type where Delta has none |
//! | `tidelake.type.<path>`, `tidelake.id.<path>` | the same, and the id, of a position inside a list or map |
//!
//! Numbers are written as numbers, and read as text too.
//!
//! `<path>` leads from the nearest field with metadata to the position: `element`, `key`, `value`,
//! joined by dots (`element.value`). The schema's own id is not part of a `schemaString`; reading
//! gives 0, and the table's properties keep it.
//!
//! Without column mapping a column is its name, for every engine. Other engines add columns there
//! without an id: such a column gets one that follows from its path, so that it is the same in
//! every process and in every order of the columns.

mod read;
mod write;

use std::collections::BTreeMap;

use serde_json::Value;
use tidelake_core::limits::SCHEMA_DEPTH_MAX;

use crate::error::SchemaError;
use crate::types::{Field, Primitive, TableSchema, Type};

pub use read::from_schema_string;
pub use write::{mapped_schema_string, schema_string};

const ID: &str = "delta.columnMapping.id";
const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";
const COMMENT: &str = "comment";
const IDENTIFIER: &str = "tidelake.identifier";
const DECLARED: &str = "tidelake.type";
/// Alone: the id of the field itself. With a path: that of a position inside of it.
const OWN_ID: &str = "tidelake.id";
/// Characters that Delta takes in a column's name only under column mapping.
const AWKWARD: [char; 10] = [' ', ',', ';', '{', '}', '(', ')', '=', '\t', '\n'];

/// A number in a field's metadata. Engines that keep metadata as text write it back as text: delta-rs
/// does where it merges schemas.
fn number_in(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_i64(),
    }
}

fn id_in(value: &Value) -> Option<i32> {
    i32::try_from(number_in(value)?).ok()
}

/// Physical names by field id, where they differ from the logical ones.
pub type PhysicalNames = BTreeMap<i32, String>;

/// The name under which Parquet files hold each field: by id, only where it differs from the
/// logical name.
pub fn physical_names(text: &str) -> Result<PhysicalNames, SchemaError> {
    fn walk(value: &Value, names: &mut PhysicalNames, depth: usize) {
        if depth > SCHEMA_DEPTH_MAX {
            return;
        }
        match value {
            Value::Array(values) => values.iter().for_each(|v| walk(v, names, depth)),
            Value::Object(object) => {
                let metadata = &value["metadata"];
                if let (Some(id), Some(name)) =
                    (id_in(&metadata[ID]), metadata[PHYSICAL_NAME].as_str())
                    && object.get("name").and_then(Value::as_str) != Some(name)
                {
                    names.insert(id, name.to_owned());
                }
                for key in ["fields", "type", "elementType", "keyType", "valueType"] {
                    if let Some(inner) = object.get(key) {
                        walk(inner, names, depth + usize::from(key != "fields"));
                    }
                }
            }
            _ => {}
        }
    }
    let value: Value = serde_json::from_str(text).map_err(|e| SchemaError::Json(e.to_string()))?;
    let mut names = PhysicalNames::new();
    walk(&value, &mut names, 0);
    Ok(names)
}

/// The name under which Parquet files and statistics have a field. `known` are those of its table.
pub fn physical_name<'a>(field: &'a Field, known: &'a PhysicalNames) -> &'a str {
    known
        .get(&field.id)
        .map_or(field.name.as_str(), String::as_str)
}

/// True where a table of these columns can't do without column mapping: it has a name that Delta
/// refuses otherwise.
pub fn needs_column_mapping(schema: &TableSchema) -> bool {
    fn needs(fields: &[Field]) -> bool {
        let awkward = |field: &Field| field.name.contains(AWKWARD);
        fields
            .iter()
            .any(|field| awkward(field) || inside(&field.ty))
    }
    fn inside(ty: &Type) -> bool {
        match ty {
            Type::Struct(fields) => needs(fields),
            other => other.children().into_iter().any(|(_, _, ty)| inside(ty)),
        }
    }
    needs(&schema.fields)
}

/// True where the table needs the feature `timestampNtz`.
pub fn uses_timestamp_ntz(schema: &TableSchema) -> bool {
    fn uses(ty: &Type) -> bool {
        *ty == Type::Primitive(Primitive::Timestamp)
            || ty.children().into_iter().any(|(_, _, child)| uses(child))
    }
    schema.fields.iter().any(|field| uses(&field.ty))
}
