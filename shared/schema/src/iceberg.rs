//! The table schema as Iceberg schema JSON, its canonical form.
//!
//! | here | JSON |
//! | --- | --- |
//! | [`TableSchema`] | `{"type":"struct","schema-id":0,"identifier-field-ids":[1],"fields":[…]}` |
//! | [`Field`] | `{"id":1,"name":"a","required":true,"type":…,"doc":"…"}` |
//! | [`Primitive`] | `"long"`, `"decimal(9,2)"`, `"fixed[16]"`, … |
//! | [`Type::Struct`] | `{"type":"struct","fields":[…]}` |
//! | [`ListType`] | `{"type":"list","element-id":2,"element-required":true,"element":…}` |
//! | [`MapType`] | `{"type":"map","key-id":3,"key":…,"value-id":4,"value-required":true,"value":…}` |
//!
//! Printing leaves out an empty `identifier-field-ids` and an absent `doc`, as Iceberg does, so what
//! Iceberg printed comes back byte for byte up to the order of keys. Reading is strict: an unknown
//! key is refused, because dropping it in silence would lose what its writer meant. Ids may be left
//! out, all of them: then they are assigned as Iceberg does, a struct's own fields first.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use tidelake_core::limits::SCHEMA_DEPTH_MAX;

use crate::error::{Problem, SchemaError};
use crate::ids::assign_fresh_ids;
use crate::json::{self, TypeText, flag, integer, kind_of, optional, required};
use crate::types::{Field, ListType, MapType, TableSchema, Type, join, shorten};

impl TableSchema {
    /// Parses and validates.
    pub fn from_iceberg_json(text: &str) -> Result<Self, SchemaError> {
        let value = serde_json::from_str(text).map_err(|e| SchemaError::Json(e.to_string()))?;
        Self::from_iceberg_value(&value)
    }

    /// As [`from_iceberg_json`](Self::from_iceberg_json), from a parsed document.
    pub fn from_iceberg_value(value: &Value) -> Result<Self, SchemaError> {
        let Value::Object(object) = value else {
            return Err(SchemaError::Table(Problem::NotASchema(kind_of(value))));
        };
        match object.get("type") {
            None => {}
            Some(Value::String(ty)) if ty == "struct" => {}
            Some(other) => return Err(SchemaError::Table(Problem::NotASchema(kind_of(other)))),
        }
        known_keys(
            object,
            "",
            &["type", "schema-id", "identifier-field-ids", "fields"],
        )?;
        let mut reader = Reader::default();
        let fields = reader.fields(object, "", 1)?;
        let mut schema = Self {
            schema_id: optional(object, "", "schema-id", "a number", integer)?.unwrap_or(0),
            fields,
            identifier_field_ids: optional(
                object,
                "",
                "identifier-field-ids",
                "an array of ids",
                |value| value.as_array()?.iter().map(integer).collect(),
            )?
            .unwrap_or_default(),
        };
        match (reader.with_id, reader.without_id) {
            (_, None) => {}
            (false, Some(_)) => assign_fresh_ids(&mut schema),
            (true, Some(path)) => return Err(SchemaError::at(&path, Problem::MixedIds)),
        }
        schema.validate()?;
        Ok(schema)
    }

    /// The canonical form.
    pub fn to_iceberg_value(&self) -> Value {
        let mut object = Map::new();
        object.insert("type".to_owned(), json!("struct"));
        object.insert("schema-id".to_owned(), json!(self.schema_id));
        if !self.identifier_field_ids.is_empty() {
            object.insert(
                "identifier-field-ids".to_owned(),
                json!(self.identifier_field_ids),
            );
        }
        object.insert("fields".to_owned(), fields_value(&self.fields));
        Value::Object(object)
    }
}

impl Serialize for TableSchema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_iceberg_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TableSchema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_iceberg_value(&value).map_err(D::Error::custom)
    }
}

