//! From a table schema to a `schemaString`.

use serde_json::{Map, Value, json};

use super::{
    COMMENT, DECLARED, ID, IDENTIFIER, OWN_ID, PHYSICAL_NAME, PhysicalNames, needs_column_mapping,
    physical_name,
};
use crate::types::{Field, Primitive, TableSchema, Type, join};

/// The `schemaString` of a new table: with column mapping only where a name needs it.
pub fn schema_string(schema: &TableSchema) -> String {
    if needs_column_mapping(schema) {
        mapped_schema_string(schema, &PhysicalNames::new())
    } else {
        written(schema, None)
    }
}

/// The `schemaString` of a table with column mapping, with the physical names of columns that were
/// renamed.
pub fn mapped_schema_string(schema: &TableSchema, names: &PhysicalNames) -> String {
    written(schema, Some(names))
}

/// `names`: none without column mapping.
fn written(schema: &TableSchema, names: Option<&PhysicalNames>) -> String {
    let fields = schema.fields.iter().map(|field| {
        let mut value = field_value(field, names);
        let place = schema
            .identifier_field_ids
            .iter()
            .position(|id| *id == field.id);
        if let Some(place) = place {
            value["metadata"][IDENTIFIER] = json!(place);
        }
        value
    });
    json!({"type": "struct", "fields": fields.collect::<Vec<_>>()}).to_string()
}

fn field_value(field: &Field, names: Option<&PhysicalNames>) -> Value {
    let mut metadata = Map::new();
    match names {
        None => {
            metadata.insert(OWN_ID.to_owned(), json!(field.id));
        }
        Some(names) => {
            let physical = physical_name(field, names);
            metadata.insert(ID.to_owned(), json!(field.id));
            metadata.insert(PHYSICAL_NAME.to_owned(), json!(physical));
        }
    }
    if let Some(doc) = &field.doc {
        metadata.insert(COMMENT.to_owned(), json!(doc));
    }
    let ty = type_value(&field.ty, "", &mut metadata, names);
    json!({"name": field.name, "type": ty, "nullable": !field.required, "metadata": metadata})
}

/// The Delta type; what it cannot say goes to the metadata of the field that contains it.
fn type_value(
    ty: &Type,
    path: &str,
    metadata: &mut Map<String, Value>,
    names: Option<&PhysicalNames>,
) -> Value {
    match ty {
        Type::Primitive(primitive) => {
            let (stored, exact) = stored_type(*primitive);
            if !exact {
                metadata.insert(join(DECLARED, path), json!(primitive.to_string()));
            }
            json!(stored)
        }
        Type::Struct(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|field| field_value(field, names))
                .collect();
            json!({"type": "struct", "fields": fields})
        }
        Type::List(list) => {
            let path = join(path, "element");
            metadata.insert(join(OWN_ID, &path), json!(list.element_id));
            json!({
                "type": "array",
                "elementType": type_value(&list.element, &path, metadata, names),
                "containsNull": !list.element_required,
            })
        }
        Type::Map(map) => {
            let (key, value) = (join(path, "key"), join(path, "value"));
            metadata.insert(join(OWN_ID, &key), json!(map.key_id));
            metadata.insert(join(OWN_ID, &value), json!(map.value_id));
            json!({
                "type": "map",
                "keyType": type_value(&map.key, &key, metadata, names),
                "valueType": type_value(&map.value, &value, metadata, names),
                "valueContainsNull": !map.value_required,
            })
        }
    }
}

/// The Delta type, and whether it says everything.
pub(super) fn stored_type(primitive: Primitive) -> (String, bool) {
    let (name, exact) = match primitive {
        Primitive::Int => ("integer", true),
        Primitive::Timestamp => ("timestamp_ntz", true),
        Primitive::TimestampTz => ("timestamp", true),
        Primitive::Time | Primitive::TimestampNs | Primitive::TimestampTzNs => ("long", false),
        Primitive::Uuid => ("string", false),
        Primitive::Fixed(_) => ("binary", false),
        other => return (other.to_string(), true),
    };
    (name.to_owned(), exact)
}
