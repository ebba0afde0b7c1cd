//! The table schema as a Delta table's `schemaString`, and back.
//!
//! | type | Delta type | `tidelake.type` |
//! | --- | --- | --- |
//! | boolean, float, double, string, binary, date | the same word | |
//! | int, long | `integer`, `long` | |
//! | decimal(p,s) | `decimal(p,s)` | |
//! | timestamp, timestamptz | `timestamp_ntz`, `timestamp` | |
//! | time, timestamp_ns, timestamptz_ns | `long` | `time`, `timestamp_ns`, `timestamptz_ns` |
//! | uuid | `string` | `uuid` |
//! | fixed\[n\] | `binary` | `fixed[n]` |
//! | struct, list, map | `struct`, `array`, `map` | |
//!
//! Reading foreign tables also takes `byte` and `short` (as int).
//!
//! Keys in a field's metadata:
//!
//! | key | value |
//! | --- | --- |
//! | `delta.columnMapping.id` | the field's id |
//! | `delta.columnMapping.physicalName` | its name in Parquet: the first logical name, nested too |
//! | `comment` | the doc |
//! | `tidelake.identifier` | place in the primary key, from 0 |
//! | `tidelake.type` | the declared type where Delta has none |
//! | `tidelake.type.<path>`, `tidelake.id.<path>` | the same, and the id, of a position inside a list or map |
//!
//! `<path>` leads from the nearest field with metadata to the position: `element`, `key`, `value`,
//! joined by dots (`element.value`). The schema's own id is not part of a `schemaString`; reading
//! gives 0, and the table's properties keep it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tidelake_core::limits::SCHEMA_DEPTH_MAX;

use crate::error::{Problem, SchemaError};
use crate::iceberg::{assign_fresh_ids, integer, kind_of, optional, required};
use crate::types::{
    Field, ListType, MapType, Primitive, TableSchema, Type, decimal, join, shorten,
};

const ID: &str = "delta.columnMapping.id";
const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";
const COMMENT: &str = "comment";
const IDENTIFIER: &str = "tidelake.identifier";
const DECLARED: &str = "tidelake.type";
const NESTED_ID: &str = "tidelake.id";

/// Physical names by field id, where they differ from the logical ones.
pub type PhysicalNames = BTreeMap<i32, String>;

/// The `schemaString` of a table whose columns still have their first names.
pub fn schema_string(schema: &TableSchema) -> String {
    schema_string_with(schema, &PhysicalNames::new())
}