/// Remembers which positions had an id: all or none must.
#[derive(Default)]
struct Reader {
    with_id: bool,
    without_id: Option<String>,
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
        for key in ["initial-default", "write-default"] {
            if object.contains_key(key) {
                return Err(SchemaError::at(&path, Problem::Unsupported(key.to_owned())));
            }
        }
        known_keys(object, &path, &["id", "name", "required", "type", "doc"])?;
        let id = self.id(object, &path, "id")?;
        Ok(Field {
            id,
            name: name.to_owned(),
            required: flag(object, &path, "required")?,
            ty: self.ty(object, &path, "type", depth)?,
            doc: optional(object, &path, "doc", "a string", |value| {
                value.as_str().map(str::to_owned)
            })?,
        })
    }

    fn ty(
        &mut self,
        object: &Map<String, Value>,
        path: &str,
        key: &'static str,
        depth: usize,
    ) -> Result<Type, SchemaError> {
        if depth > SCHEMA_DEPTH_MAX {
            return Err(SchemaError::at(path, Problem::TooDeep));
        }
        let value = required(object, path, key, "a type", Some)?;
        let (name, object) = match json::type_text(value, path, key, "struct, list or map")? {
            TypeText::Name(text) => {
                let primitive = text.parse();
                let primitive = primitive.map_err(|problem| SchemaError::at(path, problem))?;
                return Ok(Type::Primitive(primitive));
            }
            TypeText::Parts(name, object) => (name, object),
        };
        match name {
            "struct" => {
                known_keys(object, path, &["type", "fields"])?;
                Ok(Type::Struct(self.fields(object, path, depth + 1)?))
            }
            "list" => {
                known_keys(
                    object,
                    path,
                    &["type", "element-id", "element-required", "element"],
                )?;
                let inner = join(path, "element");
                Ok(Type::List(Box::new(ListType {
                    element_id: self.id(object, &inner, "element-id")?,
                    element_required: flag(object, path, "element-required")?,
                    element: self.ty(object, &inner, "element", depth + 1)?,
                })))
            }
            "map" => {
                let keys = [
                    "type",
                    "key-id",
                    "key",
                    "value-id",
                    "value-required",
                    "value",
                ];
                known_keys(object, path, &keys)?;
                let (key, value) = (join(path, "key"), join(path, "value"));
                Ok(Type::Map(Box::new(MapType {
                    key_id: self.id(object, &key, "key-id")?,
                    key: self.ty(object, &key, "key", depth + 1)?,
                    value_id: self.id(object, &value, "value-id")?,
                    value_required: flag(object, path, "value-required")?,
                    value: self.ty(object, &value, "value", depth + 1)?,
                })))
            }
            other => Err(SchemaError::at(path, Problem::UnknownType(shorten(other)))),
        }
    }

    /// The id, or 0 where it was left out.
    fn id(
        &mut self,
        object: &Map<String, Value>,
        path: &str,
        key: &'static str,
    ) -> Result<i32, SchemaError> {
        match optional(object, path, key, "an id from 1 to 2147483647", integer)? {
            Some(id) => {
                self.with_id = true;
                Ok(id)
            }
            None => {
                self.without_id.get_or_insert_with(|| path.to_owned());
                Ok(0)
            }
        }
    }
}

fn fields_value(fields: &[Field]) -> Value {
    let print = |field: &Field| {
        let mut object = Map::new();
        object.insert("id".to_owned(), json!(field.id));
        object.insert("name".to_owned(), json!(field.name));
        object.insert("required".to_owned(), json!(field.required));
        object.insert("type".to_owned(), type_value(&field.ty));
        if let Some(doc) = &field.doc {
            object.insert("doc".to_owned(), json!(doc));
        }
        Value::Object(object)
    };
    Value::Array(fields.iter().map(print).collect())
}

fn type_value(ty: &Type) -> Value {
    match ty {
        Type::Primitive(primitive) => json!(primitive.to_string()),
        Type::Struct(fields) => json!({"type": "struct", "fields": fields_value(fields)}),
        Type::List(list) => json!({
            "type": "list",
            "element-id": list.element_id,
            "element-required": list.element_required,
            "element": type_value(&list.element),
        }),
        Type::Map(map) => json!({
            "type": "map",
            "key-id": map.key_id,
            "key": type_value(&map.key),
            "value-id": map.value_id,
            "value-required": map.value_required,
            "value": type_value(&map.value),
        }),
    }
}

fn known_keys(object: &Map<String, Value>, path: &str, known: &[&str]) -> Result<(), SchemaError> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(SchemaError::at(path, Problem::UnknownKey(shorten(key)))),
        None => Ok(()),
    }
}
