//! From a `schemaString`, of ours or of another writer, to a table schema.

use serde_json::{Map, Value};
use tidelake_core::limits::SCHEMA_DEPTH_MAX;

use super::write::stored_type;
use super::{COMMENT, DECLARED, ID, IDENTIFIER, OWN_ID, id_in, number_in};
use crate::error::{Problem, SchemaError};
use crate::ids::{PathIds, assign_fresh_ids, fill_ids};
use crate::json::{self, TypeText, flag, kind_of, optional, required};
use crate::types::{
    Field, ListType, MapType, Primitive, TableSchema, Type, decimal, join, shorten,
};

/// Reads and validates the schema of a table of ours or of another writer. Ids are those of the
/// column mapping, or ours; a table that has neither gets fresh ones. Metadata that is not ours is
/// ignored.
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
    reader.number(&mut schema);
    schema.identifier_field_ids = reader.identifiers(&schema);
    if let Some(field) = schema.identifier_fields().iter().find(|key| !key.required) {
        return Err(SchemaError::at(&field.name, Problem::NullableKey));
    }
    schema.validate()?;
    Ok(schema)
}

fn parse_stored(text: &str) -> Option<Primitive> {
    Some(match text {
        "boolean" => Primitive::Boolean,
        "byte" => Primitive::Byte,
        "short" => Primitive::Short,
        "integer" => Primitive::Int,
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
    /// A field with an id of ours.
    numbered: bool,
    /// A field without an id of the column mapping.
    unmapped: bool,
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
        json::fields(object, path, |field| self.field(field, path, depth))
    }

    fn field(
        &mut self,
        object: &Map<String, Value>,
        parent: &str,
        depth: usize,
    ) -> Result<Field, SchemaError> {
        let name = required(object, parent, "name", "the field's name", Value::as_str)?;
        let path = join(parent, name);
        let nullable = flag(object, &path, "nullable")?;
        let empty = Map::new();
        let metadata = optional(object, &path, "metadata", "an object", Value::as_object)?;
        let metadata = metadata.unwrap_or(&empty);
        let id = match optional(metadata, &path, ID, "an id", id_in)? {
            Some(id) => {
                self.mapped = true;
                id
            }
            None => {
                self.unmapped = true;
                let own = optional(metadata, &path, OWN_ID, "an id", id_in)?;
                self.numbered |= own.is_some();
                own.unwrap_or(0)
            }
        };
        if depth == 1
            && let Some(place) =
                optional(metadata, &path, IDENTIFIER, "a place in the key", number_in)?
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
        let (kind, object) = match json::type_text(value, path, "type", "struct, array or map")? {
            TypeText::Name(text) => return at.primitive(text, path).map(Type::Primitive),
            TypeText::Parts(kind, object) => (kind, object),
        };
        match kind {
            "struct" => Ok(Type::Struct(self.fields(object, path, depth + 1)?)),
            "array" => {
                let inner = at.inside("element");
                let element = required(object, path, "elementType", "a type", Some)?;
                let nulls = flag(object, path, "containsNull")?;
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
                let nulls = flag(object, path, "valueContainsNull")?;
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
        match at.metadata.get(&join(OWN_ID, &at.inner)) {
            None => {
                self.nested_unmapped = true;
                Ok(0)
            }
            Some(value) => id_in(value).ok_or_else(|| {
                let problem = Problem::WrongJson {
                    key: OWN_ID,
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

    /// Gives ids to what has none: everything, what other engines added, or the insides of lists
    /// and maps.
    fn number(&mut self, schema: &mut TableSchema) {
        match (self.mapped, self.unmapped) {
            // Column mapping is for all fields of a table or for none: here it is not on, and ids are
            // what they are to a table without it.
            (true, true) => PathIds::of(schema).number(&mut schema.fields, ""),
            (false, _) if self.numbered => PathIds::of(schema).number(&mut schema.fields, ""),
            (false, _) => assign_fresh_ids(schema),
            (true, false) if self.nested_unmapped => fill_ids(schema),
            (true, false) => {}
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