/// As [`schema_string`], with the physical names of columns that were renamed.
pub fn schema_string_with(schema: &TableSchema, names: &PhysicalNames) -> String {
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

/// Reads and validates the schema of a table of ours or of another writer. Ids are those of the
/// column mapping; a table without gets fresh ones. Metadata that is not ours is ignored.
pub fn from_schema_string(text: &str) -> Result<TableSchema, SchemaError> {
    let value: Value = serde_json::from_str(text).map_err(|e| SchemaError::Json(e.to_string()))?;
    let Value::Object(object) = &value else {
        return Err(SchemaError::Table(Problem::NotASchema(kind_of(&value))));
    };
    let mut reader = Reader::default();
    let fields = reader.fields(object, "", 1)?;
    let mut schema = TableSchema {
        schema_id: 0,
        fields,
        identifier_field_ids: Vec::new(),
    };
    reader.number(&mut schema)?;
    schema.identifier_field_ids = reader.identifiers(&schema);
    schema.validate()?;
    Ok(schema)
}

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
                    (integer(&metadata[ID]), metadata[PHYSICAL_NAME].as_str())
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

/// The physical name that a field gets at creation: its name then, kept through renames.
pub fn physical_name(field: &Field) -> &str {
    &field.name
}

/// True where the table needs the feature `timestampNtz`.
pub fn uses_timestamp_ntz(schema: &TableSchema) -> bool {
    fn uses(ty: &Type) -> bool {
        *ty == Type::Primitive(Primitive::Timestamp)
            || ty.children().into_iter().any(|(_, _, child)| uses(child))
    }
    schema.fields.iter().any(|field| uses(&field.ty))
}

fn field_value(field: &Field, names: &PhysicalNames) -> Value {
    let mut metadata = Map::new();
    let physical = names
        .get(&field.id)
        .map_or(physical_name(field), String::as_str);
    metadata.insert(ID.to_owned(), json!(field.id));
    metadata.insert(PHYSICAL_NAME.to_owned(), json!(physical));
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
    names: &PhysicalNames,
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
            metadata.insert(join(NESTED_ID, &path), json!(list.element_id));
            json!({
                "type": "array",
                "elementType": type_value(&list.element, &path, metadata, names),
                "containsNull": !list.element_required,
            })
        }
        Type::Map(map) => {
            let (key, value) = (join(path, "key"), join(path, "value"));
            metadata.insert(join(NESTED_ID, &key), json!(map.key_id));
            metadata.insert(join(NESTED_ID, &value), json!(map.value_id));
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
fn stored_type(primitive: Primitive) -> (String, bool) {
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

fn parse_stored(text: &str) -> Option<Primitive> {
    Some(match text {
        "boolean" => Primitive::Boolean,
        "byte" | "short" | "integer" => Primitive::Int,
        "long" => Primitive::Long,
        "float" => Primitive::Float,
        "double" => Primitive::Double,
        "date" => Primitive::Date,
        "timestamp" => Primitive::TimestampTz,
        "timestamp_ntz" => Primitive::Timestamp,
        "string" => Primitive::String,
        "binary" => Primitive::Binary,
        "decimal" => Primitive::Decimal {
            precision: 10,
            scale: 0,
        },
        _ => return decimal(text.strip_prefix("decimal(")?.strip_suffix(')')?),
    })
}

/// What reading has met: mapped ids, and positions in the primary key.
#[derive(Default)]
struct Reader {
    mapped: bool,
    unmapped: Option<String>,
    /// A list's or map's position without id, as foreign writers leave them.
    nested_unmapped: bool,
    identifiers: Vec<(i64, String)>,
}

impl Reader {
    fn fields(
        &mut self,
        object: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Result<Vec<Field>, SchemaError> {
        let fields = required(
            object,
            path,
            "fields",
            "an array of fields",
            Value::as_array,
        )?;
        fields
            .iter()
            .map(|field| self.field(field, path, depth))
            .collect()
    }

    fn field(&mut self, value: &Value, parent: &str, depth: usize) -> Result<Field, SchemaError> {
        let Value::Object(object) = value else {
            let found = kind_of(value);
            let problem = Problem::WrongJson {
                key: "fields",
                expected: "an array of objects",
                found,
            };
            return Err(SchemaError::at(parent, problem));
        };
        let name = required(object, parent, "name", "the field's name", Value::as_str)?;
        let path = join(parent, name);
        let nullable = required(object, &path, "nullable", "true or false", Value::as_bool)?;
        let empty = Map::new();
        let metadata = optional(object, &path, "metadata", "an object", Value::as_object)?;
        let metadata = metadata.unwrap_or(&empty);
        let id = match optional(metadata, &path, ID, "an id", integer)? {
            Some(id) => {
                self.mapped = true;
                id
            }
            None => {
                self.unmapped.get_or_insert_with(|| path.clone());
                0
            }
        };
        if depth == 1
            && let Some(place) = optional(
                metadata,
                &path,
                IDENTIFIER,
                "a place in the key",
                Value::as_i64,
            )?
        {
            self.identifiers.push((place, name.to_owned()));
        }
        let position = Position {
            metadata,
            field: &path,
            inner: String::new(),
        };
        let ty = required(object, &path, "type", "a type", Some)?;
        Ok(Field {
            id,
            name: name.to_owned(),
            required: !nullable,
            ty: self.ty(ty, &position, depth)?,
            doc: metadata
                .get(COMMENT)
                .and_then(Value::as_str)
                .map(str::to_owned),
        })
    }

    fn ty(&mut self, value: &Value, at: &Position<'_>, depth: usize) -> Result<Type, SchemaError> {
        let path = &join(at.field, &at.inner);
        if depth > SCHEMA_DEPTH_MAX {
            return Err(SchemaError::at(path, Problem::TooDeep));
        }
        let object = match value {
            Value::String(text) => return at.primitive(text, path).map(Type::Primitive),
            Value::Object(object) => object,
            other => {
                let expected = "a type's name or an object";
                let problem = Problem::WrongJson {
                    key: "type",
                    expected,
                    found: kind_of(other),
                };
                return Err(SchemaError::at(path, problem));
            }
        };
        match required(object, path, "type", "struct, array or map", Value::as_str)? {
            "struct" => Ok(Type::Struct(self.fields(object, path, depth + 1)?)),
            "array" => {
                let inner = at.inside("element");
                let element = required(object, path, "elementType", "a type", Some)?;
                let nulls = required(
                    object,
                    path,
                    "containsNull",
                    "true or false",
                    Value::as_bool,
                )?;
                Ok(Type::List(Box::new(ListType {
                    element_id: self.nested_id(&inner)?,
                    element_required: !nulls,
                    element: self.ty(element, &inner, depth + 1)?,
                })))
            }
            "map" => {
                let (key_at, value_at) = (at.inside("key"), at.inside("value"));
                let key = required(object, path, "keyType", "a type", Some)?;
                let value = required(object, path, "valueType", "a type", Some)?;
                let nulls = required(
                    object,
                    path,
                    "valueContainsNull",
                    "true or false",
                    Value::as_bool,
                )?;
                Ok(Type::Map(Box::new(MapType {
                    key_id: self.nested_id(&key_at)?,
                    key: self.ty(key, &key_at, depth + 1)?,
                    value_id: self.nested_id(&value_at)?,
                    value_required: !nulls,
                    value: self.ty(value, &value_at, depth + 1)?,
                })))
            }
            other => Err(SchemaError::at(
                path,
                Problem::UnknownDeltaType(shorten(other)),
            )),
        }
    }

    fn nested_id(&mut self, at: &Position<'_>) -> Result<i32, SchemaError> {
        match at.metadata.get(&join(NESTED_ID, &at.inner)) {
            None => {
                self.nested_unmapped = true;
                Ok(0)
            }
            Some(value) => integer(value).ok_or_else(|| {
                let problem = Problem::WrongJson {
                    key: NESTED_ID,
                    expected: "an id",
                    found: kind_of(value),
                };
                SchemaError::at(&join(at.field, &at.inner), problem)
            }),
        }
    }

    fn identifiers(&mut self, schema: &TableSchema) -> Vec<i32> {
        self.identifiers.sort_unstable();
        let id = |(_, name): &(i64, String)| schema.field(name).map(|field| field.id);
        self.identifiers.iter().filter_map(id).collect()
    }

    /// Gives ids to what has none: everything, or the insides of lists and maps.
    fn number(&mut self, schema: &mut TableSchema) -> Result<(), SchemaError> {
        match (self.mapped, self.unmapped.take()) {
            (true, Some(path)) => Err(SchemaError::at(&path, Problem::MixedIds)),
            (false, _) => {
                assign_fresh_ids(schema);
                Ok(())
            }
            (true, None) => {
                if self.nested_unmapped {
                    let mut last = schema.last_column_id();
                    schema
                        .fields
                        .iter_mut()
                        .for_each(|field| fill_ids(&mut field.ty, &mut last));
                }
                Ok(())
            }
        }
    }
}

fn fill_ids(ty: &mut Type, last: &mut i32) {
    let mut fill = |id: &mut i32| {
        if *id == 0 {
            *last = last.saturating_add(1);
            *id = *last;
        }
    };
    match ty {
        Type::Primitive(_) => {}
        Type::Struct(fields) => fields
            .iter_mut()
            .for_each(|field| fill_ids(&mut field.ty, last)),
        Type::List(list) => {
            fill(&mut list.element_id);
            fill_ids(&mut list.element, last);
        }
        Type::Map(map) => {
            fill(&mut map.key_id);
            fill(&mut map.value_id);
            fill_ids(&mut map.key, last);
            fill_ids(&mut map.value, last);
        }
    }
}

/// A place within the type of one field with metadata.
struct Position<'a> {
    metadata: &'a Map<String, Value>,
    field: &'a str,
    inner: String,
}

impl Position<'_> {
    fn inside(&self, segment: &str) -> Self {
        Self {
            inner: join(&self.inner, segment),
            ..*self
        }
    }

    fn primitive(&self, text: &str, path: &str) -> Result<Primitive, SchemaError> {
        let Some(stored) = parse_stored(text) else {
            return Err(SchemaError::at(
                path,
                Problem::UnknownDeltaType(shorten(text)),
            ));
        };
        let Some(declared) = self.metadata.get(&join(DECLARED, &self.inner)) else {
            return Ok(stored);
        };
        let declared_text = declared.as_str().unwrap_or_default();
        match declared_text.parse::<Primitive>() {
            Ok(declared) if stored_type(declared).0 == text => Ok(declared),
            _ => {
                let declared = shorten(declared_text);
                let problem = Problem::DeclaredType {
                    declared,
                    stored: shorten(text),
                };
                Err(SchemaError::at(path, problem))
            }
        }
    }
}
